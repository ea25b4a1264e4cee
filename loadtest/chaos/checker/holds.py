"""C7, C11 and INV-13: a hold ends in one way, nobody has more than one may have, and who paid has a
unit or is owed the money."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise
from operator import attrgetter

from loadtest.chaos.checker.record import Op, Record
from loadtest.chaos.checker.verdict import Verdict
from loadtest.chaos.facts import (
    DropFact,
    FinalHold,
    FinalUse,
    HoldFact,
    PaymentFact,
    PurchaseFact,
    RefundFact,
    Tick,
    UnitFact,
)
from loadtest.chaos.history import Sight

# Of a reservation's row, and how the units it names move with it (docs/STATES.md): off the shelf,
# onto it, or not at all.
OFF, ON = "left", "reached"
STEPS: dict[tuple[str | None, str | None], str | None] = {
    (None, "aborted"): None,
    ("aborted", "aborted"): None,
    ("aborted", None): None,
    (None, "active"): OFF,
    ("aborted", "active"): OFF,
    ("active", "active"): None,
    ("active", "paying"): None,
    ("active", "purchased"): None,
    ("paying", "purchased"): None,
    ("active", "expired"): ON,
    ("paying", "expired"): ON,
    ("active", "released"): ON,
    ("paying", "released"): ON,
    ("expired", "paying"): OFF,  # only by a payment that came late, which also buys it in the
    ("released", "paying"): OFF,  # same transaction
    ("purchased", "refunded"): ON,  # free or withdrawn
}
LIVE = ("active", "paying")
USING = (*LIVE, "purchased")
OVERDUE_NS = 8_000_000_000  # INV-7
RANK = {"pending": 0, "failed": 1, "succeeded": 2, "refunded": 3}
TERMS_US = 10_000_000  # a claim may go by terms as old as its statement can be


def one_end(record: Record, verdict: Verdict) -> None:
    """C7: each row of a reservation goes its way step by step, its units with it, and ends once.
    What was told bought is bought at the end, unless it was refunded."""
    moved = _moved(record)
    bought = record.by(PurchaseFact, attrgetter("reservation"))
    paid = {(f.txid, f.reservation) for f in record.of(PaymentFact) if f.outcome == "purchased"}
    ends: dict[str, HoldFact] = {}
    for steps in record.by(HoldFact, attrgetter("request")).values():
        before: HoldFact | None = None
        for fact in steps:
            _step(record, verdict, before, fact, moved)
            if fact.before in ("expired", "released") and (fact.txid, fact.id) not in paid:
                verdict.found("C7", "a hold that had ended came back, unpaid", fact)
            before = fact if fact.after is not None else None
            ends[fact.id] = fact
        _clock(record, verdict, steps, bought, paid)
    last = _last_moment(record)
    for final in record.of(FinalHold):
        end = ends.get(final.id)
        if end and final.state in LIVE and record.moment(end.expires) + OVERDUE_NS < last:
            verdict.found("C7", f"a hold is past its deadline, and still {final.state}", end, final)
        if end is None or end.after != final.state:
            sentence = f"reservation {final.id} is not what its facts made of it"
            verdict.found("C7", sentence, *filter(None, [end]), final)
    for id, several in bought.items():
        if sum(fact.before is None for fact in several) > 1:
            verdict.found("C7", "one hold was bought twice", *several)
        elif [fact.before for fact in several] != [None, *(f.after for f in several[:-1])]:
            verdict.found("C7", "a purchase changed, and nobody saw it", *several)
        end = ends.get(id)
        if end is None or end.after != several[-1].after:
            verdict.found("C7", "a purchase and its hold differ", *several, *filter(None, [end]))
    for op in record.ops:
        _told(record, verdict, op, ends)
    verdict.close("C7", "holds that ended wrongly")


def _last_moment(record: Record) -> int:
    """Until when Postgres was there to end what had to end."""
    ticks = [tick.before for tick in record.of(Tick)]
    return max(ticks + [s.at for s in record.of(Sight) if s.version is not None])


def _moved(record: Record) -> set[tuple[int, int, int, str]]:
    """Transaction, drop, number and way of every unit that left the shelf or came onto it."""
    return {
        (fact.txid, fact.drop, fact.number, OFF if fact.after is None else ON)
        for fact in record.of(UnitFact)
        if None in (fact.before, fact.after)
    }


def _step(
    record: Record,
    verdict: Verdict,
    before: HoldFact | None,
    fact: HoldFact,
    moved: set[tuple[int, int, int, str]],
) -> None:
    if not record.is_new(fact):
        return
    was = (before.after, before.id) if before is not None else (None, None)
    told = (fact.before, fact.id_before or (fact.id if fact.before else None))
    if was != told:
        verdict.found("C7", "a hold changed, and nobody saw it", *filter(None, [before]), fact)
    step = fact.before, fact.after
    if step not in STEPS:
        verdict.found("C7", f"a hold went from {fact.before} to {fact.after}", fact)
        return
    way = STEPS[step]
    if way is None:
        return
    count = len({n for n in fact.units if (fact.txid, fact.drop, n, way) in moved})
    if count != fact.quantity:
        went = f"{count} of its units {way} the shelf"
        sentence = f"a hold of {fact.quantity} became {fact.after}, and {went}"
        verdict.found("C7", sentence, fact)


def _clock(
    record: Record,
    verdict: Verdict,
    steps: list[HoldFact],
    bought: dict[str, list[PurchaseFact]],
    paid: set[tuple[int, str | None]],
) -> None:
    """Nothing runs out before its deadline, only a payment buys after it (INV-5), and a deadline
    is moved once by its buyer and once by payment."""
    for way in (("active", "active"), ("active", "paying")):
        moves = [fact for fact in steps if (fact.before, fact.after) == way]
        if len({fact.id for fact in moves}) < len(moves):
            verdict.found("C7", f"a hold went from {way[0]} to {way[1]} more than once", *moves)
    for fact in steps:
        if not record.is_new(fact):
            continue
        if fact.after == "expired" and fact.at < fact.expires:
            verdict.found("C7", "a hold ran out before its deadline", fact)
        if fact.after == "purchased" and (fact.txid, fact.id) not in paid:
            mine = [each for each in bought.get(fact.id, ()) if each.txid == fact.txid]
            if not mine:
                verdict.found("C7", "a hold is bought, and there is no purchase", fact)
            elif mine[0].bought >= fact.expires:
                verdict.found("C7", "a hold was bought after its deadline", fact, *mine)


def _told(record: Record, verdict: Verdict, op: Op, ends: dict[str, HoldFact]) -> None:
    if op.answer is None or op.invoke.verb == "look":
        return
    end = ends.get(op.invoke.subject)
    if end is None:
        return
    bought = end.after in ("purchased", "refunded") or record.run.lost_tail
    if op.ok and op.invoke.verb == "purchase" and not bought:
        verdict.found("C7", f"told bought, and it is {end.after} at the end", op, end)
    if op.answer.code == "HOLD_EXPIRED" and end.after in USING:
        late = record.moment(end.expires) - record.clock_ns
        # A later payment may have bought it, and deadlines only move away.
        if late > op.until and end.after != "purchased":
            verdict.found("C7", "told that it ran out, and it lives", op, end)


def limits(record: Record, verdict: Verdict) -> None:
    """C11: whenever a buyer gets units of a drop, all that one has is within the limit; and at the
    end the allowances say what the holds say."""
    terms = record.by(DropFact, attrgetter("drop"))
    used: Counter[tuple[int, str]] = Counter()
    changes = [
        (record.version(fact, fact.drop) or (0, 0), fact)
        for fact in record.of(HoldFact)
        if (fact.before in USING) != (fact.after in USING)
    ]
    changes.sort(key=lambda change: (change[1].drop, change[0], change[1].seq))
    for _, fact in changes:
        who, more = (fact.drop, fact.buyer), fact.after in USING
        used[who] += fact.quantity if more else -fact.quantity
        limit = _limit(terms.get(fact.drop, []), fact) if more and record.is_new(fact) else None
        if limit is not None and used[who] > limit:
            sentence = f"{fact.buyer} has {used[who]} of drop {fact.drop}, may have {limit}"
            verdict.found("C11", sentence, fact)
    for use in record.of(FinalUse):
        if used.pop((use.drop, use.buyer), 0) != use.used:
            verdict.found("C11", f"{use.buyer}'s allowance is not what the holds say", use)
    for (drop, buyer), left in used.items():
        if left:
            verdict.found("C11", f"{buyer} has {left} units of drop {drop} and no allowance")
    verdict.close("C11", "buyers above their limit")


def _limit(terms: list[DropFact], fact: HoldFact) -> int | None:
    """The most that a claim written at this moment may have gone by; None: there was no limit."""
    most, since = 0, fact.at - TERMS_US
    for place, each in enumerate(terms):
        ends = terms[place + 1].at if place + 1 < len(terms) else fact.at
        if each.at > fact.at or ends < since:
            continue
        if each.max_per_buyer is None:
            return None
        most = max(most, each.max_per_buyer)
    return most if terms else None


def money(record: Record, verdict: Verdict) -> None:
    """INV-13: money that came bought units, or is owed, or was given back; a hold is paid once."""
    refunds: dict[int, RefundFact] = {}
    for fact in record.of(RefundFact):
        refunds[fact.id] = fact
    owed = {(f.reference, f.reservation) for f in refunds.values() if f.after is not None}
    bought = {fact.reservation: fact for fact in record.of(PurchaseFact)}
    kept: defaultdict[str | None, list[PaymentFact]] = defaultdict(list)
    for words in record.by(PaymentFact, attrgetter("reference")).values():
        if words[0].before is not None:
            verdict.found("INV-13", "a payment changed, and nobody saw it begin", words[0])
        _forward(verdict, words)
        last = words[-1]
        if last.outcome == "purchased":
            kept[last.reservation].append(last)
            purchase = bought.get(last.reservation or "")
            if purchase is None or purchase.reference != last.reference:
                verdict.found("INV-13", "money was kept, and it bought nothing", last)
        elif last.after == "succeeded" and last.amount_cents > 0:
            if last.outcome is None:
                verdict.found("INV-13", "money came, and nothing was made of it", last)
            elif (last.reference, last.reservation) not in owed:
                verdict.found("INV-13", "money came too late, and is not owed", last)
    for payments in kept.values():
        if len(payments) > 1:
            verdict.found("INV-13", "one hold was paid twice, and both were kept", *payments)
    for purchase in bought.values():
        if purchase.after == "refunded" and not _given_back(record, purchase, owed):
            verdict.found("INV-13", "a purchase was undone, and its money is not owed", purchase)
    verdict.close("INV-13", "paid, for nothing")
    verdict.figure("payments judged", str(len({f.reference for f in record.of(PaymentFact)})))


def _given_back(
    record: Record, purchase: PurchaseFact, owed: set[tuple[str | None, str | None]]
) -> bool:
    """Whether the money of an undone purchase is owed, by its payment's name or by none; under the
    name of one that was heard of later; or was given back by the provider before."""
    if (purchase.reference, purchase.reservation) in owed:
        return True
    words = [f for f in record.of(PaymentFact) if f.reservation == purchase.reservation]
    free = [f for f in record.of(HoldFact) if f.id == purchase.reservation and not f.amount_cents]
    return bool(free) or any(
        fact.after == "refunded"
        or (fact.reason == "refunded" and (fact.reference, fact.reservation) in owed)
        for fact in words
    )


def _forward(verdict: Verdict, words: list[PaymentFact]) -> None:
    for one, two in pairwise(words):
        if one.after != two.before or (one.outcome and one.outcome != two.outcome):
            verdict.found("INV-13", "a payment changed, and nobody saw it", one, two)
    for fact in words:
        back = fact.before and fact.after and RANK[fact.after] < RANK[fact.before]
        if back or fact.after is None:
            verdict.found("INV-13", f"a payment went from {fact.before} to {fact.after}", fact)
