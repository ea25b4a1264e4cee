"""What a load test concludes, without any load: answers, promises, shapes and the judgement."""

from __future__ import annotations

import time
from typing import Any

import pytest

from engine.ops.provider import Differences
from loadtest import answers, shapes
from loadtest.fleet import Untrustworthy
from loadtest.promises import Claim, Promises
from loadtest.sale import is_loopback
from loadtest.till import Reckoning, Till
from loadtest.verdict import Evidence, judge, told, unsettled

PROPORTIONS = (("purchased", 70.0), ("abandoned", 20.0), ("released", 10.0))


def hold(buyer: str, *units: int, life: int = 10) -> dict[str, Any]:
    return {
        "id": f"hold of {buyer}",
        "userId": buyer,
        "units": [{"id": unit, "number": unit} for unit in units],
        "serverTime": "2026-01-01T00:00:00.000Z",
        "expiresAt": f"2026-01-01T00:00:{life:02}.000Z",
    }


def promised(promises: Promises, buyer: str, *units: int, ago: float = 0.0) -> Claim:
    return promises.held(hold(buyer, *units), time.monotonic() - ago)


def evidence(**changes: Any) -> Evidence:
    promises = Promises(1)
    claim = promised(promises, "ann", 1)
    promises.bought(claim, hold("ann", 1))
    stock = {"availableStock": 4, "heldStock": 0, "soldStock": 1, "withdrawnStock": 0}
    audit = {"clean": True, "problems": [], "totalStock": 5}
    found = Evidence(
        stock=stock | {"totalStock": 5},
        audit=audit,
        sold_before=0,
        promises=promises,
        failures=[],
        purchased=1,
        reckoning=None,
        unsettled="",
    )
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def test_what_adds_up_is_clean() -> None:
    found = evidence()

    assert judge(found) == []
    assert told(found, []).startswith("verdict: clean")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"promises": Promises(1)}, "nobody was given anything"),
        ({"audit": {"clean": False, "problems": ["INV-1"], "totalStock": 5}}, "INV-1"),
        ({"audit": {"clean": True, "problems": [], "totalStock": 6}}, "the total is 6"),
        ({"sold_before": 1}, "told of 1 bought units, the stock shows 0"),
        ({"sold_before": -1}, "lost answers explain 0 more"),
        ({"unsettled": "the bouncer is away"}, "the bouncer is away"),
        ({"failures": ["3 × reserve: failed 500"]}, "failed 500"),
    ],
)
def test_what_does_not_add_up_is_said(changes: dict[str, Any], word: str) -> None:
    problems = judge(evidence(**changes))

    assert any(word in problem for problem in problems), problems


def reckoning(**changes: Any) -> Reckoning:
    words: dict[str, Any] = {
        "charged": 2,
        "given_back": 0,
        "differences": Differences([], [], []),
        "owed": 1,
        "still_owed": [],
        "never_told": 0,
        "busy": 0,
    }
    return Reckoning(**(words | changes))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"differences": Differences(["a", "b"], [], [])}, "without unit or refund: 2 (a b)"),
        ({"differences": Differences([], ["a"], [])}, "charged twice without refund: 1 (a)"),
        ({"differences": Differences([], [], ["a"])}, "owed back as well: 1 (a)"),
        ({"still_owed": list("abcd")}, "still owed: 4 (a b c …)"),
        ({"never_told": 3}, "3 callbacks never reached"),
        ({"busy": 1}, "1 payments were under way"),
    ],
)
def test_money_that_bought_nothing_and_is_not_owed_is_found(
    changes: dict[str, Any], word: str
) -> None:
    assert judge(evidence(reckoning=reckoning())) == []
    (problem,) = judge(evidence(reckoning=reckoning(**changes)))

    assert word in problem


def test_the_verdict_says_what_was_paid_or_that_nobody_did() -> None:
    assert "paid without unit or refund: 0" in told(evidence(reckoning=reckoning()), [])
    assert "units sold = purchases: 1 = 1" in told(evidence(), [])
    assert "nobody paid" in told(evidence(), [])


def test_a_unit_that_no_purchase_holds_is_found() -> None:
    assert "1 units are sold, purchases hold 0" in judge(evidence(purchased=0))


def test_a_refunded_purchase_is_no_longer_sold() -> None:
    found = evidence(sold_before=1)
    claim = promised(found.promises, "bob", 2)
    found.promises.asked("refund", "key", 1)
    assert judge(found) == []
    found.promises.answered("key")
    found.promises.bought(claim, hold("bob", 2))
    found.promises.refunding(claim)
    found.promises.refunded(claim)
    promised(found.promises, "eve", 2)

    assert found.promises.problems == []
    assert judge(found) != []
    found.sold_before = 0
    assert judge(found) == []


def test_a_late_payment_may_buy_other_units_and_a_timely_one_may_not() -> None:
    promises = Promises(1)
    late = promised(promises, "ann", 7, ago=11)
    promised(promises, "bob", 7)
    promises.paid(late, hold("ann", 8))
    assert promises.problems == []

    promises.paid(promised(promises, "eve", 9), hold("eve", 10))
    assert "eve held [9] and bought [10]" in promises.problems[0]


def test_a_hold_that_was_given_more_time_lives_longer_and_not_twice() -> None:
    promises = Promises(1)
    claim = promised(promises, "ann", 7)
    life = promises.prolonged(claim, hold("ann", 7, life=20), time.monotonic() - 11)
    promised(promises, "bob", 7, ago=1)

    assert life == 20
    assert "belonged to two buyers" in promises.problems[0]
    promises.extended_again(claim)
    assert "more time twice" in promises.problems[1]


def test_who_pays_is_decided_by_the_first_hold_and_strange_words_are_refused() -> None:
    till = Till("run", "ok=1")
    before = till.is_open
    taken = till.takes({"payUrl": "http://127.0.0.1:9/checkout"})
    assert (before, taken, till.is_open) == (True, False, False)
    assert not Till("run", "none").is_open
    for words, provider in (("kind=1", ""), ("ok=1", "http://127.0.0.1:9")):
        with pytest.raises(Untrustworthy, match=r"kind|no mock provider"):
            Till("run", words, provider)


def test_a_purchase_without_an_answer_explains_one_sold_unit_more() -> None:
    found = evidence(sold_before=-1)
    found.promises.asked("purchase", "key", 1)

    assert judge(found) == []


def test_two_buyers_of_one_unit_are_found() -> None:
    promises = Promises(1)
    promised(promises, "ann", 7)
    promised(promises, "bob", 7)

    assert "unit 7 belonged to two buyers" in promises.problems[0]


def test_a_unit_may_pass_on_after_its_deadline_or_its_release() -> None:
    promises = Promises(1)
    promised(promises, "ann", 7, ago=11)
    claim = promised(promises, "bob", 7)
    promises.giving_back(claim)
    promised(promises, "eve", 7)

    assert promises.problems == []


def test_a_bought_unit_never_passes_on() -> None:
    promises = Promises(1)
    promises.bought(promised(promises, "ann", 7, ago=9.9), hold("ann", 7))
    promised(promises, "bob", 7)

    assert len(promises.problems) == 1


def test_a_purchase_that_comes_late_contradicts_the_next_holder() -> None:
    promises = Promises(1)
    late = promised(promises, "ann", 7, ago=11)
    promised(promises, "bob", 7)
    promises.bought(late, hold("ann", 7))

    assert len(promises.problems) == 1


def test_more_than_the_limit_is_found() -> None:
    promises = Promises(1)
    promises.held(hold("ann", 1), time.monotonic())
    promises.held(hold("ann", 2) | {"id": "another"}, time.monotonic())

    assert promises.above_limit == {"ann"}


def test_a_replay_must_be_the_first_answer_but_for_the_moment() -> None:
    promises = Promises(1)
    promises.replayed(hold("ann", 1), hold("ann", 1) | {"serverTime": "later"})
    promises.replayed(hold("ann", 1), hold("ann", 2))

    assert len(promises.problems) == 1
    assert "answered otherwise" in promises.problems[0]


def test_a_hold_that_ends_before_its_deadline_is_found() -> None:
    promises = Promises(1)
    promises.lost(promised(promises, "ann", 1), "HOLD_EXPIRED")
    promises.lost(promised(promises, "bob", 2, ago=11), "HOLD_EXPIRED")

    assert len(promises.problems) == 1


@pytest.mark.parametrize(
    ("status", "body", "fate", "name"),
    [
        (201, b"{}", "accepted", "accepted"),
        (204, b"", "accepted", "accepted"),
        (409, b'{"error":"SOLD_OUT","retryable":true}', "refused", "refused SOLD_OUT"),
        (409, b'{"error":"NOT_STARTED"}', "later", "later NOT_STARTED"),
        (409, b'{"error":"IN_PROGRESS"}', "again", "again IN_PROGRESS"),
        (503, b'{"error":"OUTCOME_UNKNOWN"}', "again", "again OUTCOME_UNKNOWN"),
        (0, b"", "again", "again no answer"),
        (500, b"<html>", "failed", "failed UNREADABLE"),
        (403, b'{"error":"NOT_YOUR_RESERVATION"}', "failed", "failed NOT_YOUR_RESERVATION"),
    ],
)
def test_an_answer_says_what_to_do_next(status: int, body: bytes, fate: str, name: str) -> None:
    answer = answers.read(status, {}, body)

    assert (answer.fate, answer.name) == (fate, name)


def test_waiting_is_bounded_whatever_a_server_asks_for() -> None:
    assert answers.read(503, {"retry-after": "3600"}, b"").wait_seconds == 5
    assert answers.read(503, {"retry-after": "2"}, b"").wait_seconds == 2
    assert answers.read(503, {"retry-after": "Wed, 21 Oct"}, b"").wait_seconds == 1


def test_proportions_are_kept() -> None:
    chosen = [shapes.choose((i + 0.5) / 100, PROPORTIONS) for i in range(100)]

    assert [chosen.count(name) for name, _ in PROPORTIONS] == [70, 20, 10]


def test_a_spike_is_everybody_at_once_and_soak_a_ramp() -> None:
    assert shapes.spike(0, 60, 200) == (200, shapes.START_RATE_MAX)
    assert shapes.soak(0, 60, 120) == (120, 10)
    assert all(shape(60, 60, 200) is None for shape in shapes.SHAPES.values())


def test_waves_rise_and_fall() -> None:
    wanted = [shapes.waves(second, 60, 100) for second in (5, 15, 25, 35, 45, 55)]

    assert [each and each[0] for each in wanted] == [100, 10, 100, 10, 100, 10]


@pytest.mark.parametrize(
    ("address", "ours"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://localhost:8000", True),
        ("http://[::1]:8000", True),
        ("http://127.0.0.1.example.com", False),
        ("http://10.0.0.1", False),
        ("", False),
    ],
)
def test_only_this_machine_is_loopback(address: str, ours: bool) -> None:
    assert is_loopback(address) is ours


def test_what_is_still_under_way_is_named() -> None:
    bouncer = {"openIntents": 0, "available": 4}
    rest = {"provenAt": "2", "overdueSeconds": 0, "drift": 0, "free": 4, "held": 1}
    audit = rest | {"bouncer": bouncer}

    assert unsettled(audit, "1", await_holds=False) == ""
    assert "still held" in unsettled(audit, "1", await_holds=True)
    assert "not counted" in unsettled(audit, "3", await_holds=False)
    assert "away" in unsettled(audit | {"bouncer": None}, "1", await_holds=False)
    assert "past its deadline" in unsettled(audit | {"overdueSeconds": 1}, "1", await_holds=False)
    assert "offers" in unsettled(audit | {"drift": 1}, "1", await_holds=False)
