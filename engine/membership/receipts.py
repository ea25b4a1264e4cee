"""Receipts: what says that somebody paid elsewhere, and who vouches for it (RECEIPT_VERIFIER).

none   nobody: any text is a receipt, so only who is trusted anyway may bring one
hmac   a shop's own server: base64url(JSON) . base64url(HMAC-SHA256 of the first part)
jws    Apple: what StoreKit 2 signs, standing on roots of RECEIPT_ROOTS (storekit.py)

Each sentence says what is wrong with a receipt, and none repeats any of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import Any

import msgspec

from engine.infra.errors import Misconfigured, Retryable
from engine.infra.settings import SECRET_BYTES_MIN, Settings, too_short
from engine.membership.models import Receipt
from engine.membership.storekit import (
    AHEAD_SECONDS,
    StoreKit,
    invalid,
    object_of,
    time_of,
    unpacked,
)

LENGTH_MAX = 49_152  # characters; with its name and whose it is, it fits into a body
TRANSACTION = re.compile(r"[\x21-\x7e]{1,128}")
AT_ONCE = 2  # of a worker's threads: the chain of a receipt is a few signatures
WAITING_MAX = 1_000  # for those: as many as are verified while somebody still listens
ANY = ("", "any")  # RECEIPT_ENVIRONMENT: it does not matter
PRODUCTION = "Production"  # what a shop's receipt is of that does not say

Clock = Callable[[], float]


class Verifier:
    """Verifies receipts. This one takes any text for one: `none`."""

    is_trusting = True

    @classmethod
    def of(cls, settings: Settings, clock: Clock = time.time) -> Verifier:
        """That of these settings. Raises `Misconfigured`. Receipts and certificates end by wall
        time, by their standards: `clock` tells it, in seconds."""
        match settings.receipt_verifier:
            case "hmac":
                return Shops(settings, clock)
            case "jws":
                return Apples(settings, clock)
            case _:
                return Verifier()

    async def verify(self, text: str) -> Receipt:
        """What the receipt is of. Raises `InvalidReceipt`."""
        return Receipt(digest(text))


class Shops(Verifier):
    """Receipts of a shop's server that knows RECEIPT_SECRET; of two secrets either."""

    is_trusting = False

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._keys = _keys(settings)
        self._terms = Terms(settings, clock)

    async def verify(self, text: str) -> Receipt:
        """As of any verifier."""
        hash = digest(text)
        part, dot, signature = text.partition(".")
        if not dot:
            raise invalid("it is not two parts with a dot between")
        given = unpacked(signature)
        if not any(hmac.compare_digest(given, _signed(key, part)) for key in self._keys):
            raise invalid("its signature is not ours")
        claims = object_of(unpacked(part))
        self._terms.origin(claims.get("bundleId"), claims.get("environment", PRODUCTION))
        self._terms.begun(time_of(claims, "issuedAt"))
        self._terms.not_over(time_of(claims, "expiresAt"))
        return Receipt(hash, transaction_of(claims.get("transactionId")))


class Apples(Verifier):
    """Receipts that Apple signed, whatever brought them here."""

    is_trusting = False

    def __init__(self, settings: Settings, clock: Clock) -> None:
        if not settings.receipt_bundle_id:
            raise Misconfigured(
                "RECEIPT_VERIFIER=jws: set RECEIPT_BUNDLE_ID, else any app's receipts would count"
            )
        self._storekit = StoreKit.of(settings.receipt_roots, clock)
        self._terms = Terms(settings, clock)
        self._turns, self._waiting = asyncio.Semaphore(AT_ONCE), 0

    async def verify(self, text: str) -> Receipt:
        """As of any verifier. Signatures are checked in a thread, a few at once. Raises
        `Retryable` where too many wait for that."""
        hash = digest(text)
        if self._waiting >= WAITING_MAX + AT_ONCE:
            raise Retryable("Too many receipts are presented at this moment")
        self._waiting += 1
        try:
            async with self._turns:
                claims = await asyncio.to_thread(self._storekit.claims, text)
        finally:
            self._waiting -= 1
        self._terms.origin(claims.get("bundleId"), claims.get("environment"))
        if claims.get("revocationDate") is not None:
            raise invalid("Apple has revoked it")
        if claims.get("type") not in ("Consumable", "Non-Consumable"):
            self._terms.not_over(time_of(claims, "expiresDate", 1_000))
        return Receipt(hash, transaction_of(claims.get("originalTransactionId")))


class Terms:
    """What a receipt must be that somebody did sign: from the right place, and of now."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._bundle, self._environment = settings.receipt_bundle_id, settings.receipt_environment
        self._clock = clock

    def origin(self, bundle: object, environment: object) -> None:
        """Refuse another app's receipt, and one from another environment."""
        if self._bundle and bundle != self._bundle:
            raise invalid("it is of another app")
        if self._environment not in ANY and environment != self._environment:
            raise invalid("it is from another environment")

    def begun(self, since: float | None) -> None:
        """Refuse what is of later than now."""
        if since is not None and since > self._clock() + AHEAD_SECONDS:
            raise invalid("it is from the future")

    def not_over(self, until: float | None) -> None:
        """Refuse what has expired."""
        if until is not None and until <= self._clock():
            raise invalid("it has expired")


def create(
    settings: Settings,
    transaction: str,
    *,
    bundle: str = "",
    environment: str = "",
    life_seconds: int | None = None,
    clock: Clock = time.time,
) -> str:
    """A shop's receipt, signed with the first RECEIPT_SECRET, by default of the app and environment
    that these settings want. Raises `Misconfigured` and `InvalidReceipt`."""
    key, now = _keys(settings)[0], int(clock())
    payload: dict[str, Any] = {"transactionId": transaction_of(transaction), "issuedAt": now}
    if bundle := bundle or settings.receipt_bundle_id:
        payload["bundleId"] = bundle
    if (environment := environment or settings.receipt_environment) not in ANY:
        payload["environment"] = environment
    if life_seconds is not None:
        payload["expiresAt"] = now + life_seconds
    part = _packed(msgspec.json.encode(payload))
    return f"{part}.{_packed(_signed(key, part))}"


def transaction_of(given: object) -> str:
    """The id of a purchase: 1 to 128 visible characters. Raises `InvalidReceipt`."""
    if not isinstance(given, str) or TRANSACTION.fullmatch(given) is None:
        raise invalid("it names no transaction")
    return given


def digest(text: str) -> bytes:
    """A receipt's hash: SHA-256 of its text as it came. Raises `InvalidReceipt`."""
    if not 1 <= len(text) <= LENGTH_MAX:
        raise invalid(f"want 1 to {LENGTH_MAX} characters")
    try:
        return hashlib.sha256(text.encode()).digest()
    except UnicodeEncodeError:
        raise invalid("it is not text") from None


def _keys(settings: Settings) -> list[bytes]:
    keys = [each.encode() for each in settings.receipt_secret.split()]
    if not keys or any(len(key) < SECRET_BYTES_MIN for key in keys):
        raise Misconfigured(too_short("receipt_secret"))
    return keys


def _signed(key: bytes, part: str) -> bytes:
    return hmac.digest(key, part.encode(), "sha256")


def _packed(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()
