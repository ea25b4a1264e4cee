"""What the document says of minting, and of memberships."""

from __future__ import annotations

from typing import Annotated

from engine.infra.describe import PAGED, About, Body, BuyerId, Query, Reply, shown
from engine.infra.errors import NotFound
from engine.infra.lists import Listing
from engine.membership.errors import (
    Failed,
    InvalidReceipt,
    MintFailed,
    NotTheirs,
    ReceiptUsed,
    SoldOut,
    TierTaken,
    Unreadable,
)
from engine.membership.member_views import MembershipView, MintedView, TiersView, TierView
from engine.membership.mint_bodies import MintBody, RevokeBody, TierBody
from engine.sale.bodies import DROP_ID_MAX
from engine.sale.errors import Ended, LimitReached, NotStarted, Paused, Preparing
from engine.sale.models import STOCK_MAX

WHO = Query("userId", BuyerId, "Who asks; a token says it.")
WHOSE = Query("userId", BuyerId, "Whose they are; a token says it by itself.", required=True)
MINT = About(
    "Membership",
    "membership",
    counted="write",
    body=Body(MintBody, ("receiptData", "userId")),
    answers={
        201: MintedView,
        200: Reply(MintedView, headers={"Idempotent-Replayed": "Always `true`."}),
    },
    refusals=(
        ReceiptUsed,
        InvalidReceipt,
        SoldOut,
        NotTheirs,
        MintFailed,
        NotFound,
        NotStarted,
        Ended,
        Paused,
        Preparing,
        LimitReached,
    ),
)
TIERS = About("Membership", answers={200: TiersView})
OPEN_TIER = About(
    "Membership",
    "admin",
    counted="admin",
    keyed=True,
    body=Body(TierBody, ("tier", "year", "capacity")),
    answers={201: TierView},
    refusals=(TierTaken,),
)
MINE = About(
    "Membership", "membership", query=(WHOSE, *PAGED), answers={200: Listing[MembershipView]}
)
SHOW = About(
    "Membership",
    "membership",
    query=(WHO,),
    answers={200: MembershipView},
    refusals=(NotTheirs, Unreadable, Failed),
)
LIST = About(
    "Membership",
    "admin",
    query=(
        Query("userId", BuyerId, "Only this user's."),
        Query("dropId", Annotated[int, shown(minimum=1, maximum=DROP_ID_MAX)], "Only this drop's."),
        Query("number", Annotated[int, shown(minimum=1, maximum=STOCK_MAX)], "Only this number."),
        Query("revoked", bool, "Only those that were revoked, or were not."),
        *PAGED,
    ),
    answers={200: Listing[MembershipView]},
)
REVOKE = About(
    "Membership",
    "admin",
    counted="admin",
    keyed=True,
    body=Body(RevokeBody, ("reason",)),
    answers={200: MembershipView},
)
