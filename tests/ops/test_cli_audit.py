"""Audits and repairs at the terminal, on drops that are whole and on drops that somebody broke."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import msgspec
import pytest
import redis.asyncio
from rich.console import Console

from engine.infra.settings import Settings
from engine.ops import audit_page
from engine.runtime import Ground
from engine.sale.audit import Audit, Auditing
from tests.ops.conftest import Types
from tests.support.shop import Shop


@pytest.fixture
async def drop(types: Types, shop: Shop) -> int:
    """Ten units, of which one is held and one is sold."""
    words = ("Aurora", "--price", "120", "--stock", "10", "--max-per-buyer", "5")
    id = int((await types("drop", "create", *words, "--json")).json["id"])
    for _ in range(2):
        hold = (await shop.send("POST", "/reservations", {"dropId": id, "userId": "ann"})).json
    await shop.send("POST", f"/purchase/{hold['id']}", {"userId": "ann"})
    return id


async def spoil(settings: Settings, drop: int) -> None:
    """Somebody writes past the engine."""
    connection = await asyncpg.connect(settings.database_url)
    await connection.execute(
        "UPDATE units SET state = 'withdrawn' WHERE drop_id = $1 AND number ="
        " (SELECT min(number) FROM units WHERE drop_id = $1 AND state = 'free')",
        drop,
    )
    await connection.close()


async def forget(settings: Settings) -> None:
    client = redis.asyncio.Redis.from_url(settings.redis_url)
    await client.flushall()
    await client.aclose()


async def test_a_clean_audit_is_code_0_and_shows_the_figures(types: Types, drop: int) -> None:
    said, (audit,) = await types("audit"), (await types("audit", str(drop), "--json")).json

    assert said.code == 0
    row = said.out.splitlines()[-1].split()
    assert row[:7] == [str(drop), "live", "10", "8", "1", "1", "0"]
    assert row[-1] == "clean"
    assert (audit["clean"], audit["drift"], audit["undersell"]["units"]) == (True, 0, 0)


async def test_a_broken_drop_is_code_1_and_says_why(
    types: Types, settings: Settings, drop: int
) -> None:
    await spoil(settings, drop)

    said = await types("audit")

    assert said.code == 1
    assert "broken" in said.out
    assert f"drop {drop}: INV-2" in said.out


async def test_a_drop_that_is_not_there_is_no_clean_one(types: Types) -> None:
    assert (await types("audit", "777")).err == "velvetrope: There is no drop 777\n"


async def test_without_warm_drops_the_audit_says_so(types: Types) -> None:
    said = await types("audit")

    assert said.code == 0
    assert "no drop is warm" in said.err


async def test_an_audit_without_redis_still_counts(types: Types, drop: int) -> None:
    said = await types("audit", REDIS_URL="redis://127.0.0.1:1/0")

    assert said.code == 0
    assert "clean" in said.out


async def test_a_repair_first_says_then_does(types: Types, settings: Settings, drop: int) -> None:
    await forget(settings)

    dry = await types("reconcile", str(drop), "--dry-run")
    done = await types("reconcile", "--all")
    again = await types("reconcile", str(drop), "--json")

    assert dry.code == 1
    assert "the bouncer knew nothing of this drop" in dry.out
    assert "would be" in dry.out
    assert done.code == 0
    assert "done" in done.out
    assert (again.code, again.json[0]["found"]) == (0, [])


async def test_what_cannot_be_mended_is_paused_and_code_1(
    types: Types, settings: Settings, drop: int
) -> None:
    await spoil(settings, drop)

    said = await types("reconcile", str(drop))

    assert said.code == 1
    assert "the rows do not add up: nobody may reserve" in said.out
    assert (await types("drop", "show", str(drop), "--json")).json["pausedReason"] == "audit"


async def test_a_repair_of_nothing_in_particular_is_not_understood(types: Types) -> None:
    assert (await types("reconcile")).code == 2


@asynccontextmanager
async def watching(settings: Settings, *words: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "engine", "audit", "--watch", *words),
        env=os.environ | {"DATABASE_URL": settings.database_url, "REDIS_URL": settings.redis_url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_watching_into_a_pipe_prints_lines_and_leaves_cleanly_on_ctrl_c(
    settings: Settings, drop: int
) -> None:
    async with watching(settings) as process:
        assert process.stdout is not None
        lines = [(await process.stdout.readline()).decode() for _ in range(2)]
        process.send_signal(signal.SIGINT)
        _, complaints = await asyncio.wait_for(process.communicate(), 10)

    assert all(f" drop={drop} status=live free=8 held=1 sold=1 " in line for line in lines)
    assert lines[0].endswith(" clean\n")
    assert (process.returncode, complaints) == (0, b"")


async def test_watching_for_a_program_is_one_document_a_round(
    settings: Settings, drop: int
) -> None:
    async with watching(settings, "--json") as process:
        assert process.stdout is not None
        (audit,) = msgspec.json.decode(await process.stdout.readline())

    assert audit["dropId"] == drop


async def test_the_live_page_shows_bars_and_puts_what_is_broken_first(
    ground: Ground, settings: Settings, types: Types, drop: int
) -> None:
    other = int(
        (await types("drop", "create", "B", "--price", "1", "--stock", "5", "--json")).json["id"]
    )
    auditing = Auditing(ground.postgres, ground.bouncer, 0)
    audits = [found for id in (drop, other) if (found := await auditing.audit(id))]
    broken = msgspec.structs.replace(audits[0], clean=False, problems=["INV-1: no"])
    out = Console(width=160, record=True, file=io.StringIO())

    out.print(audit_page._page([audits[1], broken], "12:00:00", out))

    text = out.export_text()
    assert "2 warm drops, 1 broken" in text
    assert f"drop {drop}: INV-1: no" in text
    rows = [line.split()[0] for line in text.splitlines() if " live " in line]
    assert rows == [str(drop), str(other)]
    assert "██▒▒················" in text


def test_a_bar_shows_the_first_unit_sold_of_many() -> None:
    def bar(**figures: int) -> str:
        zero = dict.fromkeys(("held", "sold", "total_stock"), 0) | figures
        given = dict.fromkeys(Audit.__struct_fields__) | zero
        return audit_page._bar(Audit(**given)).plain  # type: ignore[arg-type]

    assert bar(total_stock=1_000_000, sold=1) == "█" + "·" * 19
    assert bar(total_stock=10, sold=10) == "█" * 20
    assert bar(total_stock=1_000, sold=999, held=1) == "█" * 20
    assert bar() == "·" * 20
