"""Postgres for encounters: one function a query of sql/queries/encounters.sql."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from engine.infra import sql
from engine.infra.postgres import Postgres, Session

_queries = sql.load("encounters")

Caller = Postgres | Session


class SigningKey(msgspec.Struct, frozen=True):
    """The active device of a membership and its key, if it has one; and Postgres's time."""

    now: datetime
    device: str | None
    public_key: str | None


class Meeting(msgspec.Struct, frozen=True, kw_only=True):
    """What a token says."""

    jti: str
    initiator: str
    receiver: str
    iat: float  # seconds since 1970
    latitude: float | None
    longitude: float | None


class Encounter(msgspec.Struct, frozen=True):
    """Two members who met."""

    id: str
    initiator_id: str
    receiver_id: str
    latitude: float | None
    longitude: float | None
    encountered_at: datetime
    verified_at: datetime


class Judged(msgspec.Struct, frozen=True):
    """What became of an encounter, or why nothing did."""

    encounter: Encounter | None
    theirs: bool
    known: bool
    initiator_lives: bool
    same_device: bool
    receiver_lives: bool


async def find_encounter_key(caller: Caller, initiator: str) -> SigningKey:
    """What a membership signs with."""
    row = await caller.call(_queries["find_encounter_key"], initiator=initiator)
    return SigningKey(row["now"], row["device"] and str(row["device"]), row["public_key"])


async def record_encounter(
    session: Session, id: str, meeting: Meeting, device: str | None, buyer: str | None
) -> Judged:
    """Record it, if all is as it must be. `device`: whose key it was; `buyer`: who must be one of
    the two, None for anybody."""
    words = {**msgspec.structs.asdict(meeting), "device": device, "buyer": buyer}
    row = await session.call(_queries["record_encounter"], id=id, **words)
    made = row["id"] and Encounter(
        id,
        meeting.initiator,
        meeting.receiver,
        meeting.latitude,
        meeting.longitude,
        row["encountered_at"],
        row["verified_at"],
    )
    names = Judged.__struct_fields__[1:]
    return Judged(made, *(row[name] for name in names))


def _encounter(row: Any) -> Encounter:
    ids = {name: str(row[name]) for name in ("id", "initiator_id", "receiver_id")}
    return Encounter(**{**dict(row), **ids})


async def list_encounters(
    caller: Caller, buyer: str, before: str | None, count: int, skip: int
) -> list[Encounter]:
    """Those of all memberships of a buyer, in either role, the newest first."""
    words = {"before": before, "count": count, "skip": skip}
    rows = await caller.call(_queries["list_encounters"], buyer=buyer, **words)
    return [_encounter(row) for row in rows]


async def count_encounters(caller: Caller, buyer: str) -> int:
    """How many that list has."""
    return int((await caller.call(_queries["count_encounters"], buyer=buyer))["items"])
