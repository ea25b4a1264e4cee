"""Knows everything, and compares it with what was told. Numbers as in docs/INVARIANTS.md.

It reads the rows after each commit, the bouncer after each script, and remembers each word that a
client heard. The engine knows nothing of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from uuid import UUID

from engine.infra.errors import IdempotencyMismatch, InProgress, OutcomeUnknown, Problem, Retryable

from .ledger import Row, Tables, Transaction
from .seating import Seating
from .stock import LIVE

if TYPE_CHECKING:
    from .loop import Process, VirtualLoop

SLACK_SECONDS = 0.25  # a deadline is looked for ten times a second, and a batch may be in between
ENDS = {
    ("active", "paying"), ("active", "purchased"), ("active", "expired"), ("active", "released"),
    ("paying", "purchased"), ("paying", "expired"), ("paying", "released"),
}  # fmt: skip
REVIVED = {("expired", "purchased"), ("released", "purchased")}


class Violation(Exception):
    """A promise was broken."""

    seed = 0


class Copy:
    """One sending of a request, and what its sender heard: yes, no, retryable, unknown, busy, or
    gone (nothing)."""

    def __init__(
        self, op: str, wish: Any, rid: str, keyed: bool, process: Process, now: float
    ) -> None:
        self.op, self.wish, self.rid, self.process = op, wish, UUID(rid), process
        self.keyed = keyed
        self.sent_at, self.done_at = now, float("inf")
        # Seconds for which its worker could not help it, or rather less: those before it was sent.
        self.frozen = process.frozen_seconds - max(process.frozen_until - now, 0.0)
        self.word, self.value = "gone", None  # type: tuple[str, Any]

    def __str__(self) -> str:
        told = type(self.value).__name__ if isinstance(self.value, Exception) else ""
        return f"{self.op} {self.rid.hex[:6]} at {self.process.name}: {self.word} {told}"


def word_of(outcome: Any) -> str:
    """What an answer says of its own attempt."""
    if isinstance(outcome, Retryable):
        return "retryable"
    if isinstance(outcome, OutcomeUnknown):
        return "unknown"
    if isinstance(outcome, InProgress):
        return "busy"
    return "no" if isinstance(outcome, Problem) else "yes"


class Oracle:
    """The audits of one run. `fail` raises `Violation` in the end, whoever is running now."""

    def __init__(
        self, loop: VirtualLoop, tables: Tables, keyspace: Any, fail: Callable[[str], None]
    ) -> None:
        self.loop, self.tables, self.keyspace, self.fail = loop, tables, keyspace, fail
        self.counts: Counter[str] = Counter()
        self.copies: list[Copy] = []
        self.births: dict[UUID, tuple[UUID, Process, float, float]] = {}  # id: rid, who, sent, seen
        self.sales: dict[UUID, tuple[UUID, Process, float, float]] = {}
        self.seen: dict[UUID, Row] = {}  # reservations by id, as last committed
        self.told: dict[UUID, tuple[Any, ...]] = {}  # what a key's holder was told first
        self.lost: set[UUID] = set()  # holds that went with a history
        self.lost_words = 0.0  # when the last history was lost
        self.named: dict[tuple[int, int, int], tuple[int, ...]] = {}
        self.believed: dict[bytes, tuple[int, int]] = {}
        self.deaths: dict[Process, float] = {}
        self.torn = False
        self.seating = Seating(self)

    def require(self, truth: object, words: str) -> None:
        if not truth:
            self.fail(words)

    # ── after each commit ────────────────────────────────────────────────────────────────────

    def committed(self, tx: Transaction) -> None:
        for (table, key), row in tx.writes.items():
            if table == "reservations" and row is not None:
                self._see(row, tx)
            elif table == "purchases" and row is not None and row["id"] not in self.sales:
                self.sales[row["id"]] = (row["request_id"], tx.sender, tx.sent_at, self.loop.now)
            elif table == "stock" and row is not None:
                self._name(key, row)
        if tx.writes:
            self._audit_rows()
            self.seating.committed(tx)

    def _see(self, row: Row, tx: Transaction) -> None:
        """INV-5: a hold ends in one way, in time."""
        id, before = row["id"], self.seen.get(row["id"])
        self.seen[id] = row
        if row["state"] == "aborted":
            return
        if before is None or before["state"] == "aborted":
            self.births.setdefault(id, (row["request_id"], tx.sender, tx.sent_at, self.loop.now))
            self.counts["holds"] += 1
            return
        step, now = (before["state"], row["state"]), self.tables.now()
        if step[0] == step[1]:
            return
        self.counts[row["state"]] += 1
        paid = any(p["reservation_id"] == id and p["outcome"] == "purchased"
                   for p in self.tables.rows["payments"].values())  # fmt: skip
        self.require(step in ENDS or (step in REVIVED and paid), f"INV-5: {step[0]} -> {step[1]}")
        if row["state"] == "expired":
            self.require(before["expires_at"] <= now, "INV-5: expired before its deadline")
        if row["state"] == "purchased":
            in_time = row["ended_at"] < row["expires_at"]
            self.require(in_time or paid, "INV-5: sold after its deadline")

    def _name(self, drop_id: int, row: Row) -> None:
        """INV-9: a version of an epoch is one truth."""
        epoch = self.tables.rows["engine_state"][True]["epoch"]
        truth = tuple(row[name] for name in ("free", "held", "sold"))
        said = self.named.setdefault((drop_id, epoch, row["version"]), truth)
        self.require(said == truth, f"INV-9: two truths of version {row['version']}")

    def _audit_rows(self) -> None:
        """INV-1, 2, 4, 8 on all rows."""
        rows = self.tables.rows
        own: dict[tuple[int, int], UUID] = {}
        used: Counter[tuple[int, str]] = Counter()
        held: Counter[int] = Counter()
        sold: Counter[int] = Counter()
        ids = set()
        for row in rows["reservations"].values():
            state, drop_id = row["state"], row["drop_id"]
            ids.add(row["id"])
            if state not in LIVE and state != "purchased":
                continue
            for number in row["units"]:
                self.require((drop_id, number) not in own, "INV-1: a unit has two owners")
                own[drop_id, number] = row["id"]
            self.require(len(row["units"]) == row["quantity"], "INV-2: all or nothing")
            used[drop_id, row["buyer"]] += row["quantity"]
            (sold if state == "purchased" else held)[drop_id] += row["quantity"]
        self.require(len(ids) == len(rows["reservations"]), "INV-4: one request, one hold")
        free: Counter[int] = Counter()
        for key, unit in rows["units"].items():
            self.require(key not in own, "INV-1: a unit on the shelf has an owner")
            free[key[0]] += unit["state"] == "free"
        for drop_id, stock in rows["stock"].items():
            truth = (free[drop_id], held[drop_id], sold[drop_id])
            told = (stock["free"], stock["held"], stock["sold"])
            self.require(told == truth, f"INV-2: the stock row says {told}, the rows {truth}")
            self.require(sum(truth) == stock["total"], "INV-2: free + held + sold = total")
        for (drop_id, buyer), units in used.items():
            limit = rows["drops"][drop_id]["max_per_buyer"]
            self.require(limit is None or units <= limit, "INV-8: more than a buyer may have")
            counted = rows["allowances"].get((drop_id, buyer), {"used": 0})["used"]
            self.require(counted == units, "INV-8: an allowance is not what its buyer has")

    # ── after each script ────────────────────────────────────────────────────────────────────

    def scripted(self, source: str) -> None:
        """INV-9 for the bouncer, and INV-6: the sum is that of the intents."""
        for key, value in tuple(self.keyspace.data.items()):
            if key.endswith(b":drop") and b"epoch" in value and b"version" in value:
                now = (int(value[b"epoch"]), int(value[b"version"]))
                self.require(now >= self.believed.get(key, now), "INV-9: the bouncer went back")
                self.believed[key] = now
                drop_id = int(key.rpartition(b"}")[0].rpartition(b":")[2])
                said = tuple(int(value[name]) for name in (b"free", b"held", b"sold"))
                truth = self.named.get((drop_id, *now), said)
                self.require(said == truth, f"INV-6: the bouncer has {said} for {truth}")
                intents = self.keyspace.find(key[: -len(b"drop")] + b"intents") or {}
                summed = sum(int(intent.split(b":")[1]) for intent in intents.values())
                exact = self.torn or int(value[b"open"]) == summed
                self.require(exact, f"INV-6: open is {value[b'open']!r}, the intents {summed}")
                if self.seating.is_named(drop_id):
                    self.seating.scripted(drop_id, self.keyspace, key[: -len(b"drop")], value)

    def redis_lost(self, torn: bool = False) -> None:
        """Redis forgot something; torn: of what belongs together it forgot a part."""
        self.believed.clear()
        self.torn |= torn

    # ── what is told ─────────────────────────────────────────────────────────────────────────

    def sent(self, op: str, wish: Any, rid: str, keyed: bool, process: Process) -> Copy:
        copy = Copy(op, wish, rid, keyed, process, self.loop.now)
        self.copies.append(copy)
        self.counts["requests"] += 1
        return copy

    def died(self, process: Process) -> None:
        self.deaths[process] = self.loop.now

    def answered(self, copy: Copy, outcome: Any) -> None:
        """INV-3, INV-4 and INV-12 of one answer, at the moment it is given."""
        copy.word, copy.value, copy.done_at = word_of(outcome), outcome, self.loop.now
        self.counts[f"told {copy.word}"] += 1
        if isinstance(outcome, Exception) and not isinstance(outcome, Problem):
            self.fail(f"INV-3: a handler raised {outcome!r}")
            return
        took = copy.done_at - copy.sent_at - (copy.process.frozen_seconds - copy.frozen)
        self.require(took <= 5.0 + SLACK_SECONDS, f"INV-12: {copy} took {took:.2f} s")
        if copy.word == "retryable" and copy.op != "purchase":
            # A purchase was looked up before, and found to be none.
            self.require(not copy.keyed, "INV-3: a keyed request heard RETRYABLE")
        if copy.op == "reserve":
            self._told_of_hold(copy, outcome)
            self.seating.told(copy, outcome)
        elif copy.op == "purchase" and copy.word == "yes":
            self._told_of_purchase(copy, outcome)
        elif copy.op == "release" and copy.word == "yes":
            row = self.seen.get(UUID(copy.wish.reservation_id))
            kept = row is not None and row["state"] in ("released", "purchased")
            self.require(kept or self._excused(row), "INV-3: told released, but it is not")

    def _excused(self, row: Row | None) -> bool:
        return row is None or row["id"] in self.lost

    def _told_of_hold(self, copy: Copy, outcome: Any) -> None:
        row = self.tables.rows["reservations"].get(copy.rid)
        there = row is not None and row["state"] != "aborted"
        if copy.word == "yes":
            id = UUID(outcome.id)
            real = there and row is not None and row["id"] == id
            self.require(real or id in self.lost, "INV-3: told 201, and nothing is committed")
            words = (id, outcome.amount_cents, outcome.quantity, outcome.drop_id)
            first = self.told.setdefault(copy.rid, words)
            if first != words and first[0] in self.lost:
                self.told[copy.rid] = words
            elif id not in self.lost:
                self.require(first == words, "INV-4: a replay differs")
        elif copy.word == "no" and there and row is not None:
            if isinstance(outcome, IdempotencyMismatch):
                return
            seen_at = self.births[row["id"]][3] if row["id"] in self.births else 0.0
            self.require(seen_at >= copy.sent_at, f"INV-3: {copy}, but it had its hold")

    def _told_of_purchase(self, copy: Copy, outcome: Any) -> None:
        purchase = outcome.purchase
        row = self.tables.rows["purchases"].get(UUID(purchase.reservation_id))
        real = row is not None and row["id"] == UUID(purchase.id)
        lost = UUID(purchase.id) in self.lost
        self.require(real or lost, "INV-3: told bought, and nothing is committed")

    def history_lost(self, before: dict[str, dict[Any, Row]]) -> None:
        """Postgres was replaced by its past: which told words went along is counted, not hidden."""
        self.lost_words = self.loop.now
        rows = self.tables.rows
        for table in ("reservations", "purchases"):
            kept = {
                row["id"]: row["state"] if table == "reservations" else ""
                for row in rows[table].values()
            }
            for row in before[table].values():
                state = row["state"] if table == "reservations" else ""
                if kept.get(row["id"]) != state:
                    self.lost.add(row["id"])
                    self.counts["rows lost with a history"] += 1
        self.seen = {row["id"]: row for row in rows["reservations"].values()}
        self.seating.history_lost()
        now = {row["id"] for row in rows["reservations"].values() if row["state"] != "aborted"}
        self.births = {id: birth for id, birth in self.births.items() if id in now}
        sold = {row["id"] for row in rows["purchases"].values()}
        self.sales = {id: sale for id, sale in self.sales.items() if id in sold}

    # ── when all is healed ───────────────────────────────────────────────────────────────────

    def healed(self, open_intents: int, drift: list[str]) -> None:
        """INV-3 of each word ever told, INV-7 and INV-13 of the rest."""
        self.require(not open_intents, f"INV-7: {open_intents} intents stay open")
        self.require(not drift, f"INV-7: the bouncer differs: {drift}")
        now = self.tables.now().timestamp()
        for row in self.tables.rows["reservations"].values():
            overdue = row["state"] in LIVE and row["expires_at"].timestamp() < now - 1.0
            self.require(not overdue, "INV-7: held past its deadline")
        for births, op in ((self.births, "reserve"), (self.sales, "purchase")):
            for rid, sender, sent_at, _ in births.values():
                self._audit_birth(op, rid, sender, sent_at)
        self._audit_money()

    def _audit_birth(self, op: str, rid: UUID, sender: Process, sent_at: float) -> None:
        """Whoever was told "no" or RETRYABLE has nothing of that attempt: what came to be was sent
        for a copy that heard something else."""
        copies = [c for c in self.copies if c.rid == rid and c.op == op]
        mine = [c for c in copies if c.process is sender and c.sent_at <= sent_at]
        if not copies:
            self.require(op == "purchase", "INV-3: a hold that nobody asked for")
            return
        words = {c.word for c in mine}
        self.require(
            words - {"no", "retryable"}, f"INV-3: {[str(c) for c in mine]}, but it is there"
        )

    def _audit_money(self) -> None:
        """INV-13: who paid has his units, or is owed the money."""
        rows = self.tables.rows
        for name, payment in rows["payments"].items():
            if payment["status"] != "succeeded":
                continue
            self.counts[f"paid: {payment['outcome']}"] += 1
            id = payment["reservation_id"]
            bought = rows["purchases"].get(id)
            has = bought is not None and bought["payment_reference"] == name
            owed = (name, id) in rows["refunds"]
            self.require(payment["outcome"], f"INV-13: {name} is not decided")
            self.require(has != owed, f"INV-13: {name} has={has} owed={owed}")
