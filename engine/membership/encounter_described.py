"""What the document says of encounters."""

from __future__ import annotations

from engine.infra.describe import PAGED, About, Body, BuyerId, Query
from engine.infra.lists import Listing
from engine.membership.device_bodies import EncounterBody
from engine.membership.device_views import EncounterView, VerifiedView
from engine.membership.errors import Failed, NotTheirs, Replayed, Unreadable

VERIFY = About(
    "Membership",
    "membership",
    counted="write",
    keyed=True,
    body=Body(EncounterBody, ("token",)),
    answers={201: VerifiedView},
    refusals=(Replayed, NotTheirs, Unreadable, Failed),
)
MINE = About(
    "Membership",
    "membership",
    query=(Query("userId", BuyerId, "Whose they are; a token says it.", required=True), *PAGED),
    answers={200: Listing[EncounterView]},
)
