"""What is seen of accounts: all of it by themselves and by who administers them, else little."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from engine.identity.models import Entered
from engine.identity.user_store import User
from engine.infra.describe import Id, Moment, shown
from engine.infra.http import iso

Role = Annotated[str, shown(enum=["user", "admin"])]
Status = Annotated[str, shown(enum=["active", "suspended", "deleted"])]
Platform = Annotated[str, shown(enum=["ios", "android", "web"])]
Wallet = Annotated[
    str,
    shown(pattern="^0x[0-9a-fA-F]{40}$", examples=["0x52908400098527886E0F7030069857D2E4169EE7"]),
]


class UserSessionView(msgspec.Struct, rename="camel"):
    """A session of an account, in short; `GET /sessions/{id}` shows all of it."""

    id: Id
    device_id: str
    platform: Platform
    is_active: bool


class UserView(msgspec.Struct, rename="camel"):
    """An account. `sessions` are the live ones: one, or none."""

    id: Id
    username: str | None
    email: str | None
    phone: str | None
    display_name: str | None
    privy_id: str | None
    wallet_address: Wallet | None
    wallet_registered_at: Moment | None
    role: Role
    status: Status
    version: Annotated[int, shown("Counts changes: who changes it says which it changes.")]
    created_at: Moment
    updated_at: Moment
    last_active_at: Moment | None
    sessions: list[UserSessionView]


class SeenView(msgspec.Struct, rename="camel"):
    """An account: all of it for itself and for who administers it. Others see id and username, and
    no name of who is not active."""

    id: Id
    username: str | None
    email: str | None | UnsetType = UNSET
    phone: str | None | UnsetType = UNSET
    display_name: str | None | UnsetType = UNSET
    privy_id: str | None | UnsetType = UNSET
    wallet_address: Wallet | None | UnsetType = UNSET
    wallet_registered_at: Moment | None | UnsetType = UNSET
    role: Role | UnsetType = UNSET
    status: Status | UnsetType = UNSET
    version: int | UnsetType = UNSET
    created_at: Moment | UnsetType = UNSET
    updated_at: Moment | UnsetType = UNSET
    last_active_at: Moment | None | UnsetType = UNSET
    sessions: list[UserSessionView] | UnsetType = UNSET


class EnteredSessionView(msgspec.Struct, rename="camel"):
    """The session that a login opened."""

    id: Id
    device_id: str
    platform: Platform
    is_active: bool
    expires_at: Moment


class EnteredView(msgspec.Struct, rename="camel"):
    """Who came in. `token` goes into `Authorization: Bearer …` until `expiresAt`; then
    `refreshToken`, which is taken once, gets the next two."""

    session: EnteredSessionView
    token: str
    refresh_token: str
    expires_at: Moment
    user: UserView | UnsetType = UNSET


class ToldView(msgspec.Struct):
    """What was done."""

    message: str


def user_view(user: User) -> UserView:
    """An account for itself and for who administers it."""
    sessions = []
    if user.session_id is not None:
        assert user.device_id is not None
        assert user.platform is not None
        sessions = [UserSessionView(user.session_id, user.device_id, user.platform, True)]
    return UserView(
        user.id,
        user.username,
        user.email,
        user.phone,
        user.display_name,
        user.privy_id,
        user.wallet_address,
        None if user.wallet_registered_at is None else iso(user.wallet_registered_at),
        user.role,
        user.status,
        user.version,
        iso(user.created_at),
        iso(user.updated_at),
        None if user.last_active_at is None else iso(user.last_active_at),
        sessions,
    )


def entered_view(entered: Entered, user: User | None = None) -> EnteredView:
    """A session with its tokens, and whose it is."""
    session = entered.session
    return EnteredView(
        EnteredSessionView(
            session.id,
            session.device_id,
            session.platform,
            session.is_active,
            iso(session.expires_at),
        ),
        entered.token,
        entered.refresh_token,
        iso(entered.expires_at),
        UNSET if user is None else user_view(user),
    )


def stranger_view(user: User) -> SeenView:
    """An account for everybody else who is known."""
    return SeenView(user.id, user.username if user.is_active else None)
