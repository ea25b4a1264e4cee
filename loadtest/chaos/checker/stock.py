"""C1 and C2: units have one owner at a time, and the figures add up at every version.

The shelf's changes, the holds' and the stock rows' are three testimonies; each is checked by itself
and against the others. They meet in the transaction: what left the shelf in it a hold took, what
came a hold gave back, and both moved the stock row by one version, which is the order of a drop's
commits.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import groupby, pairwise
from operator import attrgetter

from loadtest.chaos.checker.record import Record, Version
from loadtest.chaos.checker.verdict import Verdict
from loadtest.chaos.facts import FinalStock, FinalUnit, HoldFact, StockFact, UnitFact

MOVES = {("free", None), ("free", "withdrawn"), (None, "free"), (None, "withdrawn")}
LIVE = ("active", "paying")
OWNING = (*LIVE, "purchased")
STATES = ("free", "held", "sold", "withdrawn")
Moment = tuple[int, int]  # a drop in a transaction


def one_owner(record: Record, verdict: Verdict) -> None:
    """C1: each unit leaves the shelf for a hold and comes back from one, versions rise, and no two
    holds say that a unit was theirs at one version."""
    units = record.by(UnitFact, lambda fact: (fact.drop, fact.number))
    for unit, changes in units.items():
        _chain(record, verdict, unit, changes)
    _handed(record, verdict, {unit: changes[0] for unit, changes in units.items()})
    _overlaps(record, verdict)
    last = {unit: changes[-1] for unit, changes in units.items()}
    finals = {(final.drop, final.number): final for final in record.of(FinalUnit)}
    for unit in last.keys() | finals.keys():
        change, final = last.get(unit), finals.get(unit)
        if (change and change.after) != (final and final.state):
            sentence = f"unit {unit[1]} of drop {unit[0]} is not what its facts made of it"
            verdict.found("C1", sentence, *filter(None, [change, final]))
    verdict.close("C1", "units with two owners")


def _chain(
    record: Record, verdict: Verdict, unit: tuple[int, int], changes: list[UnitFact]
) -> None:
    name = f"unit {unit[1]} of drop {unit[0]}"
    if changes[0].before is not None:
        verdict.found("C1", f"{name} begins its life as {changes[0].before}", changes[0])
    for one, two in pairwise(changes):
        if one.after != two.before:
            verdict.found("C1", f"{name} changed, and nobody saw it", one, two)
        elif (two.before, two.after) not in MOVES:
            verdict.found("C1", f"{name} went from {two.before} to {two.after}", one, two)
        before, after = record.version(one, unit[0]), record.version(two, unit[0])
        if after is None:
            verdict.found("C1", f"{name} changed without a version", two)
        elif before is not None and one.txid != two.txid and before >= after:
            verdict.found("C1", f"{name} changed at {before}, then at {after}", one, two)


def _handed(record: Record, verdict: Verdict, first: dict[tuple[int, int], UnitFact]) -> None:
    """What left the shelf is in a hold of that transaction; what came was in one, or is new."""
    taken: defaultdict[Moment, set[int]] = defaultdict(set)
    given: defaultdict[Moment, set[int]] = defaultdict(set)
    owned: set[tuple[int, int]] = set()  # when the witness came
    for fact in record.of(HoldFact):
        if fact.before not in OWNING and fact.after in OWNING:
            taken[fact.drop, fact.txid].update(fact.units)
            if not record.is_new(fact):
                owned.update((fact.drop, number) for number in fact.units)
        elif fact.before in OWNING and fact.after not in OWNING:
            given[fact.drop, fact.txid].update(fact.units)
    for unit in filter(record.is_new, record.of(UnitFact)):
        place, name = (unit.drop, unit.number), f"unit {unit.number} of drop {unit.drop}"
        moment = unit.drop, unit.txid
        if unit.after is None and unit.number not in taken[moment]:
            verdict.found("C1", f"{name} left the shelf, and no hold has it", unit)
        is_new = unit is first[place] and unit.after == "free" and place not in owned
        if unit.before is None and unit.number not in given[moment] and not is_new:
            verdict.found("C1", f"{name} came onto the shelf, and nobody gave it back", unit)


def _overlaps(record: Record, verdict: Verdict) -> None:
    """The same from the holds' rows, which know nothing of the shelf's."""
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


def _moved(record: Record) -> dict[Moment, Counter[str]]:
    """By drop and transaction: how many units came to be in each state, by the shelf's changes and
    the holds'."""
    moved: defaultdict[Moment, Counter[str]] = defaultdict(Counter)
    for unit in record.of(UnitFact):
        moved[unit.drop, unit.txid].update({unit.after: 1} if unit.after else {})
        moved[unit.drop, unit.txid].subtract({unit.before: 1} if unit.before else {})
    for hold in record.of(HoldFact):
        units, change = len(hold.units), moved[hold.drop, hold.txid]
        for state, by in ((hold.before, -units), (hold.after, units)):
            if state in OWNING:
                change["held" if state in LIVE else "sold"] += by
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
