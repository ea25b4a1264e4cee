"""Postgres for sessions: one function a query of sql/queries/sessions.sql."""

from __future__ import annotations

from typing import Any

import msgspec

from engine.identity.models import Device, LiveSession
from engine.infra import sql
from engine.infra.postgres import Postgres, Session

_queries = sql.load("sessions")
Caller = Postgres | Session


class Told(msgspec.Struct, frozen=True):
    """What became of a wish for a session: the functions in sql/functions say which words."""

    word: str
    role: str | None
    session: LiveSession | None


def _session(row: Any) -> LiveSession:
    return LiveSession(
        str(row["id"]),
        str(row["user_id"]),
        *(row[name] for name in LiveSession.__struct_fields__[2:]),
    )


def _told(row: Any) -> Told:
    return Told(row["word"], row["role"], None if row["id"] is None else _session(row))


async def open_session(
    caller: Caller, id: str, user_id: str, device: Device, key: str | None, days: int, keep: bool
) -> Told:
    """Let a device in. With `keep` the live session that it has already is kept."""
    words = msgspec.structs.asdict(device)
    words["device"] = words.pop("device_id")
    row = await caller.call(
        _queries["open_session"], id=id, user=user_id, key=key, days=days, keep=keep, **words
    )
    return _told(row)


async def rotate_refresh(caller: Caller, id: str, generation: int, grace_seconds: float) -> Told:
    """Take a refresh token of this number."""
    row = await caller.call(
        _queries["rotate_refresh"], id=id, generation=generation, grace_seconds=grace_seconds
    )
    return _told(row)


async def end_sessions(caller: Caller, user_id: str, reason: str) -> list[LiveSession]:
    """End a user's live session; those that were ended."""
    rows = await caller.call(_queries["end_sessions"], user=user_id, reason=reason)
    return [_session(row) for row in rows]
