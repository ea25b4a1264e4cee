"""What the document says of the logs' routes."""

from __future__ import annotations

from typing import Annotated

from engine.identity.log_views import ActivityStats, ActivityView, DeedView
from engine.infra.describe import UUID, About, Id, Moment, Query, paged, shown
from engine.infra.errors import Forbidden
from engine.infra.lists import Listing

ACTIVITY_CURSOR = f"[0-9]{{1,18}}_{UUID}"
WORD = Annotated[str, shown(minLength=1, maxLength=200, format="printable")]
DEED_CURSOR = "[1-9][0-9]{0,17}"
FILTERS = (
    Query("userId", Id, "Whose; a user hears of nobody else, a token says who it is."),
    Query("sessionId", Id, "In which session."),
    Query("action", WORD, "Which, such as `session_created`."),
    Query("startDate", Moment, "Not before it."),
    Query("endDate", Moment, "Not after it."),
)
LIST_ACTIVITY = About(
    "Accounts",
    "identity",
    query=(*FILTERS, *paged(ACTIVITY_CURSOR)),
    answers={200: Listing[ActivityView]},
    refusals=(Forbidden,),
)
RECENT_ACTIVITY = About(
    "Accounts",
    "identity",
    query=(paged()[0],),
    answers={200: Listing[ActivityView]},
    refusals=(Forbidden,),
)
SUM_ACTIVITY = About(
    "Accounts",
    "identity",
    query=FILTERS,
    answers={200: ActivityStats},
    refusals=(Forbidden,),
)
LIST_DEEDS = About(
    "Operators",
    "admin",
    counted="admin",
    query=(
        Query("who", WORD, "Such as `admin:ops`, `shop:key:…` or `terminal:ann`."),
        Query("operation", WORD, "Such as `pause`."),
        Query("outcome", WORD, "`done`, a code such as `FORBIDDEN`, or `unknown`."),
        Query("from", Moment, "Not before it."),
        Query("to", Moment, "Not after it."),
        *paged(DEED_CURSOR),
    ),
    answers={200: Listing[DeedView]},
)
