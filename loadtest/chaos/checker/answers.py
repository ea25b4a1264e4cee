"""C3 to C6: what was told is true of the facts, and what the facts hold somebody asked for.

What a "no" promises (docs/INVARIANTS.md INV-3, docs/decisions/0009):

    said after a look   sold out, limit, cool-down, window: the request had nothing when this copy
                        was sent, and this copy took nothing
    said by itself      RETRYABLE, rate limits, the door: this copy took nothing, and never will

A copy sent at the same time may win all the same, so a "no" of one copy is false only if no other
copy can have made the effect: every other one was told no, too, or sent after it. Info is no
answer: whoever got none may have made it at any later moment.

Not judged: what copies of one keyed extension, payment or release are told one after the other.
They keep no answer (sql/functions/extend_hold.sql): a later copy is told what is true of the hold
by then, which may be a no. That each was done once at most is C7's.
"""

from __future__ import annotations

from collections import defaultdict
from math import inf

from loadtest.chaos.checker.commits import commits
from loadtest.chaos.checker.effects import Effect, Effects
from loadtest.chaos.checker.holds import RANK
from loadtest.chaos.checker.record import Op, Record
from loadtest.chaos.checker.verdict import Verdict
from loadtest.chaos.facts import HoldFact, PaymentFact, PurchaseFact

LOOKED_UP = {
    "reserve": {"SOLD_OUT", "LIMIT_REACHED", "NOT_STARTED", "ENDED", "PAUSED", "PREPARING"},
    "purchase": {"HOLD_EXPIRED", "ALREADY_RESOLVED", "NOT_YOUR_RESERVATION"},
}
COOLDOWN = "cooldown"  # the one RATE_LIMITED that is said after a look


def acknowledged(record: Record, effects: Effects, verdict: Verdict) -> None:
    """C3: whatever was told done is written down, as it was told, before it was told."""
    lost = joined = 0
    for op in record.ops:
        if not op.ok or op.invoke.verb in ("look", "stock"):
            continue
        found = effects.told(op)
        if op.invoke.verb == "purchase" and not found:
            found = effects.of["payment", str(op.value.id)]
        if record.run.lost_tail:  # what was lost may have been done again since
            found = [each for each in found if _is_in_time(record, each, op)]
        if not found:
            lost += 1
            if not record.run.lost_tail:
                verdict.found("C3", f"{op.invoke.verb}: told done, and there is nothing", op)
            continue
        joined += 1
        _as_told(record, effects, verdict, op, found)
    verdict.close("C3", "told done, and it is not")
    allowed = "counted" if record.run.lost_tail else "0"
    verdict.figure("acknowledgements lost", str(lost), allowed, lost == 0 or record.run.lost_tail)
    verdict.figure("answers joined to facts", str(joined), "> 0", joined > 0)


def _as_told(
    record: Record, effects: Effects, verdict: Verdict, op: Op, found: list[Effect]
) -> None:
    fact, invoke, value = found[0].fact, op.invoke, op.value
    if not _is_in_time(record, found[0], op):
        verdict.found("C3", f"{invoke.verb}: told before it was done", op, fact)
    if isinstance(fact, HoldFact) and invoke.verb == "reserve":
        done = (fact.drop, fact.buyer, fact.quantity)
        had = [sorted(each.units) for each in effects.holds[fact.id]]
        told = sorted(unit.number for unit in value.units)
        if done != (invoke.drop, invoke.buyer, invoke.quantity) or told not in had:
            verdict.found("C3", "reserve: told something else than was done", op, fact)
        if op.request is not None and fact.request != op.request:
            verdict.found("C3", "reserve: told of another request's hold", op, fact)
    if invoke.verb in ("extend", "pay") and value.id not in ("", invoke.subject):
        verdict.found("C3", f"{invoke.verb}: told of another hold", op, fact)
    if invoke.verb == "callback" and not any(_says(record, each, op) for each in found):
        verdict.found("C3", f"callback: thanked for {invoke.said}, and did not keep it", op, fact)
    if isinstance(fact, PurchaseFact) and fact.reservation != invoke.subject:
        verdict.found("C3", "purchase: told of another hold's purchase", op, fact)


def _says(record: Record, effect: Effect, op: Op) -> bool:
    """Whether a payment's row knew of what a callback said, or of a later word, in time."""
    assert isinstance(effect.fact, PaymentFact)
    known = effect.fact.after is not None and RANK[effect.fact.after] >= RANK.get(op.invoke.said, 0)
    return known and _is_in_time(record, effect, op)


def _is_in_time(record: Record, effect: Effect, op: Op) -> bool:
    return record.moment(effect.fact.at) - record.clock_ns <= op.until


def asked_for(record: Record, effects: Effects, verdict: Verdict) -> None:
    """C4 and C5: every effect can have been made by a request that was not told no; and nobody was
    told no whose request had what he asked for when he asked."""
    asked: defaultdict[tuple[str, ...], list[Op]] = defaultdict(list)
    for op in record.ops:
        if op.invoke.verb not in ("look", "stock"):
            asked[_asked(op)].append(op)
    # A provider need be no client of ours; then nothing is known of what it asked.
    silent = {"payment"} | {"callback"} - {op.invoke.verb for op in record.ops}
    nameless: defaultdict[tuple[str, ...], list[Effect]] = defaultdict(list)
    for effect in effects.all:
        if effect.verb in silent:
            continue
        copies = record.by_request.get(effect.request) if effect.request else None
        if copies is not None:
            _judge(record, verdict, effect, copies)
        elif effect.verb in ("reserve", "purchase"):
            nameless[_wanted(effect)].append(effect)
        else:
            _judge(record, verdict, effect, asked[_wanted(effect)])
    for wanted, made in nameless.items():
        _match(record, verdict, made, asked[wanted])
    _had_it(record, effects, verdict)
    verdict.close("C4", "effects nobody asked for")
    verdict.close("C5", "told no, and it was done")


def _asked(op: Op) -> tuple[str, ...]:
    """What requests that can have made the same effect have in common."""
    invoke = op.invoke
    if invoke.verb == "reserve":
        keyed = "keyed" if invoke.key else ""
        return "reserve", str(invoke.drop), invoke.buyer, str(invoke.quantity), keyed
    if invoke.verb == "purchase":
        return "purchase", invoke.subject, "keyed" if invoke.key else ""
    return invoke.verb, invoke.reference if invoke.verb == "callback" else invoke.subject


def _wanted(effect: Effect) -> tuple[str, ...]:
    fact = effect.fact
    if isinstance(fact, HoldFact) and effect.verb == "reserve":
        return "reserve", str(fact.drop), fact.buyer, str(fact.quantity), ""
    if effect.verb == "purchase":
        return "purchase", effect.subject, ""
    return effect.verb, effect.answer


def _judge(record: Record, verdict: Verdict, effect: Effect, copies: list[Op]) -> None:
    """One effect, and the copies one of which must have made it."""
    by = record.moment(effect.fact.at) + record.clock_ns
    before = [op for op in copies if op.since <= by]
    if any(not op.fail for op in before):
        return
    _unclaimed(verdict, effect, before)


def _match(record: Record, verdict: Verdict, made: list[Effect], asked: list[Op]) -> None:
    """Effects that name no request, and requests without a key that can have made them: each made
    one at most, and who was told of one made that one."""
    told = {str(op.value.id) for op in asked if op.ok}
    open_ops = sorted((op for op in asked if op.outcome == "info"), key=lambda op: op.since)
    used = 0
    for effect in sorted(made, key=lambda effect: effect.fact.at):
        if effect.answer in told:
            continue
        by = record.moment(effect.fact.at) + record.clock_ns
        if used < len(open_ops) and open_ops[used].since <= by:
            used += 1
        else:
            _unclaimed(verdict, effect, [op for op in asked if op.since <= by])


def _unclaimed(verdict: Verdict, effect: Effect, before: list[Op]) -> None:
    refused = [op for op in before if op.fail]
    if refused:
        sentence = f"{effect.verb}: all who can have done it were told no"
        verdict.found("C5", sentence, effect.fact, *refused)
    else:
        verdict.found("C4", f"{effect.verb}: nobody asked for it", effect.fact)


def _had_it(record: Record, effects: Effects, verdict: Verdict) -> None:
    """Keyed requests that were told no after a look, though theirs was committed before."""
    by = commits(record, effects)
    by_request: dict[tuple[str, str], Effect] = {}
    for effect in effects.all:
        if effect.request:
            by_request.setdefault((effect.verb, effect.request), effect)
    for op in record.ops:
        if not op.fail or op.request is None or not _is_looked_up(op):
            continue
        had = by_request.get((op.invoke.verb, op.request))
        if had is None:
            continue
        told = [
            copy
            for copy in record.by_request[op.request]
            if copy.ok and copy.until < op.since and copy.value.id == had.answer
        ]
        committed = by.get((had.drop, had.fact.txid), inf)
        if told or committed + record.clock_ns < op.since:
            sentence = f"{op.invoke.verb}: told {_word(op)}, and the request had it already"
            verdict.found("C5", sentence, had.fact, *told[:1], op)


def _word(op: Op) -> str:
    return "" if op.answer is None else op.answer.code


def _is_looked_up(op: Op) -> bool:
    details = op.value.details
    if _word(op) == "RATE_LIMITED":
        return (op.value.reason or (details and details.reason)) == COOLDOWN
    return _word(op) in LOOKED_UP.get(op.invoke.verb, ())


def one_answer(record: Record, effects: Effects, verdict: Verdict) -> None:
    """C6: a request has one hold, or one purchase, at most; all its copies are told the same; and
    422 is for who uses a key for something else, who hears nothing but that."""
    made: defaultdict[tuple[str, str], list[Effect]] = defaultdict(list)
    for effect in effects.all:
        if effect.request:
            made[effect.verb, effect.request].append(effect)
    for (verb, _), several in made.items():
        if len(several) > 1:
            facts = (effect.fact for effect in several)
            verdict.found("C6", f"{verb}: {len(several)} of one request", *facts)
    for copies in record.by_request.values():
        kept = [op for op in copies if not record.run.lost_tail or effects.told(op)]
        _same(effects, verdict, kept)
        for op in copies:
            if _word(op) == "IDEMPOTENCY_MISMATCH" and not _is_misused(op, copies):
                verdict.found("C6", "told that its key was for something else", op)
    verdict.close("C6", "requests with two answers")


def _meaning(op: Op) -> tuple[object, ...]:
    invoke = op.invoke
    return invoke.verb, invoke.drop, invoke.quantity, invoke.subject, invoke.reference


def _is_misused(op: Op, copies: list[Op]) -> bool:
    return any(_meaning(c) != _meaning(op) and c.since < op.until for c in copies)


def _same(effects: Effects, verdict: Verdict, copies: list[Op]) -> None:
    yes = [op for op in copies if op.ok]
    for op in yes[1:]:
        if _meaning(op) != _meaning(yes[0]):
            verdict.found("C6", "one key, two wishes, and yes to both", yes[0], op)
        elif _told(op, effects) != _told(yes[0], effects):
            verdict.found("C6", "two copies were told different things", yes[0], op)


def _told(op: Op, effects: Effects) -> tuple[object, ...]:
    """What never differs between copies. A deadline moves when a hold is extended or paid, and a
    late payment may be given other units."""
    value = op.value
    told: tuple[object, ...] = (value.id, value.drop_id, value.user_id, value.quantity)
    told += (str(value.amount), value.currency, value.reservation_id)
    history = effects.holds.get(str(value.id), [])
    if op.invoke.verb == "reserve" and len({fact.expires for fact in history}) == 1:
        told += (value.expires_at,)
    if len({tuple(fact.units) for fact in history if fact.units}) == 1:
        told += value.units
    return told
