"""What clients see of the sale: Structs in camelCase, nothing computed twice."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from engine.infra.http import iso, money
from engine.sale.models import Drop, Hold, Life, Purchase, Stock, unit_id


class UnitView(msgspec.Struct):
    """One unit of a hold or a purchase."""

    id: int
    number: int


class HoldView(msgspec.Struct, rename="camel"):
    """A reservation as its owner sees it."""

    id: str
    drop_id: int
    user_id: str
    quantity: int
    units: list[UnitView]
    status: str
    amount: str
    currency: str
    expires_at: str
    server_time: str
    available_stock: int | UnsetType = UNSET


class PurchaseView(msgspec.Struct, rename="camel"):
    """A purchase as its owner sees it."""

    id: str
    reservation_id: str
    drop_id: int
    user_id: str
    quantity: int
    units: list[UnitView]
    amount: str
    currency: str
    purchased_at: str
    payment_reference: str | None
    drop: Any = UNSET


class DropView(msgspec.Struct, rename="camel"):
    """A drop as everybody sees it."""

    id: int
    name: str
    price: str
    currency: str
    image_url: str | None
    starts_at: str
    ends_at: str | None
    status: str
    paused_reason: str | None
    total_stock: int
    available_stock: int
    held_stock: int
    sold_stock: int
    withdrawn_stock: int
    version: int
    hold_seconds: int
    max_hold_seconds: int
    max_per_buyer: int | None
    max_per_order: int
    cooldown_factor: int
    created_at: str
    server_time: str
    recent_purchases: list[dict[str, str]] | UnsetType = UNSET


def _units(drop_id: int, numbers: list[int]) -> list[UnitView]:
    return [UnitView(unit_id(drop_id, number), number) for number in numbers]


def hold_view(hold: Hold) -> HoldView:
    """A hold for its owner."""
    return HoldView(
        hold.id,
        hold.drop_id,
        hold.buyer,
        hold.quantity,
        _units(hold.drop_id, hold.units),
        hold.status,
        money(hold.amount_cents),
        hold.currency,
        iso(hold.expires_at),
        iso(hold.server_time),
        UNSET if hold.available is None else hold.available,
    )


def purchase_view(purchase: Purchase, drop: DropView | UnsetType = UNSET) -> PurchaseView:
    """A purchase for its owner, with its drop where asked."""
    return PurchaseView(
        purchase.id,
        purchase.reservation_id,
        purchase.drop_id,
        purchase.buyer,
        purchase.quantity,
        _units(purchase.drop_id, purchase.units),
        money(purchase.amount_cents),
        purchase.currency,
        iso(purchase.purchased_at),
        purchase.reference,
        drop,
    )


class HoldRecord(HoldView):
    """A reservation as an operator sees it: with its moments, and what became of it."""

    created_at: str = ""
    ended_at: str | None = None
    purchase_id: str | None = None


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

    at: str
    event: str


class Chapter(msgspec.Struct, rename="camel"):
    """One hold of a buyer's timeline: what happened to it, in order."""

    reservation_id: str
    drop_id: int
    drop_name: str
    quantity: int
    units: list[UnitView]
    amount: str
    currency: str
    status: str
    expires_at: str
    purchase_id: str | None
    payment_reference: str | None
    events: list[Event]


def chapter(life: Life) -> Chapter:
    """A hold in a buyer's timeline."""
    hold = life.hold
    events = [Event(iso(life.created_at), "reserved")]
    if hold.status not in ("active", "paying"):
        # It ran out at its deadline, whenever it was swept.
        ended = hold.expires_at if hold.status == "expired" else life.ended_at
        events.append(Event(iso(ended or hold.expires_at), hold.status))
    return Chapter(
        hold.id,
        hold.drop_id,
        life.drop_name,
        hold.quantity,
        _units(hold.drop_id, hold.units),
        money(hold.amount_cents),
        hold.currency,
        hold.status,
        iso(hold.expires_at),
        life.purchase_id,
        life.reference,
        events,
    )


def drop_view(drop: Drop, recent: list[dict[str, str]] | UnsetType = UNSET) -> DropView:
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
        drop.max_per_buyer,
        drop.max_per_order,
        drop.cooldown_factor,
        iso(drop.created_at),
        iso(drop.server_time),
        recent,
    )


def stock_view(drop_id: int, stock: Stock) -> dict[str, int]:
    """The cheap poll: five figures and a version."""
    return {
        "dropId": drop_id,
        "availableStock": stock.free,
        "heldStock": stock.held,
        "soldStock": stock.sold,
        "withdrawnStock": stock.withdrawn,
        "totalStock": stock.total,
        "version": stock.version,
    }


def public_name(salt: bytes, buyer: str) -> str:
    """A buyer's name in public: the same for one buyer, telling nothing of who it is."""
    return f"Buyer {hmac.new(salt, buyer.encode(), hashlib.sha256).hexdigest()[:4]}"
