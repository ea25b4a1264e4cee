"""The bell: hears keys expire in Redis and nudges the sweeper. A hint, never the truth.

Events are lost while nobody listens, so every (re)subscription is followed by a sweep.
"""

from __future__ import annotations

import asyncio

import redis.asyncio
import structlog

from engine.infra.log import Seldom
from engine.infra.redis import ABI, ERRORS, or_reset
from engine.keepers.keeper import Keeper

log = structlog.get_logger()

SILENCE_SECONDS = 5.0  # after which the connection is tried


class Bell:
    """Listens on one Redis. With a cluster, one bell for each primary."""

    def __init__(self, url: str, sweeper: Keeper) -> None:
        self._url = url
        self._sweeper = sweeper
        self.rung = 0
        self._complaints = Seldom()

    async def listen(self) -> None:
        """Listen for ever; reconnect after any error."""
        while True:
            try:
                await or_reset(self._listen_once())
            except ERRORS as error:
                if self._complaints.due():
                    log.warning("bell.lost", why=type(error).__name__)
                await asyncio.sleep(0.5)

    async def _listen_once(self) -> None:
        client = redis.asyncio.Redis.from_url(
            self._url, socket_timeout=None, socket_connect_timeout=1.0
        )
        try:
            await self._ask_for_events(client)
            async with client.pubsub() as pubsub:
                await pubsub.psubscribe("__keyevent@*__:expired")
                self._sweeper.nudge()  # what rang while nobody listened was not heard
                while True:
                    message = await pubsub.get_message(timeout=SILENCE_SECONDS)
                    if message is None:
                        await pubsub.ping()
                    elif message["type"] == "pmessage" and _is_bell(message["data"]):
                        self.rung += 1
                        self._sweeper.nudge()
        finally:
            await client.aclose()

    async def _ask_for_events(self, client: redis.asyncio.Redis) -> None:
        """Turn expiry events on where we may; a managed service has its own switch."""
        try:
            flags = str(
                (await client.config_get("notify-keyspace-events"))["notify-keyspace-events"]
            )
            if not {"E", "x"} <= set(flags) and not {"E", "A"} <= set(flags):
                await client.config_set("notify-keyspace-events", flags + "Ex")
        except redis.exceptions.ResponseError:
            log.info("bell.may_not_ask", mend="set notify-keyspace-events to Ex on the server")


def _is_bell(key: object) -> bool:
    text = key.decode(errors="replace") if isinstance(key, bytes) else str(key)
    return text.startswith(f"{ABI}:") and ":bell:" in text
