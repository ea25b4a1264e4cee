"""Accounts for tests, put straight into the database."""

from __future__ import annotations

import asyncpg

from engine.infra.ids import new_id


async def somebody(database: str, email: str | None = None, status: str = "active") -> str:
    """An account; its id."""
    id = new_id()
    connection = await asyncpg.connect(database)
    try:
        await connection.execute(
            "INSERT INTO users (id, email, status, deleted_at)"
            " VALUES ($1, $2, $3, CASE WHEN $3 = 'deleted' THEN clock_timestamp() END)",
            id,
            email,
            status,
        )
    finally:
        await connection.close()
    return id
