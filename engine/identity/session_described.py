"""What the document says of the routes of sessions: what each wants, answers and refuses."""

from __future__ import annotations

from typing import Annotated

from msgspec.structs import replace

from engine.identity.errors import SessionOver
from engine.identity.session_bodies import ChangeBody, EndBody, EnterBody, ExtendBody
from engine.identity.session_views import AllEndedView, OpenedView, SessionView, StatsView
from engine.infra.describe import PAGED, About, Body, BuyerId, Query, shown
from engine.infra.errors import Forbidden, NotFound
from engine.infra.lists import Listing

ENTER = About(
    "Sessions",
    "sale:read",
    counted="write",
    keyed=True,
    body=Body(EnterBody, ("deviceId", "platform", "userId")),
    answers={201: OpenedView},
    refusals=(NotFound, Forbidden),
)
KEEP = replace(ENTER, answers={200: OpenedView})
EVERYTHING = Query(
    "includeInactive",
    Annotated[str, shown(enum=["true", "false", "1", "0"], default="false")],
    "Also those that are over.",
)
LIST = About(
    "Sessions",
    "sale:read",
    query=(Query("userId", BuyerId, "Whose; a token says it.", required=True), EVERYTHING, *PAGED),
    answers={200: Listing[SessionView]},
    refusals=(NotFound,),
)
LIST_OF = replace(LIST, query=(EVERYTHING, *PAGED))
SHOW = About("Sessions", "sale:read", answers={200: SessionView})
ACTIVE = SHOW
STATS = replace(SHOW, answers={200: StatsView})
CHANGE = About(
    "Sessions",
    "sale:read",
    counted="write",
    keyed=True,
    body=Body(ChangeBody),
    answers={200: SessionView},
    refusals=(SessionOver,),
)
TOUCH = replace(CHANGE, body=None)
PUSH = replace(CHANGE, body=Body(ChangeBody, ("pushToken",)))
EXTEND = replace(CHANGE, body=Body(ExtendBody))
END = About(
    "Sessions",
    "sale:read",
    counted="write",
    keyed=True,
    body=Body(EndBody),
    answers={200: SessionView},
)
END_ALL = replace(END, answers={200: AllEndedView})
