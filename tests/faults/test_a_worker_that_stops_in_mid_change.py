"""A worker that stops in the middle of a transaction keeps its locks, but not for long."""

from __future__ import annotations

import asyncio
import time

import asyncpg
import msgspec
import pytest

from engine.infra.settings import Settings
from loadtest.chaos.pgproxy import PgProxy
from tests.support.shop import Shop
from tests.support.wait import wait_until

ENDS_TRANSACTIONS = 17  # the first Postgres that ends a transaction by its age


async def test_a_worker_that_stops_in_mid_change_stops_the_sale_for_5_s_at_most(
    shop: Shop, settings: Settings
) -> None:
    """Frozen between a statement's Parse and its Bind with the stock row in hand: Postgres takes
    the transaction for active, and no other time-out of it would ever come."""
    database = await asyncpg.connect(settings.database_url)
    major = database.get_server_version().major
    await database.close()
    if major < ENDS_TRANSACTIONS:
        pytest.skip(f"Postgres {major} cannot")
    drop_id = await shop.open_drop(100)
    async with PgProxy.open(settings.database_url) as proxy:
        through = msgspec.structs.replace(settings, database_url=proxy.url)
        async with Shop.open(through) as other:
            trap = proxy.arm("FOR NO KEY UPDATE", "hold")
            change = asyncio.create_task(other.change(drop_id, withdrawStock=10))
            await asyncio.wait_for(trap.caught.wait(), 5)
            stopped = time.monotonic()
            assert (await shop.reserve(drop_id, "ann")).error == "RETRYABLE", "nothing is held up"

            async def sells() -> bool:
                return (await shop.reserve(drop_id, "ann")).status == 201

            await wait_until(sells, "the sale goes on", seconds=12)
            waited = time.monotonic() - stopped
            print(f"the sale stood still for {waited:.1f} s")
            assert waited < 6
            trap.let_go.set()
            assert (await change).error == "OUTCOME_UNKNOWN"
    stock = await shop.stock(drop_id)
    assert (stock["withdrawnStock"], stock["heldStock"]) == (0, 1)
    assert (await shop.audit(drop_id))["clean"]
