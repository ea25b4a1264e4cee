"""A Redis that answers PING and can be read, and not written: full, a replica, or paused by a
failover. What it last knew is old, so nobody may be refused by it, and it is as good as away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from engine.infra.settings import Settings
from tests.faults.test_redis_forgets import redis_of
from tests.support.shop import Shop
from tests.support.wait import wait_until

FAULTS = ["full", "replica", "paused"]
TIME_OUT_SECONDS = 1.0  # that a worker waits for Redis


@asynccontextmanager
async def unwritable(url: str, fault: str) -> AsyncIterator[None]:
    """Nobody can write until the end of the block."""
    async with redis_of(url) as client:
        enough = str((await client.config_get("maxmemory"))["maxmemory"])
        try:
            if fault == "full":
                await client.config_set("maxmemory", 1)
            elif fault == "replica":  # of a server that is gone
                await client.execute_command("REPLICAOF", "127.0.0.1", "1")
            else:
                await client.execute_command("CLIENT", "PAUSE", "60000", "WRITE")
            yield
        finally:
            await client.execute_command("CLIENT", "UNPAUSE")
            await client.execute_command("REPLICAOF", "NO", "ONE")
            await client.config_set("maxmemory", enough)


async def _is_writable_again(shop: Shop, drop_id: int) -> None:
    async def exact() -> bool:
        health = (await shop.send("GET", "/health")).json
        return health["redis"] == "ok" and await shop.settled(drop_id)

    await wait_until(exact, "the bouncer is back and exact", seconds=8)


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_unit_that_came_back_is_sold_though_the_bouncer_could_not_be_told(
    shop: Shop, keeping: None, settings: Settings, fault: str
) -> None:
    """The sweeper frees it: the worker itself has met no error that could have warned it."""
    drop_id = await shop.open_drop(1, holdSeconds=1)
    assert (await shop.reserve(drop_id, "ann")).status == 201
    assert (await shop.reserve(drop_id, "bob", "bobs key")).error == "SOLD_OUT"
    await shop.change(drop_id, holdSeconds=60, maxHoldSeconds=60)
    async with unwritable(settings.redis_url, fault):

        async def is_free() -> bool:
            return (await shop.stock(drop_id))["availableStock"] == 1

        await wait_until(is_free, "it is free in Postgres")

        sold = await shop.reserve(drop_id, "bob", "bobs key")
        late = await shop.reserve(drop_id, "eve")
        health = (await shop.send("GET", "/health")).json

        assert (sold.status, late.error) == (201, "SOLD_OUT"), sold.body
        assert (health["status"], health["redis"], health["database"]) == ("degraded", "away", "ok")
        assert "Postgres sells alone" in health["message"]
    await _is_writable_again(shop, drop_id)


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_drop_that_another_worker_resumed_sells_though_the_bouncer_calls_it_paused(
    shop: Shop, keeping: None, settings: Settings, fault: str
) -> None:
    drop_id = await shop.open_drop(3)
    assert (await shop.send("POST", f"/drops/{drop_id}/pause")).status == 200
    assert (await shop.reserve(drop_id, "ann", "anns key")).error == "PAUSED"
    async with Shop.open(settings) as other, unwritable(settings.redis_url, fault):
        assert (await other.send("POST", f"/drops/{drop_id}/resume")).status == 200

        replies = [await shop.reserve(drop_id, buyer, "a key") for buyer in "abcd"]

        words = ["held" if reply.status == 201 else reply.error for reply in replies]
        assert words == ["held"] * 3 + ["SOLD_OUT"]
        assert (await shop.audit(drop_id))["undersell"]["units"] == 0
    await _is_writable_again(shop, drop_id)


async def test_a_redis_that_pauses_writes_costs_one_time_out_and_not_one_for_each_probe(
    shop: Shop, keeping: None, settings: Settings
) -> None:
    """The probe comes by every 200 ms, and must not take an answer to a PING for a recovery."""
    drop_id = await shop.open_drop(100)
    assert (await shop.reserve(drop_id, "first")).status == 201
    waited = []
    async with unwritable(settings.redis_url, "paused"):
        for n in range(15):
            asked = time.monotonic()
            assert (await shop.reserve(drop_id, f"b{n}")).status == 201
            waited.append(time.monotonic() - asked)
            await asyncio.sleep(0.05)  # so that there are several probes

        slow = [round(seconds, 2) for seconds in waited if seconds >= TIME_OUT_SECONDS]
        assert len(slow) <= 1, slow
    await _is_writable_again(shop, drop_id)
