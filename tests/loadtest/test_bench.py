"""The bench measures what it says, in a short slice: every system, checked hold by hold."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

COMMAND = "-m loadtest.bench --rounds 1 --seconds 1 --connections 32 --client own --json"


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_a_short_bench_measures_every_system_and_loses_no_request(tmp_path: Path) -> None:
    report = tmp_path / "bench.json"

    process = await asyncio.create_subprocess_exec(
        sys.executable, *COMMAND.split(), str(report), stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()

    assert process.returncode == 0, errors.decode()[-2_000:]
    rows = {row["measure"]: row for row in json.loads(report.read_text())["measures"]}
    assert {"echo", "holds", "sold out", "sold out, keyed"} < set(rows)
    assert all(row["errors"] == 0 for row in rows.values()), rows
