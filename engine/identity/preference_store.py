"""Postgres for preferences: one function a query of sql/queries/preferences.sql."""

from __future__ import annotations

from datetime import datetime

import msgspec
from msgspec.structs import asdict

from engine.identity.preferences import Preferences
from engine.infra import sql
from engine.infra.postgres import Postgres, Session

_queries = sql.load("preferences")

Caller = Postgres | Session


class Kept(msgspec.Struct, frozen=True):
    """What is known of a user's preferences. `created_at` None: nothing is kept, the defaults
    hold. `now` is Postgres's."""

    status: str  # of the user
    preferences: Preferences
    created_at: datetime | None
    updated_at: datetime | None
    now: datetime


async def find_preferences(caller: Caller, user_id: str) -> Kept | None:
    """A user's preferences; None if there is no such user."""
    row = await caller.call(_queries["find_preferences"], user_id=user_id)
    if row is None:
        return None
    if not row["stored"]:
        return Kept(row["status"], Preferences(), None, None, row["now"])
    wanted = Preferences(**{name: row[name] for name in Preferences.__struct_fields__})
    return Kept(row["status"], wanted, row["created_at"], row["updated_at"], row["now"])


async def lock_user(session: Session, user_id: str) -> str | None:
    """Hold a user's row until the transaction ends; his status, None if there is no such user."""
    row = await session.call(_queries["lock_user_of_preferences"], user_id=user_id)
    return row and str(row["status"])


async def put_preferences(
    session: Session, user_id: str, preferences: Preferences
) -> tuple[datetime, datetime]:
    """Keep all of it; when that was begun, and when it was changed last: now."""
    words = asdict(preferences)
    row = await session.call(_queries["put_preferences"], user_id=user_id, **words)
    return row["created_at"], row["updated_at"]


async def delete_preferences(session: Session, user_id: str) -> None:
    """Back to the defaults."""
    await session.call(_queries["delete_preferences"], user_id=user_id)
