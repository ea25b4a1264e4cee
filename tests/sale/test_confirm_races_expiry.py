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

ROUNDS = 1_000


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
