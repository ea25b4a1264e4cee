"""Signatures of a payment provider: Standard Webhooks, HMAC-SHA256 over id, time and body.

A provider has no account here and sends no key: that it knows the secret is all it proves. Two
secrets may be in force while one takes the other's place.
"""

from __future__ import annotations

import time
from base64 import b64encode

import structlog
from standardwebhooks import Webhook, WebhookVerificationError

from engine.infra.errors import Unauthorized
from engine.infra.http import Call
from engine.infra.log import Seldom
from engine.infra.settings import Settings

log = structlog.get_logger()

TOLERANCE_SECONDS = 300  # the library's
CLOCK_DIGITS = 12
HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")


def hook(secret: str) -> Webhook:
    """Signs and verifies with a secret as providers give it (`whsec_...`), or with any text."""
    return Webhook(secret if secret.startswith("whsec_") else b64encode(secret.encode()).decode())


class Signatures:
    """Verifies what a provider sends."""

    def __init__(self, settings: Settings) -> None:
        self._complaints = Seldom()
        self._hooks = [hook(secret) for secret in settings.payment_secret.split()]

    def check(self, call: Call) -> None:
        """Refuse a body that no known secret signed within five minutes. Raises `Unauthorized`."""
        if not self._hooks:
            raise Unauthorized("This service knows no provider: PAYMENT_SECRET is not set")
        headers = {name: call.headers.get(name.encode(), b"").decode("latin-1") for name in HEADERS}
        for hook in self._hooks:
            try:
                hook.verify(call.body, headers, json_parse=False)
            except (WebhookVerificationError, ValueError, OverflowError, OSError):
                continue  # the library lets what hostile headers cause come through
            return
        why = _why_not(headers)
        if self._complaints.due(why):  # else buyers pay and every alarm stays green
            log.warning("payment.unsigned", why=why, request_id=call.request_id)
        raise Unauthorized(why)


def _why_not(headers: dict[str, str]) -> str:
    """What is wrong with it: a clock is mended elsewhere than a secret."""
    if missing := [name for name in HEADERS if not headers[name]]:
        return f"{missing[0]} is missing"
    sent = headers["webhook-timestamp"]
    if not (sent.isascii() and sent.isdigit() and len(sent) < CLOCK_DIGITS):
        return "webhook-timestamp is not a time in seconds"
    if abs(time.time() - int(sent)) > TOLERANCE_SECONDS:
        return f"webhook-timestamp is more than {TOLERANCE_SECONDS} s from our clock"
    return "The signature is not valid: another secret, or another body"
