"""What clients send to mint, to open a tier, and to end a membership."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType, field

from engine.infra.describe import shown
from engine.infra.http import Call, decoder, either, invalid
from engine.membership.models import LIMIT_MAX, NAME_FORM
from engine.membership.receipts import LENGTH_MAX as RECEIPT_MAX
from engine.sale.arguments import drop_number
from engine.sale.bodies import DROP_ID_MAX, NUMBER, Name, Text, When
from engine.sale.checks import NAME_MAX, moment
from engine.sale.models import STOCK_MAX

TRANSACTION_MAX = 128
REASON_MAX = 200
Receipt = Annotated[Text, shown(minLength=1, maxLength=RECEIPT_MAX)]
Transaction = Annotated[
    str | None | UnsetType,
    shown(
        "The store's own id of the purchase, where the receipt does not say it.",
        minLength=1,
        maxLength=TRANSACTION_MAX,
        format="printable",
    ),
]
TierName = Annotated[Text, shown(pattern=NAME_FORM, examples=["genesis"])]
Year = Annotated[str | int | UnsetType, shown(pattern=NAME_FORM, minimum=0, examples=["2025"])]


class MintBody(msgspec.Struct):
    """A receipt, and who had it."""

    receipt_data: Receipt = field(name="receiptData", default=UNSET)
    receipt_data_snake: Text = field(name="receipt_data", default=UNSET)
    user_id: Name = field(name="userId", default=UNSET)
    user_id_snake: Name = field(name="user_id", default=UNSET)
    original_transaction_id: Transaction = field(name="originalTransactionId", default=UNSET)
    original_transaction_id_snake: str | None | UnsetType = field(
        name="original_transaction_id", default=UNSET
    )
    drop_id: Annotated[
        int | str | UnsetType, shown(minimum=1, maximum=DROP_ID_MAX, pattern=f"^{NUMBER}$")
    ] = field(name="dropId", default=UNSET)
    drop_id_snake: int | str | UnsetType = field(name="drop_id", default=UNSET)

    @property
    def receipt(self) -> str:
        """The receipt's text."""
        text: str | None = either("receiptData", self.receipt_data, self.receipt_data_snake)
        if text is None:
            raise invalid("receiptData", "required")
        if not 1 <= len(text) <= RECEIPT_MAX:
            raise invalid("receiptData", f"want 1 to {RECEIPT_MAX} characters")
        return text

    @property
    def buyer(self) -> str | int | None:
        """The user it names, under either name."""
        named: str | int | None = either("userId", self.user_id, self.user_id_snake)
        return named

    @property
    def transaction(self) -> str | None:
        """The store's id of the purchase, if it is named."""
        text: str | None = either(
            "originalTransactionId",
            self.original_transaction_id,
            self.original_transaction_id_snake,
        )
        if text is not None and not (1 <= len(text) <= TRANSACTION_MAX and text.isprintable()):
            raise invalid("originalTransactionId", "want 1 to 128 printable characters")
        return text

    @property
    def drop(self) -> int | None:
        """The drop it names; 400 for what can be none."""
        given = either("dropId", self.drop_id, self.drop_id_snake)
        if given is None:
            return None
        found = drop_number(str(given))
        if found is None:
            raise invalid("dropId", "not a drop's id")
        return found


class TierBody(msgspec.Struct):
    """A tier of a year, and how many numbers it has."""

    tier: TierName = UNSET
    year: Year = UNSET
    capacity: Annotated[int | UnsetType, shown(minimum=1, maximum=STOCK_MAX, examples=[999])] = (
        UNSET
    )
    name: Annotated[
        str | None | UnsetType, shown(minLength=1, maxLength=NAME_MAX, format="printable")
    ] = UNSET
    starts_at: When = field(name="startsAt", default=UNSET)
    starts_at_snake: str | None | UnsetType = field(name="starts_at", default=UNSET)
    max_per_buyer: Annotated[
        int | None | UnsetType, shown("null: no limit.", minimum=1, maximum=LIMIT_MAX)
    ] = field(name="maxPerBuyer", default=UNSET)
    max_per_buyer_snake: int | None | UnsetType = field(name="max_per_buyer", default=UNSET)

    @property
    def named(self) -> tuple[str, str]:
        """Tier and year."""
        if self.tier is UNSET or self.year is UNSET:
            raise invalid("tier" if self.tier is UNSET else "year", "required")
        if isinstance(self.year, int) and self.year < 0:
            raise invalid("year", "want 0 or more")
        return self.tier, str(self.year)

    @property
    def numbers(self) -> int:
        """How many; checked where the tier is opened."""
        if self.capacity is UNSET:
            raise invalid("capacity", "required")
        return self.capacity

    @property
    def shown_name(self) -> str | None:
        """What it is called, if that is said; checked likewise."""
        return None if self.name is UNSET else self.name

    @property
    def start(self) -> datetime | None:
        """When it opens; None: now."""
        given: str | None = either("startsAt", self.starts_at, self.starts_at_snake)
        return moment("startsAt", given)

    @property
    def limit(self) -> int | None:
        """How many a user may have; None: as many as he has receipts. Checked likewise."""
        given: int | None = either("maxPerBuyer", self.max_per_buyer, self.max_per_buyer_snake)
        return given


class RevokeBody(msgspec.Struct):
    """Why a membership ends; the member reads it."""

    reason: Annotated[
        Text, shown(minLength=1, maxLength=REASON_MAX, format="printable", examples=["refunded"])
    ] = UNSET

    @property
    def why(self) -> str:
        """The reason; the member reads it."""
        if self.reason is UNSET or not (
            1 <= len(self.reason) <= REASON_MAX and self.reason.isprintable()
        ):
            raise invalid("reason", f"want 1 to {REASON_MAX} printable characters")
        return self.reason


mint_body = decoder(MintBody)
tier_body = decoder(TierBody)
revoke_body = decoder(RevokeBody)


def name_asked(call: Call, field: str) -> str | None:
    """The tier or the year a list is about, if it names one."""
    given = call.query.get(field)
    if given is not None and re.fullmatch(NAME_FORM, given) is None:
        raise invalid(field, "want 1 to 32 letters, digits, - and _")
    return given


def number_asked(call: Call) -> int | None:
    """The number a list is about, if it names one."""
    given = call.query.get("number")
    if not given:
        return None
    is_short = len(given) <= len(str(STOCK_MAX)) and given.isascii() and given.isdigit()
    if not is_short or not 1 <= int(given) <= STOCK_MAX:
        raise invalid("number", f"want 1 to {STOCK_MAX}")
    return int(given)
