"""Hints: hears in Redis that something has happened, so that nobody waits for the next look.

A message says at most what it is about: whoever hears one reads the facts in Postgres, where they
stand whether or not a hint came. Whatever was said while nobody listened was not heard.

    vr1:{<database>}:news     some drop has news; one channel for all drops, with empty messages. A
                              cluster passes a message on to every node; there is one a batch, not
                              one a hold, so that costs less than a subscription a drop would
                              (decision 0023)
    vr1:{<database>}:locks    the lock of this name was given back (decision 0031)
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


def channel_of(identity: str, subject: str) -> str:
    """The channel of all processes of a database for one kind of hints."""
    return f"{ABI}:{{{identity}}}:{subject}"


class Hints:
    """Listens on one Redis: `hear` gets each message; `met` is told whenever it begins to listen,
    for whoever must look then."""

    def __init__(
        self,
        url: str,
        channel: str,
        hear: Callable[[bytes], None],
        met: Callable[[], None] | None = None,
    ) -> None:
        self._url, self._channel = url, channel
        self._hear, self._met = hear, met
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
                        self._hear(message["data"])
                    elif message["type"] == "subscribe" and self._met is not None:
                        self._met()
        finally:
            await client.aclose()
