"""INV-3, INV-7, INV-12: processes are killed, sent away, or left by their clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections import Counter
from pathlib import Path

import asyncpg
import msgspec
import psutil
import pytest

from engine.infra.settings import Settings
from engine.ops import devstack
from engine.ops.migrate import migrate
from engine.runtime import Ground
from tests.support.ghosts import strand
from tests.support.http import Reply
from tests.support.locks import stock_locked, waiting_claims
from tests.support.rush import Rush
from tests.support.service import Service
from tests.support.shop import Shop
from tests.support.wait import wait_until


async def _sells_the_rest(shop: Shop, drop_id: int) -> None:
    """Every unit that is free can be had, and not one more.

    Whoever is refused asks once more: while a worker's news of a batch is late (reserve.py waits
    SETTLE_SECONDS for it), others count its units as taken and as on their way, and that as sold
    out is no promise broken. When nothing is on its way the figures are exact.
    """
    free = (await shop.stock(drop_id))["availableStock"]
    buyers = [f"rest-{n}" for n in range(free + 5)]
    replies = await asyncio.gather(*(shop.reserve(drop_id, buyer) for buyer in buyers))
    assert {reply.status for reply in replies} == {201, 409}
    refused = [b for b, reply in zip(buyers, replies, strict=True) if reply.status == 409]
    await wait_until(lambda: shop.settled(drop_id), "nothing is on its way", seconds=5)
    replies = await asyncio.gather(*(shop.reserve(drop_id, buyer) for buyer in refused))
    had = len(buyers) - len(refused) + sum(reply.status == 201 for reply in replies)
    assert (had, Counter(reply.status for reply in replies)[409]) == (free, 5)


@pytest.mark.slow
async def test_a_worker_killed_in_mid_sale_strands_nothing_for_more_than_8_s(
    service: Service, settings: Settings
) -> None:
    drop_id = await service.open_drop(2_000, holdSeconds=600)
    async with Rush.of(service, drop_id, settings.database_url, clients=100) as rush:
        await rush.sells(200)
        await service.kill(service.workers[0])
        killed = time.monotonic()
        await rush.sells(200)

    rush.check(2_000, {"SOLD_OUT"})
    assert rush.cut, "nobody was with the killed worker"
    await service.crowd.close()  # its idle connections led to the one that is gone
    await wait_until(lambda: service.settled(drop_id), "nothing is stranded", seconds=8)
    print(f"{rush.cut} cut off; settled {time.monotonic() - killed:.2f} s after kill -9")
    await _sells_the_rest(service, drop_id)


@pytest.mark.slow
async def test_a_worker_killed_between_commit_and_answer_strands_nothing(
    service: Service, settings: Settings, ground: Ground
) -> None:
    """Both workers have a claim under way that waits for a lock; one of them dies there."""
    drop_id = await service.open_drop(100, holdSeconds=600)
    async with stock_locked(settings.database_url, drop_id) as database:
        asking = asyncio.gather(
            *(service.reserve(drop_id, f"b{n}", f"k{n}") for n in range(40)),
            return_exceptions=True,
        )

        async def both_wait() -> bool:
            return await waiting_claims(database) == 2

        await wait_until(both_wait, "both workers' claims are under way", pause=0.002)
        await service.kill(service.workers[1])
    killed = time.monotonic()
    replies = await asking

    await service.crowd.close()  # its idle connections led to the one that is gone
    answered = [reply for reply in replies if isinstance(reply, Reply)]
    assert {reply.status for reply in answered} == {201}
    assert 0 < len(answered) < 40
    await wait_until(lambda: service.settled(drop_id), "nothing is stranded", seconds=8)
    print(f"{40 - len(answered)} cut off; settled {time.monotonic() - killed:.2f} s after kill -9")
    again = await asyncio.gather(*(service.reserve(drop_id, f"b{n}", f"k{n}") for n in range(40)))
    assert {reply.status for reply in again} == {201}
    assert (await service.stock(drop_id))["heldStock"] == 40
    await _sells_the_rest(service, drop_id)


@pytest.mark.slow
async def test_a_postgres_killed_in_mid_sale_forgets_no_hold_that_anybody_was_promised(
    settings: Settings, tmp_path: Path
) -> None:
    server = devstack.start_postgres(tmp_path / "postgres", durable=False)
    port = int(server.url.rpartition(":")[2].partition("/")[0])
    settings = msgspec.structs.replace(settings, database_url=server.url)
    try:
        await migrate(settings)
        async with Service.open(settings, tmp_path) as service:
            drop_id = await service.open_drop(5_000, holdSeconds=600)
            # Whoever asked before the fall has an answer before we count: a request that nobody
            # waits for any more could still take a unit afterwards.
            async with Rush.of(service, drop_id, settings.database_url) as rush:
                await rush.sells(200)
                _kill_all(server)
                with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
                    while True:
                        await rush.held()
            server = devstack.start_postgres(tmp_path / "postgres", port=port, durable=False)
            back = time.monotonic()

            async def sells() -> bool:
                return (await service.reserve(drop_id, "after")).status == 201

            await wait_until(sells, "the sale goes on", seconds=8)
            await wait_until(lambda: service.settled(drop_id), "nothing is stranded", seconds=8)
            print(f"settled {time.monotonic() - back:.2f} s after Postgres was back")
            words = rush.check(5_000, {"RETRYABLE", "OUTCOME_UNKNOWN"})
            database = await asyncpg.connect(settings.database_url)
            rows = await database.fetch("SELECT id::text FROM reservations WHERE state = 'active'")
            await database.close()
            promised = {reply.json["id"] for reply in rush.replies if reply.status == 201}
            assert promised <= {row["id"] for row in rows}, "a promised hold is gone"
            assert words["held"] >= 200
            await _sells_the_rest(service, drop_id)
    finally:
        server.stop()


def _kill_all(server: devstack.Server) -> None:
    """kill -9 of the server and of each process of it: no farewell, no last write."""
    parent = psutil.Process(server.pid)
    for process in (parent, *parent.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


@pytest.mark.slow
async def test_a_new_keeper_takes_up_what_a_killed_one_left(
    service: Service, ground: Ground
) -> None:
    drop_id = await service.open_drop(50, holdSeconds=1)
    await service.kill(service.keepers[0])
    held = await asyncio.gather(*(service.reserve(drop_id, f"b{n}") for n in range(40)))
    await strand(ground, drop_id, 5)

    async def all_over() -> bool:
        return bool((await service.audit(drop_id))["overdueSeconds"] > 0)

    await wait_until(all_over, "the holds ran out and nobody freed them")
    assert (await service.stock(drop_id))["heldStock"] == len(held)

    await service.start_keeper()
    begun = time.monotonic()

    await wait_until(lambda: service.settled(drop_id), "nothing is stranded", seconds=8)
    print(f"settled {time.monotonic() - begun:.2f} s after the new keeper was ready")
    assert (await service.stock(drop_id))["availableStock"] == 50


@pytest.mark.slow
async def test_a_worker_that_is_sent_away_answers_every_request_it_has(
    service: Service, settings: Settings
) -> None:
    drop_id = await service.open_drop(100, holdSeconds=600)
    async with stock_locked(settings.database_url, drop_id) as database:
        asking = asyncio.gather(*(service.reserve(drop_id, f"b{n}") for n in range(60)))

        async def both_wait() -> bool:
            return await waiting_claims(database) == 2

        await wait_until(both_wait, "both workers' claims are under way", pause=0.002)
        leaving = service.workers[0]
        leaving.send_signal(signal.SIGTERM)
    replies = await asking

    assert {reply.status for reply in replies} == {201}
    assert await asyncio.wait_for(leaving.wait(), 12) == 0
    await service.crowd.close()  # its idle connections led to the one that is gone
    await wait_until(lambda: service.settled(drop_id), "nothing is stranded", seconds=5)


@pytest.mark.slow
async def test_a_rush_through_a_worker_that_leaves_gets_only_real_answers(
    settings: Settings, tmp_path: Path
) -> None:
    async with Service.open(settings, tmp_path) as service:
        drop_id = await service.open_drop(10_000, holdSeconds=600)
        async with Rush.of(service, drop_id, settings.database_url, clients=30) as rush:
            await rush.sells(100)
            begun = time.monotonic()
            service.workers[0].terminate()
            assert await asyncio.wait_for(service.workers[0].wait(), 12) == 0
            print(f"the worker left within {time.monotonic() - begun:.2f} s")
            await rush.sells(100)

        held = rush.check(10_000, {"RETRYABLE", "OUTCOME_UNKNOWN", "SOLD_OUT"})["held"]
        await service.crowd.close()  # its idle connections led to the one that is gone
        await wait_until(lambda: service.settled(drop_id), "nothing is stranded", seconds=5)
        # A connection that is idle when the worker closes it may be cut under the next request:
        # such a request was never read.
        assert held == (await service.stock(drop_id))["heldStock"]
        print(f"{held} held, {rush.cut} cut off unread")


@pytest.mark.slow
async def test_clients_who_hang_up_in_mid_request_change_nothing(
    settings: Settings, tmp_path: Path
) -> None:
    async with Service.open(settings, tmp_path, workers=1) as service:
        drop_id = await service.open_drop(20, holdSeconds=600)
        async with stock_locked(settings.database_url, drop_id):
            clients = [await _ask(service, drop_id, f"b{n}", f"k{n}") for n in range(10)]
            # Answered by the same loop, so what was sent before it has been read.
            assert (await service.send("GET", "/health/live")).status == 200
            for client in clients:
                client.close()
                await client.wait_closed()

        async def all_held() -> bool:
            return (await service.stock(drop_id))["heldStock"] == 10

        await wait_until(all_held, "those who hung up have their units")
        again = [await service.reserve(drop_id, f"b{n}", f"k{n}") for n in range(10)]
        assert {reply.headers.get("idempotent-replayed") for reply in again} == {"true"}
        await wait_until(lambda: service.settled(drop_id), "nothing is stranded", seconds=5)
        await _sells_the_rest(service, drop_id)


async def _ask(service: Service, drop_id: int, buyer: str, key: str) -> asyncio.StreamWriter:
    _, writer = await asyncio.open_connection("127.0.0.1", service.port)
    body = json.dumps({"dropId": drop_id, "userId": buyer}).encode()
    head = f"POST /api/v1/reservations HTTP/1.1\r\nhost: 127.0.0.1\r\nidempotency-key: {key}\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()
    return writer
