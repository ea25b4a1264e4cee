"""Named units: who picked what has just that, what is said of a unit is true, and the bouncer's
bitmap is the shelf as it was at its version. A part of the oracle.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import msgspec

from engine.sale.errors import SlotNotAvailable, SoldOut

from .ledger import Row, Tables, Transaction
from .seats import longest
from .stock import LIVE

if TYPE_CHECKING:
    from .oracle import Copy, Oracle


def bits(bitmap: bytes) -> tuple[int, ...]:
    """The numbers that a bitmap names."""
    return tuple(n for n in range(len(bitmap) * 8) if bitmap[n // 8] & 0x80 >> n % 8)


def free_of(tables: Tables, drop_id: int) -> tuple[int, ...]:
    """The units on the shelf."""
    rows = tables.rows["units"].items()
    return tuple(sorted(k[1] for k, row in rows if k[0] == drop_id and row["state"] == "free"))


class Seating:
    """The audits of one run."""

    def __init__(self, oracle: Oracle) -> None:
        self.oracle, self.tables = oracle, oracle.tables
        self.back_at: dict[tuple[int, int], float] = {}  # when a unit came onto the shelf
        self.long_at: dict[int, list[tuple[float, int]]] = defaultdict(list)  # longest runs, since
        self.shelves: dict[tuple[int, int, int], set[tuple[int, ...]]] = defaultdict(set)

    def is_named(self, drop_id: int) -> bool:
        return bool(self.tables.rows["drops"][drop_id]["pick"] == "named")

    # After each commit.

    def committed(self, tx: Transaction) -> None:
        """INV-1: what was picked was given, all of it; and `picks` says who has what."""
        now, epoch = self.oracle.loop.now, self.tables.rows["engine_state"][True]["epoch"]
        for (table, key), row in tx.writes.items():
            if table == "units" and row is not None:
                self.back_at[key] = now
            elif table == "stock" and row is not None and self.is_named(key):
                shelf = free_of(self.tables, key)
                self.shelves[key, epoch, row["version"]].add(shelf)
                self.long_at[key].append((now, longest(list(shelf))))
            elif table == "reservations" and row is not None and row["state"] in LIVE:
                self._audit_units(row)
        if any(table in ("picks", "reservations") for table, _ in tx.writes):
            self._audit_picks()

    def _audit_units(self, row: Row) -> None:
        if not self.is_named(row["drop_id"]):
            return
        asked = [c.wish.picks for c in self.oracle.copies
                 if c.op == "reserve" and c.rid == row["request_id"]]  # fmt: skip
        units = tuple(row["units"])
        beside = tuple(range(units[0], units[0] + row["quantity"]))
        given = [picks or beside for picks in asked]
        self.oracle.require(units in given, f"INV-1: picked {asked}, and has {units}")

    def _audit_picks(self) -> None:
        rows = self.tables.rows
        owned: dict[tuple[int, int], Any] = {}
        for row in rows["reservations"].values():
            if self.is_named(row["drop_id"]) and row["state"] in (*LIVE, "purchased"):
                owned |= {(row["drop_id"], number): row["id"] for number in row["units"]}
        told = {key: row["reservation_id"] for key, row in rows["picks"].items()}
        self.oracle.require(told == owned, f"INV-1: picks {told}, but owned {owned}")

    def history_lost(self) -> None:
        """Whatever is on the shelf now may have been somebody's a moment ago, and no run true."""
        now = self.oracle.loop.now
        self.back_at = dict.fromkeys(self.tables.rows["units"], now)
        for moments in self.long_at.values():
            moments.append((now, 0))
        for drop_id in self.tables.rows["drops"]:
            shelf = free_of(self.tables, drop_id)
            self.long_at[drop_id].append((now, longest(list(shelf))))

    # After each script.

    def scripted(self, drop_id: int, keyspace: Any, key: bytes, known: dict[bytes, bytes]) -> None:
        """INV-9: the bitmap is the shelf of its version. INV-6: what is picked is on its way."""
        seats, at = keyspace.find(key + b"seats"), known.get(b"seats_version")
        if seats is not None and at is not None:
            self.oracle.counts["scripts that saw"] += 1
            name = (drop_id, int(known[b"epoch"]), int(at))
            shelves = self.shelves.get(name, {bits(seats)})
            true = bits(seats) in shelves
            self.oracle.require(true, f"INV-9: the bitmap {name} is {bits(seats)}, not {shelves}")
        picks = keyspace.find(key + b"picks") or {}
        intents = keyspace.find(key + b"intents") or {}
        open_ = [msgspec.msgpack.decode(each) for each in picks.values()]
        numbers = sorted(number for each in open_ for number in each)
        picked = bits(keyspace.find(key + b"picked") or b"")
        exact = tuple(numbers) == picked and picks.keys() <= intents.keys()
        self.oracle.require(exact or self.oracle.torn, f"INV-6: picked {picked}, picks {numbers}")

    # What is told.

    def told(self, copy: Copy, outcome: Any) -> None:
        """INV-3: of units: taken, or not beside each other, at some moment while he waited."""
        drop_id, picks, details = copy.wish.drop_id, copy.wish.picks, {}
        if isinstance(outcome, SlotNotAvailable | SoldOut):
            details = outcome.details
        if isinstance(outcome, SlotNotAvailable):
            self.oracle.counts["told taken"] += 1
            units = [int(name) for name in details["units"]]
            asked = bool(units) and set(units) <= set(picks)
            self.oracle.require(asked, f"INV-3: {copy}, who picked {picks}, heard of {units}")
            # On the shelf, or with a copy of this very request: then what was before counts.
            own = self.tables.rows["reservations"].get(copy.rid) or {"units": []}
            free = {*free_of(self.tables, drop_id), *own["units"]}
            for unit in units:
                was = unit not in free or self.back_at.get((drop_id, unit), -1.0) >= copy.sent_at
                self.oracle.require(was, f"INV-3: told {unit} is taken, but nobody else had it")
        elif "longestRun" in details:
            self.oracle.counts["told scattered"] += 1
            moments = self.long_at[drop_id]
            since = [run for moment, run in moments if moment >= copy.sent_at]
            before = [run for moment, run in moments if moment < copy.sent_at][-1:]
            short = min(since + before, default=0) < copy.wish.quantity
            self.oracle.require(short, "INV-3: told none beside each other, but there were")
        elif isinstance(outcome, SoldOut):
            self.oracle.require(not picks, "INV-3: who picks is told of his picks")
