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


async def insert_api_key(postgres: Postgres, key: ApiKey, prefix: str) -> None:
    """Keep a new key's hash."""
    words = {"id": key.id, "name": key.name, "hash": key.hash, "scopes": sorted(key.scopes)}
    await postgres.call(_queries["insert_api_key"], prefix=prefix, **words)


async def find_api_key(postgres: Postgres, prefix: str) -> ApiKey | None:
    """The live key with this public prefix."""
    row = await postgres.call(_queries["find_api_key"], prefix=prefix)
    return row and ApiKey(str(row["id"]), row["name"], row["hash"], frozenset(row["scopes"]))
