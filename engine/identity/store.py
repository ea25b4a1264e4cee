"""Postgres for identity: one function a query of sql/queries/identity.sql."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from engine.infra import sql
from engine.infra.postgres import Postgres, Session

_queries = sql.load("identity")


class ApiKey(msgspec.Struct, frozen=True):
    """A live key: what is kept of it."""

    id: str
    name: str
    hash: bytes
    scopes: frozenset[str]


class ListedKey(msgspec.Struct, frozen=True, rename="camel"):
    """A key as an operator sees it: everything but what would let somebody use it."""

    id: str
    name: str
    prefix: str
    scopes: list[str]
    created_at: datetime
    revoked_at: datetime | None  # in the future: it is honoured until then
    live: bool


Caller = Postgres | Session


async def insert_api_key(caller: Caller, key: ApiKey, prefix: str) -> None:
    """Keep a new key's hash."""
    words = {"id": key.id, "name": key.name, "hash": key.hash, "scopes": sorted(key.scopes)}
    await caller.call(_queries["insert_api_key"], prefix=prefix, **words)


async def find_api_key(postgres: Postgres, prefix: str) -> ApiKey | None:
    """The live key with this public prefix."""
    row = await postgres.call(_queries["find_api_key"], prefix=prefix)
    return row and ApiKey(str(row["id"]), row["name"], row["hash"], frozenset(row["scopes"]))


def _listed(row: Any) -> ListedKey:
    return ListedKey(
        str(row["id"]),
        row["name"],
        row["prefix"],
        row["scopes"],
        row["created_at"],
        row["revoked_at"],
        row["live"],
    )


async def list_api_keys(caller: Caller) -> list[ListedKey]:
    """Every key there ever was, newest first."""
    return [_listed(row) for row in await caller.call(_queries["list_api_keys"])]


async def find_api_keys_named(caller: Caller, named: str) -> list[ListedKey]:
    """The keys with this id or this prefix."""
    rows = await caller.call(_queries["find_api_keys_named"], named=named)
    return [_listed(row) for row in rows]


async def revoke_api_key(caller: Caller, id: str, grace_seconds: float) -> datetime | None:
    """End a key so many seconds from now; when that is, None if there is no such key."""
    row = await caller.call(_queries["revoke_api_key"], id=id, grace_seconds=grace_seconds)
    ends_at: datetime | None = row and row["revoked_at"]
    return ends_at
