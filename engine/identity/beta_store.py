"""Postgres for the private beta: one function a query of sql/queries/beta.sql."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from engine.infra import sql
from engine.infra.postgres import Postgres, Session

_queries = sql.load("beta")

Caller = Postgres | Session


class BetaKey(msgspec.Struct, frozen=True):
    """An invitation; `activated_at` says when `user_email` used it."""

    id: str
    key: str
    status: str  # pending, active
    user_email: str | None
    created_at: datetime
    activated_at: datetime | None


def _key(row: Any) -> BetaKey:
    return BetaKey(
        str(row["id"]),
        row["key"],
        row["status"],
        row["user_email"],
        row["created_at"],
        row["activated_at"],
    )


async def insert_beta_keys(caller: Caller, keys: Sequence[tuple[str, str]]) -> list[BetaKey]:
    """New keys, by id and text."""
    ids, texts = [id for id, _ in keys], [text for _, text in keys]
    return [
        _key(row) for row in await caller.call(_queries["insert_beta_keys"], ids=ids, keys=texts)
    ]


async def use_beta_key(session: Session, key: str, email: str) -> BetaKey | None:
    """A key that nobody had used, used now; None: there is none, or it was used."""
    row = await session.call(_queries["use_beta_key"], key=key, email=email)
    return row and _key(row)


async def find_beta_key(caller: Caller, key: str) -> BetaKey | None:
    """A key, used or not."""
    row = await caller.call(_queries["find_beta_key"], key=key)
    return row and _key(row)


async def find_beta_key_of(caller: Caller, email: str, asker: str | None = None) -> BetaKey | None:
    """The key that an e-mail used. With an asker only if it is that account's e-mail."""
    row = await caller.call(_queries["find_beta_key_of"], email=email, asker=asker)
    return row and _key(row)


async def list_beta_keys(
    caller: Caller, status: str | None, before: str | None, count: int, skip: int = 0
) -> list[BetaKey]:
    """Keys of a status, or (None) all, newest first."""
    words = {"status": status, "before": before, "count": count, "skip": skip}
    return [_key(row) for row in await caller.call(_queries["list_beta_keys"], **words)]


async def count_beta_keys(caller: Caller, status: str | None) -> int:
    """How many keys of a status there are, or (None) all."""
    return int((await caller.call(_queries["count_beta_keys"], status=status))["items"])
