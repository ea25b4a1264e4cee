"""Redis: scripts by their hash, never sent twice, and an outage that is noticed once.

redis-py re-sends a timed-out command unless told otherwise; a script that ran and lost its reply
would run again. Here nothing is retried: every script may be repeated by its caller, who knows.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import redis.asyncio
import redis.exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from engine.infra.lua import Script

ERRORS = (redis.exceptions.RedisError, OSError, TimeoutError)
BREATHER_SECONDS = 0.5


class Away(Exception):
    """Redis did not answer. Whatever was sent may have run."""


class Redis:
    """The client of one process."""

    def __init__(self, url: str, socket_timeout_seconds: float = 1.0) -> None:
        self._pool = redis.asyncio.BlockingConnectionPool.from_url(
            url,
            max_connections=16,
            timeout=socket_timeout_seconds,
            protocol=3,
            socket_timeout=socket_timeout_seconds,
            socket_connect_timeout=socket_timeout_seconds,
            retry=Retry(NoBackoff(), 0),
        )
        self.client = redis.asyncio.Redis(connection_pool=self._pool)
        self._execute: Callable[..., Awaitable[Any]] = self.client.execute_command
        self._away_until = 0.0

    @property
    def away(self) -> bool:
        """Whether it failed a moment ago; asking again at once would only cost time-outs."""
        return time.monotonic() < self._away_until

    async def run(self, script: Script, keys: dict[str, str], **arguments: Any) -> Any:
        """Run a script with exactly its declared words. Raises `Away`."""
        if self.away:
            raise Away
        bound = script.bind(keys, arguments)
        try:
            try:
                return await self._execute("EVALSHA", script.sha, *bound)
            except redis.exceptions.NoScriptError:
                return await self._execute("EVAL", script.source, *bound)
        except ERRORS as error:
            self._away_until = time.monotonic() + BREATHER_SECONDS
            raise Away(str(error)) from error

    async def touch(self, keys: list[bytes]) -> None:
        """Look at keys, one by one: whoever is past its time expires now. Raises `Away`."""
        try:
            async with self.client.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.exists(key)
                await pipe.execute()
        except ERRORS as error:
            raise Away(str(error)) from error

    async def ping(self) -> bool:
        """Whether it answers now."""
        try:
            return bool(await self.client.ping())
        except ERRORS:
            return False

    async def close(self) -> None:
        """Close all connections."""
        await self.client.aclose()
        await self._pool.disconnect()
