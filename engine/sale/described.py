"""What the document says of the sale's routes: what each wants, answers and refuses."""

from __future__ import annotations

from typing import Literal

from msgspec.structs import replace

from engine.infra.describe import PAGED, About, Body, BuyerId, Query, Reply, paged
from engine.infra.errors import Forbidden, NotFound, Unauthorized
from engine.infra.lists import Listing
from engine.sale.arguments import HoldStatus, PurchaseStatus, RefundStatus
from engine.sale.audit import Audit
from engine.sale.bodies import NUMBER, ChangeBody, ConfirmBody, DropBody, DropId, ReserveBody
from engine.sale.errors import (
    AlreadyResolved,
    Ended,
    ExtensionUsed,
    HoldExpired,
    LimitReached,
    MintedOnly,
    NotStarted,
    NotYourReservation,
    Paused,
    Preparing,
    SlotNotAvailable,
    SoldOut,
)
from engine.sale.models import DropStatus
from engine.sale.notices import NoticeBody, PayBody, RefundBody
from engine.sale.repair import Repair
from engine.sale.sheet import SheetView
from engine.sale.views import (
    Chapter,
    DropView,
    HoldRecord,
    HoldView,
    PaymentView,
    PurchaseView,
    RefundView,
    StockView,
)

# ── buyers and shops ─────────────────────────────────────────────────────────────────────────────

WHOSE = Query("userId", BuyerId, "Whose they are; a token says it by itself.", required=True)
BY = Query("userId", BuyerId, "Who asks, and must be its owner; a token says it by itself.")
STATUS = Query("status", list[DropStatus], "Only drops in one of these states.")
SIGNATURE = tuple(
    Query(name, str, sentence, required=True, place="header")
    for name, sentence in (
        ("webhook-id", "The message's name: the same each time it is sent."),
        ("webhook-timestamp", "When it was sent, in seconds; within five minutes of now."),
        ("webhook-signature", "`v1,` and the HMAC-SHA256 of id, timestamp and body in base64."),
    )
)
RESERVE = About(
    "Reservations",
    "sale:write",
    counted="write",
    keyed=True,
    body=Body(ReserveBody, ("dropId", "userId")),
    answers={201: HoldView},
    refusals=(
        *(SoldOut, SlotNotAvailable, LimitReached, NotStarted, Ended, Paused, Preparing, NotFound),
        MintedOnly,
    ),
    leads_to=("show_reservation", "purchase", "release", "extend", "pay"),
)
PURCHASE = About(
    "Purchases",
    "sale:write",
    counted="confirm",
    keyed=True,
    body=Body(ConfirmBody, ("reservationId",)),
    answers={201: PurchaseView, 200: PurchaseView},
    refusals=(NotYourReservation, HoldExpired, AlreadyResolved, NotFound),
    leads_to=("show_purchase", "refund"),
)
STOCK = About(
    "Drops",
    "anybody",
    id=DropId,
    query=(
        Query("If-None-Match", str, "The `ETag` of the answer before, or several.", place="header"),
    ),
    answers={
        200: Reply(
            StockView,
            headers=(
                headers := {
                    "ETag": "Changes with the figures.",
                    "Cache-Control": "`max-age=1`, for shared caches too.",
                }
            ),
        ),
        304: Reply(headers=headers),
    },
)
UNITS = replace(
    STOCK,
    query=(*STOCK.query, *paged(NUMBER, limit_max=1_000)),
    answers={200: Reply(SheetView, headers=headers), 304: Reply(headers=headers)},
)
RESERVE_DROP = replace(RESERVE, id=DropId, body=Body(ReserveBody, ("userId",), omits=("dropId",)))
PURCHASE_HOLD = replace(PURCHASE, body=Body(ConfirmBody, omits=("reservationId",)))
LIST_RESERVATIONS = About(
    "Reservations", "sale:read", query=(WHOSE, *PAGED), answers={200: Listing[HoldView]}
)
SHOW_RESERVATION = About(
    "Reservations",
    "sale:read",
    query=(BY,),
    answers={200: HoldView},
    refusals=(NotYourReservation,),
)
RELEASE = About(
    "Reservations",
    "sale:write",
    counted="confirm",
    keyed=True,
    query=(BY,),
    answers={204: None},
    refusals=(NotYourReservation, HoldExpired, AlreadyResolved),
)
PAY = About(
    "Payments",
    "sale:write",
    counted="confirm",
    keyed=True,
    body=Body(PayBody),
    answers={200: HoldView},
    refusals=(NotYourReservation, HoldExpired, AlreadyResolved),
    leads_to=("show_reservation", "purchase"),
)
EXTEND = replace(PAY, tag="Reservations", refusals=(*PAY.refusals, ExtensionUsed))
CALLBACK = About(
    "Payments",
    counted="callback",
    body=Body(NoticeBody, ("reference", "reservationId", "status", "amount", "currency")),
    query=SIGNATURE,
    answers={200: PaymentView},
    refusals=(Unauthorized,),
)
LIST_PURCHASES = replace(LIST_RESERVATIONS, tag="Purchases", answers={200: Listing[PurchaseView]})
SHOW_PURCHASE = replace(SHOW_RESERVATION, tag="Purchases", answers={200: PurchaseView})
LIST_DROPS = About(
    "Drops",
    "anybody",
    query=(STATUS, *paged(NUMBER)),
    answers={200: Listing[DropView]},
)
SHOW_DROP = About("Drops", "anybody", id=DropId, answers={200: DropView})

# ── operators ────────────────────────────────────────────────────────────────────────────────────

SWITCH = About(
    "Operators", "admin", counted="admin", keyed=True, id=DropId, answers={200: DropView}
)
CREATE_DROP = replace(
    SWITCH,
    body=Body(DropBody, ("name", "price", "totalStock")),
    answers={201: DropView},
    leads_to=(
        *("show_drop", "stock", "reserve", "change_drop", "pause", "resume", "close"),
        *("audit", "reconcile", "list_holds", "list_sales"),
    ),
)
CHANGE_DROP = replace(
    SWITCH,
    body=Body(
        ChangeBody,
        omits=("totalStock", "currency"),
        extra={
            "minProperties": 1,
            "not": {
                "anyOf": [{"required": [more, "withdrawStock"]} for more in ("addStock", "units")]
            },
            "properties": {"startsAt": {"type": "string"}},  # a drop always starts
        },
    ),
    refusals=(SoldOut, Preparing),
)
AUDIT = About("Drops", "anybody", id=DropId, answers={200: Audit})
DRY_RUN = Query("dryRun", Literal["true", "false", "1", "0"], "Only say what would be done.")
RECONCILE = replace(SWITCH, query=(DRY_RUN,), answers={200: Repair})
BUYER = Query("userId", BuyerId, "Only this buyer's.")
FORM = Query("format", Literal["json", "csv"], "`csv`: all of it, as a file.")
LIST_HOLDS = About(
    "Operators",
    "admin",
    id=DropId,
    query=(
        BUYER,
        Query("status", list[HoldStatus], "Only holds in one of these states."),
        FORM,
        *PAGED,
    ),
    answers={200: Reply(Listing[HoldRecord], {"text/csv": str})},
)
LIST_SALES = replace(
    LIST_HOLDS,
    query=(
        BUYER,
        Query("status", list[PurchaseStatus], "Only purchases in one of these states."),
        FORM,
        *PAGED,
    ),
    answers={200: Reply(Listing[PurchaseView], {"text/csv": str})},
)
REFUND = About(
    "Payments",
    "sale:write",
    counted="admin",
    keyed=True,
    body=Body(RefundBody, ("restock",)),
    answers={200: PurchaseView},
    refusals=(AlreadyResolved, Forbidden),
)
LIST_REFUNDS = About(
    "Payments",
    "admin",
    query=(
        Query("status", list[RefundStatus], "Only what is still owed, or only what was given."),
        *paged(NUMBER),
    ),
    answers={200: Listing[RefundView]},
)
TIMELINE = About("Operators", "admin", id=BuyerId, query=PAGED, answers={200: Listing[Chapter]})
