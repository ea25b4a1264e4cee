"""Signatures of a payment provider: Standard Webhooks, HMAC-SHA256 over id, time and body.

A provider has no account here and sends no key: that it knows the secret is all it proves. Two
secrets may be in force while one takes the other's place.
"""

from __future__ import annotations

from base64 import b64encode

from standardwebhooks import Webhook, WebhookVerificationError

from engine.infra.errors import Unauthorized
from engine.infra.http import Call
from engine.infra.settings import Settings

HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")


def hook(secret: str) -> Webhook:
    """Signs and verifies with a secret as providers give it (`whsec_...`), or with any text."""
    return Webhook(secret if secret.startswith("whsec_") else b64encode(secret.encode()).decode())


class Signatures:
    """Verifies what a provider sends."""

    def __init__(self, settings: Settings) -> None:
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
        raise Unauthorized("The signature is not valid")
