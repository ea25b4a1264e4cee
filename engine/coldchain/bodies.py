"""What clients send to the cold chain: every name a field goes by, and every check it must pass."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType, field

from engine.coldchain.models import COLDEST, PRIORITIES, SLOT_ID_MAX, WARMEST, Manifest
from engine.infra.describe import shown
from engine.infra.errors import NotFound
from engine.infra.http import Call, decoder, either, invalid, parse_time
from engine.infra.ids import parse_id
from engine.sale.bodies import Name, Text, When

SLOT_ID = "[1-9][0-9]{0,17}"  # as text
QUANTITY_MAX = (1 << 31) - 1
TEXT_MAX = 200
Note = Annotated[str | None | UnsetType, shown(minLength=1, maxLength=TEXT_MAX, format="printable")]


class HoldBody(msgspec.Struct):
    """Which slot to hold, and for whom."""

    slot_id: Annotated[
        int | str | UnsetType,
        shown(minimum=1, maximum=SLOT_ID_MAX, examples=[22_020_097], pattern=f"^{SLOT_ID}$"),
    ] = field(name="slotId", default=UNSET)
    slot_id_snake: int | str | UnsetType = field(name="slot_id", default=UNSET)
    user_id: Name = field(name="userId", default=UNSET)
    user_id_snake: Name = field(name="user_id", default=UNSET)

    @property
    def slot(self) -> int:
        """The slot; 404 for what can be none."""
        given = either("slotId", self.slot_id, self.slot_id_snake)
        if given is None:
            raise invalid("slotId", "required")
        return slot_number(str(given))

    @property
    def buyer(self) -> str | int | None:
        """The buyer it names, under either name."""
        named: str | int | None = either("userId", self.user_id, self.user_id_snake)
        return named


class BookBody(msgspec.Struct):
    """Which hold to book, and what will be stored there."""

    reservation_id: Annotated[Text, shown(format="uuid")] = field(
        name="reservationId", default=UNSET
    )
    reservation_id_snake: Text = field(name="reservation_id", default=UNSET)
    user_id: Name = field(name="userId", default=UNSET)
    user_id_snake: Name = field(name="user_id", default=UNSET)
    manifest_id: Annotated[
        Text, shown(minLength=1, maxLength=TEXT_MAX, format="printable", examples=["MAN-1042"])
    ] = field(name="manifestId", default=UNSET)
    manifest_id_snake: Text = field(name="manifest_id", default=UNSET)
    priority: Annotated[
        str | None | UnsetType, shown(enum=[*PRIORITIES, None], default="STANDARD")
    ] = UNSET
    vaccine_type: Note = field(name="vaccineType", default=UNSET)
    vaccine_type_snake: str | None | UnsetType = field(name="vaccine_type", default=UNSET)
    batch_number: Note = field(name="batchNumber", default=UNSET)
    batch_number_snake: str | None | UnsetType = field(name="batch_number", default=UNSET)
    quantity: Annotated[int | None | UnsetType, shown(minimum=1, maximum=QUANTITY_MAX)] = UNSET

    @property
    def reservation(self) -> str:
        """The hold; 404 for what can be none."""
        given = either("reservationId", self.reservation_id, self.reservation_id_snake)
        if given is None:
            raise invalid("reservationId", "required")
        found = parse_id(given)
        if found is None:
            raise NotFound("There is no such reservation")
        return found

    @property
    def buyer(self) -> str | int | None:
        """The buyer it names, under either name."""
        named: str | int | None = either("userId", self.user_id, self.user_id_snake)
        return named

    @property
    def manifest(self) -> Manifest:
        """What will be stored, each part checked."""
        id = _text("manifestId", self.manifest_id, self.manifest_id_snake)
        if id is None:
            raise invalid("manifestId", "required")
        priority, quantity = self.priority or "STANDARD", self.quantity or None
        if priority not in PRIORITIES:
            raise invalid("priority", f"want {', '.join(PRIORITIES)}")
        if self.quantity == 0 or (quantity is not None and not 1 <= quantity <= QUANTITY_MAX):
            raise invalid("quantity", f"want 1 to {QUANTITY_MAX}")
        return Manifest(
            id,
            priority,
            _text("vaccineType", self.vaccine_type, self.vaccine_type_snake),
            _text("batchNumber", self.batch_number, self.batch_number_snake),
            quantity,
        )


class ReadingBody(msgspec.Struct):
    """What a sensor measured, and when."""

    temperature: Annotated[
        float | UnsetType,
        shown("°C; two decimals are kept.", minimum=COLDEST, maximum=WARMEST, examples=[-70.4]),
    ] = UNSET
    recorded_at: Annotated[When, shown("Now, if not said; at most five minutes ahead.")] = field(
        name="recordedAt", default=UNSET
    )
    recorded_at_snake: str | None | UnsetType = field(name="recorded_at", default=UNSET)

    @property
    def measured(self) -> float:
        """°C to two decimals."""
        if self.temperature is UNSET:
            raise invalid("temperature", "required")
        if not COLDEST <= self.temperature <= WARMEST:
            raise invalid("temperature", f"want {COLDEST} to {WARMEST:g} °C")
        return round(self.temperature, 2)

    @property
    def moment(self) -> datetime | None:
        """When; None: now."""
        given = either("recordedAt", self.recorded_at, self.recorded_at_snake)
        return None if given is None else parse_time("recordedAt", given)


def _text(field: str, *values: str | None | UnsetType) -> str | None:
    text: str | None = either(field, *values)
    if text is not None and not (1 <= len(text) <= TEXT_MAX and text.isprintable()):
        raise invalid(field, f"want 1 to {TEXT_MAX} printable characters")
    return text


def slot_number(text: str) -> int:
    """A slot's id; a malformed one names nothing."""
    if re.fullmatch(SLOT_ID, text) is None:
        raise NotFound("There is no such slot: want the slot's id, see GET /slots")
    return int(text)


def slot_in_path(call: Call) -> int:
    """The slot in the path."""
    return slot_number(call.params["id"])


hold_body = decoder(HoldBody)
book_body = decoder(BookBody)
reading_body = decoder(ReadingBody)
