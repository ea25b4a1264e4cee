"""What the document says of the routes of preferences."""

from __future__ import annotations

from typing import Annotated

from engine.identity.preference_bodies import (
    MaySendView,
    PreferencesBody,
    PreferencesView,
    When,
)
from engine.identity.preferences import CATEGORIES, CHANNELS
from engine.infra.describe import About, Body, Query, shown

CHANNEL = Query("channel", Annotated[str, shown(enum=[*CHANNELS])], "By which way.", required=True)
CATEGORY = Query(
    "category",
    Annotated[str, shown(enum=[*CATEGORIES])],
    "What it is about. `security` passes quiet hours.",
    required=True,
)
AT = Query("at", When, "When it would be sent; now, if not said. Without a zone it is UTC.")

SHOW = About("Preferences", "identity", answers={200: PreferencesView})
CHANGE = About(
    "Preferences",
    "identity",
    counted="write",
    keyed=True,
    body=Body(PreferencesBody),
    answers={200: PreferencesView},
)
RESET = About(
    "Preferences", "identity", counted="write", keyed=True, answers={200: PreferencesView}
)
MAY_SEND = About(
    "Preferences", "identity", query=(CHANNEL, CATEGORY, AT), answers={200: MaySendView}
)
