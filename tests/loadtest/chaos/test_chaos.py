"""A minute of chaos: the promises hold, and the faults were real. And what a plan, an answer and a
verdict are."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from loadtest.chaos import plan, report
from loadtest.chaos.checker import soldout
from loadtest.chaos.diary import Tally
from loadtest.chaos.history import Fault, Heal, read
from loadtest.chaos.nemesis import ALL
from loadtest.chaos.outcomes import is_strange, outcome
from loadtest.chaos.report import Outcome
from loadtest.chaos.run import _crashes
from tests.support.wait import wait_until

SEED = 7


async def chaos(folder: Path, *words: str) -> asyncio.subprocess.Process:
    """A run, as `make chaos` starts it."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "loadtest.chaos", "--seed", str(SEED), "--folder", str(folder), *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


def family(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def still_there(processes: list[psutil.Process]) -> list[str]:
    return [
        one.name() for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE
    ]


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_short_chaos_breaks_no_promise(tmp_path: Path) -> None:
    process = await chaos(tmp_path, "--duration", "25s", "--keep")
    out, _ = await process.communicate()

    assert process.returncode == 0, out.decode()
    told = json.loads((tmp_path / "report.json").read_text())
    assert told["holds"] is True
    assert [row for row in told["verdict"] if row["holds"] is False] == []
    assert {row["measure"].split(" ", 1)[0] for row in told["verdict"]} >= set(report.PROMISES)
    run = told["run"]
    assert sum(run["faults"].values()) >= 10
    assert min(run["tally"][name] for name in ("ok", "fail", "info", "ambiguous")) > 0
    faults = [line for line in read(tmp_path / "faults.jsonl") if isinstance(line, Fault)]
    assert sum(not fault.skipped for fault in faults) == sum(run["faults"].values())
    assert [heal["rest_at"] is not None for heal in run["heals"]] == [True]
    assert f"seed {SEED}" in (tmp_path / "report.md").read_text()


@pytest.mark.at_length
@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_run_that_is_ended_leaves_nothing_running(
    tmp_path: Path, number: signal.Signals
) -> None:
    process = await chaos(tmp_path, "--duration", "60s")
    try:

        async def has_done_something() -> bool:
            assert process.returncode is None
            path = tmp_path / "faults.jsonl"
            return path.exists() and path.stat().st_size > 0

        await wait_until(has_done_something, "the first fault is written down", seconds=60)
        everybody = family(process.pid)
        assert len(everybody) >= 8  # workers, keepers, servers, buyers
        process.send_signal(number)
        out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()

    # Ctrl-C still judges, and SIGTERM does not.
    assert (process.returncode == 143) == (number == signal.SIGTERM), out.decode()
    assert (tmp_path / "report.md").exists() == (number == signal.SIGINT)

    async def is_quiet() -> bool:  # Python's own tracker of resources goes when it hears of our end
        return not still_there(everybody)

    await wait_until(is_quiet, "nothing is left", seconds=5)


def test_a_seed_fixes_the_plan() -> None:
    assert plan.draw(1, 180) == plan.draw(1, 180)
    assert plan.draw(1, 180) != plan.draw(2, 180)


@pytest.mark.parametrize("seed", range(5))
def test_a_plan_keeps_its_limits(seed: int) -> None:
    rounds = plan.draw(seed, 1_200)
    faults = [fault for each in rounds for fault in each.faults]

    assert len(faults) >= 560
    assert sum(each.seconds + plan.HEAL_SECONDS for each in rounds) <= 1_200
    assert {fault.nemesis for fault in faults} == ALL.keys()
    for each in rounds:
        assert all(fault.at + fault.seconds <= each.seconds + 0.01 for fault in each.faults)
        for fault in each.faults:
            others = [
                one
                for one in each.faults
                if one is not fault and one.at <= fault.at < one.at + one.seconds
            ]
            mine = plan.targets(ALL[fault.nemesis], fault.index)
            assert len(others) < plan.AT_ONCE_MAX
            for one in others:
                assert not mine & plan.targets(ALL[one.nemesis], one.index)


@pytest.mark.parametrize("seed", range(1, 6))
def test_every_round_but_the_first_begins_with_a_calm(seed: int) -> None:
    first, *others = plan.draw(seed, 1_200)

    assert first.faults[0].at <= 1.0
    assert len(others) == 19
    assert all(plan.CALM_SECONDS <= each.faults[0].at <= plan.CALM_SECONDS + 1 for each in others)


def test_nothing_excuses_a_service_in_a_calm() -> None:
    assert plan.HEAL_SECONDS * 1e9 > soldout.SETTLED_NS


@pytest.mark.parametrize(
    ("status", "code", "wanted"),
    [
        (201, "", "ok"),
        (204, "", "ok"),
        (409, "SOLD_OUT", "fail"),
        (409, "IN_PROGRESS", "info"),
        (410, "HOLD_EXPIRED", "fail"),
        (422, "IDEMPOTENCY_MISMATCH", "fail"),
        (429, "RATE_LIMITED", "fail"),
        (503, "RETRYABLE", "fail"),
        (503, "OUTCOME_UNKNOWN", "info"),
        (500, "INTERNAL_ERROR", "info"),
        (503, "", "info"),
        (0, "timeout", "info"),
    ],
)
def test_only_what_is_definite_counts_as_a_no(status: int, code: str, wanted: str) -> None:
    assert outcome(status, code) == wanted


def test_a_crash_is_an_answer_never_to_be_given() -> None:
    assert is_strange(500, "INTERNAL_ERROR")
    assert is_strange(400, "VALIDATION_ERROR")
    assert not is_strange(503, "OUTCOME_UNKNOWN")
    assert not is_strange(0, "reset")


def good(**changes: Any) -> Outcome:
    """A run of which all holds."""
    run = Outcome(
        seed=1,
        seconds=60,
        lasted=60,
        faults={"worker killed": 3},
        heals=[Heal(0, 10_000_000_000, 2_000_000_000)],
        tally=Tally(ok=5, fail=5, info=2, ambiguous=2, resolved=2),
    )
    for name, value in changes.items():
        setattr(run, name, value)
    return run


def failed(run: Outcome) -> list[str]:
    return [row.measure.strip() for row in report.verdict(run) if row.holds is False]


def test_a_traceback_of_python_s_own_is_a_crash(tmp_path: Path) -> None:
    said = ['{"event":"worker.started","level":"info"}', '{"event":"x","level":"error"}']
    said += ["Traceback (most recent call last):", "AssertionError: INV-2"]
    (tmp_path / "worker-0.log").write_text("\n".join(said))

    assert _crashes(tmp_path) == {"x": 1, "traceback": 1}


def test_a_good_run_passes() -> None:
    assert failed(good()) == []


@pytest.mark.parametrize(
    ("changes", "measure"),
    [
        ({"faults": {}}, "faults"),
        ({"planned": 8}, "faults"),
        ({"heals": []}, "slowest to come to rest, s"),
        ({"heals": [Heal(0, 10_000_000_000, 8_100_000_000)]}, "slowest to come to rest, s"),
        ({"heals": [Heal(0, 10_000_000_000, None, "1 open")]}, "slowest to come to rest, s"),
        ({"crashes": Counter({"http.crashed": 1})}, "crashes in the logs"),
        ({"stuck": ["client-0"]}, "left under way at the end"),
        (
            {"tally": Tally(ok=5, fail=5, info=2, ambiguous=2, resolved=1)},
            "resolved by the same key",
        ),
        ({"tally": Tally(ok=5, fail=5)}, "info"),
        (
            {"tally": Tally(ok=5, fail=5, info=1, strange=Counter({"500": 1}))},
            "answers never to be given",
        ),
    ],
)
def test_what_went_wrong_fails_the_run(changes: dict[str, Any], measure: str) -> None:
    assert failed(good(**changes)) == [measure]
