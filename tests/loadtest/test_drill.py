"""The drill tells the truth about a sale that loses Redis, in a short slice and in its verdict."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from loadtest.client import Shot
from loadtest.drill import Facts, judge
from loadtest.drills import Row
from loadtest.probes import Return, Sight
from loadtest.pulse import Meter, Slice, Total

COMMAND = "-m loadtest.drill --normal 3 --away 4 --back 4 --connections 64 --only-zeros --report"


@pytest.mark.at_length
@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_short_loss_of_redis_costs_no_hold_and_tells_no_lie(tmp_path: Path) -> None:
    report = tmp_path / "drill.json"

    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *COMMAND.split(),
        str(report),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()

    assert process.returncode == 0, out.decode()
    facts = json.loads(report.read_text())["facts"]
    assert facts["killedAt"] < facts["returnedAt"]
    assert {sight["health"] for sight in facts["sights"]} >= {"ok", "degraded"}
    assert facts["total"]["ok"] > 0


def facts(**changes: Any) -> Facts:
    """Ten seconds of each phase, a hundred holds in each second."""
    slices = [Slice(float(at), 1.0, 100, {}, 0, 1.0) for at in range(30)]
    found = Facts(
        normal_from=0.0,
        killed_at=10.0,
        returned_at=20.0,
        slices=slices,
        total=Total(3_000, {}, 0, []),
        returns=[Return(5.0, 0.1, 0.2)],
        sights=[Sight(21.0, "ok", True)],
        held=3_000,
    )
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def failed(rows: list[Row]) -> list[str]:
    return [row.measure.strip() for row in rows if row.holds is False]


def test_a_sale_that_goes_on_passes() -> None:
    assert failed(judge(facts())) == []
    assert facts().back_seconds == 1.0


@pytest.mark.parametrize(
    ("changes", "measure"),
    [
        ({"slices": [Slice(5.0, 1.0, 100, {}, 0, 1.0), Slice(15.0, 1.0, 29, {}, 0, 1.0)]}, "ratio"),
        ({"total": Total(3_000, {}, 0, [1.1])}, "false sold-outs beyond 1 s"),
        ({"returns": [Return(5.0, 1.1, 1.2)]}, "false sold-outs beyond 1 s"),
        ({"returns": [Return(5.0, 0.0, None)]}, "false sold-outs beyond 1 s"),
        ({"returns": []}, "units given back"),
        ({"sights": [Sight(26.0, "ok", True)]}, "back to normal after, s"),
        ({"sights": [Sight(21.0, "ok", False)]}, "back to normal after, s"),
        (
            {
                "slices": [
                    Slice(float(at), 1.0, 100 if at < 20 else 49, {}, 0, 1.0) for at in range(30)
                ]
            },
            "then settled at, holds/s",
        ),
        (
            {
                "slices": [
                    Slice(float(at), 1.0, 1 if 20 <= at < 26 else 100, {}, 0, 1.0)
                    for at in range(40)
                ]
            },
            "back to normal after, s",
        ),
        ({"workers_ended": 1}, "workers that ended"),
        ({"held": 2_999}, "holds in the stock - 201s"),
        ({"held": 3_001}, "holds in the stock - 201s"),
        ({"problems": ["INV-2"]}, "audit"),
    ],
)
def test_what_went_wrong_fails_the_drill(changes: dict[str, Any], measure: str) -> None:
    assert measure in failed(judge(facts(**changes)))


def test_an_unknown_outcome_explains_one_hold_more_but_none_fewer() -> None:
    total = Total(3_000, {"OUTCOME_UNKNOWN": 1, "RETRYABLE": 5}, 0, [])

    assert failed(judge(facts(total=total, held=3_001))) == []
    assert failed(judge(facts(total=total, held=3_002))) == ["holds in the stock - 201s"]
    assert failed(judge(facts(total=total, held=2_999))) == ["holds in the stock - 201s"]


def test_a_run_too_short_for_rates_is_judged_by_the_rest() -> None:
    slow = [Slice(5.0, 1.0, 100, {}, 0, 1.0), Slice(15.0, 1.0, 1, {}, 0, 1.0)]

    assert failed(judge(facts(slices=slow), only_zeros=True)) == []
    assert failed(judge(facts(slices=slow, workers_ended=1), only_zeros=True)) != []


def test_answers_are_counted_by_their_word() -> None:
    meter = Meter(Shot(port=1, path="/", run="t"), [7], 60.0, 60.0)
    meter.hit(201, 0.0, b"{}")
    meter.hit(409, 0.0, b'{"error":"SOLD_OUT"}')
    meter.hit(503, 0.0, b"<html>")

    assert b'"dropId":7' in meter.load()
    told = meter.cut()
    assert (told.ok, told.words) == (1, {"SOLD_OUT": 1, "": 1})
    total = meter.total(late=2)
    assert (total.ok, total.errors, total.uncertain) == (1, 2, 3)
    assert total.stretches == [0.0]
