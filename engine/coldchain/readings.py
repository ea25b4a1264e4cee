"""Readings: what sensors measure. The newest of a slot is its condition, older ones are history.

What comes in one moment is written down by one statement, however many slots it is of; a lost reply
is answered by running it again. Who measures a booked slot turning critical leaves the record of it
in the same transaction, once a turn.
"""

from __future__ import annotations

import msgspec

from engine.coldchain import store
from engine.coldchain.models import Reading, Recorded
from engine.infra.combiner import Combiner, Crew, Seat
from engine.infra.errors import IdempotencyMismatch, NotFound, Problem
from engine.infra.http import invalid
from engine.infra.postgres import Postgres, Session, Undone
from engine.sale.insist import insist
from engine.sale.models import unit_id

AHEAD_SECONDS = 300.0  # a sensor's clock may be so far ahead of ours
BATCH_MAX = 512

Chair = Seat[Reading, Recorded]


class Recording:
    """The readings of one worker. What is older than `days` is not taken."""

    def __init__(
        self, postgres: Postgres, crew: Crew, days: int, deadline_seconds: float = 5.0
    ) -> None:
        self._postgres, self._days = postgres, days
        self._queue: Combiner[Reading, Recorded] = Combiner(
            crew,
            "readings",
            self._record,
            batch_max=BATCH_MAX,
            deadline_seconds=deadline_seconds,
        )

    async def record(self, reading: Reading, over: Exception | None = None) -> Recorded:
        """Write a reading down. Raises `NotFound`, `Invalid`, `IdempotencyMismatch`, `Retryable`,
        `OutcomeUnknown`. With `over` only what an earlier copy wrote is looked for; `over` is
        raised if there is none."""
        if over is None:
            return await self._queue.put(reading, reading.keyed)
        recorded = await store.find_reading(self._postgres, reading.request_id)
        if recorded is None:
            raise over
        if not _is_same(reading, recorded):
            raise IdempotencyMismatch
        return recorded

    async def _record(self, seats: list[Chair]) -> None:
        """One batch; halved when Postgres refuses it for a reason of its own."""
        sent: list[Chair] = []

        async def send(session: Session, waiting: list[Chair]) -> list[Recorded]:
            sent[:] = waiting
            readings = [seat.wish for seat in waiting]
            return await store.record_readings(session, readings, self._days, AHEAD_SECONDS)

        try:
            told = await insist(self._postgres, seats, send)
        except Undone:
            if len(seats) > 1:
                await self._record(seats[: len(seats) // 2])
                await self._record(seats[len(seats) // 2 :])
            else:
                seats[0].fail(seats[0].fault())
            return
        for seat, recorded in zip(sent, told, strict=True):
            problem = self._problem(seat.wish, recorded)
            if problem is not None:
                seat.fail(problem)
            else:
                seat.answer(recorded)

    def _problem(self, reading: Reading, recorded: Recorded) -> Problem | None:
        match recorded.word:
            case "not_found":
                slot_id = unit_id(reading.drop_id, reading.number)
                return NotFound(f"There is no slot {slot_id}")
            case "early":
                return invalid("recordedAt", "more than five minutes from now")
            case "late":
                return invalid("recordedAt", f"older than the {self._days} days that are kept")
            case "repeated" if not _is_same(reading, recorded):
                return IdempotencyMismatch()
        return None


def _is_same(reading: Reading, recorded: Recorded) -> bool:
    """Whether what this request wrote before is what it says now."""
    again = msgspec.structs.replace(recorded, recorded_at=reading.recorded_at)
    told = recorded if reading.recorded_at is not None else again
    return (told.drop_id, told.number, told.temperature, told.recorded_at) == (
        reading.drop_id,
        reading.number,
        reading.temperature,
        reading.recorded_at,
    )
