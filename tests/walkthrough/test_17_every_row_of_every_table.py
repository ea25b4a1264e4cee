"""Every row of the tables of endpoints in the READMEs of the five systems that people move from,
against a real `make run`: each success and each refusal happens. Where an answer is another than
the printed one, the row names the line of docs/SEEDS.md that says so.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from engine.infra.settings import Settings
from engine.ops.launch import free_port
from tests.support.http import Crowd
from tests.support.wait import wait_until
from tests.walkthrough.seeds import cryovault, sneaker_js, sneaker_ts, vyris, zerolight

SYSTEMS = [each.SYSTEM for each in (cryovault, sneaker_js, zerolight, sneaker_ts, vyris)]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the account which runs Postgres for root can reach; pytest's own is shut."""
    made = Path(tempfile.mkdtemp(prefix="velvetrope-test-", dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
async def crowd(folder: Path) -> AsyncIterator[Crowd]:
    """A `make run` with servers of its own and the demo in it."""
    ours = {name.upper() for name in Settings.__struct_fields__}
    environment = {name: value for name, value in os.environ.items() if name not in ours} | {
        "DATA_DIR": str(folder),
        "PORT": str(free_port()),
        "AUTH": "open",
        "WORKERS": "1",
        "DEMO_ACCOUNTS": "1",
    }
    said = folder / "said"
    with said.open("w") as out:
        run = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "engine", "dev"), env=environment, stdout=out, stderr=out
        )

    async def is_ready() -> bool:
        assert run.returncode is None, said.read_text()
        return "velvetrope ready on" in said.read_text()

    crowd = Crowd(f"http://127.0.0.1:{environment['PORT']}")
    try:
        await wait_until(is_ready, "make run is ready", seconds=90)
        yield crowd
    finally:
        await crowd.close()
        if run.returncode is None:
            run.send_signal(signal.SIGINT)
        await asyncio.wait_for(run.wait(), 20)


def test_every_row_has_its_walk() -> None:
    for system in SYSTEMS:
        assert [row.name for row in system.rows] == list(system.walks), system.name
    assert [len(system.rows) for system in SYSTEMS] == [8, 6, 29, 10, 6]


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_every_row_of_every_table_answers_as_printed(crowd: Crowd, folder: Path) -> None:
    for system in SYSTEMS:
        await system.walked(crowd, folder)
