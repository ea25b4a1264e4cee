"""By when a transaction was committed for certain, from what anybody saw of it afterwards."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from itertools import accumulate, pairwise
from math import inf
from operator import attrgetter

from loadtest.chaos.checker.effects import Effects
from loadtest.chaos.checker.record import Record
from loadtest.chaos.facts import StockFact
from loadtest.chaos.history import Fault, Sight

LIFE_NS = 5_000_000_000  # the engine's transactions live 4 s, unless what they run on stands still

Seen = list[tuple[float, int]]  # moments, and the versions that were there by then


def commits(record: Record, effects: Effects) -> dict[tuple[int, int], float]:
    """By drop and transaction: the moment by which it was committed. The first of: the next
    version, which is written under the lock that the commit gave up; a sight, a poll or an answer
    that shows its version or a later one; the end of what a transaction may take."""
    seen = {} if record.run.lost_tail else _seen(record, effects)  # else versions come twice
    faults = [fault for fault in record.of(Fault) if fault.lasted]  # in their order
    begun, over = [fault.at for fault in faults], list(accumulate((f.until for f in faults), max))
    by: dict[tuple[int, int], float] = {}
    for drop, changes in record.by(StockFact, attrgetter("drop")).items():
        shown = sorted(seen.get(drop, ()), key=lambda each: -each[1])
        place, first, later = 0, inf, inf
        for fact in reversed(changes):
            since = record.moment(fact.at)
            if (drop, fact.txid) not in by:
                while place < len(shown) and shown[place][1] >= (fact.version or 0):
                    first = min(first, shown[place][0])
                    place += 1
                faulty = bisect_right(begun, since + LIFE_NS)
                calm = not record.run.lost_tail and (not faulty or over[faulty - 1] < since)
                ends = since + LIFE_NS if calm else inf
                by[drop, fact.txid] = min(first, later, ends)
            later = since
    return by


def _seen(record: Record, effects: Effects) -> dict[int, Seen]:
    seen: defaultdict[int, Seen] = defaultdict(list)
    for drop, sights in record.by(Sight, attrgetter("drop")).items():
        # A sight begins at its moment; it is over when the next one begins.
        seen[drop] += [
            (after.at, sight.version)
            for sight, after in pairwise(sights)
            if sight.version is not None
        ]
    for op in record.ops:
        if not op.ok:
            continue
        drop, version = op.invoke.drop, op.value.version
        if op.invoke.verb == "stock" and version is not None:
            seen[drop].append((op.until, version))
        elif op.invoke.verb in ("reserve", "purchase", "release"):
            for effect in effects.told(op)[:1]:
                made = record.version(effect.fact, drop)
                if made is not None:
                    seen[drop].append((op.until, made[1]))
    return seen
