"""The drill with listeners, in a short slice, in its reading of frames and in its verdict."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.realtime import frames
from loadtest.audience import Heard, read
from loadtest.drills import Row
from loadtest.hearing import STOPPED, Facts, Lags, Phase, judge, lags

COMMAND = (
    "-m loadtest.listeners --sockets 300 --seconds 1 --rounds 1 --most 1000 --brief"
    " --only-counts --report"
)


@pytest.mark.at_length
@pytest.mark.slow
@pytest.mark.timeout(150)
async def test_a_few_hundred_listeners_all_end_on_the_final_state(tmp_path: Path) -> None:
    report = tmp_path / "listeners.json"

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
    assert [phase["name"] for phase in facts["phases"]] == ["alone", "heard"]
    heard = facts["phases"][1]
    assert heard["listeners"] == 300
    assert heard["events"] >= 300
    assert heard["lags"]["pairs"] >= 300
    assert facts["killed"]["lost"] == len(facts["back"]) == facts["itsOwn"] > 0


def test_frames_are_counted_and_the_last_version_is_read() -> None:
    told = [
        frames.wired("stock_update", {"dropId": 1, "version": version, "pad": "x" * size}, (1, 7))
        for version, size in ((8, 1), (9, 200), (10, 70_000))
    ]
    data = b"".join(each.frames for each in told) + frames.frame(frames.PING)

    assert read(data) == (3, 10, 1, 0, b"")
    for cut in (1, 3, len(told[0].frames) + 1, len(data) - 1):
        first = read(data[:cut])
        rest = read(first.rest + data[cut:])
        assert first.frames + rest.frames == 3
        assert first.pings + rest.pings == 1
        assert (rest.version or first.version, rest.rest) == (10, b"")


def test_what_is_no_version_is_none() -> None:
    gone = frames.frame(frames.CLOSE, (1013).to_bytes(2, "big") + b"slow")

    assert read(frames.wired("pong", {}, (1, 7)).frames + gone) == (1, 0, 0, 1013, b"")
    assert read(b"") == (0, 0, 0, 0, b"")


def test_each_change_reaches_a_listener_when_it_is_told_of_it_or_of_a_later_one() -> None:
    written = {6: 900.0, 7: 1_000.0, 8: 1_100.0, 10: 1_180.0}
    heard = [Heard(6, 10, {1_200: 3}), Heard(6, 7, {1_049: 1})]

    # 7, 8 and 10 reach three at 1,200.5 ms; nobody wrote 9; 7 alone reached one at 1,049.5.
    assert lags(heard, written) == Lags(p50=100, p99=200, longest=200, pairs=10)
    assert lags([], written) == Lags()


def _phase(name: str, p99_ms: float = 10.0, **changes: Any) -> Phase:
    phase = Phase(name=name, p50_ms=1.0, p99_ms=p99_ms, ok=100)
    if name != "alone":
        told = {"listeners": 100, "events": 1_000, "lags": Lags(100, 200, 300, 1_000)}
        phase = msgspec.structs.replace(phase, **told)
    return msgspec.structs.replace(phase, **changes)


def _facts(**changes: Any) -> Facts:
    found = Facts(
        wanted=100,
        phases=[_phase("alone"), _phase("heard", 12.5)],
        bytes_per_socket=[10_000.0, 12_000.0],
        gone=[9.0] * STOPPED,
        stopped=_phase("stopped"),
        killed=_phase("killed", lost=2),
        its_own=2,
        back=[0.6, 2.9],
    )
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def _failed(rows: list[Row]) -> list[str]:
    return [row.measure.strip() for row in rows if row.holds is False]


def test_a_drill_that_goes_as_it_should_passes() -> None:
    assert _failed(judge(_facts())) == []


LATE = Lags(100, 1_000, 1_100, 10)


@pytest.mark.parametrize(
    ("changes", "measure"),
    [
        ({"phases": [_phase("alone"), _phase("heard", 12.6)]}, "ratio"),
        ({"wanted": 101}, "sockets on one drop"),
        ({"phases": [_phase("alone", refused=1), _phase("heard")]}, "refused, lost to the load"),
        ({"phases": [_phase("alone"), _phase("heard", events=0)]}, "events delivered, 1/s"),
        ({"phases": [_phase("alone"), _phase("heard", lags=LATE)]}, "lag p99, ms"),
        ({"phases": [_phase("alone"), _phase("heard", lags=Lags())]}, "lag p99, ms"),
        ({"phases": [_phase("alone"), _phase("heard", lost=1)]}, "listeners lost while told"),
        ({"phases": [_phase("alone"), _phase("heard", behind=1)]}, "not on the final state"),
        ({"bytes_per_socket": [10.0, 30_001.0]}, "kB a socket: idle, told"),
        ({"bytes_per_socket": []}, "kB a socket: idle, told"),
        ({"gone": [9.0] * (STOPPED - 1)}, "read no more, and were cut"),
        ({"gone": [9.0] * (STOPPED - 1) + [10.1]}, "the last after, s"),
        ({"stopped": _phase("stopped", lost=1)}, "others lost"),
        ({"stopped": _phase("stopped", lags=LATE)}, "lag p99 of the others, ms"),
        ({"stopped": _phase("stopped", behind=1)}, "not on the final state"),
        ({"its_own": 1}, "a worker's listeners, lost"),
        ({"back": [0.6]}, "came back"),
        ({"back": [0.6, 10.1]}, "first, last, s"),
        ({"killed": _phase("killed", lost=2, lags=LATE)}, "lag p99 of the others, ms"),
        ({"killed": _phase("killed", lost=2, behind=1)}, "not on the final state"),
        ({"problems": ["INV-2"]}, "audit"),
    ],
)
def test_what_went_wrong_fails_the_drill(changes: dict[str, Any], measure: str) -> None:
    assert _failed(judge(_facts(**changes))) == [measure]


def test_a_run_too_short_for_times_is_judged_by_the_rest() -> None:
    slow = _facts(
        phases=[_phase("alone"), _phase("heard", 100.0, lags=LATE)], gone=[20.0] * STOPPED
    )

    assert _failed(judge(slow, only_counts=True)) == []
    slow.phases[1] = _phase("heard", behind=1)
    assert _failed(judge(slow, only_counts=True)) == ["not on the final state"]
