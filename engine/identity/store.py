"""Postgres for identity: one function a query of sql/queries/identity.sql."""

from __future__ import annotations

import msgspec

from engine.infra import sql
from engine.infra.postgres import Postgres

_queries = sql.load("identity")


class ApiKey(msgspec.Struct, frozen=True):
    """A live key: what is kept of it."""

    id: str
    name: str
    hash: bytes
    scopes: frozenset[str]


async def insert_api_key(
    postgres: Postgres, id: str, name: str, prefix: str, hash: bytes, scopes: list[str]
) -> None:
    """Keep a new key's hash."""
    query = _queries["insert_api_key"]
    await postgres.call(query, id=id, name=name, prefix=prefix, hash=hash, scopes=scopes)


async def find_api_key(postgres: Postgres, prefix: str) -> ApiKey | None:
    """The live key with this public prefix."""
    row = await postgres.call(_queries["find_api_key"], prefix=prefix)
    return row and ApiKey(str(row["id"]), row["name"], row["hash"], frozenset(row["scopes"]))
