"""The drill at the door, in a short slice and in its verdict."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from loadtest.client import Figures
from loadtest.crowd import Seen
from loadtest.door import Facts, Phase, judge
from loadtest.drills import Row

COMMAND = (
    "-m loadtest.door --seconds 3 --slow 50 --idle 500 --connections 16"
    " --header-seconds 1 --body-seconds 1 --only-counts --report"
)


@pytest.mark.at_length
@pytest.mark.slow
@pytest.mark.timeout(150)
async def test_a_small_crowd_is_kept_in_its_place(tmp_path: Path) -> None:
    report = tmp_path / "door.json"

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
    assert [phase["name"] for phase in facts["phases"]] == ["normal", "attacked"] * 2
    assert facts["wanted"] == {"heads": 25, "bodies": 25, "silent": 250, "idle": 250}


def _phase(name: str, p99_ms: float, **changes: Any) -> Phase:
    figures: dict[str, Any] = {
        "requests_per_s": 100.0,
        "ok_per_s": 100.0,
        "non_2xx": 0,
        "p50_ms": 1.0,
        "p99_ms": p99_ms,
        "errors": 0,
        "requests": 100,
    }
    standing = {"heads": 10, "bodies": 10, "silent": 100, "idle": 100}
    return Phase(name, Figures(**(figures | changes)), 1 << 26, standing)


def _facts(**changes: Any) -> Facts:
    away = {"heads": {"408": 5}, "bodies": {"408": 5}}
    found = Facts(
        wanted={"heads": 10, "bodies": 10, "silent": 100, "idle": 100},
        patience={"heads": 5.0, "bodies": 10.0},
        phases=[_phase("normal", 10.0), _phase("attacked", 29.0)],
        seen=[Seen(sent_away=away, longest={"heads": 5.5, "bodies": 10.5})],
        held=200,
    )
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def _failed(rows: list[Row]) -> list[str]:
    return [row.measure.strip() for row in rows if row.holds is False]


def test_a_sale_that_keeps_its_pace_passes() -> None:
    assert _failed(judge(_facts())) == []


@pytest.mark.parametrize(
    ("changes", "measure"),
    [
        ({"phases": [_phase("normal", 10.0), _phase("attacked", 30.0)]}, "ratio"),
        ({"phases": []}, "ratio"),
        ({"wanted": {"silent": 113}}, "silent, always at the door"),
        ({"seen": []}, "slow heads, cut with"),
        ({"seen": [Seen(sent_away={"heads": {"200": 5}})]}, "slow heads, cut with"),
        ({"seen": [Seen(longest={"bodies": 12.1})]}, "the most patient, s"),
        (
            {"phases": [_phase("normal", 1.0), _phase("attacked", 1.0, non_2xx=1)], "held": 199},
            "other answers to buyers",
        ),
        (
            {"phases": [_phase("normal", 1.0), _phase("attacked", 1.0, errors=1)]},
            "lost connections of buyers",
        ),
        ({"held": 199}, "holds in the stock - 201s"),
        ({"held": 201}, "holds in the stock - 201s"),
        ({"workers_ended": 1}, "workers that ended"),
        ({"problems": ["INV-2"]}, "audit"),
    ],
)
def test_what_went_wrong_fails_the_drill(changes: dict[str, Any], measure: str) -> None:
    assert measure in _failed(judge(_facts(**changes)))


def test_a_run_too_short_for_times_is_judged_by_the_rest() -> None:
    slow = _facts(phases=[_phase("normal", 1.0), _phase("attacked", 100.0)])

    assert _failed(judge(slow, only_counts=True)) == []
    slow.workers_ended = 1
    assert _failed(judge(slow, only_counts=True)) == ["workers that ended"]
