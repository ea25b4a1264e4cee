"""C8 and C12: whoever comes later sees what came before, and nobody's view goes back.

Each version of a drop is one commit, so the versions are the order in which everything about its
stock happened. If that order never contradicts the order of the clients' clocks, the history is
strictly serializable, and a sort shows it. A poll of the stock is answered by Postgres itself,
whatever may be cached by browsers behind its `max-age`: the run's clients cache nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import groupby, pairwise
from operator import attrgetter
from typing import Literal

import msgspec

from loadtest.chaos.checker.effects import Effects
from loadtest.chaos.checker.record import Op, Record
from loadtest.chaos.checker.verdict import Verdict
from loadtest.chaos.facts import FinalStock, StockFact, ToldFact
from loadtest.chaos.history import Fault, Sight

STOCK_KINDS = {"reserved", "purchased", "released", "expired", "refunded", "withdrawn"}
STOCK_VERBS = ("reserve", "purchase", "release")
REST_NS = 8_000_000_000  # INV-7


class Point(msgspec.Struct, frozen=True, gc=False):
    """An op and a version: that it proves to be there (told, when it was answered), that it made,
    or that it saw (when it was sent)."""

    at: float
    version: int
    op: Op
    role: Literal["told", "made", "saw"]


def real_time(record: Record, effects: Effects, verdict: Verdict) -> None:
    """C8: what was sent after an answer has a later version than it; a poll not an earlier one."""
    points: defaultdict[int, list[Point]] = defaultdict(list)
    firsts, judged = _firsts(record), 0
    for op in record.ops:
        if not op.ok or op.answer is None:
            continue
        drop, verb, version = op.invoke.drop, op.invoke.verb, op.value.version
        if verb == "stock" and version is not None:
            points[drop].append(Point(op.since, version, op, "saw"))
            judged += 1
            if not record.run.lost_tail:
                points[drop].append(Point(op.until, version, op, "told"))
        elif verb in STOCK_VERBS and (found := effects.told(op)):
            made = record.version(found[0].fact, drop)
            if made is None or not record.is_new(found[0].fact):
                continue
            points[drop].append(Point(op.until, made[1], op, "told"))
            if op in firsts and not op.answer.replayed and op.answer.status != 200:
                points[drop].append(Point(op.since, made[1], op, "made"))
                judged += 1
    for each in points.values():
        _sweep(verdict, each)
    verdict.close("C8", "answers out of order")
    verdict.figure("answers put in order", str(judged), "> 0", judged > 0)


def _firsts(record: Record) -> set[Op]:
    """Ops before which nobody asked for the same: what they were told done they did themselves."""
    firsts, known = set(), set()
    for op in record.ops:
        release = op.invoke.subject if op.invoke.verb == "release" else None
        mark = release or op.request
        if mark is None or mark not in known:
            firsts.add(op)
        known.add(mark)
    return firsts


def _sweep(verdict: Verdict, points: list[Point]) -> None:
    newest: Point | None = None
    for point in sorted(points, key=attrgetter("at")):
        if point.role == "told":
            if newest is None or point.version > newest.version:
                newest = point
        elif newest is not None and point.at > newest.at:
            old = point.version < newest.version
            if old or (point.role == "made" and point.version == newest.version):
                sentence = f"{point.role} version {point.version} after {newest.version} was told"
                verdict.found("C8", sentence, newest.op, point.op)


def views(record: Record, verdict: Verdict) -> None:
    """C12: nobody's view goes back, every version that was seen was one, the outbox tells each
    version once, and at the end all see the same."""
    # What a transaction wrote on its way to its last figures nobody sees.
    versions = {(fact.drop, fact.version): fact for fact in record.versions.values()}
    finals = {each.drop: each for each in record.of(FinalStock)}
    for drop, sights in record.by(Sight, attrgetter("drop")).items():
        _sights(record, verdict, sights)
        if not record.run.lost_tail:
            for sight in sights:
                _was_one(verdict, versions, sight)
        if drop in finals:
            _at_the_end(record, verdict, versions, finals[drop], sights[-1])
    if not record.run.lost_tail:
        _polls(record, verdict, versions)
    _epochs(record, verdict)
    _outbox(record, verdict)
    verdict.close("C12", "views that went back")


def _sights(record: Record, verdict: Verdict, sights: list[Sight]) -> None:
    answered = [sight for sight in sights if sight.version is not None]
    for one, two in pairwise(answered):
        back = (one.epoch, one.version) > (two.epoch, two.version)
        if back and not record.run.lost_tail:
            verdict.found("C12", "Postgres went back", one, two)
    for one, two in pairwise([sight for sight in sights if sight.believed is not None]):
        assert one.believed is not None and two.believed is not None
        if one.believed[:2] > two.believed[:2] and not _between(record, one, two):
            verdict.found("C12", "the bouncer went back, and nothing made it forget", one, two)


def _between(record: Record, one: Sight, two: Sight) -> list[Fault]:
    """Faults that lasted into the time between two sights and made Valkey forget, though they
    may have come to less than was planned."""
    return [
        fault
        for fault in record.of(Fault)
        if fault.forgets and fault.at <= two.at and fault.until >= one.at
    ]


def _was_one(
    verdict: Verdict, versions: dict[tuple[int, int | None], StockFact], sight: Sight
) -> None:
    fact = versions.get((sight.drop, sight.version))
    if sight.version is None:
        return
    if fact is None:
        verdict.found("C12", f"version {sight.version} was seen, and never was", sight)
    elif (fact.free, fact.held, fact.sold) != (sight.free, sight.held, sight.sold):
        verdict.found("C12", f"version {sight.version} was seen with other figures", fact, sight)
    # INV-6. Intents only make it less.
    said = None if sight.believed is None else versions.get((sight.drop, sight.believed[1]))
    if said is not None and sight.believed is not None and sight.believed[2] > (said.free or 0):
        verdict.found("C12", "the bouncer offers more than was free at that version", said, sight)


def _polls(
    record: Record, verdict: Verdict, versions: dict[tuple[int, int | None], StockFact]
) -> None:
    for op in record.ops:
        seen = op.value.version if op.ok and op.invoke.verb == "stock" else None
        if seen is not None and (op.invoke.drop, seen) not in versions:
            verdict.found("C12", f"version {seen} was told, and never was", op)


def _at_the_end(
    record: Record,
    verdict: Verdict,
    versions: dict[tuple[int, int | None], StockFact],
    final: FinalStock,
    last: Sight,
) -> None:
    change = versions.get((final.drop, final.version))
    if last.version is None or change is None:
        return
    age = last.at - record.moment(change.at)
    if age > record.clock_ns and (last.version, last.free) != (final.version, final.free):
        verdict.found("C12", "the last sight is not what there is", last, final)
    believed = last.believed is None or last.believed[1:] == (final.version, final.free)
    if age > REST_NS and not believed:
        verdict.found("C12", "at the end the bouncer believes something else", last, final)


def _epochs(record: Record, verdict: Verdict) -> None:
    for changes in record.by(StockFact, attrgetter("drop")).values():
        for one, two in pairwise(changes):
            if one.epoch > two.epoch:
                verdict.found("C12", f"epoch {two.epoch} came after {one.epoch}", one, two)


def _outbox(record: Record, verdict: Verdict) -> None:
    """Each version that moved units between buyers and the shelf is told in its own transaction;
    one that only filled the shelf is not."""
    told = record.by(ToldFact, lambda fact: (fact.drop, fact.txid))
    for drop, changes in record.by(StockFact, attrgetter("drop")).items():
        total = 0
        for txid, together in groupby(changes, key=attrgetter("txid")):
            last = list(together)[-1]
            mine = [f for f in told.pop((drop, txid), []) if f.kind in STOCK_KINDS]
            filled, total = last.total != total, last.total or 0
            if not record.is_new(last) or (filled and not mine) or last.version == 0:
                continue
            words = [(fact.told, fact.version) for fact in mine]
            if [version for _, version in words] != [last.version]:
                sentence = f"version {last.version} of drop {drop} was told as {words}"
                verdict.found("C12", sentence, last, *mine)
    strays = [f for several in told.values() for f in several if f.kind in STOCK_KINDS]
    for fact in strays:
        verdict.found("C12", "the outbox tells what did not happen", fact)
    again = Counter((f.drop, f.version) for f in record.of(ToldFact) if f.kind in STOCK_KINDS)
    for (drop, version), count in again.items():
        if count > 1:
            verdict.found("C12", f"version {version} of drop {drop} was told {count} times")
    for drop, facts in record.by(ToldFact, attrgetter("drop")).items():
        stock = sorted((f for f in facts if f.kind in STOCK_KINDS), key=attrgetter("id"))
        for one, two in pairwise(stock):
            if (one.told, one.version) >= (two.told, two.version):
                verdict.found("C12", f"the outbox of drop {drop} went back", one, two)
