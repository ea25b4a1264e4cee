"""Users: what accounts are, and what becomes of them.

    active ⇄ suspended        an admin's word
    active, suspended → deleted → erased

A deleted account keeps its names, so that nobody else is taken for it; an erased one has none, and
what is sealed in the ledger no longer tells who it was. Every change counts the version up, and
wants to know which version it changes: of many that changed the same one, one did.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from engine.identity import user_store as store
from engine.identity.errors import LastAdmin, UserExists, VersionConflict
from engine.identity.sessions import end_all
from engine.identity.user_store import NewUser, User
from engine.infra.errors import NotFound
from engine.infra.ids import parse_id
from engine.infra.postgres import Postgres, Session, Undone
from engine.record import books

UNIQUE_VIOLATION = "23505"
# In the order in which they are looked at, with the name of the field.
TAKEN = {
    "privy_id": ("privyId", "User with this Privy ID already exists"),
    "email": ("email", "A user with this email already exists"),
    "username": ("username", "This username is already taken"),
    "wallet_address": ("walletAddress", "Wallet address already registered"),
}
RACE = "Username or email already taken"  # two took it in one moment


async def usernames(postgres: store.Caller, ids: Iterable[str]) -> dict[str, str]:
    """What buyers are called, by their ids, in one query (none if no id can be an account's). Only
    active accounts that have a username are in it."""
    accounts = store.ids_among(ids)
    return await store.find_usernames(postgres, accounts) if accounts else {}


def taken(names: Iterable[str], kind: type[UserExists] = UserExists) -> UserExists:
    """The refusal, which names the first field that is somebody's."""
    there = set(names)
    fields = [{"field": f, "problem": said} for n, (f, said) in TAKEN.items() if n in there]
    return kind(fields[0]["problem"] if fields else RACE, fields=fields)


def missing() -> NotFound:
    """There is no such account."""
    return NotFound("User not found")


async def create(session: Session, user: NewUser, kind: type[UserExists] = UserExists) -> None:
    """Make an account. Raises `kind` if one of its names is somebody's: of many that want it at
    once, one gets it."""
    if await store.insert_user(session, user):
        return
    raise taken(
        await store.find_taken(
            session,
            user.id,
            email=user.email,
            username=user.username,
            privy_id=user.privy_id,
            wallet_address=user.wallet_address,
        ),
        kind,
    )


async def change(session: Session, id: str, version: int | None, changes: dict[str, Any]) -> User:
    """Put changes in place, by their names in the API; as it was before. Role and status are
    checked here, who may change them is not. Raises `NotFound`, `VersionConflict`, `UserExists`,
    `LastAdmin`."""
    admins = await store.lock_admins(session) if changes.keys() & {"role", "status"} else set()
    user = await store.lock_user(session, id)
    if user is None or user.erased_at is not None:
        raise missing()
    if version is not None and user.version != version:
        raise VersionConflict(version=user.version)
    stays = changes.get("role", user.role) == "admin"
    stays &= changes.get("status", user.status) == "active"
    if admins == {id} and not stays:
        raise LastAdmin
    found = await store.find_taken(
        session,
        id,
        email=changes.get("email"),
        username=changes.get("username"),
        wallet_address=changes.get("walletAddress"),
    )
    if found:
        raise taken(found)
    try:
        await store.change_user(session, id, version, changes)
    except Undone as undone:
        if undone.sqlstate == UNIQUE_VIOLATION:  # it was free when we looked
            raise taken(()) from None
        raise
    if changes.get("status") == "suspended":
        await end_all(session, id, "suspended")
    return user


async def touch(session: Session, id: str) -> None:
    """It was seen just now. Raises `NotFound`."""
    if not await store.touch_user(session, id):
        raise missing()


async def delete(session: Session, id: str) -> None:
    """Delete an account and end its session; twice is once. Raises `NotFound`, `LastAdmin`."""
    if await store.lock_admins(session) == {id}:
        raise LastAdmin
    if not await store.delete_user(session, id):
        raise missing()
    await end_all(session, id, "user_deleted")


async def erase(session: Session, id: str) -> None:
    """Delete an account and all that is personal of it, for good: also from its sessions, its log
    and the ledger, whose records are nobody's from then on. Raises as `delete` does."""
    await delete(session, id)
    await store.erase_user(session, id)
    await books.forget_salt(session, id)


async def one(caller: Postgres | Session, id: str) -> User:
    """An account. Raises `NotFound`."""
    user = await store.find_user(caller, id)
    if user is None:
        raise missing()
    return user


async def own(caller: Postgres | Session, subject: str) -> User:
    """The account that a token speaks for. Raises `NotFound`: tokens of a shop's own login name
    buyers of whom the engine has no account."""
    id = parse_id(subject)
    if id is None:
        raise missing()
    return await one(caller, id)
