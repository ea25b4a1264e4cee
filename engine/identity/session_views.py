"""What clients see of sessions."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from engine.identity.models import Entered, LiveSession
from engine.identity.session_bodies import PLATFORMS
from engine.infra.describe import Id, Moment, shown
from engine.infra.http import iso

Platform = Annotated[str, shown(enum=list(PLATFORMS))]


class SessionView(msgspec.Struct, rename="camel"):
    """A session: a device that is logged in, or was."""

    id: Id
    user_id: Id
    device_id: str
    device_name: str | None
    device_model: str | None
    platform: Platform
    os_version: str | None
    app_version: str | None
    push_token: str | None
    push_token_updated_at: Moment | None
    is_active: bool
    ip_address: str | None
    idempotency_key: str | None
    created_at: Moment
    last_activity_at: Moment
    expires_at: Moment
    terminated_at: Moment | None
    termination_reason: Annotated[str | None, shown(examples=["user_logout", "expired"])]


class OpenedView(SessionView):
    """A session with its tokens, which are null once it is over."""

    token: str | None = None
    refresh_token: str | None = None
    token_expires_at: Moment | None = None


class StatsView(msgspec.Struct, rename="camel"):
    """What sessions a user has and had."""

    total_sessions: int
    active_sessions: int
    device_breakdown: list[PlatformView]


class PlatformView(msgspec.Struct, rename="camel"):
    """How many sessions there were on a platform."""

    platform: Platform
    count: int


class AllEndedView(msgspec.Struct, rename="camel"):
    """How many sessions were ended."""

    message: Annotated[str, shown(examples=["1 session(s) terminated successfully"])]
    count: int


def session_view(session: LiveSession) -> SessionView:
    """A session, for its owner and for operators. One whose time is over has ended, also while
    nobody has written that down."""
    return SessionView(**_words(session))


def opened_view(entered: Entered) -> OpenedView:
    """A session and its tokens."""
    view = OpenedView(**_words(entered.session))
    if entered.token:
        view.token, view.refresh_token = entered.token, entered.refresh_token
        view.token_expires_at = iso(entered.expires_at)
    return view


def stats_view(platforms: dict[str, tuple[int, int]]) -> StatsView:
    """Counts by platform: all, and the live ones."""
    return StatsView(
        sum(total for total, _ in platforms.values()),
        sum(live for _, live in platforms.values()),
        [PlatformView(platform, total) for platform, (total, _) in platforms.items()],
    )


def _words(session: LiveSession) -> dict[str, Any]:
    words: dict[str, Any] = {name: getattr(session, name) for name in SessionView.__struct_fields__}
    words["is_active"] = session.is_live
    if session.is_active and session.is_past:
        words["terminated_at"], words["termination_reason"] = session.expires_at, "expired"
    for name, value in words.items():
        if name.endswith("_at") and value is not None:
            words[name] = iso(value)
    return words
