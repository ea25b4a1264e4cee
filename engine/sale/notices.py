"""What clients and providers send about money."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType, field

from engine.infra.describe import HIDDEN, shown
from engine.infra.http import PRICE_MAX_CENTS, cents, decoder, either, invalid
from engine.infra.ids import parse_id
from engine.sale.bodies import Name, Text, currency, line
from engine.sale.models import Notice, PaymentStatus
from engine.sale.payment import request_of

REASON_MAX = 200
REFERENCE_MAX = 200

Amount = Annotated[
    str | int | float | UnsetType,
    shown(
        "What the buyer paid, at most two decimals.",
        pattern=r"^([0-9]{1,8}(\.[0-9]{1,2})?|100000000(\.00?)?)$",
        minimum=0,
        maximum=PRICE_MAX_CENTS // 100,
        multipleOf=0.01,
        examples=["139.00"],
    ),
]


class PayBody(msgspec.Struct):
    """Whose hold it is."""

    user_id: Name = field(name="userId", default=UNSET)
    user_id_snake: Name = field(name="user_id", default=UNSET)

    @property
    def buyer(self) -> str | int | None:
        """The buyer it names, under either name."""
        named: str | int | None = either("userId", self.user_id, self.user_id_snake)
        return named


class RefundBody(msgspec.Struct):
    """What becomes of the units of a purchase that is undone, and why."""

    restock: Annotated[
        bool | UnsetType, shown("true: its units go on sale again; false: off sale for good.")
    ] = UNSET
    reason: Annotated[
        str | None | UnsetType,
        shown(minLength=1, maxLength=REASON_MAX, pattern="[^ ]", format="printable"),
    ] = UNSET

    @property
    def wish(self) -> tuple[bool, str | None]:
        """Whether its units go on sale again, which must be said, and why it is refunded."""
        if self.restock is UNSET:
            raise invalid("restock", "required: true puts its units on sale again, false withdraws")
        given = None if self.reason is UNSET else self.reason
        return self.restock, None if given is None else line("reason", given, REASON_MAX)


class NoticeBody(msgspec.Struct):
    """What a provider says of a payment."""

    reference: Annotated[
        Text,
        shown(
            "The payment's name at the provider: one payment, one outcome.",
            minLength=1,
            maxLength=REFERENCE_MAX,
            pattern="[^ ]",
            format="printable",
            examples=["pay_7Yq2"],
        ),
    ] = UNSET
    reservation_id: Annotated[
        Text,
        shown(
            "The hold it pays for, as `payUrl` named it. Money for what is none is owed back.",
            examples=["0199a3f2-7c1e-7d43-9b5a-2f6c8e1d4a90"],
        ),
    ] = field(name="reservationId", default=UNSET)
    reservation_id_snake: Annotated[Text, HIDDEN] = field(name="reservation_id", default=UNSET)
    status: PaymentStatus | UnsetType = UNSET
    amount: Amount = UNSET
    currency: Annotated[Text, shown(pattern="^[A-Za-z]{3}$", examples=["USD"])] = UNSET

    @property
    def notice(self) -> Notice:
        """The checked notice. An id that can be no reservation's is none: its money came."""
        for name in ("reference", "status", "amount", "currency"):
            if getattr(self, name) is UNSET:
                raise invalid(name, "required")
        reservation: Any = either("reservationId", self.reservation_id, self.reservation_id_snake)
        if reservation is None:
            raise invalid("reservationId", "required: what was paid for?")
        assert self.amount is not UNSET
        reference = line("reference", str(self.reference), REFERENCE_MAX)
        return Notice(
            reference,
            parse_id(reservation),
            self.status,  # type: ignore[arg-type]
            cents("amount", self.amount),
            currency(str(self.currency)),
            request_of(reference),
        )


pay_body, refund_body, notice_body = decoder(PayBody), decoder(RefundBody), decoder(NoticeBody)
