"""The cold chain's words: slots with their condition, readings, and bookings."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, get_args

import msgspec

from engine.infra.describe import shown
from engine.sale.models import unit_id

SlotStatus = Literal["AVAILABLE", "RESERVED", "OCCUPIED"]
TempStatus = Literal["NORMAL", "WARNING", "CRITICAL"]
Priority = Literal["STANDARD", "PRIORITY", "EMERGENCY"]
PRIORITIES = get_args(Priority)

SLOT_ID_MAX = 10**18 - 1
SlotId = Annotated[int, shown(minimum=1, maximum=SLOT_ID_MAX, examples=[22_020_097])]

HOLD_SECONDS = 120
TARGET_TEMP = -70.0  # °C, of a slot of which nothing else is said
COLDEST, WARMEST = -273.15, 100.0  # °C that a sensor can have measured


class Manifest(msgspec.Struct, frozen=True):
    """What is stored in a slot."""

    id: str
    priority: str = "STANDARD"
    vaccine_type: str | None = None
    batch_number: str | None = None
    quantity: int | None = None


class Book(msgspec.Struct, frozen=True):
    """A wish to book a held slot. `buyer` None stands for the hold's owner."""

    reservation_id: str
    buyer: str | None
    manifest: Manifest
    request_id: str
    keyed: bool


class Booking(msgspec.Struct, frozen=True):
    """A slot that was bought, and what is stored there."""

    id: str
    purchase_id: str
    reservation_id: str
    drop_id: int
    number: int
    buyer: str
    manifest: Manifest
    confirmed_at: datetime
    released_at: datetime | None = None
    request_id: str = ""  # that made it; empty where nobody asks

    @property
    def last_deed(self) -> tuple[str, datetime]:
        """What was done to it last, as the ledger calls it, and when."""
        if self.released_at is not None:
            return "BOOKING_RELEASED", self.released_at
        return "BOOKING_CONFIRMED", self.confirmed_at

    @property
    def slot_id(self) -> int:
        """Its slot."""
        return unit_id(self.drop_id, self.number)


class SlotHold(msgspec.Struct, frozen=True):
    """Who holds a slot, and until when."""

    id: str
    slot_id: int
    buyer: str
    status: str
    expires_at: datetime
    server_time: datetime


class Slot(msgspec.Struct, frozen=True):
    """A slot as it stands now."""

    drop_id: int
    number: int
    name: str
    status: str
    withdrawn: bool  # an operator took it out of service: nobody has it, and nobody gets it
    temp_status: str
    temperature: float
    target_temp: float
    last_maintenance: datetime
    history: list[tuple[float, datetime]]  # the last readings, oldest first
    hold: SlotHold | None
    booking: Booking | None

    @property
    def id(self) -> int:
        """Its unit's id."""
        return unit_id(self.drop_id, self.number)


class Reading(msgspec.Struct, frozen=True):
    """What a sensor measured in a slot."""

    drop_id: int
    number: int
    temperature: float  # °C, two decimals
    recorded_at: datetime | None  # None: now, by Postgres's clock
    request_id: str
    keyed: bool = False


class Recorded(msgspec.Struct, frozen=True):
    """What became of a reading."""

    word: str  # recorded, repeated, not_found, early, late
    drop_id: int
    number: int
    temperature: float
    recorded_at: datetime | None
    temp_status: str | None  # of the slot now
