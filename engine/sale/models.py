"""The sale's words: drops, holds, purchases, and the figures of a drop's stock."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

Status = Literal["active", "paying", "purchased", "expired", "released", "refunded"]
PaymentStatus = Literal["pending", "failed", "succeeded", "refunded"]  # in the order they follow
DropStatus = Literal["preparing", "upcoming", "live", "sold_out", "ended", "paused"]
PauseReason = Literal["admin", "audit"]

STOCK_MAX = 1_000_000  # units of a drop
UNIT_ID_SHIFT = 20  # a unit's id is drop id · 2^20 + number, so it names its drop


def unit_id(drop_id: int, number: int) -> int:
    """The public id of a unit."""
    return (drop_id << UNIT_ID_SHIFT) + number


class Figures(msgspec.Struct, frozen=True):
    """A drop's stock at one version. Of two figures the one with the higher (epoch, version) is
    newer, whoever tells them and in whatever order."""

    epoch: int
    version: int
    free: int
    held: int
    sold: int
    withdrawn: int
    total: int

    @property
    def final(self) -> bool:
        """Whether nothing can come back: all is sold or withdrawn."""
        return self.sold + self.withdrawn == self.total


class Offer(msgspec.Struct, frozen=True):
    """All that the bouncer is told of a drop: figures and terms, each with its own version."""

    drop_id: int
    figures: Figures
    terms_version: int
    starts_ms: int
    ends_ms: int  # 0: no end
    shut: str  # preparing, a reason of a pause, or nothing
    max_per_buyer: int  # 0: no limit
    max_per_order: int
    promised: int = 0  # units, of which some may not be on the shelf yet
    now_ms: int = 0  # Postgres's clock when this was read
    changed_ms: int = 0  # and when the figures last changed
    cooldown_factor: int = 0  # 0: who lets a hold go may have the next at once
    is_named: bool = False  # its units are picked by name


class Reserve(msgspec.Struct, frozen=True):
    """A wish to hold units of a drop."""

    drop_id: int
    buyer: str
    quantity: int
    request_id: str  # 32 hex digits: who asked, under which Idempotency-Key
    keyed: bool  # whether the key came from the client
    picks: tuple[int, ...] = ()  # these very units, ascending; none: whichever, or the best


class Hold(msgspec.Struct, frozen=True):
    """Units that are a buyer's until a deadline."""

    id: str
    drop_id: int
    buyer: str
    quantity: int
    units: list[int]
    status: str
    amount_cents: int
    currency: str
    expires_at: datetime
    server_time: datetime
    available: int | None = None  # free units when the hold was made; None when told later
    replayed: bool = False
    names: list[str] | None = None  # of `units`, in their order; None: they have none

    def answers(self, wish: Reserve) -> bool:
        """Whether this hold is what the wish asked for: the request's fingerprint."""
        same = (self.drop_id, self.buyer, self.quantity) == (
            wish.drop_id,
            wish.buyer,
            wish.quantity,
        )
        return same and (not wish.picks or list(wish.picks) == sorted(self.units))


class Confirm(msgspec.Struct, frozen=True):
    """A wish to buy a hold. `buyer` None stands for its owner."""

    reservation_id: str
    buyer: str | None
    reference: str | None
    request_id: str
    keyed: bool


class Purchase(msgspec.Struct, frozen=True):
    """A hold that was bought."""

    id: str
    request_id: str
    reservation_id: str
    drop_id: int
    buyer: str
    quantity: int
    units: list[int]
    amount_cents: int
    currency: str
    purchased_at: datetime
    reference: str | None
    adopted: bool = False  # its buyer named no payment, and this one was it
    refunded_at: datetime | None = None
    restocked: bool | None = None  # None: not refunded
    refund_reason: str | None = None
    names: list[str] | None = None  # of `units`, in their order; None: they have none

    @property
    def named(self) -> str | None:
        """The payment that its request named."""
        return None if self.adopted else self.reference

    @property
    def status(self) -> Literal["purchased", "refunded"]:
        """What it is now."""
        return "purchased" if self.refunded_at is None else "refunded"


class Notice(msgspec.Struct, frozen=True):
    """What a provider says of a payment. Of two about one payment the later status counts."""

    reference: str  # the payment's name at the provider
    reservation_id: str | None  # None: it names nothing that could be one
    status: PaymentStatus
    amount_cents: int
    currency: str
    request_id: str  # of the purchase that may come of it


class Payment(msgspec.Struct, frozen=True):
    """A payment as it stands: what was said of it, and what it came to."""

    reference: str
    reservation_id: str | None
    status: PaymentStatus
    amount_cents: int
    currency: str
    received_at: datetime  # when its first word came
    changed_at: datetime  # and the newest that counted
    outcome: Literal["purchased", "refund_due"] | None  # None: nothing, or nothing yet
    reason: str | None  # of a refund_due
    purchase_id: str | None
    undone: bool  # that purchase was refunded


class Refund(msgspec.Struct, frozen=True):
    """Money that must be given back, or was."""

    id: int
    reference: str | None  # None: the purchase named no payment
    reservation_id: str | None
    drop_id: int | None
    buyer: str | None
    amount_cents: int
    currency: str
    reason: str
    verified: bool  # False: only a client spoke of this payment
    due_at: datetime
    done_at: datetime | None


class Life(msgspec.Struct, frozen=True):
    """A hold with its moments and what became of it, for operators."""

    hold: Hold
    drop_name: str
    created_at: datetime
    ended_at: datetime | None  # None: live, past its deadline and not swept, or very old
    purchase_id: str | None
    reference: str | None
    extended_at: datetime | None = None
    paying_at: datetime | None = None
    refunded_at: datetime | None = None


class Release(msgspec.Struct, frozen=True):
    """A wish to give a hold back. `buyer` None stands for its owner."""

    reservation_id: str
    buyer: str | None


class Returned(msgspec.Struct, frozen=True):
    """What a return of units did to one drop, and whose units they were."""

    drop_id: int
    figures: Figures
    reservations: list[str]
    buyers: list[str]
    quantities: list[int]
    numbers: list[int] | None = None  # the units that are free again; None: not a named drop's


class Taken(msgspec.Struct, frozen=True):
    """What payments did to one drop: holds that were bought, and buyers who got units anew."""

    drop_id: int
    figures: Figures
    bought: list[str]
    buyers: list[str]
    quantities: list[int]
    numbers: list[int] | None = None  # the units that were taken anew; None: not a named drop's


class Longer(msgspec.Struct, frozen=True):
    """A hold's new deadline."""

    drop_id: int
    expires_at: datetime
    lives_ms: int  # until then, by Postgres's clock


class Drop(msgspec.Struct, frozen=True):
    """A drop with its stock, as it stands now."""

    id: int
    name: str
    price_cents: int
    currency: str
    image_url: str | None
    starts_at: datetime
    ends_at: datetime | None
    status: str
    paused_reason: str | None
    hold_seconds: int
    max_hold_seconds: int
    pay_seconds: int
    max_per_buyer: int | None
    max_per_order: int
    total_stock: int
    version: int
    free: int
    held: int
    sold: int
    withdrawn: int
    created_at: datetime
    server_time: datetime
    cooldown_factor: int
    pick: str  # any; named: buyers pick units by name; minted: only receipts get them
    listed: bool  # False: a shop's page does not show it


class NewDrop(msgspec.Struct, frozen=True, omit_defaults=True):
    """A drop to be."""

    name: str
    price_cents: int
    currency: str
    image_url: str | None
    starts_at: datetime | None  # None: now, by Postgres's clock
    ends_at: datetime | None
    hold_seconds: int
    max_hold_seconds: int
    pay_seconds: int
    max_per_buyer: int | None
    max_per_order: int
    total_stock: int
    cooldown_factor: int = 0
    pick: str = "any"
    names: tuple[str, ...] = ()  # of a named drop's units; none: their numbers are their names
    listed: bool = True


class Terms(msgspec.Struct, frozen=True):
    """All that an operator may change of a drop. New holds go by them; old ones keep theirs."""

    name: str
    price_cents: int
    image_url: str | None
    starts_at: datetime
    ends_at: datetime | None
    hold_seconds: int
    max_hold_seconds: int
    pay_seconds: int
    max_per_buyer: int | None
    max_per_order: int
    total_stock: int
    cooldown_factor: int


class Change(msgspec.Struct, frozen=True):
    """A wish to change a drop: what is not named stays. `ends_at` None ends never, `max_per_buyer`
    None limits nobody."""

    name: str | UnsetType = UNSET
    price_cents: int | UnsetType = UNSET
    image_url: str | None | UnsetType = UNSET
    starts_at: datetime | UnsetType = UNSET
    ends_at: datetime | None | UnsetType = UNSET
    hold_seconds: int | UnsetType = UNSET
    max_hold_seconds: int | UnsetType = UNSET
    pay_seconds: int | UnsetType = UNSET
    max_per_buyer: int | None | UnsetType = UNSET
    max_per_order: int | UnsetType = UNSET
    cooldown_factor: int | UnsetType = UNSET
    add_stock: int = 0
    names: tuple[str, ...] = ()  # of units to add; none: their numbers are their names
    withdraw_stock: int | Literal["all"] = 0

    @property
    def terms(self) -> dict[str, Any]:
        """The new terms by name."""
        told = {
            name: getattr(self, name) for name in Terms.__struct_fields__ if hasattr(self, name)
        }
        return {name: value for name, value in told.items() if value is not UNSET}


class Claim(msgspec.Struct, frozen=True):
    """One request of a batch: the wish, its attempt, and the id its hold will have."""

    request_id: str
    attempt: int
    id: str
    buyer: str
    quantity: int
    picks: tuple[int, ...] | None = None  # None: not a named drop; (): Postgres picks the best


class Claimed(msgspec.Struct, frozen=True):
    """What a claim did. `words` None: every request got its units (the fast path)."""

    words: list[str] | None
    stored_attempts: list[int] | None
    numbers: list[int]
    figures: Figures | None  # None: no such drop
    created_at: datetime
    expires_at: datetime
    available: int
    price_cents: int
    currency: str
    names: list[str] | None = None  # of `numbers`; None: not a named drop


class Allowance(msgspec.Struct, frozen=True):
    """What a buyer uses of a drop's limit."""

    used: int
    limit: int | None
    reservation_id: str | None
    overdue: bool  # some of it ran out and waits for the sweeper
    abandoned: int  # holds in a row that were let go
    cools_until: datetime | None
    cools_ms: int | None  # that the buyer must wait yet; None: need not


class Proof(msgspec.Struct, frozen=True):
    """A full recount of a drop's rows. No problems: it adds up."""

    version: int
    proven_at: datetime
    problems: list[str]  # for everybody, so they name no buyer and no hold
    offenders: list[str] = []  # the first few of each kind, by name, for operators; not kept
    age_seconds: float = 0.0


class Stock(msgspec.Struct, frozen=True):
    """The cheap poll's figures."""

    epoch: int
    version: int
    free: int
    held: int
    sold: int
    withdrawn: int

    @property
    def total(self) -> int:
        """Units that are there. A drop that is being filled has been promised more."""
        return self.free + self.held + self.sold + self.withdrawn
