"""Places: units that are told one by one, seats and slots, and the ledger's newest entries.

A batch of the feed says what became others since it was told last. What was told last is kept here
for as long as somebody hears all that follows it, and forgotten as soon as something passes that
nobody heard: so what a snapshot shows is always what the next change starts from.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from engine.infra.postgres import Postgres
from engine.realtime import store
from engine.realtime.models import Seats, SeatsMoved, Slot, SlotMoved
from engine.realtime.store import Fact
from engine.record.views import EntryView

SEATS_MAX = 65_536  # of a drop; of larger ones it is told that stock moved, not which
SLOTS_MAX = 1_000
ENTRIES_MAX = 20  # of the ledger, in one look


class SeatsTold:
    """The shelves of named drops, as they were told last."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self._told: dict[int, Seats] = {}

    def forget(self) -> None:
        """Nobody knows what was told."""
        self._told.clear()

    def known(self, drop_id: int) -> Seats | None:
        """As it was told last; None: not to those who listen now."""
        return self._told.get(drop_id)

    def keep(self, seats: Seats) -> None:
        """This was told."""
        self._told[seats.drop_id] = seats

    async def read(self, drop_ids: Collection[int]) -> list[Seats]:
        """The shelves of those that are named drops. Raises `Fault`."""
        if not drop_ids:
            return []
        return await store.free_units(self._postgres, sorted(drop_ids), SEATS_MAX)

    def note(self, touched: Iterable[int], present: Iterable[Seats]) -> list[SeatsMoved]:
        """What is to be told of drops that were touched; of those that were not read, because
        nobody looks at them, it is no longer known what was told."""
        found = {seats.drop_id: seats for seats in present}
        moved = []
        for drop_id in touched:
            before, now = self._told.pop(drop_id, None), found.get(drop_id)
            if now is None:
                continue
            if before is None or before.free == now.free:
                self._told[drop_id] = before or now  # as told, if at a later version
                continue
            self._told[drop_id] = now
            taken, freed = sorted(before.free - now.free), sorted(now.free - before.free)
            moved.append(SeatsMoved(drop_id, now.epoch, before.version, now.version, taken, freed))
        return moved


class SlotsTold:
    """All slots, as they were told last."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self._told: dict[tuple[int, int], Slot] | None = None

    def forget(self) -> None:
        """Nobody knows what was told."""
        self._told = None

    def known(self) -> list[Slot] | None:
        """As they were told last, by name; None: not to those who listen now."""
        return None if self._told is None else sorted(self._told.values(), key=_name)

    def keep(self, slots: Iterable[Slot]) -> None:
        """These were told."""
        self._told = {(slot.drop_id, slot.number): slot for slot in slots}

    async def read(self, drop_ids: Collection[int] | None = None) -> list[Slot]:
        """Those of some drops, or all, as they stand. Raises `Fault`."""
        return await store.live_slots(self._postgres, drop_ids, SLOTS_MAX)

    async def lapsed(
        self, facts: Iterable[Fact], slots: Collection[Slot]
    ) -> dict[tuple[int, int], tuple[str, str]]:
        """Slots whose holds ran out, by these facts. Raises `Fault`."""
        freezers = {slot.drop_id for slot in slots}
        ended = [fact for fact in facts if fact.kind == "expired" and fact.drop_id in freezers]
        ids = [id for fact in ended for id in fact.subjects]
        return await store.lapsed_slots(self._postgres, ids) if ids else {}

    def note(
        self, present: Iterable[Slot], lapsed: dict[tuple[int, int], tuple[str, str]]
    ) -> list[SlotMoved]:
        """Which of these are others than was told. Who was told nothing is told of all of them."""
        told = self._told = {} if self._told is None else self._told
        moved = []
        for slot in present:
            key = slot.drop_id, slot.number
            if told.get(key) != slot or key in lapsed:
                moved.append(SlotMoved(slot, lapsed.get(key)))
            told[key] = slot
        return moved


class ChainTold:
    """The ledger's newest entries, as far as they were told."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self._newest = 0

    def forget(self) -> None:
        """Nobody knows what was told."""
        self._newest = 0

    def keep(self, entries: Collection[EntryView]) -> None:
        """These were told, oldest first, and all before them."""
        self._newest = max((entry.sequence for entry in entries), default=0)

    async def read(self) -> list[EntryView]:
        """The newest, oldest first. Raises `Fault`."""
        return await store.newest_entries(self._postgres, ENTRIES_MAX)

    def note(self, present: list[EntryView] | None) -> list[EntryView]:
        """Those of them that were not told yet; in a rush the newest, and one sees which are
        missing between. None: nobody asked, so it is not known any more."""
        if present is None:
            self.forget()
            return []
        news = [entry for entry in present if entry.sequence > self._newest]
        if present:
            self._newest = max(self._newest, present[-1].sequence)
        return news


def _name(slot: Slot) -> str:
    return slot.name
