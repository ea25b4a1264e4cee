"""Hints: hears in Redis that some drop has news, so that nobody waits for the next poll.

One channel for all drops, with empty messages: whoever hears one reads the facts in Postgres, where
they stand whether or not a hint came. A cluster passes a message on to every node; there is one a
batch, not one a hold, so that costs less than a subscription a drop would (decision 0023).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import redis.asyncio
import structlog

from engine.infra.log import Seldom
from engine.infra.redis import ABI, ERRORS, or_reset

log = structlog.get_logger()

SILENCE_SECONDS = 5.0  # after which the connection is tried
AGAIN_SECONDS = 0.5


class Hints:
    """Listens on one Redis, and calls `wake` for whatever it hears."""

    def __init__(self, url: str, identity: str, wake: Callable[[], None]) -> None:
        self._url, self._wake = url, wake
        self._channel = f"{ABI}:{{{identity}}}:news"
        self._complaints = Seldom()

    async def listen(self) -> None:
        """Listen until cancelled; connect again after any error."""
        while True:
            try:
                await or_reset(self._listen_once())
            except ERRORS as error:
                if self._complaints.due():
                    log.warning("hints.lost", why=type(error).__name__)
                await asyncio.sleep(AGAIN_SECONDS)

    async def _listen_once(self) -> None:
        client = redis.asyncio.Redis.from_url(
            self._url, socket_timeout=None, socket_connect_timeout=1.0
        )
        try:
            async with client.pubsub() as pubsub:
                await pubsub.subscribe(self._channel)
                while True:
                    message = await pubsub.get_message(timeout=SILENCE_SECONDS)
                    if message is None:
                        await pubsub.ping()
                    elif message["type"] == "message":
                        self._wake()
        finally:
            await client.aclose()
