"""C1 and C2: units have one owner at a time, and the figures add up at every version.

The units' own changes, the holds' and the stock rows' are three testimonies; each is checked by
itself and against the others. They meet in the transaction: whatever moved units in it moved the
stock row by one version, which is the order of a drop's commits.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import groupby, pairwise
from operator import attrgetter

from loadtest.chaos.checker.record import Record, Version
from loadtest.chaos.checker.verdict import Verdict
from loadtest.chaos.facts import FinalStock, FinalUnit, HoldFact, StockFact, UnitFact

MOVES = {
    ("free", "held"),
    ("held", "sold"),
    ("held", "free"),
    ("free", "withdrawn"),
    ("sold", "free"),
    ("sold", "withdrawn"),
}
OWNING = ("active", "paying", "purchased")
STATES = ("free", "held", "sold", "withdrawn")


def one_owner(record: Record, verdict: Verdict) -> None:
    """C1: each unit goes from one state and owner to the next, versions rise, and no two holds
    say that a unit was theirs at one version."""
    units = record.by(UnitFact, lambda fact: (fact.drop, fact.number))
    for unit, changes in units.items():
        _chain(record, verdict, unit, changes)
    _overlaps(record, verdict)
    last = {unit: changes[-1] for unit, changes in units.items()}
    for final in record.of(FinalUnit):
        change = last.get((final.drop, final.number))
        if change is None or (change.after, change.owner_after) != (final.state, final.owner):
            sentence = f"unit {final.number} of drop {final.drop} is not what its facts made of it"
            verdict.found("C1", sentence, *filter(None, [change]), final)
    verdict.close("C1", "units with two owners")


def _chain(
    record: Record, verdict: Verdict, unit: tuple[int, int], changes: list[UnitFact]
) -> None:
    name = f"unit {unit[1]} of drop {unit[0]}"
    first = changes[0]
    if first.before is not None or (record.is_new(first) and first.after != "free"):
        verdict.found("C1", f"{name} begins its life as {first.after}", first)
    for one, two in pairwise(changes):
        if (one.after, one.owner_after) != (two.before, two.owner_before):
            verdict.found("C1", f"{name} changed, and nobody saw it", one, two)
        elif (two.before, two.after) not in MOVES:
            verdict.found("C1", f"{name} went from {two.before} to {two.after}", one, two)
        elif two.after == "sold" and two.owner_after != two.owner_before:
            verdict.found("C1", f"{name} was held for one and sold to another", one, two)
        before, after = record.version(one, unit[0]), record.version(two, unit[0])
        if after is None:
            verdict.found("C1", f"{name} changed without a version", two)
        elif before is not None and one.txid != two.txid and before >= after:
            verdict.found("C1", f"{name} changed at {before}, then at {after}", one, two)


def _overlaps(record: Record, verdict: Verdict) -> None:
    """The same from the holds' rows, which know nothing of the units' rows."""
    spans: defaultdict[tuple[int, int], list[tuple[Version, Version, HoldFact]]] = defaultdict(list)
    never = (1 << 62, 0)
    for changes in record.by(HoldFact, lambda fact: fact.request).values():
        began: tuple[Version, HoldFact] | None = None
        for fact in changes:
            version = record.version(fact, fact.drop) or (fact.epoch, 0)
            if began is not None and fact.after not in OWNING:
                for number in began[1].units:
                    spans[fact.drop, number].append((began[0], version, began[1]))
                began = None
            elif began is None and fact.after in OWNING:
                began = version, fact
        if began is not None:
            for number in began[1].units:
                spans[began[1].drop, number].append((began[0], never, began[1]))
    for (drop, number), owners in spans.items():
        owners.sort(key=lambda span: span[:2])
        for (_, until, one), (since, _, two) in pairwise(owners):
            if since < until:
                verdict.found("C1", f"unit {number} of drop {drop} had two owners", one, two)


def conservation(record: Record, verdict: Verdict) -> None:
    """C2: every version follows the one before, its figures add up, are what the units' changes in
    its transaction make of the figures before, and end as the row does."""
    moved = _moved(record)
    versions = 0
    ends: dict[int, StockFact] = {}
    for drop, changes in record.by(StockFact, attrgetter("drop")).items():
        before: StockFact | None = None
        for txid, together in groupby(changes, key=attrgetter("txid")):
            facts = list(together)
            versions += 1
            _sums(verdict, facts)
            _step(record, verdict, before, facts, moved.pop((drop, txid), Counter()))
            before = facts[-1]
        assert before is not None
        ends[drop] = before
    for (drop, txid), change in moved.items():
        if any(change.values()):
            told = {state: by for state, by in change.items() if by}
            verdict.found("C2", f"transaction {txid} moved units of drop {drop} unseen: {told}")
    for final in record.of(FinalStock):
        end = ends.get(final.drop)
        if end is None or _figures(end) != _figures(final) or end.version != final.version:
            sentence = f"the stock row of drop {final.drop} is not what its facts made of it"
            verdict.found("C2", sentence, *filter(None, [end]), final)
    verdict.close("C2", "versions that do not add up")
    verdict.figure("versions judged", str(versions), "> 0", versions > 0)


def _moved(record: Record) -> dict[tuple[int, int], Counter[str]]:
    """By drop and transaction: how many units came to be in each state."""
    moved: defaultdict[tuple[int, int], Counter[str]] = defaultdict(Counter)
    for fact in record.of(UnitFact):
        change = moved[fact.drop, fact.txid]
        if fact.before is not None:
            change[fact.before] -= 1
        if fact.after is not None:
            change[fact.after] += 1
    return moved


def _figures(fact: StockFact | FinalStock) -> dict[str, int]:
    return {state: getattr(fact, state) or 0 for state in STATES}


def _sums(verdict: Verdict, facts: list[StockFact]) -> None:
    for fact in facts:
        figures = _figures(fact)
        if sum(figures.values()) != fact.total or min(figures.values()) < 0:
            sentence = f"drop {fact.drop} at version {fact.version}: {figures} of {fact.total}"
            verdict.found("C2", sentence, fact)


def _step(
    record: Record,
    verdict: Verdict,
    before: StockFact | None,
    facts: list[StockFact],
    moved: Counter[str],
) -> None:
    first, last = facts[0], facts[-1]
    where = f"drop {last.drop} at version {last.version}"
    if before is None:
        if first.before is not None:
            verdict.found("C2", f"{where}: nothing is known of what was before", first)
        was, number = dict.fromkeys(STATES, 0), None
    else:
        was, number = _figures(before), before.version
    chain = [number, *(fact.version for fact in facts[:-1])]
    if [fact.before for fact in facts] != chain:
        verdict.found("C2", f"{where}: the row changed, and nobody saw it", *facts)
    if number is not None and last.version != number + 1:
        verdict.found("C2", f"{where}: it follows {number}", *filter(None, [before]), *facts)
    now = _figures(last)
    wanted = {state: was[state] + moved[state] for state in STATES}
    if wanted != now:
        verdict.found("C2", f"{where} says {now}, its units {wanted}", *facts)
