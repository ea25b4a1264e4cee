"""Counting: buckets by bit length, one line in a thousand, and one line a second for a rush."""

from __future__ import annotations

import pytest

from engine.infra.meter import (
    BATCH_BOUNDS,
    DROPS_TOLD,
    ERRORS_LOGGED_MAX,
    LATENCY_BOUNDS,
    SAMPLE_ONE_IN,
    SUBJECTS_MAX,
    Meter,
)


@pytest.mark.parametrize(
    ("seconds", "least"),
    [(0.0, 0.0001), (0.00015, 0.0002), (0.003, 0.0032), (0.9, 1.6384), (6.4, 6.5536)],
)
def test_a_latency_falls_into_the_first_bucket_that_holds_it(seconds: float, least: float) -> None:
    meter = Meter()

    meter.answered("reserve", 201, "", seconds)

    [found] = [i for i, times in enumerate(meter.latency["reserve"].buckets) if times]
    assert LATENCY_BOUNDS[found] == least
    assert meter.latency["reserve"].sum == seconds


def test_what_is_slower_than_every_bound_is_counted_too() -> None:
    meter = Meter()

    for seconds in (7.0, 3600.0):
        meter.answered("reserve", 201, "", seconds)

    assert meter.latency["reserve"].buckets[-1] == 2


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 9, 511, 512, 513, 20_000])
def test_a_batch_falls_into_the_first_bucket_that_holds_it(size: int) -> None:
    meter = Meter()

    meter.batch("reserve", size)

    [found] = [i for i, times in enumerate(meter.batches["reserve"].buckets) if times]
    fitting = [i for i, bound in enumerate(BATCH_BOUNDS) if size <= bound]
    assert found == (fitting[0] if fitting else len(BATCH_BOUNDS))


def test_one_good_answer_in_a_thousand_is_worth_a_line() -> None:
    meter = Meter()

    said = [meter.answered("stock", 200, "", 0.001) for _ in range(3 * SAMPLE_ONE_IN)]

    assert said.count(True) == 3


def test_every_error_is_worth_a_line_until_they_would_drown_the_log() -> None:
    meter = Meter()

    said = [meter.answered("reserve", 503, "RETRYABLE", 0.1) for _ in range(ERRORS_LOGGED_MAX + 7)]

    assert said == [True] * ERRORS_LOGGED_MAX + [False] * 7
    assert meter.errors_unsaid == 7
    meter.take_refusals()  # the next second
    assert meter.errors_unsaid == 0
    assert meter.answered("reserve", 503, "RETRYABLE", 0.1)


def test_refusals_are_summed_up_by_drop_and_code() -> None:
    meter = Meter()
    for _ in range(10_000):
        meter.refused(20, "SOLD_OUT")
    meter.refused(20, "LIMIT_REACHED")
    meter.refused(21, "PAUSED")
    meter.refused(None, "UNAUTHORIZED")

    assert meter.take_refusals() == {
        20: {"SOLD_OUT": 10_000, "LIMIT_REACHED": 1},
        21: {"PAUSED": 1},
        None: {"UNAUTHORIZED": 1},
    }
    assert meter.take_refusals() == {}


def test_drops_that_somebody_invents_get_no_line_each() -> None:
    meter = Meter()
    for _ in range(50):
        meter.refused(7, "SOLD_OUT")
    for invented in range(5 * SUBJECTS_MAX):
        meter.refused(1_000 + invented, "NOT_FOUND")

    told = meter.take_refusals()

    assert len(told) == DROPS_TOLD + 1
    assert told[7] == {"SOLD_OUT": 50}
    assert sum(codes.get("NOT_FOUND", 0) for codes in told.values()) == 5 * SUBJECTS_MAX
