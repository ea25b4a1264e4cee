"""Postgres for the activity log: one function a query of sql/queries/activity.sql."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from engine.infra import sql
from engine.infra.postgres import Postgres, Session

_queries = sql.load("activity")

Caller = Postgres | Session


class Row(msgspec.Struct, frozen=True):
    """A row as it is written: `age` is how many seconds ago it happened."""

    id: str
    user_id: str | None
    session_id: str | None
    action: str
    details: str | None  # JSON
    ip_address: str | None
    user_agent: str | None
    age: float


class Entry(msgspec.Struct, frozen=True):
    """A row as it is read."""

    id: str
    user_id: str | None
    session_id: str | None
    action: str
    details: str | None  # JSON
    ip_address: str | None
    user_agent: str | None
    created_at: datetime


class Filter(msgspec.Struct, frozen=True):
    """Which rows are meant: those of which all that is given is true."""

    user_id: str | None = None
    session_id: str | None = None
    action: str | None = None
    since: datetime | None = None
    until: datetime | None = None  # that moment too


async def insert_activity(caller: Caller, rows: Sequence[Row]) -> None:
    """Write what is not there yet."""
    await caller.call(
        _queries["insert_activity"],
        ids=[each.id for each in rows],
        users=[each.user_id for each in rows],
        sessions=[each.session_id for each in rows],
        actions=[each.action for each in rows],
        details=[each.details for each in rows],
        addresses=[each.ip_address for each in rows],
        agents=[each.user_agent for each in rows],
        ages=[each.age for each in rows],
    )


async def partition_activity(caller: Caller, days: int) -> int:
    """Have a partition for every month to come, and none past `days`; how much was changed."""
    return int((await caller.call(_queries["partition_activity"], days=days))["changed"])


def _words(wanted: Filter) -> dict[str, Any]:
    return {
        "session": wanted.session_id,
        "action": wanted.action,
        "since": wanted.since,
        "until": wanted.until,
    }


async def list_activity(
    caller: Caller,
    wanted: Filter,
    before: tuple[datetime, str] | None,
    count: int,
    skip: int = 0,
) -> list[Entry]:
    """What was done, newest first, after a row that is known by its moment and its id."""
    name, words = "list_activity", _words(wanted)
    if wanted.user_id is not None:  # a query of its own: another index
        name, words = "list_activity_of_user", words | {"user": wanted.user_id}
    moment, id = before or (None, None)
    place = {"before": moment, "before_id": id, "count": count, "skip": skip}
    return [_entry(row) for row in await caller.call(_queries[name], **words, **place)]


def _entry(row: Any) -> Entry:
    return Entry(
        str(row["id"]),
        None if row["user_id"] is None else str(row["user_id"]),
        None if row["session_id"] is None else str(row["session_id"]),
        row["action"],
        row["details"],
        row["ip_address"],
        row["user_agent"],
        row["created_at"],
    )


async def count_activity(caller: Caller, wanted: Filter, most: int) -> int:
    """How many rows are meant; counted up to `most`."""
    words = _words(wanted) | {"user": wanted.user_id, "most": most}
    return int((await caller.call(_queries["count_activity"], **words))["items"])


async def sum_activity(caller: Caller, wanted: Filter) -> list[tuple[str, int]]:
    """How often each action was done, the most frequent first."""
    words = _words(wanted) | {"user": wanted.user_id}
    rows = await caller.call(_queries["sum_activity"], **words)
    return [(row["action"], row["times"]) for row in rows]
