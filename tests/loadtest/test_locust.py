"""A load test comes to the right verdict: clean when all is well, broken when something is not."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from engine.infra.settings import Settings
from engine.ops.provider import NAMES
from tests.support.provider import SECRET
from tests.support.service import Service
from tests.support.wait import wait_until

ROOT = Path(__file__).parents[2]
BRISK = "--users 20 --seconds 8 --units 60 --hold-seconds 2 --think-min 0.1 --think-max 0.4"
MIXED = "--purchase 40 --abandon 30 --release 30 --insistent 30"


async def start(
    service: Service, report: Path, options: str, *more: str, **environment: str
) -> asyncio.subprocess.Process:
    target = service.url.removesuffix("/api/v1")
    words = [*options.split(), *more, "--target", target, "--report", str(report)]
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "loadtest.load", *words),
        cwd=ROOT,
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def read_out(process: asyncio.subprocess.Process) -> str:
    out, _ = await process.communicate()
    return out.decode()


@pytest.mark.at_length
@pytest.mark.slow
@pytest.mark.timeout(90)
async def test_a_sound_service_is_found_clean(service: Service, tmp_path: Path) -> None:
    report = tmp_path / "load.html"

    process = await start(service, report, f"{BRISK} {MIXED}")
    said = await read_out(process)

    assert process.returncode == 0, said
    assert "verdict: clean" in said
    assert "nobody paid: no mock provider is known there" in said
    for seen in ("flow: purchased", "flow: released", "flow: abandoned"):
        assert int(said.partition(seen)[2].split()[0]) > 0, said
    assert "reserve: refused SOLD_OUT" in said
    assert "reserve: replayed" in said
    assert "<html" in report.read_text()


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_buyers_pay_at_a_mock_provider_and_the_books_agree(
    settings: Settings, tmp_path: Path
) -> None:
    equal = " ".join(f"{name}=1" for name in NAMES)
    async with Service.open(settings, tmp_path, PAYMENT_SECRET=SECRET) as service:
        process = await start(
            service,
            tmp_path / "load.html",
            f"{BRISK} --purchase 90 --abandon 5 --release 5 --pay-seconds 2 --refund 30"
            " --extend 30",
            "--payments",
            equal,
            PAYMENT_SECRET=SECRET,
        )
        said = await read_out(process)

    assert process.returncode == 0, said
    assert "verdict: clean" in said
    assert "paid without unit or refund: 0; charged twice without refund: 0" in said
    for seen in ("refund: accepted", "extend: refused EXTENSION_USED", "pay: accepted"):
        assert int(said.partition(seen)[2].split()[0]) > 0, said
    paid, owed = re.search(r"(\d+) payments;", said), re.search(r"(\d+) refunds were due", said)
    assert paid is not None and int(paid[1]) > 10
    assert owed is not None and int(owed[1]) > 0


@pytest.mark.at_length
@pytest.mark.slow
@pytest.mark.timeout(90)
async def test_a_sold_unit_put_back_by_hand_is_found(
    service: Service, database: str, tmp_path: Path
) -> None:
    process = await start(service, tmp_path / "load.html", BRISK)
    connection = await asyncpg.connect(database)

    async def damaged() -> Any:
        return await connection.fetchval(
            "INSERT INTO units (drop_id, number, position)"
            " SELECT drop_id, units[1], 0 FROM purchases WHERE refunded_at IS NULL"
            " LIMIT 1 RETURNING number"
        )

    try:
        await wait_until(damaged, "a unit is sold", seconds=30)
    finally:
        await connection.close()
        said = await read_out(process)

    assert process.returncode == 1, said
    assert "verdict: BROKEN" in said
    assert "INV-" in said


async def test_another_machine_is_refused_with_the_way_to_allow_it() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "loadtest.load", "--target", "http://192.0.2.1:8000"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said = await read_out(process)

    assert process.returncode == 1
    assert "not this machine" in said
    assert "ANYWHERE=1" in said
