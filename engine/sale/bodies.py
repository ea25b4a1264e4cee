"""What clients send to the sale: every name that a field goes by, and every check it must pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType, field

from engine.infra.describe import HIDDEN, shown
from engine.infra.http import PRICE_MAX_CENTS, cents, decoder, either, invalid
from engine.sale.checks import (
    NAME_MAX,
    PICKS_MAX,
    count_of,
    image,
    moment,
    unit_names,
    wanted_units,
    whole,
)
from engine.sale.drops import WITHDRAWN_MAX
from engine.sale.models import STOCK_MAX, Change, NewDrop

DROP_ID_MAX = (1 << 43) - 1  # so that a unit's id fits 63 bits
ORDER_MAX = PICKS_MAX
HOLD_MAX_SECONDS = 86_400
BUYER_MAX = 10_000
COOLDOWN_MAX = 1_000
PAY_SECONDS = 600  # to pay in, once payment has begun

Text = str | UnsetType
Whole = int | UnsetType
Name = Annotated[
    str | int | UnsetType | None,
    shown(
        "An integer is read as its decimal text.",
        minLength=1,
        maxLength=128,
        format="printable",
        examples=["ann"],
    ),
]
NUMBER = "[1-9][0-9]{0,11}"  # of a drop, as text
DropId = Annotated[int, shown(minimum=1, maximum=DROP_ID_MAX, examples=[20])]
Year = r"^(20|21)[0-9]{2}-"
UnitName = Annotated[str, shown(minLength=1, maxLength=NAME_MAX, format="printable")]
When = Annotated[str | None | UnsetType, shown(format="date-time", pattern=Year)]


class ReserveBody(msgspec.Struct):
    """What to hold, and for whom."""

    drop_id: Annotated[
        int | str | UnsetType,
        shown(minimum=1, maximum=DROP_ID_MAX, examples=[20], pattern=f"^{NUMBER}$"),
    ] = field(name="dropId", default=UNSET)
    drop_id_snake: int | str | UnsetType = field(name="drop_id", default=UNSET)
    user_id: Name = field(name="userId", default=UNSET)
    user_id_snake: Name = field(name="user_id", default=UNSET)
    quantity: Annotated[Whole, shown(minimum=1, maximum=ORDER_MAX, default=1, examples=[1])] = UNSET
    units: Annotated[
        list[UnitName | int] | None | UnsetType,
        shown(
            "These very units of a named drop, by name or by id: all of them or none. Without it a"
            " named drop gives `quantity` units beside each other.",
            minItems=1,
            maxItems=ORDER_MAX,
            uniqueItems=True,
        ),
    ] = UNSET

    @property
    def buyer(self) -> str | int | None:
        """The buyer it names, under either name."""
        named: str | int | None = either("userId", self.user_id, self.user_id_snake)
        return named

    @property
    def units_wanted(self) -> int:
        """1 to 100; as many as it names, else 1 unless said."""
        quantity = (
            (len(self.units) if self.units else 1) if self.quantity is UNSET else self.quantity
        )
        if not 1 <= quantity <= ORDER_MAX:
            raise invalid("quantity", f"want 1 to {ORDER_MAX}")
        return quantity

    @property
    def picks(self) -> tuple[str | int, ...]:
        """The units that it names, by name or by id; none: whichever."""
        if self.units is UNSET or self.units is None:
            return ()
        picks = wanted_units(self.units)
        if self.units_wanted != len(picks):
            raise invalid("units", f"{len(picks)} are named, and quantity says {self.quantity}")
        return picks


class ConfirmBody(msgspec.Struct):
    """What to buy, and what was paid for it."""

    reservation_id: Annotated[Text, shown(format="uuid")] = field(
        name="reservationId", default=UNSET
    )
    reservation_id_snake: Text = field(name="reservation_id", default=UNSET)
    user_id: Name = field(name="userId", default=UNSET)
    user_id_snake: Name = field(name="user_id", default=UNSET)
    payment_reference: Annotated[
        str | None | UnsetType,
        shown(
            "The payment's name at its provider.",
            minLength=1,
            maxLength=200,
            format="printable",
            examples=["pay_1042"],
        ),
    ] = field(name="paymentReference", default=UNSET)
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


class TermsBody(msgspec.Struct):
    """What POST and PATCH of a drop have in common."""

    name: Annotated[
        Text, shown(minLength=1, maxLength=200, format="printable", examples=["Daybreak"])
    ] = UNSET
    price: Annotated[
        str | int | float | UnsetType,
        shown(
            "At most two decimals.",
            pattern=r"^([0-9]{1,8}(\.[0-9]{1,2})?|100000000(\.00?)?)$",
            minimum=0,
            maximum=PRICE_MAX_CENTS // 100,
            multipleOf=0.01,
            examples=["139.00"],
        ),
    ] = UNSET
    currency: Annotated[Text, shown(pattern="^[A-Za-z]{3}$", default="USD")] = UNSET
    image_url: Annotated[
        str | None | UnsetType,
        shown("A path or an address.", pattern="^(/|https?://)[!-~]*$", maxLength=2_000),
    ] = field(name="imageUrl", default=UNSET)
    image_url_snake: str | None | UnsetType = field(name="image_url", default=UNSET)
    starts_at: Annotated[When, shown("Now, if not said.")] = field(name="startsAt", default=UNSET)
    starts_at_snake: str | None | UnsetType = field(name="starts_at", default=UNSET)
    drop_starts_at: Annotated[str | None | UnsetType, HIDDEN] = field(
        name="dropStartsAt", default=UNSET
    )
    drop_start_time: Annotated[str | None | UnsetType, HIDDEN] = field(
        name="dropStartTime", default=UNSET
    )
    ends_at: Annotated[When, shown("Null: it does not end.")] = field(name="endsAt", default=UNSET)
    ends_at_snake: str | None | UnsetType = field(name="ends_at", default=UNSET)
    hold_seconds: Annotated[
        Whole, shown("Life of a hold.", minimum=1, maximum=HOLD_MAX_SECONDS, default=60)
    ] = field(name="holdSeconds", default=UNSET)
    hold_seconds_snake: Whole = field(name="hold_seconds", default=UNSET)
    max_hold_seconds: Annotated[
        Whole,
        shown(
            "Its longest life: not less than `holdSeconds`, twice that if not said.",
            minimum=1,
            maximum=HOLD_MAX_SECONDS * 2,
            examples=[120],
        ),
    ] = field(name="maxHoldSeconds", default=UNSET)
    max_hold_seconds_snake: Whole = field(name="max_hold_seconds", default=UNSET)
    pay_seconds: Annotated[
        Whole,
        shown("To pay in.", minimum=1, maximum=HOLD_MAX_SECONDS, default=PAY_SECONDS),
    ] = field(name="paySeconds", default=UNSET)
    pay_seconds_snake: Whole = field(name="pay_seconds", default=UNSET)
    max_per_buyer: Annotated[
        int | None | UnsetType,
        shown("Null: no limit.", minimum=1, maximum=BUYER_MAX, default=1),
    ] = field(name="maxPerBuyer", default=UNSET)
    max_per_buyer_snake: int | None | UnsetType = field(name="max_per_buyer", default=UNSET)
    max_per_order: Annotated[
        Whole,
        shown("The smaller of `maxPerBuyer` and 10, if not said.", minimum=1, maximum=ORDER_MAX),
    ] = field(name="maxPerOrder", default=UNSET)
    max_per_order_snake: Whole = field(name="max_per_order", default=UNSET)
    cooldown_factor: Annotated[
        Whole,
        shown(
            "Who abandons a hold waits so many times as long before the next; 0: not at all.",
            minimum=0,
            maximum=COOLDOWN_MAX,
            default=0,
        ),
    ] = field(name="cooldownFactor", default=UNSET)
    cooldown_factor_snake: Whole = field(name="cooldown_factor", default=UNSET)
    total_stock: Annotated[Whole, shown(minimum=1, maximum=STOCK_MAX, examples=[120])] = field(
        name="totalStock", default=UNSET
    )
    total_stock_snake: Whole = field(name="total_stock", default=UNSET)

    def told(self) -> dict[str, Any]:
        """The terms that were named, checked one by one. Raises `Invalid` naming the field."""
        images = _one("imageUrl", self.image_url, self.image_url_snake)
        starts = _one(
            "startsAt",
            self.starts_at,
            self.starts_at_snake,
            self.drop_starts_at,
            self.drop_start_time,
        )
        ends = _one("endsAt", self.ends_at, self.ends_at_snake)
        hold = _one("holdSeconds", self.hold_seconds, self.hold_seconds_snake)
        life = _one("maxHoldSeconds", self.max_hold_seconds, self.max_hold_seconds_snake)
        pay = _one("paySeconds", self.pay_seconds, self.pay_seconds_snake)
        each = _one("maxPerBuyer", self.max_per_buyer, self.max_per_buyer_snake)
        order = _one("maxPerOrder", self.max_per_order, self.max_per_order_snake)
        cool = _one("cooldownFactor", self.cooldown_factor, self.cooldown_factor_snake)
        total = _one("totalStock", self.total_stock, self.total_stock_snake)
        told = {
            "name": _told(self.name, lambda: line("name", str(self.name), 200)),
            "price_cents": UNSET if self.price is UNSET else cents("price", self.price),
            "image_url": _told(images, lambda: image(images)),
            "starts_at": _told(starts, lambda: moment("startsAt", starts)),
            "ends_at": _told(ends, lambda: moment("endsAt", ends)),
            "hold_seconds": _told(hold, lambda: whole("holdSeconds", hold, HOLD_MAX_SECONDS)),
            "max_hold_seconds": _told(
                life, lambda: whole("maxHoldSeconds", life, HOLD_MAX_SECONDS * 2)
            ),
            "pay_seconds": _told(pay, lambda: whole("paySeconds", pay, HOLD_MAX_SECONDS)),
            "max_per_buyer": _told(
                each, lambda: each if each is None else whole("maxPerBuyer", each, BUYER_MAX)
            ),
            "max_per_order": _told(order, lambda: whole("maxPerOrder", order, ORDER_MAX)),
            "cooldown_factor": _told(
                cool, lambda: whole("cooldownFactor", cool, COOLDOWN_MAX, low=0)
            ),
            "total_stock": _told(total, lambda: whole("totalStock", total, STOCK_MAX)),
        }
        return {name: value for name, value in told.items() if value is not UNSET}


class DropBody(TermsBody):
    """A drop to be."""

    pick: Annotated[
        Text,
        shown("`named`: buyers pick units by name.", enum=["any", "named"], default="any"),
    ] = UNSET
    units: Annotated[
        list[UnitName] | UnsetType,
        shown("Names of a named drop's units: as many as `totalStock`. Else their numbers."),
    ] = UNSET
    listed: Annotated[
        bool | UnsetType, shown("false: sold, but on no shop's page.", default=True)
    ] = UNSET


class ChangeBody(TermsBody):
    """What changes of a drop; what is not named stays."""

    add_stock: Annotated[
        Whole, shown("Units to add, with the next free numbers.", minimum=1, maximum=STOCK_MAX)
    ] = field(name="addStock", default=UNSET)
    add_stock_snake: Whole = field(name="add_stock", default=UNSET)
    units: Annotated[
        list[UnitName] | UnsetType, shown("The same of a named drop: names of the units to add.")
    ] = UNSET
    withdraw_stock: Annotated[
        int | Literal["all"] | UnsetType,
        shown("Free units to take off sale.", minimum=1, maximum=WITHDRAWN_MAX),
    ] = field(name="withdrawStock", default=UNSET)
    withdraw_stock_snake: int | Literal["all"] | UnsetType = field(
        name="withdraw_stock", default=UNSET
    )


reserve_body, confirm_body = decoder(ReserveBody), decoder(ConfirmBody)
drop_body, change_body = decoder(DropBody), decoder(ChangeBody)


def new_drop(body: DropBody) -> NewDrop:
    """A checked drop from a request. Raises `Invalid` naming the field."""
    if body.pick not in (UNSET, "any", "named"):
        raise invalid("pick", "want any or named")
    told = body.told()
    names: tuple[str, ...] = ()
    if body.units is not UNSET:
        if body.pick != "named":
            raise invalid("pick", "units have names where it is 'named'")
        names = unit_names(body.units)
        told["total_stock"] = count_of(names, told.get("total_stock"), "totalStock")
    for name, field_name in (
        ("total_stock", "totalStock"),
        ("name", "name"),
        ("price_cents", "price"),
    ):
        if name not in told:
            raise invalid(field_name, "required")
    hold, each = told.get("hold_seconds", 60), told.get("max_per_buyer", 1)
    life = told.get("max_hold_seconds", hold * 2)
    if life < hold:
        raise invalid("maxHoldSeconds", f"want {hold} to {HOLD_MAX_SECONDS * 2}")
    starts, ends = told.get("starts_at"), told.get("ends_at")
    if starts is not None and ends is not None and ends < starts:
        raise invalid("endsAt", "a drop cannot end before it starts")
    return NewDrop(
        told["name"],
        told["price_cents"],
        currency("USD" if body.currency is UNSET else body.currency),
        told.get("image_url"),
        starts,
        ends,
        hold,
        life,
        told.get("pay_seconds", PAY_SECONDS),
        each,
        told.get("max_per_order", min(each or 10, 10)),
        told["total_stock"],
        told.get("cooldown_factor", 0),
        "any" if body.pick is UNSET else body.pick,
        names,
        body.listed is not False,
    )


def drop_change(body: ChangeBody) -> Change:
    """A checked change from a request. Raises `Invalid` naming the field."""
    told = body.told()
    if "total_stock" in told:
        raise invalid(
            "totalStock", "cannot be set while units are sold: use addStock, withdrawStock"
        )
    if body.currency is not UNSET:
        raise invalid("currency", "cannot change: holds and purchases of this drop are in it")
    if told.get("starts_at", "") is None:
        raise invalid("startsAt", "want a time: a drop always starts")
    add = _one("addStock", body.add_stock, body.add_stock_snake)
    gone = _one("withdrawStock", body.withdraw_stock, body.withdraw_stock_snake)
    if body.units is not UNSET:
        told["names"] = unit_names(body.units)
        add = count_of(told["names"], None if add is UNSET else add, "addStock")
    if add is not UNSET and gone is not UNSET:
        raise invalid("withdrawStock", "add or withdraw, not both at once")
    if add is not UNSET:
        told["add_stock"] = whole("addStock", add, STOCK_MAX)
    if gone is not UNSET:
        told["withdraw_stock"] = (
            gone if gone == "all" else whole("withdrawStock", gone, WITHDRAWN_MAX)
        )
    if not told:
        raise invalid("body", "names nothing that can be changed")
    return Change(**told)


def _one(name: str, *values: Any) -> Any:
    """The one value given under a field's several names, UNSET if there is none."""
    if all(value is UNSET for value in values):
        return UNSET
    return either(name, *values)


def _told(value: Any, check: Callable[[], Any]) -> Any:
    return UNSET if value is UNSET else check()


def line(name: str, text: str, length_max: int) -> str:
    """One line of text: printable, not blank."""
    line = text.strip()
    if not 1 <= len(line) <= length_max or not line.isprintable():
        raise invalid(name, f"want 1 to {length_max} printable characters")
    return str(line)


def currency(code: str) -> str:
    """A currency's three letters, in capitals."""
    if not (len(code) == 3 and code.isascii() and code.isalpha()):
        raise invalid("currency", "want a three-letter code like USD")
    return code.upper()
