"""INV-5: a hold ends in exactly one way."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime

import asyncpg
import pytest

from engine.infra.settings import Settings
from engine.runtime import Ground
from engine.sale import expire
from tests.support.shop import Shop
from tests.support.wait import wait_until

ROUNDS = 1_000
SOON_OVER = (
    "UPDATE reservations SET expires_at = clock_timestamp() + interval '400 ms' WHERE id = $1"
)
STANDING = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND wait_event_type = 'Lock' AND query LIKE '%FROM purchase_units(%'"
)


@pytest.mark.slow
async def test_confirm_racing_expiry_1000_times_has_exactly_one_winner_each_time(
    shop: Shop, ground: Ground, settings: Settings
) -> None:
    """Every confirm is sent in the last moment, while a sweeper runs without a pause."""
    drop_id = await shop.open_drop(ROUNDS, holdSeconds=3, maxPerBuyer=None)
    ahead = await _clock_ahead(settings)
    holds: list[tuple[str, float]] = []
    for first in range(0, ROUNDS, 100):
        batch = (shop.reserve(drop_id, f"b{n}") for n in range(first, first + 100))
        for reply in await asyncio.gather(*batch):
            deadline = datetime.fromisoformat(reply.json["expiresAt"]).timestamp()
            holds.append((reply.json["id"], deadline - ahead))
    bought: set[str] = set()
    sweeping = True

    async def sweep() -> None:
        while sweeping:
            await expire.expire_due(ground.postgres, ground.bouncer)
            await asyncio.sleep(0)

    async def confirm(n: int, id: str, deadline: float) -> None:
        await asyncio.sleep(max(deadline - time.monotonic() + (n % 41 - 20) * 0.001, 0))
        reply = await shop.confirm(id, f"b{n}")
        assert reply.status in (201, 410), reply.body
        if reply.status == 201:
            bought.add(id)

    sweeper = asyncio.create_task(sweep())
    await asyncio.gather(*(confirm(n, id, at) for n, (id, at) in enumerate(holds)))
    sweeping = False
    await sweeper
    await expire.expire_due(ground.postgres, ground.bouncer)

    audit = await shop.audit(drop_id)
    assert audit["clean"], audit
    assert audit["sold"] == len(bought)
    assert audit["free"] == ROUNDS - len(bought)
    assert 0 < len(bought) < ROUNDS, "the race was not staged: one side always won"


async def _clock_ahead(settings: Settings) -> float:
    """Seconds to take off a moment of Postgres's clock to have one of time.monotonic()."""
    connection = await asyncpg.connect(settings.database_url)
    await connection.fetchval("SELECT 1")
    before = time.monotonic()
    theirs: datetime = await connection.fetchval("SELECT clock_timestamp()")
    ours = (before + time.monotonic()) / 2
    await connection.close()
    return theirs.timestamp() - ours


async def test_a_deadline_that_passes_while_its_hold_is_in_others_hands_has_passed(
    shop: Shop, settings: Settings
) -> None:
    """Both are confirmed in one batch, which stands before the first hold's lock in time."""
    drop_id = await shop.open_drop(2, holdSeconds=60)
    late, good = [(await shop.reserve(drop_id, buyer)).json for buyer in ("ann", "ben")]
    there = await asyncpg.connect(settings.database_url)
    await there.execute(SOON_OVER, late["id"])
    hands = await asyncpg.connect(settings.database_url)
    taken = hands.transaction()
    await taken.start()
    await hands.execute("SELECT FROM reservations WHERE id = $1 FOR UPDATE", late["id"])

    confirms = asyncio.gather(*(shop.confirm(h["id"], h["userId"]) for h in (late, good)))
    await wait_until(lambda: there.fetchval(STANDING), "the batch waits for the hold")
    over = "SELECT expires_at < clock_timestamp() FROM reservations WHERE id = $1"
    assert not await there.fetchval(over, late["id"]), "it came too late to be a race"
    await wait_until(lambda: there.fetchval(over, late["id"]), "the deadline has passed")
    await taken.rollback()

    assert [reply.status for reply in await confirms] == [410, 201]
    audit = await shop.audit(drop_id)
    assert (audit["clean"], audit["sold"]) == (True, 1)
    for connection in (there, hands):
        await connection.close()


@pytest.mark.parametrize("mover", ["extend_hold", "pay_hold"])
async def test_a_deadline_that_is_moved_as_it_passes_was_moved(
    shop: Shop, settings: Settings, mover: str
) -> None:
    """A batch of confirms reads the old deadline while the new one is not committed yet."""
    drop_id = await shop.open_drop(2, holdSeconds=600)
    moved, other = [(await shop.reserve(drop_id, buyer)).json for buyer in ("ann", "ben")]
    there = await asyncpg.connect(settings.database_url)
    await there.execute(SOON_OVER, moved["id"])
    hands = await asyncpg.connect(settings.database_url)
    taken = hands.transaction()
    await taken.start()
    assert await hands.fetchrow(f"SELECT * FROM {mover}($1, 'ann')", moved["id"])
    over = "SELECT expires_at < clock_timestamp() FROM reservations WHERE id = $1"
    await wait_until(lambda: there.fetchval(over, moved["id"]), "the old deadline has passed")

    confirms = asyncio.gather(*(shop.confirm(h["id"], h["userId"]) for h in (moved, other)))
    await wait_until(lambda: there.fetchval(STANDING), "the batch waits for the hold")
    await taken.commit()

    assert [reply.status for reply in await confirms] == [201, 201]
    for connection in (there, hands):
        await connection.close()
