"""Hold rows that claims need, so that they are under way and cannot end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg


@asynccontextmanager
async def stock_locked(database_url: str, drop_id: int) -> AsyncIterator[asyncpg.Connection]:
    """Lock the last row a claim needs until the end of the block."""
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            await connection.execute("SELECT FROM stock WHERE drop_id = $1 FOR UPDATE", drop_id)
            yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def units_locked(database_url: str, drop_id: int) -> AsyncIterator[None]:
    """Take every free unit into our hands until the end of the block, and do nothing with it."""
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            await connection.execute(
                "SELECT FROM units WHERE drop_id = $1 AND state = 'free' FOR UPDATE", drop_id
            )
            yield
    finally:
        await connection.close()


async def waiting_claims(connection: asyncpg.Connection, what: str = "claim_units") -> int:
    """How many claims (or mints) stand before a lock now."""
    await connection.execute("SELECT pg_stat_clear_snapshot()")  # or we see the first look again
    return int(
        await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock' AND query LIKE '%FROM ' || $1 || '(%'",
            what,
        )
    )
