"""C9: who was told "sold out" was told so at a time when not enough was left.

Left is what is free less what others are being given: their requests, from when they were sent
until they were answered and the bouncer had heard of it. A request that never got an answer counts
until the reaper must have closed it. This errs for the service, by what nobody can know from
outside; so a second of false "sold out" that is found is one.

A "sold out" may be old by what the engine allows itself: 100 ms of a worker's memory
(engine/sale/reserve.py), and the way of a word from Postgres to the bouncer, which is milliseconds;
where a word is lost or late, the reconciler brings it within a second. So the figure allows for the
former, and the demand for the latter.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from math import inf
from operator import attrgetter

from loadtest.chaos.checker.record import Op, Record
from loadtest.chaos.checker.verdict import Verdict
from loadtest.chaos.facts import StockFact
from loadtest.chaos.history import Fault, Heal, Sight

MEMORY_NS = 100_000_000
TRAVEL_NS = 200_000_000
RECONCILED_NS = 1_000_000_000
SETTLED_NS = 8_000_000_000  # after a fault (INV-7), and of a request without an answer
ADMITTED = {"LIMIT_REACHED", "RATE_LIMITED", "RETRYABLE"}  # fails that may have had an intent

Span = tuple[float, float]
drop_of = attrgetter("drop")


def honest(record: Record, verdict: Verdict) -> None:
    """C9. Under faults false "sold out" is a figure; eight seconds after them there is none."""
    asked: defaultdict[int, list[Op]] = defaultdict(list)
    refused: defaultdict[int, list[Op]] = defaultdict(list)
    for op in record.ops:
        if op.invoke.verb != "reserve":
            continue
        code = "" if op.answer is None else op.answer.code
        if code == "SOLD_OUT":
            refused[op.invoke.drop].append(op)
        elif not op.fail or code in ADMITTED:
            asked[op.invoke.drop].append(op)
    frees, sights = record.by(StockFact, drop_of), record.by(Sight, drop_of)
    faults = _union([(f.at, f.until + SETTLED_NS) for f in record.of(Fault) if f.lasted], MEMORY_NS)
    calm = hard = 0.0
    quiet = 0
    for drop, ops in refused.items():
        changes = _changes(record, frees.get(drop, []), asked[drop])
        shorts = _shorts(changes, sights.get(drop, []), ops)
        hard += sum(_common(span, faults) for span in _spans(_lies(record, shorts, ops, TRAVEL_NS)))
        quiet += sum(_is_calm(op, faults) for op in ops)
        lies = _lies(record, shorts, ops, RECONCILED_NS)
        for op in lies:
            if _is_calm(op, faults):
                verdict.found("C9", "told sold out, with enough left", op)
        calm += sum(span[1] - span[0] - _common(span, faults) for span in _spans(lies))
    verdict.close("C9", "false sold out, calm")
    verdict.figure("false sold out, calm, s", f"{calm / 1e9:.2f}", "0", calm == 0)
    verdict.figure("false sold out, under faults, s", f"{hard / 1e9:.2f}")
    verdict.figure("sold out judged", str(sum(map(len, refused.values()))))
    # Between two heals there is a calm in which buyers buy (plan.py).
    calms = len(record.of(Heal)) > 1
    wanted = "> 0" if calms else ""
    verdict.figure("  in a calm", str(quiet), wanted, quiet > 0 if calms else None)


def _is_calm(op: Op, faults: list[Span]) -> bool:
    return _common((op.since, op.until), faults) < op.until - op.since


def _spans(ops: list[Op]) -> list[Span]:
    return _union([(op.since, op.until) for op in ops], 0)


def _shorts(
    changes: list[tuple[float, int]], sights: list[Sight], refused: list[Op]
) -> dict[int, list[Span]]:
    """By quantity that was refused: when less than that was left."""
    return {
        quantity: _union(_short(changes, quantity) + _seen_short(sights, quantity), 0)
        for quantity in {max(op.invoke.quantity, 1) for op in refused}
    }


def _lies(
    record: Record, shorts: dict[int, list[Span]], refused: list[Op], travel_ns: int
) -> list[Op]:
    """The refusals during which there was enough all the time."""
    starts = {quantity: [since for since, _ in short] for quantity, short in shorts.items()}
    lies: list[Op] = []
    for op in refused:
        quantity = max(op.invoke.quantity, 1)
        place = bisect_right(starts[quantity], op.until) - 1
        since = op.since - MEMORY_NS - travel_ns - record.clock_ns
        if place < 0 or shorts[quantity][place][1] < since:
            lies.append(op)
    return lies


def _changes(record: Record, frees: list[StockFact], asked: list[Op]) -> list[tuple[float, int]]:
    """By how much what is left rises or falls, and when."""
    changes: list[tuple[float, int]] = []
    free = 0
    for fact in frees:
        changes.append((record.moment(fact.at), (fact.free or 0) - free))
        free = fact.free or 0
    for op in asked:
        quantity = max(op.invoke.quantity, 1)
        late = SETTLED_NS if op.outcome == "info" else TRAVEL_NS
        until = op.until if op.until < inf else op.since + SETTLED_NS
        changes += [(op.since, -quantity), (until + late, quantity)]
    changes.sort()
    return changes


def _short(changes: list[tuple[float, int]], quantity: int) -> list[Span]:
    """When less than this was left."""
    spans: list[Span] = []
    left, since = 0, -inf
    for at, change in changes:
        before, left = left, left + change
        if before < quantity <= left:
            spans.append((since, at))
        elif left < quantity <= before:
            since = at
    if left < quantity:
        spans.append((since, inf))
    return spans


def _seen_short(sights: list[Sight], quantity: int) -> list[Span]:
    """When the intents that were seen left less: those of the dead are nobody's request here."""
    return [
        (sight.at - MEMORY_NS, sight.at + MEMORY_NS)
        for sight in sights
        if sight.intents and sight.free is not None and sight.free - sight.intents < quantity
    ]


def _union(spans: list[Span], gap: float) -> list[Span]:
    """The same, sorted and without overlaps."""
    joined: list[Span] = []
    for since, until in sorted(spans):
        if joined and since <= joined[-1][1] + gap:
            joined[-1] = joined[-1][0], max(joined[-1][1], until)
        else:
            joined.append((since, until))
    return joined


def _common(span: Span, spans: list[Span]) -> float:
    """How much of a span lies within others, which do not overlap."""
    return sum(max(min(span[1], until) - max(span[0], since), 0) for since, until in spans)
