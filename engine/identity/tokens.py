"""Access tokens of buyers and admins (RFC 9068, HS256 alone): checked once and remembered until
they expire.

A token that a login gave names its session (`sid`). Whether that still lives, and what its account
may do, says the database (watch.py); the token's own `role` counts only where there is no session.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import jwt

from engine.identity.errors import TokenExpired
from engine.identity.models import Caller, Kind, is_buyer
from engine.infra.errors import Invalid, Misconfigured, Unauthorized
from engine.infra.ids import parse_id
from engine.infra.settings import Settings
from engine.record import keys

ISSUER = AUDIENCE = "velvetrope"
ALGORITHM = "HS256"
REMEMBERED_MAX = 50_000
# As it is issued, and no other way to write the same: libraries understand several.
FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
REQUIRED = ["sub", "iss", "aud", "iat", "exp"]


def create(
    secret: str, buyer: str, life_seconds: int, role: str = "buyer", session: str | None = None
) -> str:
    """A token for a buyer id, or for an admin. Raises `Invalid` for what can be no id."""
    if not is_buyer(buyer):
        raise Invalid("a buyer's id has 1 to 128 printable characters")
    now = int(time.time())
    claims: dict[str, Any] = {
        "sub": buyer,
        "iss": ISSUER,
        "aud": AUDIENCE,
        "iat": now,
        "role": role,
    }
    claims["exp"] = now + life_seconds
    if session is not None:
        claims["sid"] = session
    return jwt.encode(claims, secret, ALGORITHM, headers={"typ": "at+jwt", "kid": kid_of(secret)})


def create_until(
    secret: str, buyer: str, life_seconds: int, role: str, session: str, until: datetime
) -> tuple[str, datetime]:
    """A token of a session, and when it ends: never after the session does. Empty, if that has
    ended by this clock; Postgres's decides whether a session is honoured."""
    now = time.time()
    ends = min(int(now + life_seconds), int(until.timestamp()))
    moment = datetime.fromtimestamp(ends, UTC)
    if ends <= now:
        return "", moment
    return create(secret, buyer, ends - int(now), role, session), moment


def kid_of(secret: str) -> str:
    """The name of a secret in a token's header, which tells nothing of it."""
    return hashlib.sha256(b"velvetrope jwt\0" + secret.encode()).hexdigest()[:16]


def secret_of(settings: Settings) -> str:
    """What signs tokens here; empty: nothing does. AUTH=open asks for no secret, and anybody could
    guess a constant: it is derived from the one that was made for this DATA_DIR."""
    if settings.jwt_secret or settings.auth != "open":
        return settings.jwt_secret
    with suppress(Misconfigured):
        made = keys.secret_of(settings).encode()
        return hmac.new(made, b"velvetrope access tokens", "sha256").hexdigest()
    return ""


class Tokens:
    """Verifies tokens. A buyer sends the same one many times: a verified one costs a look-up.

    `secret` is the one in force; `previous`, a space between, are those whose tokens still hold.
    """

    def __init__(self, secret: str, previous: str = "") -> None:
        self._secrets = {kid_of(each): each for each in (secret, *keys.several(previous)) if each}
        self._known: dict[str, tuple[Caller, float]] = {}

    @classmethod
    def of(cls, settings: Settings) -> Tokens:
        """With the secrets of these settings."""
        return cls(secret_of(settings), settings.jwt_secret_previous)

    def caller(self, token: str) -> Caller:
        """Who holds this token; if it names a session, as long as that lives. Raises
        `Unauthorized`."""
        known = self._known.get(token)
        if known is not None and time.time() < known[1]:
            return known[0]
        caller, expires = self._verify(token)
        if len(self._known) >= REMEMBERED_MAX:
            self._known.clear()
        self._known[token] = caller, expires
        return caller

    def _verify(self, token: str) -> tuple[Caller, float]:
        if not self._secrets:
            raise Unauthorized("This service accepts no tokens: JWT_SECRET is not set")
        if FORM.fullmatch(token) is None:
            raise Unauthorized("The token is not valid")
        try:
            header = jwt.get_unverified_header(token)
            if header.get("typ") != "at+jwt" or "crit" in header:
                raise Unauthorized("The token is not an access token")
            claims = self._decoded(token, header.get("kid"))
            expires = float(claims["exp"])
        except jwt.ExpiredSignatureError:
            raise TokenExpired from None
        except (jwt.PyJWTError, UnicodeError, ValueError, OverflowError):
            raise Unauthorized("The token is not valid") from None
        subject, role, session = str(claims["sub"]), claims.get("role", "buyer"), ""
        if not is_buyer(subject):
            raise Unauthorized("The token names no buyer")
        if "sid" in claims:
            session = (isinstance(claims["sid"], str) and parse_id(claims["sid"])) or ""
            if not session:
                raise Unauthorized("The token names no session")
        kind: Kind = "admin" if role == "admin" and not session else "buyer"
        return Caller(kind, subject, session=session), expires

    def _decoded(self, token: str, kid: object) -> dict[str, Any]:
        """Its claims. `kid` is an index into our own secrets, and nothing else is ever done with
        it; without one each of them is tried, as whoever issues tokens himself may name none."""
        if kid is None:
            secrets = list(self._secrets.values())
        else:
            secrets = [s for name, s in self._secrets.items() if name == kid]
        for secret in secrets:
            with suppress(jwt.InvalidSignatureError):
                claims: dict[str, Any] = jwt.decode(
                    token,
                    secret,
                    algorithms=[ALGORITHM],
                    issuer=ISSUER,
                    audience=AUDIENCE,
                    options={"require": REQUIRED},
                )
                return claims
        raise jwt.InvalidSignatureError
