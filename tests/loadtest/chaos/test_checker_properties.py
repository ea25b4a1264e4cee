"""Whatever happens in a service that does everything right, the checker finds nothing; and whatever
one line is changed into a lie, it finds something."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from loadtest.chaos.checker import judge
from loadtest.chaos.checker.verdict import Verdict
from loadtest.chaos.facts import (
    HoldFact,
    PaymentFact,
    PurchaseFact,
    RefundFact,
    StockFact,
    ToldFact,
    UnitFact,
)
from loadtest.chaos.history import Complete, Invoke
from tests.support.lies import change, refuse, unsay
from tests.support.tale import Hold, Tale, wall

EVENTS = ["reserve"] * 6 + ["again"] * 2 + ["buy"] * 3 + ["release", "expire", "extend", "pay"]
EVENTS += ["money", "refund", "poll", "look", "heal", "wait"]
LIVE = ("active", "paying")


def wander(seed: int, steps: int) -> Tale:
    """Some history."""
    tale = Tale(seed)
    dice = random.Random(seed)
    for drop in (1, 2):
        tale.opens(drop, dice.randint(1, 6), dice.randint(1, 3))
    tale.measures("before")
    tale.reserves(1, "first", "k-first")
    keys: list[tuple[int, str, str, int]] = []
    for step in range(steps):
        event = dice.choice(EVENTS)
        live = [hold for hold in tale.holds.values() if hold.state in LIVE]
        if event == "reserve":
            key = f"k{step}" if dice.random() < 0.7 else ""
            wish = dice.randint(1, 2), f"b{dice.randrange(6)}", key, dice.randint(1, 2)
            keys += [wish] * bool(key)
            tale.reserves(*wish, answered=dice.random() < 0.8)
        elif event == "again" and keys:
            drop, buyer, key, quantity = dice.choice(keys)
            other = 3 - quantity if dice.random() < 0.2 else quantity
            request = [line for line in tale.lines if getattr(line, "key", "") == key]
            if other == quantity or _has_hold(tale, request):
                tale.reserves(drop, buyer, key, other, answered=dice.random() < 0.8)
        elif event == "buy" and tale.holds:
            hold = dice.choice(list(tale.holds.values()))
            key = f"p{step}" if dice.random() < 0.7 else ""
            tale.buys(hold, key, answered=dice.random() < 0.8)
        elif event in ("release", "expire") and live:
            tale.ends(dice.choice(live), "released" if event == "release" else "expired")
        elif event in ("extend", "pay") and (fresh := _fresh(tale, event)):
            tale.lengthens(dice.choice(fresh), event)
        elif event == "money" and tale.holds:
            hold = dice.choice(list(tale.holds.values()))
            tale.pays(hold, f"ref{step}")
        elif event == "refund":
            bought = [h for h in tale.holds.values() if h.state == "purchased"]
            if bought:
                tale.ends(dice.choice(bought), "refunded")
        elif event == "poll":
            tale.polls(dice.randint(1, 2))
        elif event == "look":
            tale.looks()
        elif event == "heal":
            tale.heals(dice.randint(1, 7_999))
        elif event == "wait":
            tale.passes(dice.randint(1, 20_000))
    tale.heals()
    tale.passes(10_000)
    for hold in tale.holds.values():
        if hold.state in LIVE and hold.expires < wall(tale.moment):
            tale.ends(hold, "expired")
    tale.polls(1)
    tale.looks()
    tale.measures("after")
    return tale


def _fresh(tale: Tale, event: str) -> list[Hold]:
    soon = wall(tale.moment) + 1_000_000
    live = [h for h in tale.holds.values() if h.state == "active" and h.expires > soon]
    return [hold for hold in live if event == "pay" or not hold.extended]


def _has_hold(tale: Tale, asked: list[Any]) -> bool:
    return any(hold.buyer == asked[0].buyer for hold in tale.holds.values()) and any(
        isinstance(line, Complete) and line.outcome == "ok" and line.op == asked[0].op
        for line in tale.lines
    )


def judged(tale: Tale) -> Verdict:
    """The verdict over it."""
    with TemporaryDirectory() as folder:
        return judge(tale.write(Path(folder)))


# ── one line told otherwise ──────────────────────────────────────────────────────────────────


def drop_a_fact(tale: Tale, dice: random.Random) -> None:
    """A change that nobody wrote down."""
    kinds = (StockFact, UnitFact, HoldFact, ToldFact, PurchaseFact, PaymentFact, RefundFact)
    kind = dice.choice([kind for kind in kinds if any(type(f) is kind for f in tale.facts)])
    tale.facts.remove(dice.choice([fact for fact in tale.facts if type(fact) is kind]))


def double_a_fact(tale: Tale, dice: random.Random) -> None:
    """A change that was written down twice."""
    kinds = (StockFact, UnitFact, PurchaseFact, ToldFact)
    fact = dice.choice([fact for fact in tale.facts if isinstance(fact, kinds)])
    tale.facts.append(msgspec.structs.replace(fact, seq=10_000_000))


def miscount(tale: Tale, dice: random.Random) -> None:
    """A version with a unit in the wrong place. What a transaction wrote on its way to its last
    figures nobody sees."""
    last = {(fact.drop, fact.txid): fact for fact in tale.facts if isinstance(fact, StockFact)}
    fact = dice.choice(list(last.values()))
    one, two = dice.sample(["free", "held", "sold", "withdrawn"], 2)
    change(tale, fact, **{one: getattr(fact, one) + 1, two: getattr(fact, two) - 1})


def another_version(tale: Tale, dice: random.Random) -> None:
    """A version that is left out, or comes twice."""
    fact = dice.choice([f for f in tale.facts if isinstance(f, StockFact) and f.before])
    change(tale, fact, version=(fact.version or 0) + dice.choice([-1, 1]))


def another_unit(tale: Tale, dice: random.Random) -> None:
    """Another unit than its hold's leaves the shelf, or comes back."""
    fact = dice.choice([f for f in tale.facts if isinstance(f, UnitFact)])
    change(tale, fact, number=dice.choice([n for n in range(1, 9) if n != fact.number]))


def another_buyer(tale: Tale, dice: random.Random) -> None:
    """A hold that is somebody else's."""
    fact = dice.choice([f for f in tale.facts if isinstance(f, HoldFact) and f.before is None])
    change(tale, fact, buyer="somebody else")


def another_answer(tale: Tale, dice: random.Random) -> None:
    """A yes with another id."""
    said = [x for x in tale.lines if isinstance(x, Complete) and x.value.get("id")]
    yes = dice.choice([x for x in said if x.outcome == "ok" and x.status in (200, 201)])
    change(tale, yes, value=yes.value | {"id": "00000000-0000-0000-0000-000000000000"})


def no_request(tale: Tale, dice: random.Random) -> None:
    """A hold for which nobody asked: its only request is left out."""
    unsay(tale, dice.choice(_alone(tale)))


def a_false_no(tale: Tale, dice: random.Random) -> None:
    """A hold whose only request was told no."""
    status, code = dice.choice([(409, "SOLD_OUT"), (503, "RETRYABLE"), (409, "LIMIT_REACHED")])
    refuse(tale, dice.choice(_alone(tale)), status, code)


def _alone(tale: Tale) -> list[Invoke]:
    """Requests with a hold of which there is one copy."""
    asked = [x for x in tale.lines if isinstance(x, Invoke) and x.verb == "reserve" and x.key]
    keys = [line.key for line in asked]
    yes = {
        (line.process, line.op)
        for line in tale.lines
        if isinstance(line, Complete) and line.outcome == "ok" and not line.replayed
    }
    alone = [x for x in asked if keys.count(x.key) == 1 and (x.process, x.op) in yes]
    assume(alone)
    return alone


LIES: list[Callable[[Tale, random.Random], None]] = [
    drop_a_fact,
    double_a_fact,
    miscount,
    another_version,
    another_unit,
    another_buyer,
    another_answer,
    no_request,
    a_false_no,
]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1 << 32), steps=st.integers(0, 80))
def test_nothing_is_found_in_a_true_history(seed: int, steps: int) -> None:
    verdict = judged(wander(seed, steps))

    assert verdict.findings == [], "\n".join(map(verdict.story, verdict.findings))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1 << 32), steps=st.integers(0, 60), lie=st.sampled_from(LIES))
def test_any_one_lie_is_found(
    seed: int, steps: int, lie: Callable[[Tale, random.Random], None]
) -> None:
    tale = wander(seed, steps)
    before = msgspec.json.encode([*tale.facts, *tale.lines])
    lie(tale, random.Random(seed))
    assert msgspec.json.encode([*tale.facts, *tale.lines]) != before

    assert judged(tale).findings, f"{lie.__name__} of {seed}, {steps} was not found"
