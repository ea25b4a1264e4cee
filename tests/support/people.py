"""Accounts for tests, put into the database as they are."""

from __future__ import annotations

from typing import Any

from engine.infra.ids import new_id
from engine.infra.postgres import Postgres


async def add_user(postgres: Postgres, status: str = "active", role: str = "user") -> str:
    """An account without a name; its id."""
    id = new_id()
    await ask(
        postgres,
        "INSERT INTO users (id, status, role, deleted_at) "
        "VALUES ($1, $2, $3, CASE WHEN $2 = 'deleted' THEN now() END)",
        id,
        status,
        role,
    )
    return id


async def ask(postgres: Postgres, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """Any statement's rows."""
    async with postgres.session() as session:
        return [tuple(row) for row in await session._connection.fetch(query, *values)]
