"""What clients see of the sale: Structs in, Structs out, camelCase, nothing computed twice."""

from __future__ import annotations

import hashlib
import hmac
from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType, field

from engine.infra.http import cents, decoder, either, invalid, iso, money, parse_time
from engine.sale.models import Drop, Hold, NewDrop, Purchase, Stock, unit_id

Text = str | UnsetType
Whole = int | UnsetType
Name = str | int | UnsetType | None

DROP_ID_MAX = (1 << 43) - 1  # so that a unit's id fits 63 bits
ORDER_MAX = 100


class ReserveBody(msgspec.Struct):
    """POST /reservations and POST /reserve/{dropId}."""

    drop_id: int | str | UnsetType = field(name="dropId", default=UNSET)
    drop_id_snake: int | str | UnsetType = field(name="drop_id", default=UNSET)
    user_id: Name = field(name="userId", default=UNSET)
    user_id_snake: Name = field(name="user_id", default=UNSET)
    quantity: Whole = UNSET
    units: Any = UNSET

    @property
    def buyer(self) -> str | int | None:
        """The buyer it names, under either name."""
        named: str | int | None = either("userId", self.user_id, self.user_id_snake)
        return named

    @property
    def units_wanted(self) -> int:
        """1 to 100, 1 unless said."""
        if self.units not in (UNSET, None):
            raise invalid("units", "units cannot be named yet: say a quantity")
        quantity = 1 if self.quantity is UNSET else self.quantity
        if not 1 <= quantity <= ORDER_MAX:
            raise invalid("quantity", f"want 1 to {ORDER_MAX}")
        return quantity


class ConfirmBody(msgspec.Struct):
    """POST /purchases and POST /purchase/{reservationId}."""

    reservation_id: Text = field(name="reservationId", default=UNSET)
    reservation_id_snake: Text = field(name="reservation_id", default=UNSET)
    user_id: Name = field(name="userId", default=UNSET)
    user_id_snake: Name = field(name="user_id", default=UNSET)
    payment_reference: str | None | UnsetType = field(name="paymentReference", default=UNSET)
    payment_reference_snake: str | None | UnsetType = field(name="payment_reference", default=UNSET)

    @property
    def buyer(self) -> str | int | None:
        """The buyer it names, under either name."""
        named: str | int | None = either("userId", self.user_id, self.user_id_snake)
        return named

    @property
    def reference(self) -> str | None:
        """The payment's name at its provider, if there is one."""
        text: str | None = either(
            "paymentReference", self.payment_reference, self.payment_reference_snake
        )
        if text is not None and not (1 <= len(text) <= 200 and text.isprintable()):
            raise invalid("paymentReference", "want 1 to 200 printable characters")
        return text


class DropBody(msgspec.Struct):
    """POST /drops."""

    name: Text = UNSET
    price: str | int | float | UnsetType = UNSET
    total_stock: Whole = field(name="totalStock", default=UNSET)
    total_stock_snake: Whole = field(name="total_stock", default=UNSET)
    currency: Text = UNSET
    image_url: str | None | UnsetType = field(name="imageUrl", default=UNSET)
    image_url_snake: str | None | UnsetType = field(name="image_url", default=UNSET)
    starts_at: str | None | UnsetType = field(name="startsAt", default=UNSET)
    starts_at_snake: str | None | UnsetType = field(name="starts_at", default=UNSET)
    drop_starts_at: str | None | UnsetType = field(name="dropStartsAt", default=UNSET)
    drop_start_time: str | None | UnsetType = field(name="dropStartTime", default=UNSET)
    ends_at: str | None | UnsetType = field(name="endsAt", default=UNSET)
    ends_at_snake: str | None | UnsetType = field(name="ends_at", default=UNSET)
    hold_seconds: Whole = field(name="holdSeconds", default=UNSET)
    hold_seconds_snake: Whole = field(name="hold_seconds", default=UNSET)
    max_hold_seconds: Whole = field(name="maxHoldSeconds", default=UNSET)
    max_hold_seconds_snake: Whole = field(name="max_hold_seconds", default=UNSET)
    max_per_buyer: int | None | UnsetType = field(name="maxPerBuyer", default=UNSET)
    max_per_buyer_snake: int | None | UnsetType = field(name="max_per_buyer", default=UNSET)
    max_per_order: Whole = field(name="maxPerOrder", default=UNSET)
    max_per_order_snake: Whole = field(name="max_per_order", default=UNSET)
    pick: Text = UNSET
    units: list[str] | UnsetType = UNSET


reserve_body, confirm_body, drop_body = (
    decoder(ReserveBody),
    decoder(ConfirmBody),
    decoder(DropBody),
)


def new_drop(body: DropBody) -> NewDrop:
    """A checked drop from a request. Raises `Invalid` naming the field."""
    if body.pick not in (UNSET, "any") or body.units is not UNSET:
        raise invalid("pick", "only 'any' is offered: units cannot be named yet")
    total = _whole(
        "totalStock",
        either("totalStock", body.total_stock, body.total_stock_snake),
        None,
        1_000_000,
    )
    hold = _whole(
        "holdSeconds", either("holdSeconds", body.hold_seconds, body.hold_seconds_snake), 60, 86_400
    )
    life = either("maxHoldSeconds", body.max_hold_seconds, body.max_hold_seconds_snake)
    limits = [each for each in (body.max_per_buyer, body.max_per_buyer_snake) if each is not UNSET]
    each_buyer = either("maxPerBuyer", *limits) if limits else 1
    if each_buyer is not None:
        each_buyer = _whole("maxPerBuyer", each_buyer, None, 10_000)
    order = either("maxPerOrder", body.max_per_order, body.max_per_order_snake)
    starts = _moment(
        "startsAt", body.starts_at, body.starts_at_snake, body.drop_starts_at, body.drop_start_time
    )
    ends = _moment("endsAt", body.ends_at, body.ends_at_snake)
    if starts is not None and ends is not None and ends < starts:
        raise invalid("endsAt", "a drop cannot end before it starts")
    return NewDrop(
        _line("name", either("name", body.name), 200),
        cents("price", _given("price", either("price", body.price))),
        _currency(either("currency", body.currency) or "USD"),
        _image(either("imageUrl", body.image_url, body.image_url_snake)),
        starts,
        ends,
        hold,
        _whole("maxHoldSeconds", life, hold * 2, 172_800, hold),
        each_buyer,
        _whole("maxPerOrder", order, min(each_buyer or 10, 10), ORDER_MAX),
        total,
    )


def _given(name: str, value: Any) -> Any:
    if value is None:
        raise invalid(name, "required")
    return value


def _whole(name: str, value: int | None, default: int | None, high: int, low: int = 1) -> int:
    number = default if value is None else value
    if number is None:
        raise invalid(name, "required")
    if not low <= number <= high:
        raise invalid(name, f"want {low} to {high}")
    return number


def _line(name: str, text: str | None, length_max: int) -> str:
    """One line of text: printable, not blank."""
    line = _given(name, text).strip()
    if not 1 <= len(line) <= length_max or not line.isprintable():
        raise invalid(name, f"want 1 to {length_max} printable characters")
    return str(line)


def _currency(code: str) -> str:
    if not (len(code) == 3 and code.isascii() and code.isalpha()):
        raise invalid("currency", "want a three-letter code like USD")
    return code.upper()


def _image(url: str | None) -> str | None:
    """A picture's address: of this origin, or https."""
    if url is None:
        return None
    if (
        len(url) > 2_000
        or not url.isprintable()
        or not url.startswith(("/", "https://", "http://"))
    ):
        raise invalid("imageUrl", "want a path or an http(s) address")
    return url


def _moment(name: str, *values: str | None | UnsetType) -> datetime | None:
    text = either(name, *values)
    if text is None:
        return None
    moment = parse_time(name, text)
    if not 2000 <= moment.year <= 2200:
        raise invalid(name, "want a year from 2000 to 2200")
    return moment


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
        "totalStock": stock.free + stock.held + stock.sold + stock.withdrawn,
        "version": stock.version,
    }


def public_name(salt: bytes, buyer: str) -> str:
    """A buyer's name in public: the same for one buyer, telling nothing of who it is."""
    return f"Buyer {hmac.new(salt, buyer.encode(), hashlib.sha256).hexdigest()[:4]}"
