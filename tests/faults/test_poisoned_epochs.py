"""INV-9: history is cut off under a running sale, by hand; versions only rise, the sale goes on."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from engine.infra.settings import Settings
from engine.runtime import Ground
from tests.faults.test_redis_forgets import redis_of
from tests.support.rush import Rush
from tests.support.service import Service
from tests.support.shop import Shop
from tests.support.wait import wait_until

LATER_EPOCH = "UPDATE engine_state SET epoch = epoch + 5"
OTHER_TIMELINE = "UPDATE engine_state SET timeline = 'FFFFFFFF'"


async def _execute(settings: Settings, statement: str) -> None:
    connection = await asyncpg.connect(settings.database_url)
    await connection.execute(statement)
    await connection.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "poison",
    [pytest.param(LATER_EPOCH, id="epoch"), pytest.param(OTHER_TIMELINE, id="timeline")],
)
async def test_a_new_epoch_in_mid_sale_refuses_nobody_and_the_bouncer_begins_anew(
    service: Service, settings: Settings, ground: Ground, poison: str
) -> None:
    drop_id = await service.open_drop(2_000, holdSeconds=600)
    seen: list[tuple[int, int]] = []

    async def look() -> None:
        belief = await ground.bouncer.inspect(drop_id)
        if belief is not None:
            seen.append((belief.epoch, belief.version))

    async with Rush.of(service, drop_id, settings.database_url) as rush:
        for _ in range(3):
            await rush.sells(100)
            await look()
            await _execute(settings, poison)
            await look()
            await rush.sells(100)
            await look()

    rush.check(2_000, {"SOLD_OUT"})
    await wait_until(lambda: service.settled(drop_id), "the bouncer is exact", seconds=5)
    await look()
    assert seen == sorted(seen), "a version or an epoch fell"
    assert len({epoch for epoch, _ in seen}) == 4


@pytest.mark.parametrize("poison", [LATER_EPOCH, OTHER_TIMELINE])
async def test_a_winner_who_asks_again_right_after_a_failover_gets_his_hold(
    shop: Shop, settings: Settings, poison: str
) -> None:
    """His is the only request, so nobody else's refusal refreshes the worker's epoch."""
    drop_id = await shop.open_drop(10, maxPerBuyer=5)
    first = await shop.reserve(drop_id, "ann", "ann-1")
    await _execute(settings, poison)

    again = await shop.reserve(drop_id, "ann", "ann-1")

    assert (again.status, again.body) == (201, first.body)


async def test_a_bouncer_that_claims_an_absurd_epoch_cannot_stop_the_sale(
    shop: Shop, keeping: None, ground: Ground, settings: Settings
) -> None:
    """Redis may lie. What Postgres believes of its epoch must not outlive the lie."""
    drop_id = await shop.open_drop(20)
    async with redis_of(settings.redis_url) as client:
        await client.hset(ground.bouncer._key(drop_id, "drop"), "epoch", str(1 << 52))

    async def sells() -> bool:
        return (await shop.reserve(drop_id, "ann")).status == 201

    await wait_until(sells, "somebody buys", seconds=5)
    await wait_until(lambda: shop.settled(drop_id), "the bouncer is exact", seconds=8)
    async with redis_of(settings.redis_url) as client:
        await client.flushall()
    assert (await shop.reserve(drop_id, "bob")).status == 201


async def test_of_many_who_find_another_timeline_at_once_one_begins_the_epoch(
    ground: Ground, settings: Settings
) -> None:
    """All of them are told the new one, not what they saw before they had to wait for it."""
    before = ground.postgres.epoch
    database = await asyncpg.connect(settings.database_url)
    crowd = [await asyncpg.connect(settings.database_url) for _ in range(8)]
    await database.execute(OTHER_TIMELINE)
    async with database.transaction():
        await database.execute("SELECT FROM engine_state FOR UPDATE")
        asking = [asyncio.create_task(each.fetchval("SELECT bump_epoch(NULL)")) for each in crowd]

        async def all_wait() -> bool:
            await database.execute("SELECT pg_stat_clear_snapshot()")
            waiting = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND wait_event_type = 'Lock' AND query LIKE '%bump_epoch%'"
            )
            return bool(await database.fetchval(waiting) == len(crowd))

        await wait_until(all_wait, "all of them stand before its row")
    told = set(await asyncio.gather(*asking))
    for each in (database, *crowd):
        await each.close()

    assert len(told) == 1
    assert told.pop() > before
