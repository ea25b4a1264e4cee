"""A rush makes a thousand rows of one before anybody analyses them: what is read stays small."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from engine.infra.settings import Settings
from tests.support.shop import Shop

HOLDS, BATCH = 1_500, 60
READ_MAX = HOLDS + 12 * BATCH  # rows, and all once by the planner; all with each were 90,000
TABLES = ("reservations", "allowances", "purchases", "units")

BUY = (
    "SELECT bought FROM purchase_units($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[])"
)
RELEASE = "SELECT returned FROM release_holds($1::uuid[], $2::text[])"
EXPIRE = "SELECT returned FROM expire_holds(NULL, $1)"


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    opened = await asyncpg.connect(settings.database_url)
    yield opened
    await opened.close()


async def _analysed_before_the_rush(shop: Shop, connection: asyncpg.Connection) -> list[str]:
    """The holds of a rush that no statistics know of."""
    drop = await shop.open_drop(HOLDS + 1, holdSeconds=600, cooldownFactor=2, maxPerBuyer=2)
    await shop.reserve(drop, "early")
    for table in TABLES:
        await connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        await connection.execute(f"ANALYZE {table}")
    held: list[Any] = []
    for first in range(0, HOLDS, 250):
        buyers = range(first, first + 250)
        held += await asyncio.gather(*(shop.reserve(drop, f"b{n}") for n in buyers))
    return [reply.json["id"] for reply in held]


async def _rows_read(connection: asyncpg.Connection, query: str, *words: Any) -> dict[str, int]:
    """What one call reads of each table, when it moves as many holds as it should."""
    async with connection.transaction():
        rows = await connection.fetch(query, *words)
        assert sum(len(row[0]) for row in rows) == BATCH
        return {
            row["relname"]: row["read"]
            for row in await connection.fetch(
                "SELECT relname, seq_tup_read + coalesce(idx_tup_fetch, 0) AS read"
                "  FROM pg_stat_xact_user_tables WHERE relname = ANY ($1)",
                TABLES,
            )
        }


async def test_a_batch_of_purchases_reads_its_own_holds_and_no_others(
    shop: Shop, connection: asyncpg.Connection
) -> None:
    held = (await _analysed_before_the_rush(shop, connection))[:BATCH]
    fresh = [[uuid.uuid4() for _ in held] for _ in range(2)]

    read = await _rows_read(connection, BUY, *fresh, held, [None] * BATCH, [None] * BATCH)

    assert 0 < max(read.values()) <= READ_MAX, read


async def test_a_batch_of_releases_reads_its_own_holds_and_buyers_and_no_others(
    shop: Shop, connection: asyncpg.Connection
) -> None:
    held = (await _analysed_before_the_rush(shop, connection))[:BATCH]

    read = await _rows_read(connection, RELEASE, held, [None] * BATCH)

    assert 0 < max(read.values()) <= READ_MAX, read


async def test_what_runs_out_is_found_without_reading_what_does_not(
    shop: Shop, connection: asyncpg.Connection
) -> None:
    held = await _analysed_before_the_rush(shop, connection)
    await connection.execute(
        "UPDATE reservations SET expires_at = now() - interval '1 s' WHERE id = ANY ($1::uuid[])",
        held[:BATCH],
    )

    read = await _rows_read(connection, EXPIRE, BATCH)

    assert 0 < max(read.values()) <= READ_MAX, read
