"""Seats: named units as buyers see them. Which number a name stands for, and who has what.

Names are never changed and never removed, so a worker remembers them; one that it does not know is
looked up together with those of others. A page of a seat map is shared by all who ask for it within
a quarter of a second: a crowd that watches the map must not cost the sale its connections.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from engine.infra.combiner import Combiner, Crew, Seat
from engine.infra.errors import NotFound, Problem
from engine.infra.http import invalid
from engine.infra.postgres import Postgres
from engine.sale import shelf
from engine.sale.models import UNIT_ID_SHIFT
from engine.sale.shelf import Sheet

NAMES_MAX = 200_000  # remembered by a worker, of all drops together
DROPS_MAX = 4_096
SHARED_SECONDS = 0.25
PAGES_MAX = 256

Wanted = tuple[int, tuple[str | int, ...]]  # a drop, and its units by name or id
Which = tuple[int, int, int]  # a drop, after which number, how many at most


class Seats:
    """The named units of one worker's drops."""

    def __init__(self, postgres: Postgres, crew: Crew, deadline_seconds: float = 5.0) -> None:
        self._postgres = postgres
        self._names: dict[tuple[int, str], int] = {}
        self._drops: dict[int, tuple[bool, int]] = {}  # is it named, and how many units has it
        self._sheets: dict[Which, tuple[float, Sheet]] = {}
        self._looking: Combiner[Wanted, tuple[int, ...]] = Combiner(
            crew, "names", self._look, deadline_seconds=deadline_seconds
        )
        self._reading: Combiner[Which, Sheet] = Combiner(
            crew, "units", self._read, deadline_seconds=deadline_seconds
        )

    async def numbers(
        self, drop_id: int, wanted: tuple[str | int, ...], keyed: bool = False
    ) -> tuple[int, ...]:
        """The numbers of these units, ascending. Raises `Invalid` naming `units`, `NotFound`, and
        what a request may hear that found no Postgres."""
        if self._knows(drop_id, wanted):
            return self._numbers(drop_id, wanted)
        return await self._looking.put((drop_id, wanted), keyed)

    async def sheet(self, drop_id: int, after: int, count: int) -> Sheet:
        """Units after a number, as they were a quarter of a second ago at most. Raises `NotFound`,
        `Retryable`."""
        shared = self._shared((drop_id, after, count))
        return shared or await self._reading.put((drop_id, after, count))

    def _shared(self, which: Which) -> Sheet | None:
        known = self._sheets.get(which)
        if known is None or time.monotonic() >= known[0]:
            return None
        return known[1]

    async def _read(self, seats: list[Seat[Which, Sheet]]) -> None:
        for seat in seats:
            sheet, (drop_id, after, count) = self._shared(seat.wish), seat.wish
            if sheet is None:
                asked = time.monotonic()
                sheet = await shelf.list_units(self._postgres, drop_id, after, count)
                if sheet is None:
                    seat.fail(NotFound(f"Drop {drop_id} has no named units"))
                    continue
                if len(self._sheets) >= PAGES_MAX:
                    self._sheets.clear()
                self._sheets[seat.wish] = asked + SHARED_SECONDS, sheet
            seat.answer(sheet)

    def _knows(self, drop_id: int, wanted: tuple[str | int, ...]) -> bool:
        if drop_id not in self._drops:
            return False
        total = self._drops[drop_id][1]
        return all(
            (drop_id, each) in self._names
            if isinstance(each, str)
            else each - (drop_id << UNIT_ID_SHIFT) <= total
            for each in wanted
        )

    async def _look(self, seats: list[Seat[Wanted, tuple[int, ...]]]) -> None:
        """Look up what is not known, for all at once, then answer each."""
        drops = sorted({seat.wish[0] for seat in seats})
        names = {
            (drop_id, each)
            for drop_id, wanted in (seat.wish for seat in seats)
            for each in wanted
            if isinstance(each, str) and (drop_id, each) not in self._names
        }
        if len(self._names) + len(names) > NAMES_MAX or len(self._drops) + len(drops) > DROPS_MAX:
            self._names.clear()
            self._drops.clear()
            names |= {(s.wish[0], each) for s in seats for each in s.wish[1] if type(each) is str}
        self._drops |= await shelf.find_picks(self._postgres, drops)
        if names:
            self._names |= await shelf.find_numbers(self._postgres, sorted(names))
        for seat in seats:
            try:
                seat.answer(self._numbers(*seat.wish))
            except Problem as problem:
                seat.fail(problem)

    def _numbers(self, drop_id: int, wanted: Sequence[str | int]) -> tuple[int, ...]:
        known = self._drops.get(drop_id)
        if known is None:
            raise NotFound(f"There is no drop {drop_id}")
        is_named, total = known
        if not is_named:
            raise invalid("units", "the units of this drop have no names: say a quantity")
        numbers: set[int] = set()
        for each in wanted:
            if isinstance(each, str):
                number = self._names.get((drop_id, each), 0)
            else:
                number = each - (drop_id << UNIT_ID_SHIFT)
            if not 1 <= number <= total:
                raise invalid("units", f"{each} is not a unit of drop {drop_id}")
            if number in numbers:
                raise invalid("units", f"{each} is there twice")
            numbers.add(number)
        return tuple(sorted(numbers))
