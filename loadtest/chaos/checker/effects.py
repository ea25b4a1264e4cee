"""What requests did, by the facts: each effect with the transaction that made it.

An effect is what one request may do once: a hold, a purchase, a release, an extension, the begin of
a payment, the word of a provider.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import msgspec

from loadtest.chaos.checker.record import Op, Record
from loadtest.chaos.facts import Fact, HoldFact, PaymentFact, PurchaseFact

LIVE = ("active", "paying")


class Effect(msgspec.Struct, frozen=True, gc=False):
    """`request`: whose it is, where the row says so; `subject`: the hold or payment it is about.
    `answer`: the id an answer calls it by."""

    verb: str
    drop: int
    request: str
    subject: str
    answer: str
    fact: Fact


class Effects:
    """All effects of a run, and by what they are found."""

    def __init__(self, record: Record) -> None:
        self.holds = record.by(HoldFact, lambda fact: fact.id)
        self.all = [each for each in _effects(record) if record.is_new(each.fact)]
        self.of: defaultdict[tuple[str, str], list[Effect]] = defaultdict(list)
        for effect in _effects(record):
            self.of[effect.verb, effect.answer].append(effect)

    def told(self, op: Op) -> list[Effect]:
        """The effects that a yes to this request speaks of."""
        verb = op.invoke.verb
        if verb in ("reserve", "purchase"):
            return self.of[verb, str(op.value.id)]
        return self.of[verb, op.invoke.reference if verb == "callback" else op.invoke.subject]


def _effects(record: Record) -> Iterator[Effect]:
    paid = {
        (fact.txid, fact.reservation)
        for fact in record.of(PaymentFact)
        if fact.outcome == "purchased"
    }
    for fact in record.of(HoldFact):
        verb = _verb(fact)
        if verb == "pay" and fact.before not in LIVE and (fact.txid, fact.id) in paid:
            continue  # a late payment took it up again
        if verb is not None:
            request = fact.request if verb == "reserve" else ""
            yield Effect(verb, fact.drop, request, fact.id, fact.id, fact)
    for bought in record.of(PurchaseFact):
        if bought.before is None and (bought.txid, bought.reservation) not in paid:
            request, id = bought.request, bought.id
            yield Effect("purchase", bought.drop, request, bought.reservation, id, bought)
        elif bought.before is None:  # a payment's; a confirm may be told of it all the same
            yield Effect("payment", bought.drop, "", bought.reservation, bought.id, bought)
    for word in record.of(PaymentFact):
        yield Effect("callback", 0, "", word.reservation or "", word.reference, word)


def _verb(fact: HoldFact) -> str | None:
    if fact.after == "active":
        return "extend" if fact.before == "active" else "reserve"
    if fact.after == "paying" and fact.before != "paying":
        return "pay"
    return "release" if fact.after == "released" else None
