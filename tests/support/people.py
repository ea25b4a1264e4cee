"""Accounts for tests, put into the database as they are."""

from __future__ import annotations

from typing import Any

import asyncpg

from engine.infra.ids import new_id
from engine.infra.postgres import Postgres


async def add_user(
    database: str, email: str | None = None, status: str = "active", role: str = "user"
) -> str:
    """An account without a name in that database; its id."""
    id = new_id()
    connection = await asyncpg.connect(database)
    try:
        await connection.execute(
            "INSERT INTO users (id, email, status, role, deleted_at)"
            " VALUES ($1, $2, $3, $4, CASE WHEN $3 = 'deleted' THEN clock_timestamp() END)",
            *(id, email, status, role),
        )
    finally:
        await connection.close()
    return id


async def ask(postgres: Postgres, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """Any statement's rows."""
    async with postgres.session() as session:
        return [tuple(row) for row in await session._connection.fetch(query, *values)]
