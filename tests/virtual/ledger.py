"""Tables, transactions and row locks: as much of Postgres at READ COMMITTED as the statements need.

A row is a dict that nobody changes: a transaction writes new ones into its overlay, and its commit
puts them into the tables. A statement is a generator: it yields when it must wait for a lock, or
when the seed wants others to have a turn, and so statements interleave as backends do.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

Row = dict[str, Any]
Key = Any
Place = tuple[str, Key]  # table and primary key
Course = Generator[Any, None, Any]  # of a statement: yields a Place it waits for, or None

BORN = datetime(2026, 1, 1, tzinfo=UTC)
TABLES = (
    "drops",
    "stock",
    "units",  # by (drop, number)
    "picks",  # by (drop, number)
    "allowances",  # by (drop, buyer)
    "reservations",  # by request
    "purchases",  # by reservation
    "requests",
    "payments",
    "refunds",  # by (reference, reservation)
    "engine_state",
)


class SqlError(Exception):
    """The server says no, with a SQLSTATE."""

    def __init__(self, sqlstate: str) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


class Redo(Exception):
    """VR001: undo what this block did, and do it another way."""


class Tables:
    """What is committed."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.timeline = 1
        self.system = 1  # the identity of this database
        self.position = 1 << 48  # the sequence unit_positions
        self.rows: dict[str, dict[Key, Row]] = {name: {} for name in TABLES}
        self.request_of: dict[UUID, UUID] = {}  # reservation -> request
        self.locks: dict[Place, Transaction] = {}
        self.waiting: dict[Place, list[Transaction]] = {}
        self.commits = 0

    def now(self) -> datetime:
        """clock_timestamp()."""
        return BORN + timedelta(microseconds=round(self._now() * 1_000_000))

    def snapshot(self) -> Any:
        """The past, to fail over to."""
        rows = {name: dict(rows) for name, rows in self.rows.items()}
        return rows, dict(self.request_of), self.position

    def restore(self, snapshot: Any) -> None:
        """Be as it was then: a copy that never saw what came later."""
        rows, request_of, self.position = snapshot
        self.rows = {name: dict(each) for name, each in rows.items()}
        self.request_of = dict(request_of)
        self.locks.clear()
        self.waiting.clear()
        self.commits += 1

    def next_position(self) -> int:
        self.position += 1
        return self.position - 1


class Transaction:
    """One transaction: its overlay, and the locks it keeps until its end."""

    def __init__(self, tables: Tables, pause: Callable[[], bool] = lambda: False) -> None:
        self.tables = tables
        self._pause = pause  # whether others shall have a turn now
        self.writes: dict[Place, Row | None] = {}
        self.locked: list[Place] = []
        self.waits_for: Place | None = None
        self.sender: Any = None  # who sent the statement, for the oracle
        self.sent_at = 0.0
        self.lock_ms: int | None = None  # set_config('lock_timeout', …, true)
        self.wake: Callable[[], None] = lambda: None

    # ── reading ──────────────────────────────────────────────────────────────────────────────

    def get(self, table: str, key: Key) -> Row | None:
        """A row as this transaction sees it now."""
        place = (table, key)
        return self.writes[place] if place in self.writes else self.tables.rows[table].get(key)

    def all(self, table: str) -> Iterator[tuple[Key, Row]]:
        """All rows as this transaction sees them now."""
        mine = {key: row for (name, key), row in self.writes.items() if name == table}
        for key, row in tuple(self.tables.rows[table].items()):
            if key not in mine:
                yield key, row
        for key, new in mine.items():
            if new is not None:
                yield key, new

    def reservation(self, id: UUID) -> Row | None:
        """A reservation by its own id; it is kept by its request's."""
        for (table, _), row in self.writes.items():
            if table == "reservations" and row is not None and row["id"] == id:
                return row
        request = self.tables.request_of.get(id)
        row = None if request is None else self.get("reservations", request)
        return row if row is not None and row["id"] == id else None

    # ── writing ──────────────────────────────────────────────────────────────────────────────

    def lock(self, table: str, key: Key) -> Course:
        """FOR UPDATE, or the index entry of a row to be; waits for whoever has it."""
        if self._pause():
            yield None
        place = (table, key)
        holder = self.tables.locks.get(place)
        if holder is self:
            return
        while holder is not None:
            self._look_for_circles(holder)
            self.waits_for = place
            self.tables.waiting.setdefault(place, []).append(self)
            yield place
            self.waits_for = None
            holder = self.tables.locks.get(place)
        self.tables.locks[place] = self
        self.locked.append(place)

    def try_lock(self, table: str, key: Key) -> bool:
        """SKIP LOCKED: whether it is ours now."""
        place = (table, key)
        holder = self.tables.locks.get(place)
        if holder is None:
            self.tables.locks[place] = self
            self.locked.append(place)
        return holder is None or holder is self

    def put(self, table: str, key: Key, row: Row | None) -> None:
        """Write a row that is locked; None deletes it."""
        assert self.tables.locks.get((table, key)) is self, f"unlocked write: {table} {key}"
        self.writes[table, key] = row

    def change(self, table: str, key: Key, **columns: Any) -> Row:
        """Write some columns of a locked row."""
        row = self.get(table, key)
        assert row is not None, f"{table} {key} is not there"
        row = row | columns
        self.put(table, key, row)
        return row

    def block(self, course: Course) -> Course:
        """A plpgsql block with EXCEPTION: `Redo` undoes what it wrote and locked."""
        writes, locked = dict(self.writes), len(self.locked)
        try:
            return (yield from course)
        except Redo:
            self.writes = writes
            self._unlock(self.locked[locked:])
            del self.locked[locked:]
            raise

    def commit(self) -> None:
        tables = self.tables
        for (table, key), row in self.writes.items():
            if row is None:
                tables.rows[table].pop(key, None)
                continue
            tables.rows[table][key] = row
            if table == "reservations":
                tables.request_of[row["id"]] = key
        tables.commits += bool(self.writes)
        self.end()

    def end(self) -> None:
        """Let go of all locks; without `commit` nothing was done."""
        self.writes = {}
        self._unlock(self.locked)
        self.locked = []
        if self.waits_for is not None:
            queue = self.tables.waiting.get(self.waits_for, [])
            if self in queue:
                queue.remove(self)
            self.waits_for = None

    def _unlock(self, places: list[Place]) -> None:
        for place in places:
            if self.tables.locks.get(place) is self:
                del self.tables.locks[place]
                for other in self.tables.waiting.pop(place, []):
                    other.wake()

    def _look_for_circles(self, holder: Transaction) -> None:
        seen: Transaction | None = holder
        while seen is not None and seen.waits_for is not None:
            seen = self.tables.locks.get(seen.waits_for)
            if seen is self:
                raise SqlError("40P01")


def drive(course: Course) -> Any:
    """Run a statement that has the server to itself."""
    while True:
        try:
            waits = next(course)
        except StopIteration as stop:
            return stop.value
        assert waits is None, f"alone, and waiting for {waits}"
