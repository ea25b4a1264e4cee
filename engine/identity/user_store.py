"""Postgres for users: one function a query of sql/queries/users.sql."""

from __future__ import annotations

from collections.abc import Iterable

from engine.infra import sql
from engine.infra.ids import parse_id
from engine.infra.postgres import Postgres, Session

_queries = sql.load("users")

Caller = Postgres | Session


async def find_usernames(caller: Caller, ids: list[str]) -> dict[str, str]:
    """The usernames of the live accounts among these ids; who has none is absent."""
    rows = await caller.call(_queries["find_usernames"], ids=ids)
    return {str(row["id"]): row["username"] for row in rows}


def ids_among(buyers: Iterable[str]) -> list[str]:
    """Those buyers that can be accounts: a buyer may be called anything, an account by its id."""
    return sorted({buyer for buyer in buyers if parse_id(buyer) == buyer})
