"""Postgres for the cold chain: one function a query. Rows become Structs here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.coldchain.models import Book, Booking, Manifest, Reading, Recorded, Slot, SlotHold
from engine.infra import sql
from engine.infra.postgres import Postgres, Session
from engine.sale.models import UNIT_ID_SHIFT, Figures, unit_id
from engine.sale.rows import figures

HISTORY = 12  # readings that are shown with a slot

_queries = sql.load("coldchain")

Caller = Postgres | Session


def place(slot_id: int) -> tuple[int, int]:
    """The freezer and the number of a slot."""
    return slot_id >> UNIT_ID_SHIFT, slot_id & ((1 << UNIT_ID_SHIFT) - 1)


async def open_slots(session: Session, drop_id: int, count: int, target_temp: float) -> None:
    """Make the first units of a freezer slots."""
    words = {"drop_id": drop_id, "count": count, "target": target_temp}
    await session.call(_queries["open_slots"], **words)


async def partition_readings(caller: Caller, days: int) -> int:
    """Have a place for the readings of every week that is kept; how many places came or went."""
    return int((await caller.call(_queries["partition_readings"], days=days))["changed"])


async def find_freezers(caller: Caller) -> dict[int, int]:
    """Drops whose units are slots, with how many."""
    return {row["drop_id"]: row["slots"] for row in await caller.call(_queries["find_freezers"])}


async def list_slots(
    caller: Caller,
    ids: Sequence[int] | None = None,
    after: int = 0,
    count: int = 1_000,
    skip: int = 0,
) -> list[Slot]:
    """Slots by id, after one or among some: all that is known of them, in one query."""
    drop_id, number = place(after)
    rows = await caller.call(
        _queries["list_slots"],
        drops=None if ids is None else [place(id)[0] for id in ids],
        numbers=None if ids is None else [place(id)[1] for id in ids],
        after_drop=drop_id,
        after_number=number,
        history=HISTORY,
        count=count,
        skip=skip,
    )
    return [_slot(row) for row in rows]


def _slot(row: Any) -> Slot:
    hold = booking = None
    if row["reservation_id"] is not None:
        hold = SlotHold(
            str(row["reservation_id"]),
            unit_id(row["drop_id"], row["number"]),
            row["holder"],
            row["hold_status"],
            row["expires_at"],
            row["server_time"],
        )
    if row["booking_id"] is not None:
        booking = _booking(row, row["booking_id"], row["booked_reservation_id"])
    return Slot(
        row["drop_id"],
        row["number"],
        row["name"],
        row["status"],
        row["withdrawn"],
        row["temp_status"],
        row["temperature"],
        row["target_temp"],
        row["last_maintenance"],
        list(zip(row["temperatures"] or (), row["moments"] or (), strict=True)),
        hold,
        booking,
    )


def _booking(row: Any, id: Any, reservation_id: Any, request_id: str = "") -> Booking:
    return Booking(
        str(id),
        str(row["purchase_id"]),
        str(reservation_id),
        row["drop_id"],
        row["number"],
        row["buyer"],
        Manifest(
            row["manifest_id"],
            row["priority"],
            row["vaccine_type"],
            row["batch_number"],
            row["quantity"],
        ),
        row["confirmed_at"],
        row["released_at"],
        request_id,
    )


async def count_slots(caller: Caller) -> int:
    """How many slots there are."""
    return int((await caller.call(_queries["count_slots"]))["items"])


async def is_slot(caller: Caller, drop_id: int, number: int) -> bool:
    """Whether a unit is a slot."""
    words = {"drop_id": drop_id, "number": number}
    return await caller.call(_queries["find_slot"], **words) is not None


async def find_cool_slot(caller: Caller) -> tuple[int, int, float] | None:
    """Freezer, number and target temperature of the first slot that is not critical."""
    row = await caller.call(_queries["find_cool_slot"])
    return row and (row["drop_id"], row["number"], row["target_temp"])


async def book_slots(
    session: Session, wishes: Sequence[tuple[Book, str, str]]
) -> list[tuple[int, Figures, list[Booking]]]:
    """Book held slots, each with the ids of its purchase and its booking: per freezer figures and
    what was booked by this call."""
    rows = await session.call(
        _queries["book_slots"],
        requests=[wish.request_id for wish, _, _ in wishes],
        purchases=[purchase for _, purchase, _ in wishes],
        reservations=[wish.reservation_id for wish, _, _ in wishes],
        buyers=[wish.buyer for wish, _, _ in wishes],
        bookings=[booking for _, _, booking in wishes],
        manifests=[wish.manifest.id for wish, _, _ in wishes],
        priorities=[wish.manifest.priority for wish, _, _ in wishes],
        vaccines=[wish.manifest.vaccine_type for wish, _, _ in wishes],
        batches=[wish.manifest.batch_number for wish, _, _ in wishes],
        quantities=[wish.manifest.quantity for wish, _, _ in wishes],
    )
    asked = {booking: (wish, purchase) for wish, purchase, booking in wishes}
    return [(row["drop_id"], figures(row), _booked(row, asked)) for row in rows]


def _booked(row: Any, asked: dict[str, tuple[Book, str]]) -> list[Booking]:
    """What was booked in one freezer just now, as `find_bookings` would tell it."""
    made = []
    for key, number, buyer in zip(row["bookings"], row["numbers"], row["buyers"], strict=True):
        wish, purchase = asked[str(key)]
        made.append(
            Booking(
                str(key),
                purchase,
                wish.reservation_id,
                row["drop_id"],
                number,
                buyer,
                wish.manifest,
                row["confirmed_at"],
                None,
                wish.request_id,
            )
        )
    return made


async def find_booking(caller: Caller, id: str) -> Booking | None:
    """One booking, open or released."""
    row = await caller.call(_queries["find_booking"], id=id)
    return row and _booking(row, row["id"], row["reservation_id"], row["request_id"].hex)


async def find_bookings(caller: Caller, reservations: Sequence[str]) -> dict[str, Booking]:
    """The bookings that holds became, by hold."""
    rows = await caller.call(_queries["find_bookings_by_reservation"], reservations=reservations)
    return {
        str(row["reservation_id"]): _booking(
            row, row["id"], row["reservation_id"], row["request_id"].hex
        )
        for row in rows
    }


async def record_readings(
    session: Session, readings: Sequence[Reading], days: int, ahead_seconds: float
) -> list[Recorded]:
    """Write down what sensors measured, in their order. What is older than `days` or later than
    `ahead_seconds` from now is not taken."""
    rows = await session.call(
        _queries["record_readings"],
        requests=[reading.request_id for reading in readings],
        drops=[reading.drop_id for reading in readings],
        numbers=[reading.number for reading in readings],
        temperatures=[reading.temperature for reading in readings],
        moments=[reading.recorded_at for reading in readings],
        days=days,
        ahead_seconds=ahead_seconds,
    )
    return [_recorded(row) for row in rows]


async def find_reading(caller: Caller, request_id: str) -> Recorded | None:
    """The reading that a request wrote before."""
    row = await caller.call(_queries["find_reading"], request=request_id)
    return row and _recorded(row)


def _recorded(row: Any) -> Recorded:
    return Recorded(
        row["word"],
        row["drop_id"],
        row["number"],
        row["temperature"],
        row["recorded_at"],
        row["status"],
    )
