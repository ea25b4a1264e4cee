"""Postgres for identity: one function a query of sql/queries/identity.sql."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

import msgspec

from engine.infra import sql
from engine.infra.postgres import Postgres, Session

_queries = sql.load("identity")


class ApiKey(msgspec.Struct, frozen=True):
    """A live key: what is kept of it. It lives for so many seconds more; None: for ever."""

    id: str
    name: str
    hash: bytes
    scopes: frozenset[str]
    must_sign: bool = False
    seconds_left: float | None = None


class Term(msgspec.Struct, frozen=True):
    """When a key ends by itself: at that moment, and so many days from now at the latest; None, if
    that never comes."""

    ends_at: datetime | None = None
    days: int | None = None


class ListedKey(msgspec.Struct, frozen=True, rename="camel"):
    """A key as an operator sees it: everything but what would let somebody use it."""

    id: str
    name: str
    prefix: str
    scopes: list[str]
    created_at: datetime
    revoked_at: datetime | None  # in the future: it is honoured until then
    live: bool
    expires_at: datetime | None = None
    must_sign: bool = False


Caller = Postgres | Session


async def insert_api_key(
    caller: Caller, key: ApiKey, prefix: str, term: Term
) -> tuple[datetime, datetime | None]:
    """Keep a new key's hash. When it was made, and when it ends."""
    words = {"id": key.id, "name": key.name, "hash": key.hash, "scopes": sorted(key.scopes)}
    row = await caller.call(
        _queries["insert_api_key"],
        prefix=prefix,
        must_sign=key.must_sign,
        ends_at=term.ends_at,
        days=term.days,
        **words,
    )
    return row["created_at"], row["expires_at"]


async def find_live_keys(postgres: Postgres, prefixes: Collection[str]) -> dict[str, ApiKey]:
    """The live keys among those with these public prefixes, by prefix."""
    rows = await postgres.call(_queries["find_live_keys"], prefixes=list(prefixes))
    return {
        row["prefix"]: ApiKey(
            str(row["id"]),
            row["name"],
            row["hash"],
            frozenset(row["scopes"]),
            row["must_sign"],
            row["seconds_left"],
        )
        for row in rows
    }


def _listed(row: Any) -> ListedKey:
    return ListedKey(
        str(row["id"]),
        row["name"],
        row["prefix"],
        row["scopes"],
        row["created_at"],
        row["revoked_at"],
        row["live"],
        row["expires_at"],
        row["must_sign"],
    )


async def list_api_keys(
    caller: Caller, before: str | None = None, count: int | None = None, skip: int = 0
) -> list[ListedKey]:
    """Every key there ever was, newest first; or a page of them."""
    words = {"before": before, "count": count, "skip": skip}
    return [_listed(row) for row in await caller.call(_queries["list_api_keys"], **words)]


async def count_api_keys(caller: Caller) -> int:
    """How many there ever were."""
    return int((await caller.call(_queries["count_api_keys"]))["keys"])


async def find_api_keys_named(caller: Caller, named: str) -> list[ListedKey]:
    """The keys with this id or this prefix."""
    rows = await caller.call(_queries["find_api_keys_named"], named=named)
    return [_listed(row) for row in rows]


async def revoke_api_key(caller: Caller, id: str, grace_seconds: float) -> datetime | None:
    """End a key so many seconds from now; when that is, None if there is no such key."""
    row = await caller.call(_queries["revoke_api_key"], id=id, grace_seconds=grace_seconds)
    ends_at: datetime | None = row and row["revoked_at"]
    return ends_at


async def claim_nonce(
    caller: Caller, key_id: str, nonce: str, moment: float, window_seconds: float
) -> tuple[float, bool]:
    """By how much a signed time is behind ours, and whether it and its nonce are good."""
    words = {"key_id": key_id, "nonce": nonce, "moment": moment, "window": window_seconds}
    row = await caller.call(_queries["claim_nonce"], **words)
    return row["late"], row["is_new"]


async def prune_nonces(postgres: Postgres, seconds: float, count: int) -> int:
    """Forget nonces that old; how many went."""
    row = await postgres.call(_queries["prune_nonces"], seconds=seconds, count=count)
    return int(row["pruned"])
