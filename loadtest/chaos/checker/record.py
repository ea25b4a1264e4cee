"""The record of a run, read once: requests with their answers, and the facts by what they are of.

All of it is kept in memory, at most some 600 bytes a line; a run of millions of lines fits.
"""

from __future__ import annotations

import uuid
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from math import inf
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from tqdm import tqdm

from engine.infra.ids import request_identity
from loadtest.chaos import facts, history
from loadtest.fleet import Untrustworthy

SLOW_SECONDS = 3  # then a bar shows how far it is
CLOCK_NS = 1_000_000  # what two clocks may differ though a tick says that they agree

Version = tuple[int, int]  # epoch and version of a drop
T = TypeVar("T")
K = TypeVar("K")


class Numbered(msgspec.Struct, frozen=True, gc=False):
    """A unit in an answer."""

    number: int


class Details(msgspec.Struct, frozen=True, gc=False):
    """Of a refusal."""

    reason: str = ""


class Value(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """Of an answer's body what a check needs."""

    id: str | int = ""
    reservation_id: str | None = ""
    drop_id: int | None = 0
    user_id: str | None = ""
    quantity: int = 0
    units: tuple[Numbered, ...] = ()
    status: str | int = ""
    amount: Any = None
    currency: str = ""
    expires_at: str = ""
    version: int | None = None
    outcome: str | None = None
    details: Details | None = None
    reason: str | None = None


class Answer(msgspec.Struct, frozen=True, tag="complete", gc=False):
    """`history.Complete`, as far as it is needed."""

    at: int
    process: str
    op: int
    outcome: history.Outcome
    status: int = 0
    code: str = ""
    replayed: bool = False
    value: Value = Value()


class Op:
    """One sending of a request, and its answer if it came. `request`: which request it is a copy
    of, None if it had no key."""

    __slots__ = ("answer", "invoke", "request")

    def __init__(self, invoke: history.Invoke, request: str | None) -> None:
        self.invoke, self.request = invoke, request
        self.answer: Answer | None = None

    @property
    def outcome(self) -> str:
        """ok, fail or info; one that was never answered is info."""
        return "info" if self.answer is None else self.answer.outcome

    @property
    def ok(self) -> bool:
        """Told yes."""
        return self.answer is not None and self.answer.outcome == "ok"

    @property
    def fail(self) -> bool:
        """Told no."""
        return self.answer is not None and self.answer.outcome == "fail"

    @property
    def since(self) -> int:
        """When it was sent."""
        return self.invoke.at

    @property
    def until(self) -> float:
        """When it was answered; whoever was not may have been served at any later time."""
        return inf if self.answer is None else self.answer.at

    @property
    def value(self) -> Value:
        """The answer's body."""
        return Value() if self.answer is None else self.answer.value


_FACTS = (
    facts.DropFact
    | facts.StockFact
    | facts.UnitFact
    | facts.HoldFact
    | facts.PurchaseFact
    | facts.PaymentFact
    | facts.RefundFact
    | facts.ToldFact
    | facts.Tick
    | facts.Arrival
    | facts.FinalStock
    | facts.FinalUnit
    | facts.FinalHold
    | facts.FinalUse
)
_SEEN = history.Invoke | Answer | history.Fault | history.Heal | history.Sight | history.Resource


class Record:
    """What a run left behind."""

    def __init__(self) -> None:
        self.run = history.Run()
        self.ops: list[Op] = []
        self.lines = 0
        self._of: defaultdict[type, list[Any]] = defaultdict(list)
        self._offsets: list[tuple[int, int]] = []  # (µs of the wall, ns ahead of it)
        self.clock_ns = CLOCK_NS  # how far a moment of a fact may be off

    def of(self, kind: type[T]) -> list[T]:
        """All lines of a kind, facts in the order of their numbers, others of their moments."""
        return self._of[kind]

    def by(self, kind: type[T], key: Callable[[T], K]) -> dict[K, list[T]]:
        """Likewise, grouped."""
        groups: defaultdict[K, list[T]] = defaultdict(list)
        for each in self.of(kind):
            groups[key(each)].append(each)
        return groups

    def is_new(self, fact: facts.Fact) -> bool:
        """Whether it happened, and was not there when the witness came."""
        return fact.txid not in self.arrivals

    def moment(self, wall: int) -> int:
        """The monotonic moment, in ns, of a wall-clock moment of Postgres, in µs."""
        place = max(bisect_right(self._offsets, (wall, 1 << 62)) - 1, 0)
        return wall * 1000 + self._offsets[place][1]

    def version(self, fact: facts.Fact, drop: int) -> Version | None:
        """The version that the transaction of a fact made of a drop."""
        stock = self.versions.get((drop, fact.txid))
        return None if stock is None or stock.version is None else (stock.epoch, stock.version)

    def finish(self) -> None:
        """Sort everything, once it is read."""
        self.ops.sort(key=lambda op: op.since)
        for kind, lines in self._of.items():
            if issubclass(kind, facts.Fact):
                lines.sort(key=lambda fact: fact.seq)
            elif kind in (history.Sight, history.Fault, history.Heal, history.Resource):
                lines.sort(key=lambda line: line.at)
        self.arrivals = {each.txid for each in self.of(facts.Arrival)}
        self.versions: dict[tuple[int, int], facts.StockFact] = {
            (fact.drop, fact.txid): fact for fact in self.of(facts.StockFact)
        }
        self.by_request: defaultdict[str, list[Op]] = defaultdict(list)
        for op in self.ops:
            if op.request is not None:
                self.by_request[op.request].append(op)
        for each in sorted(self.of(facts.Tick), key=lambda each: each.at):
            self._offsets.append((each.at, (each.before + each.after) // 2 - each.at * 1000))
            self.clock_ns = max(self.clock_ns, (each.after - each.before) // 2 + CLOCK_NS)
        if not self._offsets or not self.of(facts.FinalStock):
            raise Untrustworthy(
                "no histories here: a run that held deletes them unless it is told KEEP=1"
            )

    def read(self, path: Path, tell: Callable[[int], None]) -> None:
        """Add a file's lines; a last one that was cut short is left out."""
        decode = _decoder(path.name.startswith("facts-"))
        open_ops: dict[tuple[str, int], Op] = {}
        with path.open("rb") as file:
            for raw in file:
                if not raw.endswith(b"\n"):
                    break
                self.lines += 1
                tell(len(raw))
                line = decode(raw)
                if type(line) is history.Invoke:
                    op = Op(line, identity(line))
                    self.ops.append(op)
                    open_ops[line.process, line.op] = op
                elif type(line) is Answer:
                    open_ops.pop((line.process, line.op)).answer = line
                else:
                    self._of[type(line)].append(line)


@cache
def _decoder(of_facts: bool) -> Callable[[bytes], Any]:
    return msgspec.json.Decoder(_FACTS if of_facts else _SEEN).decode


def identity(invoke: history.Invoke) -> str | None:
    """The id of a keyed request as the engine makes it of AUTH=open, or None."""
    if not invoke.key:
        return None
    subject = f"open:open:{invoke.buyer}"
    return str(uuid.UUID(request_identity(subject, invoke.verb, invoke.key)))


def read(folder: Path) -> Record:
    """The record of a folder. Raises `Untrustworthy` if there are no facts in it."""
    record, paths = Record(), sorted(folder.glob("*.jsonl"))
    run = folder / "run.json"
    if run.exists():
        record.run = msgspec.json.decode(run.read_bytes(), type=history.Run)
    total = sum(path.stat().st_size for path in paths)
    with tqdm(total=total, unit="B", unit_scale=True, delay=SLOW_SECONDS, desc="reading") as bar:
        told = 0

        def tell(size: int) -> None:
            nonlocal told
            told += size
            if told > 1 << 20:
                bar.update(told)
                told = 0

        for path in paths:
            record.read(path, tell)
    record.finish()
    return record
