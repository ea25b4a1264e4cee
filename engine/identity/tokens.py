"""Tokens of buyers and admins: HS256 alone, checked once and remembered until they expire."""

from __future__ import annotations

import time

import jwt

from engine.identity.errors import TokenExpired
from engine.identity.models import Caller, is_buyer
from engine.infra.errors import Invalid, Unauthorized

ISSUER = "velvetrope"
ALGORITHM = "HS256"
REMEMBERED_MAX = 50_000


def create(secret: str, buyer: str, life_seconds: int, role: str = "buyer") -> str:
    """A token for a buyer id, or for an admin. Raises `Invalid` for what can be no id."""
    if not is_buyer(buyer):
        raise Invalid("a buyer's id has 1 to 128 printable characters")
    now = int(time.time())
    claims = {"sub": buyer, "iss": ISSUER, "iat": now, "exp": now + life_seconds, "role": role}
    return jwt.encode(claims, secret, ALGORITHM, headers={"typ": "at+jwt"})


class Tokens:
    """Verifies tokens. A buyer sends the same one many times: a verified one costs a look-up."""

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._known: dict[str, tuple[Caller, float]] = {}

    def caller(self, token: str) -> Caller:
        """Who holds this token. Raises `Unauthorized`."""
        known = self._known.get(token)
        if known is not None and time.time() < known[1]:
            return known[0]
        caller, expires = self._verify(token)
        if len(self._known) >= REMEMBERED_MAX:
            self._known.clear()
        self._known[token] = caller, expires
        return caller

    def _verify(self, token: str) -> tuple[Caller, float]:
        if not self._secret:
            raise Unauthorized("This service accepts no tokens: JWT_SECRET is not set")
        try:
            header = jwt.get_unverified_header(token)
            if header.get("typ") != "at+jwt" or "crit" in header:
                raise Unauthorized("The token is not an access token")
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=[ALGORITHM],
                issuer=ISSUER,
                options={"require": ["sub", "iss", "exp"]},
            )
        except jwt.ExpiredSignatureError:
            raise TokenExpired from None
        except (jwt.PyJWTError, UnicodeError, ValueError, OverflowError):
            raise Unauthorized("The token is not valid") from None
        subject, role = str(claims["sub"]), claims.get("role", "buyer")
        if not is_buyer(subject):
            raise Unauthorized("The token names no buyer")
        return Caller("admin" if role == "admin" else "buyer", subject), float(claims["exp"])
