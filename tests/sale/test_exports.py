"""A drop with very many reservations: exported in little memory, listed in little time, and a part
is never taken for the whole.

EXPORT_ROWS=1000000 tries it at the size of the largest drop.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import psutil
import pytest
from starlette.types import Message

from engine import app, runtime
from engine.infra import sql
from engine.infra.settings import Settings
from engine.sale import drops, store
from engine.sale.operating import EXPORTS_MAX
from loadtest.chaos.pgproxy import PgProxy
from tests.support.clones import TEMPLATE
from tests.support.http import chunks
from tests.support.service import Service
from tests.support.shop import Shop
from tests.support.wait import wait_until

ROWS = int(os.environ.get("EXPORT_ROWS", "200000"))
GROWTH_BYTES = 30 * 2**20
DROP = 1

# Holds that ran out: they own no unit, so the drop's figures need not know of them.
FILL = """
INSERT INTO reservations (id, request_id, attempt, drop_id, amount_cents, created_at, expires_at,
                          quantity, available, state, buyer, units, ended_at)
SELECT ('01890000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid,
       ('01890000-0000-7000-9000-' || lpad(to_hex(n), 12, '0'))::uuid,
       1, 1, 12000, now() - interval '2 hours', now() - interval '1 hour',
       1, 0, 'expired', 'buyer-' || n, ARRAY[1], now() - interval '1 hour'
  FROM generate_series(1, $1::integer) AS n
"""


@pytest.fixture(scope="module")
async def crowded(template: str) -> AsyncIterator[str]:
    """The URL of a database with one drop of very many reservations."""
    admin = await asyncpg.connect(template)
    await admin.execute(f"CREATE DATABASE crowded TEMPLATE {TEMPLATE}")
    url = template.rpartition("/")[0] + "/crowded"
    database = await asyncpg.connect(url)
    await database.execute(
        "INSERT INTO drops (name, price_cents, currency, starts_at, hold_seconds, max_hold_seconds,"
        " max_per_order, total_stock) VALUES ('Aurora', 12000, 'USD', now(), 60, 120, 1, 1)"
    )
    await database.execute("INSERT INTO stock (drop_id) VALUES (1)")
    await database.fetchval("SELECT fill_drop(1, 1)")
    began = time.monotonic()
    await database.execute(FILL, ROWS, timeout=300)
    await database.execute("VACUUM ANALYZE reservations")
    print(f"{ROWS} rows inserted in {time.monotonic() - began:.1f} s")
    await database.close()
    yield url
    await admin.execute("DROP DATABASE crowded WITH (FORCE)")
    await admin.close()


@pytest.fixture
def settings(crowded: str, redis_url: str) -> Settings:
    """One worker in front of it."""
    return Settings(database_url=crowded, redis_url=redis_url, auth="open", log_level="warning")


@asynccontextmanager
async def reading(port: int, path: str) -> AsyncIterator[AsyncIterator[bytes]]:
    """The body of an answer, piece by piece, as fast as it is asked for."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET /api/v1{path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        yield chunks(reader)
    finally:
        writer.transport.abort()


@pytest.mark.at_length
@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_an_export_of_very_many_rows_takes_little_memory(
    settings: Settings, tmp_path: Path
) -> None:
    async with Service.open(settings, tmp_path, workers=1, keepers=0) as service:
        worker = psutil.Process(service.workers[0].pid)
        path = f"/drops/{DROP}/reservations"
        await service.send("GET", f"{path}?format=csv&userId=buyer-1")  # all of its code is loaded
        before = peak = worker.memory_info().rss
        lines = size = 0
        began = time.monotonic()
        async with reading(service.port, f"{path}?format=csv") as pieces:
            async for piece in pieces:
                lines += piece.count(b"\r\n")
                size += len(piece)
                peak = max(peak, worker.memory_info().rss)
        seconds = time.monotonic() - began

        assert lines == ROWS + 1
        print(
            f"{ROWS} rows, {size / 2**20:.0f} MB in {seconds:.1f} s;"
            f" memory {before / 2**20:.0f} MB + {(peak - before) / 2**20:.1f} MB"
        )
        assert peak - before < GROWTH_BYTES


async def test_an_export_whose_database_dies_is_cut_and_never_ends_as_if_it_were_whole(
    settings: Settings, tmp_path: Path
) -> None:
    async with PgProxy.open(settings.database_url) as proxy:
        through = msgspec.structs.replace(settings, database_url=proxy.url)
        async with Service.open(through, tmp_path, workers=1, keepers=0) as service:
            lines = 0
            async with reading(service.port, f"/drops/{DROP}/reservations?format=csv") as pieces:
                while lines < 5_000:
                    lines += (await anext(pieces)).count(b"\r\n")
                proxy.refusing = True
                await proxy.cut()
                with pytest.raises(EOFError):
                    async for piece in pieces:
                        lines += piece.count(b"\r\n")
            proxy.refusing = False

            print(f"cut after {lines} of {ROWS} rows")
            assert lines < ROWS
            assert (await service.send("GET", f"/drops/{DROP}/reservations")).status == 200
            assert "http.cut" in service.log()


async def test_an_export_ends_with_the_client_who_wanted_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client takes three pieces and hangs up."""
    pages = 0
    list_holds = store.list_holds

    async def counted(*words: Any, **named: Any) -> Any:
        nonlocal pages
        pages += 1
        return await list_holds(*words, **named)

    monkeypatch.setattr(store, "list_holds", counted)
    gone = asyncio.Event()
    pieces: list[Message] = []

    async def receive() -> Message:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        pieces.append(message)
        if len(pieces) == 4:
            gone.set()
            await asyncio.sleep(0)

    path = f"/api/v1/drops/{DROP}/reservations"
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"format=csv",
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1")],
    }
    async with runtime.worker(settings) as house:
        await app.build(house.routes, settings)(scope, receive, send)

    assert pages <= 4, "it was read on for nobody"
    assert len(pieces) <= 5


async def test_clients_who_do_not_read_hold_no_connection_and_no_turn_and_no_more_may_come(
    settings: Settings, tmp_path: Path
) -> None:
    """As many exports as a worker allows, each stuck in the middle: only exports notice."""
    async with Service.open(settings, tmp_path, workers=1, keepers=0) as service:
        path = f"/drops/{DROP}/reservations"
        async with AsyncExitStack() as idle:
            for _ in range(EXPORTS_MAX):
                pieces = await idle.enter_async_context(reading(service.port, f"{path}?format=csv"))
                await anext(pieces)

            refused = await service.send("GET", f"{path}?format=csv&userId=buyer-1")
            began = time.monotonic()
            lists = [await service.send("GET", path) for _ in range(20)]
            hold = await service.reserve(await service.open_drop(1), "ann")
            assert time.monotonic() - began < 3

        assert (refused.status, refused.error) == (503, "RETRYABLE")
        assert refused.json["retryable"] is True
        assert {reply.status for reply in lists} == {200}
        assert hold.status == 201

        async def exports_again() -> bool:
            reply = await service.send("GET", f"{path}?format=csv&userId=buyer-1")
            return reply.status == 200 and reply.body.count(b"\r\n") == 2

        await wait_until(exports_again, "a place is free once they hung up")


async def test_of_a_crowd_that_wants_exports_at_the_same_moment_as_many_as_may_get_one(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, enough = asyncio.Barrier(8), asyncio.Event()
    reading_now = 0
    one, list_holds = drops.one, store.list_holds

    async def all_at_once(*words: Any) -> Any:
        found = await one(*words)
        await together.wait()
        return found

    async def slow(*words: Any, **named: Any) -> Any:
        nonlocal reading_now
        reading_now += 1
        await enough.wait()
        return await list_holds(*words, **named)

    monkeypatch.setattr(drops, "one", all_at_once)
    monkeypatch.setattr(store, "list_holds", slow)
    path = f"/drops/{DROP}/reservations?format=csv&userId=buyer-1"
    async with Shop.open(msgspec.structs.replace(settings, pool_size=16)) as shop:
        crowd = [asyncio.create_task(shop.send("GET", path)) for _ in range(8)]

        async def all_are_told() -> bool:
            return reading_now + sum(each.done() for each in crowd) == 8

        await wait_until(all_are_told, "each reads its first page or was refused")
        enough.set()
        replies = await asyncio.gather(*crowd)

    assert Counter(reply.status for reply in replies) == {200: EXPORTS_MAX, 503: 8 - EXPORTS_MAX}


@pytest.mark.parametrize("query", ["list_holds_of_drop", "list_holds_of_buyer"])
async def test_a_page_from_the_middle_of_very_many_rows_reads_only_its_own(
    crowded: str, query: str
) -> None:
    """EXPLAIN ANALYZE with the plan that the engine's own prepared statement gets."""
    found = sql.load("sale")[query]
    words: dict[str, Any] = dict.fromkeys(found.words)
    middle = f"01890000-0000-7000-8000-{ROWS // 2:012x}"
    words |= {"drop_id": DROP, "before": middle, "count": 101, "skip": 0}
    if "buyer" in words:
        words["buyer"] = "buyer-7"
    database = await asyncpg.connect(crowded)
    try:
        await database.execute("SET plan_cache_mode = force_generic_plan")
        explained = await database.fetchval(
            "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + found.text,
            *(words[word] for word in found.words),
        )
    finally:
        await database.close()

    [plan] = json.loads(explained)
    read = plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]
    print(f"{query}: {read} blocks, {plan['Execution Time']:.1f} ms")
    assert read < 1_000
    assert "Seq Scan" not in json.dumps([p for p in _nodes(plan["Plan"]) if "reservations" in p])


def _nodes(plan: dict[str, Any]) -> list[str]:
    """Every step of a plan with the table it reads."""
    here = f"{plan['Node Type']} {plan.get('Relation Name', '')}"
    return [here, *(node for part in plan.get("Plans", []) for node in _nodes(part))]
