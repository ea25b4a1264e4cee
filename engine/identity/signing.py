"""Signed requests: whoever finds a key in a log or a backup can do nothing with it.

A key that must sign comes with a second secret, which never travels. Each request carries

    X-Timestamp   seconds since 1970, within five minutes of Postgres's clock
    X-Nonce       a new word each time, 8 to 64 of A-Z a-z 0-9 . _ ~ -
    X-Signature   HMAC-SHA256 of the five lines of `canonical`, in hexadecimal digits

and is done once: its nonce is remembered for as long as its timestamp is good. The secret is
derived from HMAC_SECRET and the key's id, so nothing that is kept here lets anybody sign. How to
sign: docs/SIGNING.md.
"""

from __future__ import annotations

import hashlib
import hmac
import re

from engine.identity import store
from engine.infra.combiner import Crew
from engine.infra.errors import OutcomeUnknown, Unauthorized
from engine.infra.http import Call
from engine.infra.postgres import Postgres
from engine.infra.settings import Settings

WINDOW_SECONDS = 300.0
# A timestamp that is ahead by the window is good for two of them; a minute more costs nothing.
REMEMBERED_SECONDS = 2 * WINDOW_SECONDS + 60
ANSWER_SECONDS = 4.0
HEADERS = (b"x-timestamp", b"x-nonce", b"x-signature")
_TIME, _NONCE = re.compile(rb"[0-9]{1,11}"), re.compile(rb"[A-Za-z0-9._~-]{8,64}")


def secret_of(hmac_secret: str, key_id: str) -> str:
    """The second secret of a key, 64 hexadecimal digits; it signs as the text that it is."""
    words = b"velvetrope request signing " + key_id.encode()
    return hmac.new(hmac_secret.encode(), words, hashlib.sha256).hexdigest()


def canonical(method: str, target: bytes, body: bytes, timestamp: bytes, nonce: bytes) -> bytes:
    """What is signed. `target` is path and query as they are sent, encoded as they are sent; a
    question mark with nothing behind it is left away."""
    digest = hashlib.sha256(body).hexdigest().encode()
    return b"\n".join((method.encode(), target, digest, timestamp, nonce))


def sign(secret: str, words: bytes) -> str:
    """The signature of canonical words."""
    return hmac.new(secret.encode(), words, hashlib.sha256).hexdigest()


class Signing:
    """Verifies what keys that must sign send."""

    def __init__(self, settings: Settings, postgres: Postgres, crew: Crew) -> None:
        self._postgres, self._crew = postgres, crew
        secrets = settings.hmac_secret, *settings.hmac_secret_previous.split()
        self._secrets = [secret for secret in secrets if secret]

    def secret_of(self, key_id: str) -> str | None:
        """What a key signs with; None: this service has no HMAC_SECRET."""
        return secret_of(self._secrets[0], key_id) if self._secrets else None

    async def check(self, call: Call, key_id: str) -> None:
        """Refuse a request that this key did not sign just now, or that was done before. One call
        is checked once, however often it is asked who calls. Raises `Unauthorized`."""
        if call.signed == key_id:
            return
        timestamp, nonce = self._verified(call, key_id)
        claim = store.claim_nonce(
            self._postgres, key_id, nonce.decode(), int(timestamp), WINDOW_SECONDS
        )
        late, is_new = await self._crew.within(claim, ANSWER_SECONDS, OutcomeUnknown)
        if abs(late) > WINDOW_SECONDS:
            way = "behind" if late > 0 else "ahead of"
            raise Unauthorized(f"X-Timestamp is {abs(late):.0f} s {way} our clock: mend yours")
        if not is_new:
            raise Unauthorized("X-Nonce was used before: each request needs a new one")
        call.signed = key_id

    def _verified(self, call: Call, key_id: str) -> tuple[bytes, bytes]:
        """Timestamp and nonce, which somebody signed who knows the secret."""
        timestamp, nonce, signature = (call.headers.get(name, b"") for name in HEADERS)
        for name, given in zip(HEADERS, (timestamp, nonce, signature), strict=True):
            if not given:
                raise Unauthorized(f"This key must sign: {_titled(name)} is missing")
        if len({name for name, _ in call.scope["headers"]}) != len(call.scope["headers"]):
            for name in HEADERS:
                if sum(name == each for each, _ in call.scope["headers"]) > 1:
                    raise Unauthorized(f"{_titled(name)} was sent twice")
        if _TIME.fullmatch(timestamp) is None:
            raise Unauthorized("X-Timestamp is no time in seconds")
        if _NONCE.fullmatch(nonce) is None:
            raise Unauthorized("X-Nonce is not 8 to 64 of A-Z a-z 0-9 . _ ~ -")
        scope = call.scope
        query = scope["query_string"]
        target = scope["raw_path"] + (b"?" + query if query else b"")
        words = canonical(scope["method"], target, call.body, timestamp, nonce)
        good = [
            hmac.compare_digest(sign(secret_of(secret, key_id), words).encode(), signature.lower())
            for secret in self._secrets
        ]
        if not any(good):
            raise Unauthorized(
                "X-Signature is not valid: another secret, or another method, path, query or body"
                if good
                else "This service can check no signature: HMAC_SECRET is not set"
            )
        return timestamp, nonce


def _titled(name: bytes) -> str:
    return name.decode().title()
