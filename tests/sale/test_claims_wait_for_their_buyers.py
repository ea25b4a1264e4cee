"""A claim meets somebody else's change of its buyer's row, and goes by what was committed."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from engine.infra.settings import Settings
from tests.support.locks import waiting_claims
from tests.support.shop import Shop
from tests.support.wait import wait_until

CHANGE = "UPDATE allowances SET used = used + $2 WHERE drop_id = $1 AND buyer = 'ann'"


@pytest.mark.parametrize(("by", "status", "used"), [(1, 409, 2), (0, 201, 2), (-1, 201, 1)])
async def test_a_limit_is_that_of_the_row_a_claim_waited_for(
    shop: Shop, settings: Settings, by: int, status: int, used: int
) -> None:
    drop_id = await shop.open_drop(5, maxPerBuyer=2)
    assert (await shop.reserve(drop_id, "ann")).status == 201
    connection = await asyncpg.connect(settings.database_url)
    try:
        async with connection.transaction():
            await connection.execute(CHANGE, drop_id, by)
            asking = asyncio.create_task(shop.reserve(drop_id, "ann"))

            async def waits() -> bool:
                return await waiting_claims(connection) == 1

            await wait_until(waits, "the claim waits for the row")
        assert (await asking).status == status
        row = "SELECT used FROM allowances WHERE drop_id = $1 AND buyer = 'ann'"
        assert await connection.fetchval(row, drop_id) == used
    finally:
        await connection.close()


async def test_a_buyer_who_is_new_to_two_batches_at_once_is_counted_once(
    shop: Shop, settings: Settings
) -> None:
    drop_id = await shop.open_drop(5, maxPerBuyer=1)
    connection = await asyncpg.connect(settings.database_url)
    try:
        async with connection.transaction():
            await connection.execute("INSERT INTO allowances VALUES ($1, 'ann', 1)", drop_id)
            asking = asyncio.create_task(shop.reserve(drop_id, "ann"))

            async def waits() -> bool:
                return await waiting_claims(connection) == 1

            await wait_until(waits, "the claim waits for the other's row")
        reply = await asking
        assert (reply.status, reply.json["error"]) == (409, "LIMIT_REACHED")
        assert (
            await connection.fetchval("SELECT count(*) FROM units WHERE drop_id = $1", drop_id) == 5
        )
    finally:
        await connection.close()
