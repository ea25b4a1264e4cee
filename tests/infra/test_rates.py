"""Rates: their text, and the arithmetic that keeps them, on a clock of the test's own."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.infra import limits
from engine.infra.errors import Misconfigured
from engine.infra.limits import Policy
from engine.infra.rates import SECOND, Rate, rate_of
from engine.infra.settings import Settings, read

RATES = st.builds(Rate, st.integers(1, 10_000), st.sampled_from([1, 60, 3_600]), st.integers(1, 50))


def _policy(rate: Rate, due: list[str] | None = None) -> Policy:
    return Policy("tested", rate, 2, lambda _, subject: (due or []).append(subject))


def _let_through(rate: Rate, moments: list[int]) -> list[int]:
    """Those of these moments at which a request is let through."""
    policy = _policy(rate)
    return [now for now in moments if policy.take("ann", now) <= rate.span]


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("200/s burst 1000", Rate(200, 1, 1_000)),
        ("10/m", Rate(10, 60, 10)),
        (" 1/H  burst 2 ", Rate(1, 3_600, 2)),
        ("off", None),
        ("0", None),
    ],
)
def test_a_rate_is_a_readable_text(text: str, rate: Rate | None) -> None:
    assert rate_of(text) == rate


@pytest.mark.parametrize("text", ["", "ten", "10", "10/d", "0/s", "10/s burst 0", "-1/s", "10/s 5"])
def test_a_text_that_is_no_rate_is_refused_with_its_setting_and_an_example(text: str) -> None:
    with pytest.raises(Misconfigured, match="want 200/s burst 1000"):
        rate_of(text)
    if text:
        with pytest.raises(Misconfigured, match="RATE_WRITES_PER_BUYER: "):
            read({"RATE_WRITES_PER_BUYER": text})


def test_every_default_is_a_rate_and_named_by_what_it_counts() -> None:
    given = Settings()
    names = [name for name in given.__struct_fields__ if name.startswith("rate_")]

    assert len(names) == 11
    assert all(rate_of(getattr(given, name)) is not None for name in names)


def test_a_burst_is_let_through_at_once_and_then_one_at_a_time() -> None:
    rate = Rate(10, 1, 30)
    tenth = SECOND // 10

    through = _let_through(
        rate, [0] * 40 + [tenth - 1, tenth, tenth, 3 * tenth, 3 * tenth, 3 * tenth]
    )

    assert through == [0] * 30 + [tenth, 3 * tenth, 3 * tenth]


def test_a_refusal_takes_nothing_and_says_how_long_to_wait() -> None:
    rate = Rate(1, 60, 1)
    policy = _policy(rate)
    assert policy.take("ann", 0) <= rate.span

    waits = [policy.take("ann", SECOND) - rate.span for _ in range(5)]

    assert waits == [59 * SECOND] * 5
    assert policy.wait("ann", SECOND) == 59 * SECOND
    assert policy.wait("ann", 60 * SECOND) == policy.wait("bob", 0) == 0
    assert policy.take("ann", 60 * SECOND) <= rate.span


def test_an_eighth_of_a_burst_is_told_and_then_no_more_until_the_next() -> None:
    due: list[str] = ["nobody"]
    policy = _policy(Rate(1, 3_600, 80), due)
    for n in range(25):
        policy.take("ann", 0)
        if due[-1] == "ann":
            due.append(f"{policy.untold('ann')} after {n + 1}")
    policy.take("bob", 0)

    assert due == ["nobody", "ann", "10 after 10", "ann", "10 after 20"]
    assert (policy.untold("ann"), policy.untold("bob"), policy.untold("eve")) == (5, 1, 0)


def test_what_the_others_let_through_is_heard_and_never_forgets_ones_own() -> None:
    rate = Rate(1, 1, 10)
    policy = _policy(rate)
    for _ in range(4):
        policy.take("ann", 0)
    assert policy.untold("ann") == 4
    policy.take("ann", 0)  # while the report was on its way

    policy.hear("ann", 2 * SECOND)
    mine = policy.take("ann", 0)
    policy.hear("ann", 8 * SECOND)
    shared = policy.take("ann", 0)

    assert mine == 6 * SECOND
    assert shared > rate.span, "8 by all, and 2 since"


def test_alone_it_has_its_share_of_rate_and_burst() -> None:
    rate = Rate(10, 1, 30)
    policy = _policy(rate)
    policy.alone(True)
    through = sum(policy.take("ann", 0) <= rate.span for _ in range(100))
    later = sum(policy.take("ann", SECOND) <= rate.span for _ in range(100))
    policy.alone(False)

    assert (through, later) == (15, 5)
    assert policy.take("bob", 0) == rate.step


def test_what_is_given_back_can_be_taken_again() -> None:
    rate = Rate(1, 3_600, 3)
    policy = _policy(rate)
    for _ in range(50):
        assert policy.take("ann", 0) <= rate.span
        policy.give_back("ann")

    assert policy.untold("ann") == 0


def test_memory_is_bounded_and_a_bucket_in_use_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SUBJECTS_MAX", 100)
    rate = Rate(1, 1, 3)
    policy = _policy(rate)
    for n in range(10_000):
        policy.take(f"buyer-{n}", n)
        if n % 50 == 0:
            policy.take("bot", n)

    assert len(policy._tats) + len(policy._old[0]) <= 202
    assert policy.take("bot", 10_000) > rate.span
    aged = 10_000 + 2 * limits.FORGET_SECONDS * SECOND
    policy.take("ann", aged)
    policy.take("bob", 2 * aged)
    assert set(policy._tats) == {"bob"}


@given(RATES, st.lists(st.integers(0, 10 * SECOND), max_size=200))
def test_no_window_lets_through_more_than_a_burst_and_what_came_back(
    rate: Rate, gaps: list[int]
) -> None:
    through = _let_through(rate, list(itertools.accumulate(gaps)))

    for i, began in enumerate(through):
        for n, ended in enumerate(through[i:], 1):
            assert n <= rate.burst + (ended - began) // rate.step


@given(RATES, st.lists(st.integers(0, 1_000), max_size=200))
def test_who_keeps_to_the_rate_is_never_refused(rate: Rate, late: list[int]) -> None:
    moments = list(itertools.accumulate(rate.step + each for each in late))

    assert _let_through(rate, moments) == moments
