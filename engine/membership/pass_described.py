"""What the document says of passes, and of the web service that wallets speak with."""

from __future__ import annotations

import msgspec

from engine.infra.describe import About, Body, Query, Reply
from engine.infra.errors import NotFound, OutcomeUnknown, Retryable, Unauthorized
from engine.membership.barcode import PublicKeys
from engine.membership.errors import Failed, NotTheirs, Unreadable
from engine.membership.pass_bodies import IssueBody, LogBody, RegisterBody, Serial, Tag, Word
from engine.membership.passes import MEDIA_TYPE


class SerialsView(msgspec.Struct, rename="camel"):
    """Passes of a device that changed, and the tag to ask with the next time."""

    last_updated: str
    serial_numbers: list[str]


FILE = {MEDIA_TYPE.decode(): str}
# What a wallet shows instead of a buyer's credential.
TOKEN = Query(
    "Authorization",
    str,
    "`ApplePass ` and the `authenticationToken` of the pass.",
    place="header",
)
IN_DOUBT = (Unauthorized, Retryable, OutcomeUnknown)
ISSUE = About(
    "Membership",
    "membership",
    counted="read",  # it changes nothing, and who fetches a pass should not wait to reserve
    body=Body(IssueBody, ("membershipId", "userId")),
    answers={200: Reply(None, FILE)},
    refusals=(NotFound, NotTheirs, Unreadable, Failed),
)
KEYS = About("Membership", answers={200: PublicKeys})
REGISTER = About(
    "Membership",
    counted="write",
    id=Serial,
    places={"device": Word, "kind": Word},
    query=(TOKEN,),
    body=Body(RegisterBody, ("pushToken",)),
    answers={200: None, 201: None},
    refusals=IN_DOUBT,
)
UNREGISTER = About(
    "Membership",
    counted="write",
    id=Serial,
    places={"device": Word, "kind": Word},
    query=(TOKEN,),
    answers={200: None},
    refusals=IN_DOUBT,
)
SERIALS = About(
    "Membership",
    places={"device": Word, "kind": Word},
    query=(Query("passesUpdatedSince", Tag, "`lastUpdated` of the answer before; nothing: all."),),
    answers={200: SerialsView, 204: None},
    refusals=(Retryable,),
)
LATEST = About(
    "Membership",
    id=Serial,
    places={"kind": Word},
    query=(
        TOKEN,
        Query("If-Modified-Since", str, "`Last-Modified` of what one has.", place="header"),
        Query("If-None-Match", str, "`ETag` of what one has.", place="header"),
    ),
    answers={
        status: Reply(
            None,
            forms,
            {"Last-Modified": "When what it shows changed.", "ETag": "Names what it shows."},
        )
        for status, forms in ((200, FILE), (304, dict[str, type]()))
    },
    refusals=(Unauthorized, Retryable),
)
LOG = About(
    "Membership",
    counted="write",
    body=Body(LogBody, ("logs",)),
    answers={200: None},
)
