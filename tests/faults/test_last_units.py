"""INV-1, INV-2, INV-8: the last units, orders of several sizes, and everybody at the same rows."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter

import asyncpg
import pytest

from engine.infra.ids import new_id
from engine.infra.postgres import Undone
from engine.infra.settings import Settings
from engine.runtime import Ground
from engine.sale import expire, store
from engine.sale.bouncer import ATTEMPTS_PER_EPOCH
from engine.sale.models import Claim, Release
from tests.faults.test_redis_forgets import redis_of
from tests.support.locks import units_locked
from tests.support.rush import check_sale
from tests.support.service import Service
from tests.support.shop import Shop
from tests.support.wait import wait_until


@pytest.mark.slow
@pytest.mark.parametrize(
    "forget",
    [pytest.param(False, marks=pytest.mark.at_length), True],
    ids=["bouncer", "forgetful-bouncer"],
)
async def test_ten_last_units_for_orders_of_three_are_sold_all_or_nothing(
    service: Service, settings: Settings, forget: bool
) -> None:
    """With a bouncer that forgets, Postgres alone sees that too few are left."""
    drop_id = await service.open_drop(10, maxPerBuyer=3, maxPerOrder=3, holdSeconds=600)
    asking = asyncio.gather(*(service.reserve(drop_id, f"b{n}", None, 3) for n in range(60)))
    async with redis_of(settings.redis_url) as client:
        while forget and not asking.done():
            await client.flushall()
    replies = await asking

    check_sale(replies, 10, {"SOLD_OUT"})
    won = [reply.json["units"] for reply in replies if reply.status == 201]
    assert [len(units) for units in won] == [3, 3, 3]
    assert {reply.json["retryable"] for reply in replies if reply.status == 409} == {True}
    assert (await service.reserve(drop_id, "small")).status == 201
    assert (await service.reserve(drop_id, "late")).error == "SOLD_OUT"
    await wait_until(lambda: service.settled(drop_id), "the bouncer is exact", seconds=5)


async def test_units_in_the_hands_of_others_are_waited_for_and_not_called_sold_out(
    shop: Shop, settings: Settings, ground: Ground
) -> None:
    """A claim that finds nothing it could lock has learned nothing of the stock."""
    drop_id = await shop.open_drop(2)
    async with units_locked(settings.database_url, drop_id):
        epoch = ground.postgres.epoch
        claim = Claim(new_id(), epoch * ATTEMPTS_PER_EPOCH + 1, new_id(), "ann", 1)
        async with ground.postgres.session() as session:
            claimed = await store.claim_units(session, drop_id, epoch, [claim])
        assert claimed.words == ["contended"]
        asking = asyncio.gather(*(shop.reserve(drop_id, f"b{n}") for n in range(2)))
        done, _ = await asyncio.wait([asking], timeout=0.2)
        assert not done

    assert [reply.status for reply in await asking] == [201, 201]


@pytest.mark.slow
async def test_mixed_orders_for_the_last_units_leave_none_that_anybody_still_wants(
    service: Service, settings: Settings
) -> None:
    drop_id = await service.open_drop(40, maxPerBuyer=5, maxPerOrder=5, holdSeconds=600)
    sizes = [random.randint(1, 5) for _ in range(200)] + [1] * 20
    random.shuffle(sizes)
    begun = time.monotonic()

    replies = await asyncio.gather(
        *(service.reserve(drop_id, f"b{n}", None, size) for n, size in enumerate(sizes))
    )

    took = time.monotonic() - begun
    check_sale(replies, 40, {"SOLD_OUT"})
    for size, reply in zip(sizes, replies, strict=True):
        assert reply.status == 409 or len(reply.json["units"]) == size
    assert (await service.stock(drop_id))["availableStock"] == 0
    assert took < 5, f"{took:.1f} s: they stood in each other's way"
    await wait_until(lambda: service.settled(drop_id), "the bouncer is exact", seconds=5)


async def test_a_smaller_order_behind_a_refused_larger_one_in_the_same_batch_is_served(
    shop: Shop,
) -> None:
    drop_id = await shop.open_drop(5, maxPerBuyer=4, maxPerOrder=4)

    replies = await asyncio.gather(
        shop.reserve(drop_id, "a", None, 4),
        shop.reserve(drop_id, "b", None, 4),
        shop.reserve(drop_id, "c", None, 1),
        shop.reserve(drop_id, "d", None, 1),
    )

    assert [reply.status for reply in replies] == [201, 409, 201, 409]


def _claims(ground: Ground, buyers: list[str]) -> list[Claim]:
    number = ground.postgres.epoch * ATTEMPTS_PER_EPOCH + 1
    claims = [Claim(new_id().replace("-", ""), number, new_id(), buyer, 1) for buyer in buyers]
    return sorted(claims, key=lambda claim: claim.request_id)


async def _deadlocks(settings: Settings) -> int:
    connection = await asyncpg.connect(settings.database_url)
    query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    await connection.execute("SELECT pg_stat_force_next_flush()")
    count = await connection.fetchval(query)
    await connection.close()
    return int(count)


async def test_claims_of_the_same_buyers_in_opposite_order_do_not_deadlock(
    shop: Shop, ground: Ground, settings: Settings
) -> None:
    drop_id = await shop.open_drop(2_000, maxPerBuyer=None)
    buyers = [f"b{n}" for n in range(20)]

    async def claim(names: list[str]) -> None:
        claims = _claims(ground, names)
        async with ground.postgres.session() as session:
            claimed = await store.claim_units(session, drop_id, ground.postgres.epoch, claims)
        assert len(claimed.numbers) == len(names)

    for _ in range(10):
        await asyncio.gather(*(claim(buyers[::way]) for way in (1, -1, 1, -1)))

    assert await _deadlocks(settings) == 0
    assert (await shop.stock(drop_id))["heldStock"] == 800
    assert (await shop.audit(drop_id))["clean"]


@pytest.mark.slow
async def test_claims_releases_repeats_and_expiry_of_the_same_buyers_leave_a_clean_audit(
    shop: Shop, ground: Ground, settings: Settings
) -> None:
    drop_id = await shop.open_drop(60, maxPerBuyer=3, holdSeconds=1)
    buyers = [f"b{n}" for n in range(12)]
    until = time.monotonic() + 6
    words: Counter[str] = Counter()

    async def buyer_at_random(seed: int) -> None:
        dice = random.Random(seed)
        mine: list[tuple[str, str]] = []
        while time.monotonic() < until:
            buyer, key = dice.choice(buyers), f"k{dice.randint(0, 40)}"
            reply = await shop.reserve(drop_id, buyer, key, dice.randint(1, 3))
            words[str(reply.status) if reply.status == 201 else reply.error] += 1
            if reply.status == 201:
                mine.append((reply.json["id"], buyer))
            if mine and dice.random() < 0.7:
                id, owner = mine.pop()
                gone = await (shop.confirm if dice.random() < 0.02 else shop.release)(id, owner)
                words[str(gone.status) if gone.status < 300 else gone.error] += 1

    async def releases_at_once() -> None:
        connection = await asyncpg.connect(settings.database_url)
        live = "SELECT id::text, buyer FROM reservations WHERE state = 'active' ORDER BY random()"
        while time.monotonic() < until:
            rows = await connection.fetch(live + " LIMIT 8")
            releases = [Release(row["id"], row["buyer"]) for row in rows]
            try:
                await store.release_holds(ground.postgres, releases)
            except Undone as undone:
                words[undone.sqlstate or "?"] += 1
        await connection.close()

    async def sweep() -> None:
        while time.monotonic() < until:
            try:
                await expire.expire_due(ground.postgres, ground.bouncer)
            except Undone as undone:
                words[undone.sqlstate or "?"] += 1
            await asyncio.sleep(0)

    async def forget() -> None:
        async with redis_of(settings.redis_url) as client:
            while time.monotonic() < until:
                await client.flushall()
                await asyncio.sleep(0.2)

    await asyncio.gather(
        *(buyer_at_random(seed) for seed in range(24)),
        releases_at_once(),
        sweep(),
        sweep(),
        forget(),
    )

    print(dict(words), "deadlocks:", await _deadlocks(settings))
    audit = await shop.audit(drop_id)
    assert audit["clean"], audit["problems"]
    allowed = {
        *("200", "201", "204", "SOLD_OUT", "LIMIT_REACHED", "IDEMPOTENCY_MISMATCH"),
        *("HOLD_EXPIRED", "ALREADY_RESOLVED", "IN_PROGRESS", "40P01", "55P03"),
    }
    assert set(words) <= allowed, words
