"""Postgres for devices: one function a query of sql/queries/devices.sql."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from engine.infra import sql
from engine.infra.postgres import Postgres, Session

_queries = sql.load("devices")

Caller = Postgres | Session


class Member(msgspec.Struct, frozen=True):
    """Whose a membership is, and Postgres's time."""

    buyer: str
    revoked: bool
    now: datetime


class Device(msgspec.Struct, frozen=True):
    """A device that a membership has, or had."""

    id: str
    membership_id: str
    device_id: str  # what it calls itself
    public_key: str
    registered_at: datetime
    revoked_at: datetime | None


class Reforge(msgspec.Struct, frozen=True):
    """A wish to move a membership to another device."""

    id: str
    state: str
    old_device_id: str
    new_device_id: str
    new_public_key: str
    expired: bool


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A reforge that is to be, and the mail that tells of it."""

    id: str
    mail: str
    membership: str
    buyer: str
    address: str
    old_device: str
    new_device: str
    new_key: str
    hash: bytes


class Told(msgspec.Struct, frozen=True):
    """What the mail of a reforge says."""

    buyer: str
    new_device_id: str
    token_hash: bytes
    tier: str
    year: str
    number: int


def _member(row: Any) -> Member | None:
    return row and Member(**dict(row))


def _device(row: Any) -> Device:
    ids = {"id": str(row["id"]), "membership_id": str(row["membership_id"])}
    return Device(**{**dict(row), **ids})


async def find_member(caller: Caller, id: str) -> Member | None:
    """Whose a membership is."""
    return _member(await caller.call(_queries["find_member"], id=id))


async def lock_member(session: Session, id: str) -> Member | None:
    """The same; nobody ends it, or changes its device, until we commit."""
    return _member(await session.call(_queries["lock_member"], id=id))


async def find_active_device(caller: Caller, membership: str) -> Device | None:
    """The device whose key a membership goes by."""
    row = await caller.call(_queries["find_active_device"], membership=membership)
    return row and _device(row)


async def read_device(caller: Caller, id: str) -> Device:
    """A device that there is, as it is now."""
    return _device(await caller.call(_queries["read_device"], id=id))


async def list_devices(
    caller: Caller, membership: str, before: str | None, count: int, skip: int
) -> list[Device]:
    """The devices that a membership has had, the newest first."""
    words = {"membership": membership, "before": before, "count": count, "skip": skip}
    return [_device(row) for row in await caller.call(_queries["list_devices"], **words)]


async def count_devices(caller: Caller, membership: str) -> int:
    """How many it has had."""
    return int((await caller.call(_queries["count_devices"], membership=membership))["items"])


async def insert_device(
    session: Session, id: str, membership: str, device: str, key: str
) -> Device:
    """The device of a membership that has none. Its row was locked before."""
    words = {"membership": membership, "device": device, "key": key}
    return _device(await session.call(_queries["insert_device"], id=id, **words))


async def revoke_device(session: Session, id: str) -> None:
    """It is its membership's no longer."""
    await session.call(_queries["revoke_device"], id=id)


async def count_reforges(session: Session, membership: str, seconds: float) -> tuple[int, float]:
    """How many were begun within so many seconds, and in how many the first of them is older."""
    words = {"membership": membership, "seconds": seconds}
    row = await session.call(_queries["count_reforges"], **words)
    return row["items"], row["wait_seconds"] or 0.0


async def supersede_reforges(session: Session, membership: str) -> None:
    """What was mailed before opens nothing any more."""
    await session.call(_queries["supersede_reforges"], membership=membership)


async def want_reforge(session: Session, wanted: Wanted, life_seconds: float) -> datetime:
    """Write it down, and have its link mailed; until when that opens."""
    words = msgspec.structs.asdict(wanted)
    row = await session.call(_queries["want_reforge"], life_seconds=life_seconds, **words)
    moment: datetime = row["expires_at"]
    return moment


async def find_reforge(caller: Caller, hash: bytes) -> tuple[str, str] | None:
    """What a link opens, or opened: the reforge, and its membership."""
    row = await caller.call(_queries["find_reforge"], hash=hash)
    return row and (str(row["id"]), str(row["membership_id"]))


async def lock_reforge(session: Session, id: str) -> Reforge | None:
    """A reforge that is ours until we commit."""
    row = await session.call(_queries["lock_reforge"], id=id)
    return row and Reforge(**{**dict(row), "id": str(row["id"])})


async def confirm_reforge(session: Session, id: str) -> None:
    """Its link was used."""
    await session.call(_queries["confirm_reforge"], id=id)


async def expire_reforges(caller: Caller, count: int, id: str | None = None) -> int:
    """End those whose links are too old (all, or that one); how many."""
    return len(await caller.call(_queries["expire_reforges"], id=id, count=count))


async def read_reforge(caller: Caller, id: str) -> Told | None:
    """What its mail says; None if it is over."""
    row = await caller.call(_queries["read_reforge"], id=id)
    return row and Told(**dict(row))
