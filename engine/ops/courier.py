"""The courier of a payment provider: brings signed callbacks to a shop, and does not give up early.

    sign ─▶ POST ─▶ 2xx: delivered
      ▲               │ anything else, or nobody there
      └── pause ◀─────┘    longer each time, until attempts or patience run out: given up, and said

Each attempt is signed anew with the time of the attempt, under the same `webhook-id`, as Standard
Webhooks wants it. Nothing is lost silently: every callback is counted as delivered or given up.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from datetime import UTC, datetime

import httpx2
import msgspec
import structlog

from engine.identity.signatures import HEADERS, hook

log = structlog.get_logger()

PAUSE_MIN_SECONDS = 0.1
PAUSE_MAX_SECONDS = 15.0
ANSWER_SECONDS = 10.0
CONNECTIONS_MAX = 64


class Notice(msgspec.Struct, frozen=True, rename="camel"):
    """The body of one callback."""

    reference: str
    reservation_id: str
    status: str
    amount: str
    currency: str


class Tally(msgspec.Struct):
    """What became of callbacks; `answers` counts attempts by status, 0 for no answer."""

    under_way: int = 0
    delivered: int = 0
    given_up: list[Notice] = []
    answers: Counter[int] = msgspec.field(default_factory=Counter)


class Courier:
    """Delivers to one address. `attempts_max` and `patience_seconds` bound each callback."""

    def __init__(
        self,
        url: str,
        secret: str,
        client: httpx2.AsyncClient | None = None,
        *,
        attempts_max: int = 20,
        patience_seconds: float = 180.0,
        dice: random.Random | None = None,
    ) -> None:
        self.tally = Tally()
        self._url, self._hook = url, hook(secret)
        self._attempts_max, self._patience_seconds = attempts_max, patience_seconds
        self._dice = dice or random.Random()
        # Loopback, mostly: a proxy of the environment has no part in it.
        self._client = client or httpx2.AsyncClient(
            timeout=httpx2.Timeout(ANSWER_SECONDS, pool=None),
            limits=httpx2.Limits(
                max_connections=CONNECTIONS_MAX, max_keepalive_connections=CONNECTIONS_MAX
            ),
            trust_env=False,
        )

    async def close(self) -> None:
        """Hang up."""
        await self._client.aclose()

    async def deliver(self, notice: Notice, id: str) -> bool:
        """Bring one callback; whether it arrived. `id` is its name, whatever the attempt."""
        self.tally.under_way += 1
        try:
            arrived = await self._insist(notice, id)
        finally:
            self.tally.under_way -= 1
        if arrived:
            self.tally.delivered += 1
        else:
            self.tally.given_up.append(notice)
            log.error("callback.given_up", reference=notice.reference, status=notice.status)
        return arrived

    async def _insist(self, notice: Notice, id: str) -> bool:
        body, until = msgspec.json.encode(notice), time.monotonic() + self._patience_seconds
        for attempt in range(self._attempts_max):
            status = await self._attempt(body, id)
            self.tally.answers[status] += 1
            if 200 <= status < 300:
                return True
            pause = min(PAUSE_MIN_SECONDS * 2**attempt, PAUSE_MAX_SECONDS)
            pause *= self._dice.uniform(0.5, 1.5)
            log.info("callback.again", reference=notice.reference, answer=status, seconds=pause)
            if attempt + 1 == self._attempts_max or time.monotonic() + pause > until:
                break
            await asyncio.sleep(pause)
        return False

    async def _attempt(self, body: bytes, id: str) -> int:
        """One attempt; the answer's status, 0 where there was none."""
        now = datetime.now(UTC)
        signature = self._hook.sign(id, now, body.decode())
        words = (id, str(int(now.timestamp())), signature)
        headers = dict(zip(HEADERS, words, strict=True)) | {"content-type": "application/json"}
        try:
            reply = await self._client.post(self._url, content=body, headers=headers)
        except httpx2.TransportError:
            return 0
        return reply.status_code
