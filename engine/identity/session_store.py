"""Postgres for sessions: one function a query of sql/queries/sessions.sql."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
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
    """A row. Where a query does not say whether its time is over, it is not: it is live, or has
    ended."""
    words = {name: row[name] for name in LiveSession.__struct_fields__ if name != "is_past"}
    words |= {"id": str(row["id"]), "user_id": str(row["user_id"])}
    return LiveSession(**words, is_past=row.get("is_past", False))


def _maybe(row: Any) -> LiveSession | None:
    return None if row is None else _session(row)


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


class Standing(msgspec.Struct, frozen=True):
    """What a session is worth now."""

    id: str
    user_id: str
    is_active: bool
    expires_at: datetime
    is_past: bool
    termination_reason: str | None
    role: str
    status: str


class Seen(msgspec.Struct, frozen=True):
    """One look at what became of credentials."""

    snapshot: str
    now: datetime
    is_rewound: bool  # before the last look, or there was none: anything may have happened
    is_cut: bool  # there are more changes than are told
    changed: list[tuple[str, str]]  # kind, id


async def find_sessions(caller: Caller, ids: Collection[str]) -> dict[str, Standing]:
    """What these sessions are worth, by id; those that are none are missing."""
    rows = await caller.call(_queries["find_standings"], ids=list(ids))
    found = [
        Standing(
            str(row["id"]),
            str(row["user_id"]),
            *(row[name] for name in Standing.__struct_fields__[2:]),
        )
        for row in rows
    ]
    return {each.id: each for each in found}


async def follow_credentials(postgres: Postgres, before: str | None, most: int) -> Seen:
    """What became of credentials since the snapshot of an earlier look, so many changes at most."""
    row = await postgres.call(_queries["follow_credentials"], before=before, most=most + 1)
    changed = zip(row["kinds"] or (), row["subjects"] or (), strict=True)
    told = [(kind, str(id)) for kind, id in changed]
    return Seen(row["snapshot"], row["now"], row["is_rewound"], len(told) > most, told)


async def prune_credential_changes(postgres: Postgres, hours: int, count: int) -> int:
    """Forget changes that every process has long seen; how many went."""
    row = await postgres.call(_queries["prune_credential_changes"], hours=hours, count=count)
    return int(row["pruned"])


async def prune_sessions(postgres: Postgres, days: int, count: int) -> int:
    """Forget sessions that ended so many days ago, and links that are past; how many went."""
    return int((await postgres.call(_queries["prune_sessions"], days=days, count=count))["pruned"])


async def end_expired(postgres: Postgres, count: int) -> list[str]:
    """End sessions whose time is over; which."""
    return [str(row["id"]) for row in await postgres.call(_queries["end_expired"], count=count)]


async def next_end(postgres: Postgres) -> float | None:
    """Seconds until the next session's time is over; None: none lives."""
    row = await postgres.call(_queries["next_end"])
    seconds: float | None = row["seconds"]
    return seconds


async def find_session(caller: Caller, id: str) -> LiveSession | None:
    """One session, live or over."""
    return _maybe(await caller.call(_queries["find_session"], id=id))


async def find_session_by_key(caller: Caller, user_id: str, key: str) -> LiveSession | None:
    """The session that a user's key opened."""
    return _maybe(await caller.call(_queries["find_session_by_key"], user=user_id, key=key))


async def find_active_session(caller: Caller, user_id: str) -> LiveSession | None:
    """A user's live session."""
    return _maybe(await caller.call(_queries["find_active_session"], user=user_id))


async def list_sessions(
    caller: Caller, user_id: str, everything: bool, before: str | None, count: int, skip: int
) -> list[LiveSession]:
    """A user's sessions, the newest first; `everything`: also those that are over."""
    rows = await caller.call(
        _queries["list_sessions"],
        user=user_id,
        everything=everything,
        before=before,
        count=count,
        skip=skip,
    )
    return [_session(row) for row in rows]


async def count_sessions(caller: Caller, user_id: str) -> dict[str, tuple[int, int]]:
    """How many sessions a user has had, and has, by platform."""
    rows = await caller.call(_queries["count_sessions"], user=user_id)
    return {row["platform"]: (row["sessions"], row["active"]) for row in rows}


async def change_session(
    caller: Caller, id: str, changes: Mapping[str, str | None]
) -> LiveSession | None:
    """Note what a live session's device says, and that it was here; None: it is not live."""
    return _maybe(await caller.call(_queries["change_session"], id=id, **changes))


async def extend_session(caller: Caller, id: str, days: int, most: int) -> LiveSession | None:
    """Put off the end of a live session; None: it is not live, or would end too late."""
    return _maybe(await caller.call(_queries["extend_session"], id=id, days=days, most=most))


async def end_session(caller: Caller, id: str, reason: str) -> LiveSession | None:
    """End one session; None: it had ended."""
    return _maybe(await caller.call(_queries["end_session"], id=id, reason=reason))
