"""INV-1, INV-6, INV-7: whatever Redis loses, nothing is sold twice and the bouncer recovers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import redis.asyncio

from engine.infra import redis as engine_redis
from engine.infra.settings import Settings
from engine.ops import devstack
from engine.runtime import Ground
from tests.support.ghosts import strand
from tests.support.locks import stock_locked, waiting_claims
from tests.support.rush import Rush
from tests.support.service import Service
from tests.support.shop import Shop
from tests.support.wait import wait_until

Fault = Callable[["redis.asyncio.Redis"], Awaitable[object]]


@asynccontextmanager
async def redis_of(url: str) -> AsyncIterator[redis.asyncio.Redis]:
    """A client of the tested Redis, for doing it harm."""
    client = redis.asyncio.Redis.from_url(url)
    try:
        yield client
    finally:
        await client.aclose()


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(lambda client: client.flushall(), id="flushall"),
        pytest.param(lambda client: client.script_flush(), id="script-flush"),
    ],
)
async def test_a_sale_goes_on_through_a_flush_and_the_bouncer_is_exact_within_5_s(
    service: Service, settings: Settings, fault: Fault
) -> None:
    drop_id = await service.open_drop(1_000, holdSeconds=600)
    async with Rush.of(service, drop_id, settings.database_url) as rush:
        await rush.sells(100)
        async with redis_of(settings.redis_url) as client:
            await fault(client)
        flushed = time.monotonic()
        await rush.sells(500)
    over = time.monotonic()

    rush.check(1_000, {"SOLD_OUT"})
    await wait_until(lambda: service.settled(drop_id), "the bouncer is exact", seconds=5)
    now = time.monotonic()
    print(f"exact {now - over:.2f} s after the rush, {now - flushed:.2f} s after the flush")


@pytest.mark.slow
async def test_flushing_again_and_again_sells_no_unit_twice_and_strands_none(
    service: Service, settings: Settings
) -> None:
    drop_id = await service.open_drop(500, holdSeconds=600)
    flushes = 0
    async with (
        redis_of(settings.redis_url) as client,
        Rush.of(service, drop_id, settings.database_url) as rush,
    ):
        while await rush.held() < 500:
            await client.flushall()
            flushes += 1
    last = time.monotonic()

    assert rush.check(500, {"SOLD_OUT"})["held"] == 500
    await wait_until(lambda: service.settled(drop_id), "the bouncer is exact", seconds=5)
    print(f"{flushes} flushes; bouncer exact {time.monotonic() - last:.2f} s after the last")


@pytest.mark.slow
async def test_a_valkey_that_is_killed_and_comes_back_empty_costs_nobody_a_wrong_answer(
    settings: Settings, tmp_path: Path
) -> None:
    valkey = devstack.start_valkey(tmp_path / "valkey", durable=False)
    port = int(valkey.url.rpartition(":")[2].partition("/")[0])
    settings = msgspec.structs.replace(settings, redis_url=valkey.url)
    try:
        async with Service.open(settings, tmp_path) as service:
            drop_id = await service.open_drop(5_000, holdSeconds=600)
            async with Rush.of(service, drop_id, settings.database_url) as rush:
                await rush.sells(100)
                valkey.process.kill()
                await rush.sells(200)  # Postgres decides alone
                valkey = devstack.start_valkey(tmp_path / "valkey", port=port, durable=False)
                back = time.monotonic()
                await rush.sells(200)
            held = rush.check(5_000, {"RETRYABLE", "OUTCOME_UNKNOWN"})["held"]

            await wait_until(lambda: service.settled(drop_id), "the bouncer is exact", seconds=8)
            print(f"{held} held; exact {time.monotonic() - back:.2f} s after Valkey was back")
            assert held == (await service.stock(drop_id))["heldStock"]
    finally:
        valkey.stop()


async def test_a_redis_without_memory_refuses_no_buyer(
    shop: Shop, keeping: None, settings: Settings
) -> None:
    drop_id = await shop.open_drop(20)
    async with redis_of(settings.redis_url) as client:
        enough = str((await client.config_get("maxmemory"))["maxmemory"])
        await client.config_set("maxmemory", 1)
        try:
            replies = [await shop.reserve(drop_id, f"b{n}") for n in range(10)]
        finally:
            await client.config_set("maxmemory", enough)

    assert {reply.status for reply in replies} == {201}
    await wait_until(lambda: shop.settled(drop_id), "the bouncer is exact", seconds=8)


@pytest.mark.parametrize("name", ["drop", "intents", "buyers"])
async def test_one_lost_key_is_made_good_within_5_s_and_misleads_nobody(
    shop: Shop, keeping: None, ground: Ground, settings: Settings, name: str
) -> None:
    drop_id = await shop.open_drop(20, maxPerBuyer=1)
    assert (await shop.reserve(drop_id, "ann")).status == 201
    await strand(ground, drop_id, 5)

    async with redis_of(settings.redis_url) as client:
        assert await client.delete(ground.bouncer._key(drop_id, name)) == 1

    assert (await shop.reserve(drop_id, "ann")).error == "LIMIT_REACHED"
    assert (await shop.reserve(drop_id, "bob")).status == 201
    lost = time.monotonic()
    await wait_until(lambda: shop.settled(drop_id), "the bouncer is exact", seconds=8)
    print(f"{name}: bouncer exact {time.monotonic() - lost:.2f} s after the loss")
    replies = [await shop.reserve(drop_id, f"late-{n}") for n in range(19)]
    assert [reply.status for reply in replies] == [201] * 18 + [409]


async def test_a_redis_that_was_set_back_refuses_no_winner_whose_claim_is_under_way(
    shop: Shop, ground: Ground, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failover to a replica that lagged, or a restart from an older file: the intent is gone, and
    by its own account the drop was filled long ago. Whoever met it just now waits for the claim."""
    monkeypatch.setattr(engine_redis, "PROBE_SECONDS", 0.02)
    drop_id = await shop.open_drop(1)
    zoes = await shop.reserve(drop_id, "zoe")
    keys = [ground.bouncer._key(drop_id, name) for name in ("drop", "intents", "buyers")]
    async with redis_of(settings.redis_url) as client, Shop.open(settings) as other:
        await client.hset(keys[0], "born_ms", 1)
        old = {key: await client.dump(key) for key in keys}  # zoe holds the only unit
        assert (await shop.release(zoes.json["id"], "zoe")).status == 204
        async with stock_locked(settings.database_url, drop_id) as lock:
            first = asyncio.create_task(other.reserve(drop_id, "ann", "key"))

            async def waits() -> bool:
                return await waiting_claims(lock) == 1

            await wait_until(waits, "the claim is in Postgres's hands")
            await client.delete(*keys)
            for key, dump in old.items():
                if dump is not None:
                    await client.restore(key, 0, dump)
            await client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

            async def is_back() -> bool:
                return bool((await shop.send("GET", "/health")).json["redis"] == "ok")

            await wait_until(is_back, "the worker has met it anew")
            copy = asyncio.create_task(shop.reserve(drop_id, "ann", "key"))
            await asyncio.wait([copy], timeout=0.25)
            assert not copy.done(), (await copy).body
        held, told = await first, await copy

    assert held.status == 201
    assert (told.status, told.json.get("id")) == (201, held.json["id"]), told.body
