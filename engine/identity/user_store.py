"""Postgres for users: one function a query of sql/queries/users.sql."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec

from engine.infra import sql
from engine.infra.ids import parse_id
from engine.infra.postgres import Postgres, Session

_queries = sql.load("users")

Caller = Postgres | Session


class NewUser(msgspec.Struct, frozen=True, kw_only=True):
    """An account that is to be."""

    id: str
    username: str | None = None
    email: str | None = None
    phone: str | None = None
    display_name: str | None = None
    privy_id: str | None = None
    wallet_address: str | None = None
    password_hash: str | None = None
    role: str = "user"


class User(msgspec.Struct, frozen=True):
    """An account: its row, and the session it has."""

    id: str
    username: str | None
    email: str | None
    phone: str | None
    display_name: str | None
    privy_id: str | None
    wallet_address: str | None
    wallet_registered_at: datetime | None
    password_hash: str | None
    role: str
    status: str
    version: int
    created_at: datetime
    updated_at: datetime
    last_active_at: datetime | None
    deleted_at: datetime | None
    erased_at: datetime | None
    session_id: str | None = None
    device_id: str | None = None
    platform: str | None = None

    @property
    def is_active(self) -> bool:
        """Whether it can log in."""
        return self.status == "active"


class Mail(msgspec.Struct, frozen=True):
    """A mail that is due. `over`: nobody wants it any more."""

    id: str
    kind: str
    address: str
    subject_id: str
    attempts: int
    gives_up_at: datetime
    over: bool


def _user(row: Any) -> User:
    words = {name: row[name] for name in User.__struct_fields__}
    words["id"] = str(row["id"])
    words["session_id"] = None if row["session_id"] is None else str(row["session_id"])
    return User(**words)


def _maybe(row: Any) -> User | None:
    return None if row is None else _user(row)


async def find_usernames(caller: Caller, ids: list[str]) -> dict[str, str]:
    """The usernames of the live accounts among these ids; who has none is absent."""
    rows = await caller.call(_queries["find_usernames"], ids=ids)
    return {str(row["id"]): row["username"] for row in rows}


def ids_among(buyers: Iterable[str]) -> list[str]:
    """Those buyers that can be accounts: a buyer may be called anything, an account by its id."""
    return sorted({buyer for buyer in buyers if parse_id(buyer) == buyer})


# ── accounts ─────────────────────────────────────────────────────────────────────────────────────


async def insert_user(caller: Caller, user: NewUser) -> bool:
    """Make an account, unless one of its names is somebody's."""
    words = msgspec.structs.asdict(user)
    return await caller.call(_queries["insert_user"], **words) is not None


async def find_taken(
    caller: Caller,
    id: str,
    *,
    email: str | None = None,
    username: str | None = None,
    privy_id: str | None = None,
    wallet_address: str | None = None,
) -> set[str]:
    """Which of these another account than this has."""
    names = {"email": email, "username": username, "privy_id": privy_id}
    row = await caller.call(_queries["find_taken"], id=id, wallet_address=wallet_address, **names)
    return {name for name in (*names, "wallet_address") if row[name]}


async def find_user(caller: Caller, id: str) -> User | None:
    """An account by its id."""
    return _maybe(await caller.call(_queries["find_user"], id=id))


async def find_user_by_privy(caller: Caller, privy_id: str) -> User | None:
    """An account by the id that Privy gave it."""
    return _maybe(await caller.call(_queries["find_user_by_privy"], privy_id=privy_id))


async def find_user_by_wallet(caller: Caller, address: str) -> User | None:
    """An account by its wallet."""
    return _maybe(await caller.call(_queries["find_user_by_wallet"], wallet_address=address))


async def find_user_by_email(caller: Caller, email: str) -> User | None:
    """An account by its e-mail."""
    return _maybe(await caller.call(_queries["find_user_by_email"], email=email))


async def find_first_user(caller: Caller) -> User | None:
    """The oldest account that is not deleted."""
    return _maybe(await caller.call(_queries["find_first_user"]))


async def list_users(caller: Caller, before: str | None, count: int, skip: int = 0) -> list[User]:
    """Accounts, the newest first."""
    words = {"before": before, "count": count, "skip": skip}
    return [_user(row) for row in await caller.call(_queries["list_users"], **words)]


async def count_users(caller: Caller) -> int:
    """How many accounts there are, the deleted ones too."""
    return int((await caller.call(_queries["count_users"]))["items"])


async def lock_admins(session: Session) -> set[str]:
    """The active admins, none of whom can go until we commit."""
    return {str(row["id"]) for row in await session.call(_queries["lock_admins"])}


async def lock_user(session: Session, id: str) -> User | None:
    """An account that nobody changes until we commit. It is told without its session."""
    return _maybe(await session.call(_queries["lock_user"], id=id))


async def change_user(
    session: Session, id: str, version: int | None, changes: dict[str, Any]
) -> bool:
    """Put changes in place, by their names in the API; False if it is of another version (None:
    whatever it is) or is not there."""
    words = {"version": version, "changes": msgspec.json.encode(changes).decode()}
    return await session.call(_queries["change_user"], id=id, **words) is not None


async def touch_user(session: Session, id: str) -> bool:
    """It was seen just now."""
    return await session.call(_queries["touch_user"], id=id) is not None


async def delete_user(session: Session, id: str) -> bool:
    """Mark it as deleted."""
    return await session.call(_queries["delete_user"], id=id) is not None


async def erase_user(session: Session, id: str) -> bool:
    """Take out of it and of all that hangs on it whatever is personal."""
    return await session.call(_queries["erase_user"], id=id) is not None


# ── passwords ────────────────────────────────────────────────────────────────────────────────────


async def set_password(caller: Caller, id: str, old: str | None, new: str) -> bool:
    """Another hash in place of that one; False if it is not there any more."""
    return await caller.call(_queries["set_password"], id=id, old=old, new=new) is not None


async def put_password(caller: Caller, id: str, new: str) -> bool:
    """Another hash of an active account; links mailed before are worth nothing any more."""
    return await caller.call(_queries["put_password"], id=id, new=new) is not None


async def want_reset(
    caller: Caller, id: str, address: str, reset: str, life_seconds: float
) -> None:
    """Have the postman look whether an account has this e-mail, and mail it a link."""
    words = {"id": id, "address": address, "reset": reset, "life_seconds": life_seconds}
    await caller.call(_queries["want_reset"], **words)


async def find_reset(caller: Caller, id: str) -> tuple[str, str | None, str | None] | None:
    """Of a link that still opens: the account, its e-mail and username."""
    row = await caller.call(_queries["find_reset"], id=id)
    return row and (str(row["user_id"]), row["email"], row["username"])


async def use_reset(session: Session, id: str) -> str | None:
    """Use a link; whose it is, None if it is used or too old."""
    row = await session.call(_queries["use_reset"], id=id)
    return row and str(row["user_id"])


# ── mail ─────────────────────────────────────────────────────────────────────────────────────────


async def take_mail(caller: Caller, rest_seconds: float) -> Mail | None:
    """The mail that is due first; it is not due again for a while."""
    row = await caller.call(_queries["take_mail"], rest_seconds=rest_seconds)
    return row and Mail(
        str(row["id"]),
        row["kind"],
        row["address"],
        str(row["subject_id"]),
        row["attempts"],
        row["gives_up_at"],
        row["over"],
    )


async def open_reset(
    caller: Caller, id: str, address: str, expires_at: datetime
) -> tuple[str, str | None] | None:
    """Make the link of a mail: the e-mail as its account writes it, and the username. None if no
    active account has it."""
    words = {"address": address, "expires_at": expires_at}
    row = await caller.call(_queries["open_reset"], id=id, **words)
    return row and (row["email"], row["username"])


async def drop_mail(caller: Caller, id: str) -> None:
    """A mail was sent, or never will be."""
    await caller.call(_queries["drop_mail"], id=id)
