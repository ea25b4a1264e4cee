"""A payment provider's words, signed as it would, for tests that choose each of them."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime
from typing import Any

from engine.identity.signatures import hook
from tests.support.http import Reply
from tests.support.shop import Shop

SECRET = "what-the-provider-and-the-shop-know-in-tests"
_numbers = itertools.count(1)


def signed(body: bytes, secret: str = SECRET, when: datetime | None = None) -> dict[str, str]:
    """The three headers of Standard Webhooks. It signs texts: bytes that are none get a signature
    that is not theirs."""
    id, now = f"msg_{next(_numbers)}", when or datetime.now(UTC)
    signature = hook(secret).sign(id, now, body.decode(errors="replace"))
    return {
        "webhook-id": id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": signature,
    }


class Provider:
    """Says what became of payments."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop

    async def says(
        self, status: str, hold: dict[str, Any], reference: str = "pay_1", **other: Any
    ) -> Reply:
        """One callback about a hold; `other` replaces what is in it."""
        words = {
            "reference": reference,
            "reservationId": hold["id"],
            "status": status,
            "amount": hold["amount"],
            "currency": hold["currency"],
        }
        body = json.dumps(words | other).encode()
        return await self._shop.send("POST", "/payments/callback", body, signed(body))
