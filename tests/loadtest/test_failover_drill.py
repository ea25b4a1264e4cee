"""The drill of the failover, in a short slice and in its verdict."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loadtest.drills import Row
from loadtest.failover import Course, judge

COMMAND = "-m loadtest.failover --normal 1 --after 3 --connections 16 --report"


@pytest.mark.at_length
@pytest.mark.slow
@pytest.mark.timeout(150)
async def test_a_short_drill_loses_nothing_with_a_synchronous_standby_and_counts_the_tail_without(
    tmp_path: Path,
) -> None:
    report = tmp_path / "failover.json"

    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *COMMAND.split(),
        str(report),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()

    assert process.returncode == 0, out.decode()
    synchronous, lagging = json.loads(report.read_text())["facts"]
    assert (synchronous["lost"], synchronous["toldUnits"]) == (0, 0)
    assert lagging["lost"] > 0
    assert lagging["toldVersions"] > 0


def _failed(synchronous: bool, **changes: Any) -> list[str]:
    tail = 0 if synchronous else 7
    sound = Course(
        synchronous=synchronous,
        promised=100,
        lost=tail,
        told_units=tail,
        epochs=1,
        back_seconds=1.0,
    )
    rows: list[Row] = judge([msgspec.structs.replace(sound, **changes)])
    return [row.measure.strip() for row in rows if row.holds is False]


@pytest.mark.parametrize("synchronous", [True, False])
def test_a_failover_that_goes_as_it_should_passes(synchronous: bool) -> None:
    assert _failed(synchronous) == []
    assert _failed(synchronous, words={"OUTCOME_UNKNOWN": 2}, untold=2) == []


@pytest.mark.parametrize(
    ("synchronous", "changes", "measure"),
    [
        (True, {"lost": 1}, "promised and lost"),
        (False, {"lost": 0}, "promised and lost"),
        (True, {"told_units": 1}, "units that the engine missed"),
        (False, {"told_units": 0}, "units that the engine missed"),
        (True, {"epochs": 2}, "epochs begun"),
        (True, {"back_seconds": None}, "sold again after the kill, s"),
        (True, {"back_seconds": 8.1}, "sold again after the kill, s"),
        (True, {"untold": 1}, "holds that nobody was told of"),
        (True, {"twice": 1}, "units twice"),
        (True, {"cut": 1}, "lost connections"),
        (True, {"ended": 1}, "processes that ended"),
        (True, {"problems": ["INV-2"]}, "audit"),
    ],
)
def test_what_went_wrong_fails_the_drill(
    synchronous: bool, changes: dict[str, Any], measure: str
) -> None:
    assert _failed(synchronous, **changes) == [measure]
