"""What clients see of the cold chain: Structs in camelCase, nothing computed twice."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, get_args

import msgspec
from msgspec import UNSET, UnsetType

from engine.coldchain.models import (
    PRIORITIES,
    Booking,
    Recorded,
    Slot,
    SlotHold,
    SlotId,
    SlotStatus,
    TempStatus,
)
from engine.infra.describe import BuyerId, Id, Moment, shown
from engine.infra.http import iso
from engine.record.models import Shown
from engine.record.views import Sealed
from engine.sale.models import Hold, unit_id
from engine.sale.views import HoldStatus

ShownSlot = Annotated[str, shown(enum=list(get_args(SlotStatus)))]
ShownTemp = Annotated[str, shown(enum=list(get_args(TempStatus)))]
ShownPriority = Annotated[str, shown(enum=list(PRIORITIES))]
Celsius = Annotated[float, shown("°C", examples=[-70.4])]


class SlotHoldView(msgspec.Struct, rename="camel"):
    """A slot's reservation; `GET /reservations/{id}` shows all of it."""

    id: Id
    slot_id: SlotId
    user_id: BuyerId
    status: HoldStatus
    expires_at: Moment
    server_time: Moment


class BookingView(msgspec.Struct, rename="camel"):
    """A booking: a purchase of a slot, and what is stored there. `ledger`, where it is shown alone:
    `sequence` of the record of its confirmation, once that is sealed."""

    id: Id
    slot_id: SlotId
    user_id: BuyerId
    reservation_id: Id
    purchase_id: Id
    manifest_id: str
    priority: ShownPriority
    vaccine_type: str | None
    batch_number: str | None
    quantity: int | None
    confirmed_at: Moment
    released_at: Moment | None
    ledger: Sealed | UnsetType = UNSET


class ReadingPoint(msgspec.Struct, rename="camel"):
    """One reading of a slot's history."""

    temperature: Celsius
    recorded_at: Moment


class SlotView(msgspec.Struct, rename="camel"):
    """A slot. Its reservation and booking are shown to their owner and to operators; to them they
    are null where there are none. `withdrawn`: out of service, nobody can hold it."""

    id: SlotId
    name: Annotated[str, shown(examples=["F1-A"])]
    status: ShownSlot
    temp_status: ShownTemp
    temperature: Celsius
    target_temp: Celsius
    last_maintenance: Moment
    history: Annotated[list[ReadingPoint], shown("The last 12 readings, oldest first.")]
    withdrawn: bool
    reservation: SlotHoldView | None | UnsetType = UNSET
    booking: BookingView | None | UnsetType = UNSET


class LedgerEntryView(msgspec.Struct, rename="camel"):
    """What the ledger says of a booking. Until it is sealed, within a second, its place in the
    chain is null: see `GET /ledger`."""

    action: Annotated[str, shown(enum=["BOOKING_CONFIRMED", "BOOKING_RELEASED"])]
    booking_id: Id
    slot_id: SlotId
    timestamp: Moment
    sequence: int | None = None
    subject: str | None = None
    previous_hash: str | None = None
    data_hash: str | None = None
    nonce: int | None = None
    sealed: bool = False


class HeldView(msgspec.Struct, rename="camel"):
    """A slot that is held."""

    reservation: SlotHoldView
    expires_in: Annotated[int, shown("Seconds from `serverTime`.", examples=[120])]


class BookedView(msgspec.Struct, rename="camel"):
    """A booking, and what was recorded of it."""

    booking: BookingView
    ledger_entry: LedgerEntryView


class ReadingView(msgspec.Struct, rename="camel"):
    """A reading that was written down, and how its slot is now."""

    slot_id: SlotId
    temperature: Celsius
    recorded_at: Moment
    temp_status: ShownTemp


class TrafficView(msgspec.Struct):
    """What a simulation did."""

    message: str
    slots: list[SlotView]


class FailureView(msgspec.Struct):
    """The slot that was made to fail."""

    message: str
    slot: SlotView


def held_view(hold: Hold) -> HeldView:
    """A new hold of a slot."""
    shown_hold = SlotHoldView(
        hold.id,
        unit_id(hold.drop_id, hold.units[0]),
        hold.buyer,
        hold.status,
        iso(hold.expires_at),
        iso(hold.server_time),
    )
    return HeldView(shown_hold, round((hold.expires_at - hold.server_time).total_seconds()))


def _hold_view(hold: SlotHold) -> SlotHoldView:
    return SlotHoldView(
        hold.id,
        hold.slot_id,
        hold.buyer,
        hold.status,
        iso(hold.expires_at),
        iso(hold.server_time),
    )


def booking_view(booking: Booking, ledger: Sealed | UnsetType = UNSET) -> BookingView:
    """A booking for its owner and for operators, with its place in the ledger where asked."""
    manifest = booking.manifest
    return BookingView(
        booking.id,
        booking.slot_id,
        booking.buyer,
        booking.reservation_id,
        booking.purchase_id,
        manifest.id,
        manifest.priority,
        manifest.vaccine_type,
        manifest.batch_number,
        manifest.quantity,
        iso(booking.confirmed_at),
        None if booking.released_at is None else iso(booking.released_at),
        ledger,
    )


def booked_view(booking: Booking, sealed: Shown | None = None) -> BookedView:
    """A booking with what was recorded when it was confirmed or, if it is over, released; and
    where that stands in the ledger, if it was sealed."""
    action, at = booking.last_deed
    entry = LedgerEntryView(action, booking.id, booking.slot_id, iso(at))
    if sealed is not None:
        entry.sequence, entry.subject = sealed.sequence, sealed.subject
        entry.previous_hash, entry.data_hash = sealed.previous_hash, sealed.data_hash
        entry.nonce, entry.sealed = sealed.nonce, True
    return BookedView(booking_view(booking), entry)


def slot_view(slot: Slot, everything: bool, buyer: str | None) -> SlotView:
    """A slot for everybody; with reservation and booking where they are this buyer's, or for who
    may see everything."""
    view = SlotView(
        slot.id,
        slot.name,
        slot.status,
        slot.temp_status,
        slot.temperature,
        slot.target_temp,
        iso(slot.last_maintenance),
        [ReadingPoint(temperature, iso(moment)) for temperature, moment in slot.history],
        slot.withdrawn,
    )
    hold, booking = slot.hold, slot.booking
    if everything or (hold is not None and hold.buyer == buyer):
        view.reservation = None if hold is None else _hold_view(hold)
    if everything or (booking is not None and booking.buyer == buyer):
        view.booking = None if booking is None else booking_view(booking)
    return view


def reading_view(recorded: Recorded, at: datetime) -> ReadingView:
    """A reading for the sensor that told of it."""
    return ReadingView(
        unit_id(recorded.drop_id, recorded.number),
        recorded.temperature,
        iso(at),
        recorded.temp_status or "NORMAL",
    )
