"""The bench measures what it says, in a short slice: loads, checked hold by hold."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

COMMAND = (
    "-m loadtest.bench --only holds,sold-out --rounds 1 --seconds 1 --connections 32 --client own"
)


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_short_bench_judges_its_goals_and_loses_no_request(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, *COMMAND.split(), "--results", str(tmp_path), stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()

    assert process.returncode == 0, errors.decode()[-2_000:]
    result = json.loads((tmp_path / "part.json").read_text())
    samples = {sample["name"]: sample for sample in result["samples"]}
    assert set(samples) == {"echo", "holds", "sold-out"}
    assert all(sample["errors"] == 0 for sample in samples.values()), samples
    assert samples["holds"]["usage"]["micros"]["postgres"] > 0
    goals = {goal["key"]: goal for goal in result["goals"]}
    assert goals["holds"]["value"] == samples["holds"]["value"] / samples["echo"]["value"]
    assert all(goal["met"] is not None for goal in goals.values())
    assert ElementTree.parse(tmp_path / "part.svg").getroot().tag.endswith("svg")
