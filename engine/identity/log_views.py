"""What is told of logs: activity and deeds."""

from __future__ import annotations

from typing import Any

import msgspec

from engine.identity.trail_store import Deed
from engine.infra.describe import Id, Moment
from engine.infra.http import iso
from engine.record.activity_store import Entry


class ActivityView(msgspec.Struct, rename="camel"):
    """Something that a user did, or that was done to his account."""

    id: Id
    user_id: Id | None
    session_id: Id | None
    action: str
    details: dict[str, Any] | None
    ip_address: str | None
    user_agent: str | None
    created_at: Moment


class ActionCount(msgspec.Struct):
    """How often something was done."""

    action: str
    count: int


class ActivityStats(msgspec.Struct, rename="camel"):
    """How much was done, and of what; the most frequent first."""

    total_actions: int
    action_breakdown: list[ActionCount]


class DeedView(msgspec.Struct, rename="camel"):
    """Something that an operator did, or that somebody tried who may not. `outcome` is `done`, a
    code, or `unknown` while it has no end."""

    id: int
    who: str
    operation: str
    target: str | None
    change: dict[str, Any] | None
    outcome: str
    status: int | None
    request_id: str | None
    address: str | None
    at: Moment
    ended_at: Moment | None


def activity_view(entry: Entry) -> ActivityView:
    """A row of the activity log as it is told."""
    return ActivityView(
        entry.id,
        entry.user_id,
        entry.session_id,
        entry.action,
        None if entry.details is None else msgspec.json.decode(entry.details),
        entry.ip_address,
        entry.user_agent,
        iso(entry.created_at),
    )


def deed_view(deed: Deed) -> DeedView:
    """An act of the audit log as it is told."""
    return DeedView(
        deed.id,
        deed.who,
        deed.operation,
        deed.target,
        None if deed.change is None else msgspec.json.decode(deed.change),
        deed.outcome,
        deed.status,
        deed.request_id,
        deed.address,
        iso(deed.at),
        None if deed.ended_at is None else iso(deed.ended_at),
    )
