"""What clients see of the sale: Structs in camelCase, nothing computed twice."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, get_args

import msgspec
from msgspec import UNSET, UnsetType

from engine.infra.describe import BuyerId, Currency, Id, Moment, Money, shown
from engine.infra.http import iso, money
from engine.record.views import Sealed
from engine.sale.models import (
    Drop,
    DropStatus,
    Hold,
    Life,
    PauseReason,
    Payment,
    PaymentStatus,
    Purchase,
    Refund,
    Status,
    Stock,
    unit_id,
)

# Rows hold text; which words it may be is what Postgres's types allow.
HoldStatus = Annotated[str, shown(enum=list(get_args(Status)))]
ShownStatus = Annotated[str, shown(enum=list(get_args(DropStatus)))]
ShownReason = Annotated[str, shown(enum=list(get_args(PauseReason)))]
ShownPayment = Annotated[str, shown(enum=list(get_args(PaymentStatus)))]
ShownOutcome = Annotated[str | None, shown(enum=["purchased", "refund_due", None])]
REASONS = ("unknown_reservation", "wrong_amount", "already_paid", "refunded")
TOO_LATE = ("sold_out", "limit", "paused")
ShownWhy = Annotated[str | None, shown(enum=[*REASONS, *TOO_LATE, None])]
Name = Annotated[str, shown(examples=["Daybreak"])]
ShownEvent = Annotated[str, shown(enum=["reserved", "extended", *get_args(Status)])]


class UnitView(msgspec.Struct):
    """One unit of a hold or a purchase."""

    id: int
    number: int
    name: str | UnsetType = UNSET  # of a named drop


class HoldView(msgspec.Struct, rename="camel"):
    """A reservation as its owner sees it."""

    id: Id
    drop_id: int
    user_id: BuyerId
    quantity: int
    units: list[UnitView]
    status: HoldStatus
    amount: Money
    currency: Currency
    expires_at: Moment
    server_time: Moment
    available_stock: int | UnsetType = UNSET
    pay_url: str | UnsetType = UNSET
    payments: list[PaymentView] | UnsetType = UNSET


class PaymentView(msgspec.Struct, rename="camel"):
    """A payment: what the provider says of it, and what it came to."""

    reference: str
    reservation_id: Id | None
    status: ShownPayment
    amount: Money
    currency: Currency
    received_at: Moment
    changed_at: Moment
    outcome: ShownOutcome
    reason: ShownWhy
    purchase_id: Id | None


class RefundView(msgspec.Struct, rename="camel"):
    """Money that must be given back, or was."""

    id: int
    status: Annotated[str, shown(enum=["due", "done"])]
    reference: str | None
    reservation_id: Id | None
    drop_id: int | None
    user_id: BuyerId | None
    amount: Money
    currency: Currency
    reason: str
    verified: bool
    due_at: Moment
    done_at: Moment | None


class PurchaseView(msgspec.Struct, rename="camel"):
    """A purchase as its owner sees it."""

    id: Id
    reservation_id: Id
    drop_id: int
    user_id: BuyerId
    quantity: int
    units: list[UnitView]
    amount: Money
    currency: Currency
    purchased_at: Moment
    payment_reference: str | None
    status: Annotated[str, shown(enum=["purchased", "refunded"])]
    refunded_at: Moment | UnsetType = UNSET
    restocked: bool | UnsetType = UNSET
    refund_reason: str | None | UnsetType = UNSET
    ledger: Sealed | UnsetType = UNSET
    drop: DropView | UnsetType = UNSET


class Recent(msgspec.Struct, rename="camel"):
    """One of a drop's newest purchases: by an account's username, or by a name that tells nothing
    of who it is."""

    username: Annotated[str, shown(examples=["Buyer 3fa9", "ann_k"])]
    purchased_at: Moment


class DropView(msgspec.Struct, rename="camel"):
    """A drop as everybody sees it."""

    id: int
    name: Name
    price: Money
    currency: Currency
    image_url: str | None
    starts_at: Moment
    ends_at: Moment | None
    status: ShownStatus
    paused_reason: ShownReason | None
    total_stock: int
    available_stock: int
    held_stock: int
    sold_stock: int
    withdrawn_stock: int
    version: int
    hold_seconds: int
    max_hold_seconds: int
    pay_seconds: int
    max_per_buyer: int | None
    max_per_order: int
    cooldown_factor: int
    pick: Annotated[str, shown(enum=["any", "named", "minted"])]
    listed: Annotated[bool, shown("false: for no shop's page, as a freezer.")]
    created_at: Moment
    server_time: Moment
    recent_purchases: list[Recent] | UnsetType = UNSET


def _units(drop_id: int, numbers: list[int], names: list[str] | None) -> list[UnitView]:
    if names is None:
        return [UnitView(unit_id(drop_id, number), number) for number in numbers]
    return [
        UnitView(unit_id(drop_id, number), number, name)
        for number, name in zip(numbers, names, strict=True)
    ]


def hold_view(
    hold: Hold, pay_url: str | None = None, payments: list[Payment] | None = None
) -> HoldView:
    """A hold for its owner, with what is known of its payments where there is any."""
    return HoldView(
        hold.id,
        hold.drop_id,
        hold.buyer,
        hold.quantity,
        _units(hold.drop_id, hold.units, hold.names),
        hold.status,
        money(hold.amount_cents),
        hold.currency,
        iso(hold.expires_at),
        iso(hold.server_time),
        UNSET if hold.available is None else hold.available,
        pay_url or UNSET,
        [payment_view(each) for each in payments] if payments else UNSET,
    )


def payment_view(payment: Payment) -> PaymentView:
    """A payment for the hold's owner, and for the provider."""
    return PaymentView(
        payment.reference,
        payment.reservation_id,
        payment.status,
        money(payment.amount_cents),
        payment.currency,
        iso(payment.received_at),
        iso(payment.changed_at),
        payment.outcome,
        payment.reason,
        payment.purchase_id,
    )


def refund_view(refund: Refund) -> RefundView:
    """A refund for operators."""
    return RefundView(
        refund.id,
        "due" if refund.done_at is None else "done",
        refund.reference,
        refund.reservation_id,
        refund.drop_id,
        refund.buyer,
        money(refund.amount_cents),
        refund.currency,
        refund.reason,
        refund.verified,
        iso(refund.due_at),
        None if refund.done_at is None else iso(refund.done_at),
    )


def purchase_view(
    purchase: Purchase,
    drop: DropView | UnsetType = UNSET,
    ledger: Sealed | UnsetType = UNSET,
) -> PurchaseView:
    """A purchase for its owner, with its drop and its place in the ledger where asked."""
    return PurchaseView(
        purchase.id,
        purchase.reservation_id,
        purchase.drop_id,
        purchase.buyer,
        purchase.quantity,
        _units(purchase.drop_id, purchase.units, purchase.names),
        money(purchase.amount_cents),
        purchase.currency,
        iso(purchase.purchased_at),
        purchase.reference,
        purchase.status,
        UNSET if purchase.refunded_at is None else iso(purchase.refunded_at),
        UNSET if purchase.restocked is None else purchase.restocked,
        UNSET if purchase.refunded_at is None else purchase.refund_reason,
        ledger,
        drop,
    )


class HoldRecord(HoldView):
    """A reservation as an operator sees it: with its moments, and what became of it."""

    created_at: Moment = ""
    ended_at: Moment | None = None
    purchase_id: Id | None = None


def hold_record(life: Life) -> HoldRecord:
    """A hold for an operator."""
    seen = hold_view(life.hold)
    return HoldRecord(
        **msgspec.structs.asdict(seen),
        created_at=iso(life.created_at),
        ended_at=None if life.ended_at is None else iso(life.ended_at),
        purchase_id=life.purchase_id,
    )


class Event(msgspec.Struct):
    """One moment of a hold's life."""

    at: Moment
    event: ShownEvent


class Chapter(msgspec.Struct, rename="camel"):
    """One hold of a buyer's timeline: what happened to it, in order."""

    reservation_id: Id
    drop_id: int
    drop_name: Name
    quantity: int
    units: list[UnitView]
    amount: Money
    currency: Currency
    status: HoldStatus
    expires_at: Moment
    purchase_id: Id | None
    payment_reference: str | None
    events: list[Event]


def _ended(life: Life) -> datetime | None:
    """When a hold ended; one that ran out did so at its deadline, whenever it was swept."""
    hold = life.hold
    if hold.status in ("active", "paying"):
        return None
    return hold.expires_at if hold.status == "expired" else life.ended_at or hold.expires_at


def chapter(life: Life) -> Chapter:
    """A hold in a buyer's timeline."""
    hold = life.hold
    moments = [
        (life.created_at, "reserved"),
        (life.extended_at, "extended"),
        (life.paying_at, "paying"),
        (_ended(life), "purchased" if hold.status == "refunded" else hold.status),
        (life.refunded_at, "refunded"),
    ]
    events = [Event(iso(moment), event) for moment, event in moments if moment is not None]
    return Chapter(
        hold.id,
        hold.drop_id,
        life.drop_name,
        hold.quantity,
        _units(hold.drop_id, hold.units, hold.names),
        money(hold.amount_cents),
        hold.currency,
        hold.status,
        iso(hold.expires_at),
        life.purchase_id,
        life.reference,
        events,
    )


def drop_view(drop: Drop, recent: list[Recent] | UnsetType = UNSET) -> DropView:
    """A drop for everybody."""
    return DropView(
        drop.id,
        drop.name,
        money(drop.price_cents),
        drop.currency,
        drop.image_url,
        iso(drop.starts_at),
        None if drop.ends_at is None else iso(drop.ends_at),
        drop.status,
        drop.paused_reason,
        drop.total_stock,
        drop.free,
        drop.held,
        drop.sold,
        drop.withdrawn,
        drop.version,
        drop.hold_seconds,
        drop.max_hold_seconds,
        drop.pay_seconds,
        drop.max_per_buyer,
        drop.max_per_order,
        drop.cooldown_factor,
        drop.pick,
        drop.listed,
        iso(drop.created_at),
        iso(drop.server_time),
        recent,
    )


class StockView(msgspec.Struct, rename="camel"):
    """The cheap poll: five figures and a version, which rises with every change."""

    drop_id: int
    available_stock: int
    held_stock: int
    sold_stock: int
    withdrawn_stock: int
    total_stock: int
    version: int


def stock_view(drop_id: int, stock: Stock) -> StockView:
    """A drop's figures for everybody."""
    return StockView(
        drop_id, stock.free, stock.held, stock.sold, stock.withdrawn, stock.total, stock.version
    )
