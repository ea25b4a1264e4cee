"""Sessions: one live one an account, and the two tokens that speak for it.

    enter ─▶ access token (short or long, followed by watch.py) and refresh token
    refresh ─▶ the next of both; a refresh token that was taken before ends the session

A refresh token is its session, a number and an HMAC of both: nothing secret is kept. Each is taken
once. Who lost the answer asks again within GRACE_SECONDS and gets the same one; an older one means
that two have it.
"""

from __future__ import annotations

import hmac
import re
from functools import cached_property

from engine.identity import session_store, tokens
from engine.identity.errors import SessionEnded
from engine.identity.models import Device, Entered, LiveSession
from engine.infra.errors import Forbidden, IdempotencyMismatch, NotFound, Unauthorized
from engine.infra.ids import new_id, parse_id
from engine.infra.postgres import Postgres, Session
from engine.infra.settings import Settings
from engine.record import keys

GRACE_SECONDS = 10.0
DUE_MAX = 500  # ended in one statement
FORM = re.compile(r"vrr_([0-9a-f]{32})_(0|[1-9][0-9]{0,8})_([0-9a-f]{64})")
ENDED = {
    "expired": "This session has expired: log in again",
    "new_session_on_different_device": "This session has ended: another device logged in",
    "suspended": "This account is suspended",
    "deleted": "This account was deleted",
}


def ended(reason: str | None) -> SessionEnded:
    """The refusal of a session that is over, by what ended it; pages have words of their own."""
    return SessionEnded(ENDED.get(reason or "", ""), **({"reason": reason} if reason else {}))


async def end_all(session: Session, user_id: str, reason: str) -> int:
    """End a user's live session in the caller's transaction; how many that were, 0 or 1."""
    return len(await session_store.end_sessions(session, user_id, reason))


async def end_due(postgres: Postgres) -> float | None:
    """End sessions whose time is over; seconds until the next one's, None if none lives. At once
    again while there are more. They were worth nothing since then: this is so that lists say it."""
    if len(await session_store.end_expired(postgres, DUE_MAX)) >= DUE_MAX:
        return 0.0
    seconds = await session_store.next_end(postgres)
    # One that is past and still there is in somebody's hands.
    return None if seconds is None else max(seconds, 0.05)


class Sessions:
    """Opens sessions, and issues their tokens."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._days, self._life_seconds = settings.session_days, settings.jwt_expires_seconds
        self._secret = tokens.secret_of(settings)

    @cached_property
    def _refresh_secrets(self) -> list[bytes]:
        """The one in force first."""
        return keys.in_order(self._settings)

    async def enter(
        self,
        session: Postgres | Session,
        user_id: str,
        device: Device,
        key: str | None = None,
        days: int | None = None,
        keep: bool = False,
    ) -> Entered:
        """Open a session of an account, in the caller's transaction; any other of it ends. The same
        key is the same session. With `keep` the device's live one is kept.

        Raises `NotFound`, `Forbidden` (suspended), `IdempotencyMismatch` (the key's is of another
        device)."""
        told = await session_store.open_session(
            session, new_id(), user_id, device, key, days or self._days, keep
        )
        match told.word:
            case "missing" | "deleted":
                raise NotFound("User not found")
            case "suspended":
                raise Forbidden(ENDED["suspended"])
            case "mismatch":
                raise IdempotencyMismatch
        assert told.session is not None and told.role is not None
        return self._entered(told.word, told.session, told.role)

    async def again(self, postgres: Postgres, id: str) -> Entered:
        """A session that was entered before, as it is now; without tokens if it is over."""
        found = (await session_store.find_sessions(postgres, [id]))[id]
        session = await session_store.find_session(postgres, id)
        assert session is not None, "no session is ever deleted"
        return self._entered("repeated", session, found.role)

    async def refresh(self, postgres: Postgres, token: str) -> Entered:
        """Take a refresh token: the next tokens of its session. Raises `Unauthorized`."""
        form = FORM.fullmatch(token)
        id = form and parse_id(form[1])
        if form is None or id is None or not self._is_ours(id, int(form[2]), form[3]):
            raise Unauthorized("The refresh token is not valid")
        told = await session_store.rotate_refresh(postgres, id, int(form[2]), GRACE_SECONDS)
        if told.word in ("rotated", "again"):
            assert told.session is not None and told.role is not None
            return self._entered(told.word, told.session, told.role)
        if told.word == "missing":
            raise Unauthorized("The refresh token is not valid")
        reason = told.session.termination_reason if told.session is not None else None
        raise ended(reason if told.word in ("ended", "reused") else told.word)

    def _entered(self, word: str, session: LiveSession, role: str) -> Entered:
        kind = "admin" if role == "admin" else "buyer"
        token, ends = tokens.create_until(
            self._secret, session.user_id, self._life_seconds, kind, session.id, session.expires_at
        )
        if not session.is_active or not token:
            return Entered(word, session, "", "", ends, role)
        mac = self._mac(self._refresh_secrets[0], session.id, session.refresh_generation)
        plain = session.id.replace("-", "")
        refresh = f"vrr_{plain}_{session.refresh_generation}_{mac}"
        return Entered(word, session, token, refresh, ends, role)

    def _is_ours(self, id: str, generation: int, mac: str) -> bool:
        return any(
            hmac.compare_digest(self._mac(secret, id, generation), mac)
            for secret in self._refresh_secrets
        )

    @staticmethod
    def _mac(secret: bytes, id: str, generation: int) -> str:
        words = f"velvetrope refresh token\0{id}\0{generation}"
        return hmac.new(secret, words.encode(), "sha256").hexdigest()
