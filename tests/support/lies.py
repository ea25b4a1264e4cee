"""Lies: one thing in a true history told otherwise, each for one check to find."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from loadtest.chaos import history
from loadtest.chaos.facts import (
    DropFact,
    FinalStock,
    FinalUnit,
    FinalUse,
    HoldFact,
    PaymentFact,
    PurchaseFact,
    RefundFact,
    StockFact,
    ToldFact,
    UnitFact,
)
from loadtest.chaos.history import Complete, Invoke, Sight
from tests.support.tale import MS, Tale, wall

Lie = Callable[[Tale], None]


def change(tale: Tale, line: Any, **words: Any) -> Any:
    """Tell a line otherwise."""
    changed = msgspec.structs.replace(line, **words)
    for lines in (tale.facts, tale.lines):
        for place, each in enumerate(lines):
            if each is line:
                lines[place] = changed
    return changed


def first(tale: Tale, type: Any, /, **words: Any) -> Any:
    """The first line of a kind with these words."""
    for line in (*tale.facts, *tale.lines):
        if isinstance(line, type) and all(getattr(line, n) == v for n, v in words.items()):
            return line
    raise AssertionError(f"no {type.__name__} with {words}")


def answer(tale: Tale, **words: Any) -> Any:
    """The answer to the first request with these words."""
    asked = first(tale, Invoke, **words)
    return first(tale, Complete, process=asked.process, op=asked.op)


def unsay(tale: Tale, asked: Any, answer_only: bool = False) -> None:
    """Leave out a request, or only its answer."""
    gone = (Complete,) if answer_only else (Invoke, Complete)
    op = asked.process, asked.op
    tale.lines = [
        line
        for line in tale.lines
        if not (isinstance(line, gone) and (line.process, line.op) == op)
    ]


def refuse(tale: Tale, asked: Any, status: int, code: str) -> None:
    """Tell a request no instead of what it was told."""
    unsay(tale, asked, answer_only=True)
    at = asked.at + 600 * MS
    tale.lines.append(Complete(at, asked.process, asked.op, "fail", status, code))


def another_unit_left(tale: Tale) -> None:
    """Another unit left the shelf than the hold names."""
    change(tale, first(tale, UnitFact, after=None), number=77)


def one_unit_in_two_holds(tale: Tale) -> None:
    """Two live holds say that they have the same unit; the shelf knows of nothing."""
    bob, ann = first(tale, HoldFact, buyer="bob"), first(tale, HoldFact, buyer="ann")
    units = [ann.units[0], bob.units[1]]
    for fact in [each for each in tale.facts if getattr(each, "id", "") == bob.id]:
        change(tale, fact, units=units)
    reply = answer(tale, buyer="bob", verb="reserve")
    change(tale, reply, value=reply.value | {"units": [{"number": n} for n in units]})


def a_unit_changed_unseen(tale: Tale) -> None:
    """At the end a unit is something else than its changes made of it."""
    tale.instead = FinalUnit(2, 20, "withdrawn")


def figures_off_by_one(tale: Tale) -> None:
    """A version counts one free unit too many, and one too few in all."""
    fact = first(tale, StockFact, version=3)
    change(tale, fact, free=fact.free + 1, held=fact.held - 1)


def a_version_is_missing(tale: Tale) -> None:
    """A transaction left no stock fact, its row in the outbox is gone, too."""
    fact = first(tale, StockFact, drop=2, version=2)
    tale.facts.remove(fact)


def final_stock_differs(tale: Tale) -> None:
    """The row at the end is not the last version."""
    tale.instead = FinalStock(2, 99, 20, 0, 0, 0, 20)


def told_yes_for_nothing(tale: Tale) -> None:
    """A client was told of a hold that nobody wrote down."""
    tale.asks("reserve", 2, buyer="zoe", key="k-zoe", quantity=1, status=201, value={"id": "none"})


def told_other_units(tale: Tale) -> None:
    """A client was told of other units than he has."""
    reply = answer(tale, buyer="bob", verb="reserve")
    change(tale, reply, value=reply.value | {"units": [{"number": 77}, {"number": 78}]})


def told_before_it_was_done(tale: Tale) -> None:
    """The answer came before the commit."""
    asked = first(tale, Invoke, buyer="fay", verb="reserve")
    reply = answer(tale, buyer="fay", verb="reserve")
    change(tale, asked, at=asked.at - 700 * MS)
    change(tale, reply, at=asked.at - 600 * MS)


def a_phantom(tale: Tale) -> None:
    """A hold that no client asked for."""
    unsay(tale, first(tale, Invoke, buyer="eve", verb="reserve"))


def a_second_effect_of_a_keyless_request(tale: Tale) -> None:
    """One request without a key, no answer, and two holds."""
    tale.reserves(2, "hal", "", answered=False)
    asked = [line for line in tale.lines if isinstance(line, Invoke) and line.buyer == "hal"]
    unsay(tale, asked[-1])


def told_no_and_it_exists(tale: Tale) -> None:
    """The only copy was told "sold out", and has a hold."""
    refuse(tale, first(tale, Invoke, buyer="eve", verb="reserve"), 409, "SOLD_OUT")


def told_retryable_and_it_exists(tale: Tale) -> None:
    """A keyless buyer was told that nothing was taken, and it was."""
    refuse(tale, first(tale, Invoke, buyer="hal", verb="reserve"), 503, "RETRYABLE")


def a_winner_is_told_no_later(tale: Tale) -> None:
    """A request has its hold for long, and its copy hears of a limit."""
    tale.passes(2_000)
    words = {"buyer": "ann", "key": "k-ann", "quantity": 1, "copy": 9}
    tale.asks("reserve", 1, "fail", status=409, code="LIMIT_REACHED", **words)


def thanked_for_money_and_kept_none(tale: Tale) -> None:
    """A provider was told 200 to "succeeded", and the row knows of a failure only: it will not say
    so again."""
    said = {"subject": "", "reference": "ref-fay"}
    tale.hears("ref-fay", "failed")
    tale.asks("callback", 2, status=200, said="succeeded", **said)


def two_holds_of_one_request(tale: Tale) -> None:
    """A key gave two holds."""
    extra = tale.reserves(2, "gus", "k-gus-2", answered=False)
    assert extra is not None
    fact = first(tale, HoldFact, id=extra.id)
    change(tale, fact, request=first(tale, HoldFact, buyer="gus").request)


def copies_differ(tale: Tale) -> None:
    """Two copies of a request were told different prices."""
    reply = first(tale, Complete, replayed=True, status=201)
    change(tale, reply, value=reply.value | {"currency": "EUR", "amount": "1.00"})


def a_key_is_called_misused(tale: Tale) -> None:
    """422 for a copy that asked for the same."""
    words = {"buyer": "gus", "key": "k-gus", "quantity": 1, "copy": 3}
    tale.asks("reserve", 2, "fail", status=422, code="IDEMPOTENCY_MISMATCH", **words)


def a_misused_key_is_served(tale: Tale) -> None:
    """Another wish under the key of a hold, and yes to it."""
    reply = first(tale, Complete, code="IDEMPOTENCY_MISMATCH")
    value = answer(tale, buyer="ann", verb="reserve").value
    change(tale, reply, outcome="ok", status=201, code="", value=value, replayed=True)


def bought_after_it_ran_out(tale: Tale) -> None:
    """A confirm was a second late, and a sale."""
    fact = first(tale, PurchaseFact)
    hold = first(tale, HoldFact, id=fact.reservation, after="purchased")
    change(tale, hold, expires=fact.bought - 1)


def ran_out_too_soon(tale: Tale) -> None:
    """A hold was swept before its deadline."""
    hold = first(tale, HoldFact, after="expired")
    change(tale, hold, expires=hold.at + 1_000_000)


def a_step_that_is_none(tale: Tale) -> None:
    """A hold that ran out is bought, and nobody paid."""
    hold = first(tale, HoldFact, after="expired")
    tale.holds[hold.request].state = "purchased"
    step = {"before": "expired", "after": "purchased", "seq": 1_000_000, "id_before": hold.id}
    tale.facts.append(msgspec.structs.replace(hold, **step))


def extended_twice(tale: Tale) -> None:
    """A hold was extended, and again."""
    hold = next(hold for hold in tale.holds.values() if hold.buyer == "fay")
    tale.lengthens(hold, "extend")


def told_bought_and_it_is_not(tale: Tale) -> None:
    """A purchase's rows are there, and its hold knows nothing of it."""
    hold = first(tale, HoldFact, buyer="gus", after="purchased")
    tale.facts.remove(hold)
    tale.holds[hold.request].state = "active"


def never_ended(tale: Tale) -> None:
    """A deadline was long ago, and the hold still has its unit."""
    tale.passes(3_600_000)
    tale.looks()


def later_is_earlier(tale: Tale) -> None:
    """A hold of a later version was answered before one of an earlier version was sent."""
    tale.reserves(2, "ian", "k-ian")
    tale.reserves(2, "jan", "k-jan")
    done = answer(tale, buyer="jan", verb="reserve").at
    asked, told = (
        first(tale, Invoke, buyer="ian", verb="reserve"),
        answer(tale, buyer="ian", verb="reserve"),
    )
    change(tale, asked, at=done + 5 * MS)
    change(tale, told, at=done + 10 * MS)
    txid = first(tale, HoldFact, buyer="ian").txid
    for fact in [each for each in tale.facts if getattr(each, "txid", 0) == txid]:
        change(tale, fact, at=wall(done + 7 * MS))


def a_stale_poll(tale: Tale) -> None:
    """A poll shows what was before an answer that came before it."""
    tale.passes(2_000)
    tale.asks("stock", 1, status=200, value={"version": 2})


def false_sold_out(tale: Tale) -> None:
    """Sold out, with most of it left, and nothing wrong anywhere."""
    tale.passes(10_000)
    words = {"buyer": "kim", "key": "k-kim", "quantity": 1}
    tale.asks("reserve", 2, "fail", status=409, code="SOLD_OUT", **words)


def no_rest(tale: Tale) -> None:
    """It never came to rest."""
    change(tale, first(tale, history.Heal), rest_at=None, unrest="3 intents open")


def late_rest(tale: Tale) -> None:
    """It came to rest after nine seconds."""
    heal = first(tale, history.Heal)
    change(tale, heal, at=heal.at - 9_000 * MS)


def rest_that_is_none(tale: Tale) -> None:
    """It was said to be at rest with a hold past its deadline, longer than a sweep takes."""
    heal = first(tale, history.Heal)
    sights = [line for line in tale.lines if isinstance(line, Sight) and line.at >= heal.rest_at]
    late = msgspec.structs.replace(sights[0], at=sights[0].at + 1_200_000_000, overdue=1)
    change(tale, heal, until=late.at)
    change(tale, sights[0], overdue=1)
    tale.lines.append(late)


def above_the_limit(tale: Tale) -> None:
    """The terms were stricter than what was sold."""
    change(tale, first(tale, DropFact, drop=1), max_per_buyer=1)


def an_allowance_is_forgotten(tale: Tale) -> None:
    """What a buyer uses is not what the allowance says."""
    tale.instead = FinalUse(1, "bob", 1)


def the_bouncer_goes_back(tale: Tale) -> None:
    """The bouncer believes less than a moment before, and nobody touched it."""
    sight = [line for line in tale.lines if isinstance(line, Sight) and line.drop == 1][-1]
    tale.looks()
    change(tale, sight, believed=(sight.epoch, (sight.version or 0) + 1, 0))


def the_bouncer_goes_back_beside_a_fault(tale: Tale) -> None:
    """It goes back while a worker stands still, which is no reason."""
    the_bouncer_goes_back(tale)
    at = tale.moment
    tale.lines.append(history.Fault(at - 2_000 * MS, at, "worker stopped", "worker-1"))


def the_bouncer_offers_too_much(tale: Tale) -> None:
    """The bouncer knows the version, and more free units than it had."""
    sight = first(tale, Sight, drop=1)
    change(tale, sight, believed=(sight.epoch, sight.version, (sight.free or 0) + 1))


def untold(tale: Tale) -> None:
    """A version has no row in the outbox."""
    tale.facts.remove(first(tale, ToldFact, kind="released"))


def told_twice(tale: Tale) -> None:
    """A version has two."""
    fact = first(tale, ToldFact, kind="released")
    tale.facts.append(msgspec.structs.replace(fact, id=fact.id + 1_000))


def seen_what_never_was(tale: Tale) -> None:
    """A sight of figures that no version had."""
    sight = first(tale, Sight, drop=2)
    change(tale, sight, held=sight.held + 1, sold=sight.sold + 1)


def an_intent_is_left(tale: Tale) -> None:
    """At the end somebody is still on his way."""
    sights = [line for line in tale.lines if isinstance(line, Sight)]
    change(tale, sights[-1], intents=1)


def files_are_left_open(tale: Tale) -> None:
    """A worker has hundreds of files open that it had not before."""
    change(tale, first(tale, history.Resource, when="after"), fds=900)


def paid_for_nothing(tale: Tale) -> None:
    """The second payment of a hold is owed to nobody."""
    tale.facts.remove(first(tale, RefundFact, reference="ref-bob-again"))


def undecided(tale: Tale) -> None:
    """Money came, and nothing was made of it."""
    fact = first(tale, PaymentFact, reference="ref-bob-again", outcome="refund_due")
    tale.facts.remove(fact)


def paid_twice(tale: Tale) -> None:
    """Both payments of one hold were kept."""
    fact = first(tale, PaymentFact, reference="ref-bob-again", outcome="refund_due")
    change(tale, fact, outcome="purchased", reason=None)


# Each with the check that is there for it, and those that cannot but see it too.
LIES: list[tuple[set[str], Lie]] = [
    ({"C1", "C7"}, another_unit_left),
    ({"C1", "C7"}, one_unit_in_two_holds),
    ({"C1"}, a_unit_changed_unseen),
    ({"C2"}, figures_off_by_one),
    ({"C2", "C1", "C12"}, a_version_is_missing),
    ({"C2"}, final_stock_differs),
    ({"C3"}, told_yes_for_nothing),
    ({"C3"}, told_other_units),
    ({"C3"}, told_before_it_was_done),
    ({"C4"}, a_phantom),
    ({"C4"}, a_second_effect_of_a_keyless_request),
    ({"C5"}, told_no_and_it_exists),
    ({"C5"}, told_retryable_and_it_exists),
    ({"C5"}, a_winner_is_told_no_later),
    ({"C6", "C7"}, two_holds_of_one_request),
    ({"C3"}, thanked_for_money_and_kept_none),
    ({"C6"}, copies_differ),
    ({"C6"}, a_key_is_called_misused),
    ({"C6", "C3"}, a_misused_key_is_served),
    ({"C7"}, bought_after_it_ran_out),
    ({"C7"}, ran_out_too_soon),
    ({"C7", "C1", "C2"}, a_step_that_is_none),
    ({"C7"}, extended_twice),
    ({"C7", "C2"}, told_bought_and_it_is_not),
    ({"C7"}, never_ended),
    ({"C8"}, later_is_earlier),
    ({"C8"}, a_stale_poll),
    ({"C9"}, false_sold_out),
    ({"C10"}, no_rest),
    ({"C10"}, late_rest),
    ({"C10"}, rest_that_is_none),
    ({"C11"}, above_the_limit),
    ({"C11"}, an_allowance_is_forgotten),
    ({"C12"}, the_bouncer_goes_back),
    ({"C12"}, the_bouncer_goes_back_beside_a_fault),
    ({"C12"}, the_bouncer_offers_too_much),
    ({"C12"}, untold),
    ({"C12"}, told_twice),
    ({"C12"}, seen_what_never_was),
    ({"C13"}, an_intent_is_left),
    ({"C13"}, files_are_left_open),
    ({"INV-13"}, paid_for_nothing),
    ({"INV-13"}, undecided),
    ({"INV-13"}, paid_twice),
]
