"""Rates: their text, and the arithmetic that keeps them, on a clock of the test's own."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.infra.errors import Misconfigured
from engine.infra.rates import SECOND, Bucket, Rate, rate_of, take
from engine.infra.settings import Settings, read

RATES = st.builds(Rate, st.integers(1, 10_000), st.sampled_from([1, 60, 3_600]), st.integers(1, 50))


def _let_through(rate: Rate, moments: list[int]) -> list[int]:
    """Those of these moments at which a request is let through."""
    bucket = Bucket()
    return [now for now in moments if take(bucket, now, rate.step, rate.span) <= rate.span]


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

    assert len(names) == 10
    assert all(rate_of(getattr(given, name)) is not None for name in names)


def test_a_burst_is_let_through_at_once_and_then_one_at_a_time() -> None:
    rate = Rate(10, 1, 30)
    tenth = SECOND // 10

    through = _let_through(
        rate, [0] * 40 + [tenth - 1, tenth, tenth, 3 * tenth, 3 * tenth, 3 * tenth]
    )

    assert through == [0] * 30 + [tenth, 3 * tenth, 3 * tenth]


def test_a_refusal_takes_nothing_and_says_how_long_to_wait() -> None:
    rate, bucket = Rate(1, 60, 1), Bucket()
    assert take(bucket, 0, rate.step, rate.span) <= rate.span

    waits = [take(bucket, SECOND, rate.step, rate.span) - rate.span for _ in range(5)]

    assert waits == [59 * SECOND] * 5
    assert take(bucket, 60 * SECOND, rate.step, rate.span) <= rate.span
    assert bucket.untold == 2


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
