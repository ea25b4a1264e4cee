"""Redis: scripts by their hash, never sent twice, and an outage that is noticed once.

redis-py re-sends a timed-out command unless told otherwise; a script that ran and lost its reply
would run again. Here nothing is retried: every script may be repeated by its caller, who knows.
Once it failed, one task asks until it answers again; until then nobody else waits for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import redis.asyncio
import redis.exceptions
import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from engine.infra import points
from engine.infra.log import Seldom
from engine.infra.lua import Script

log = structlog.get_logger()

ERRORS = (redis.exceptions.RedisError, OSError, TimeoutError)
T = TypeVar("T")
ABI = "vr1"  # begins every key; changes when the meaning of a key changes
PROBE_KEY = f"{ABI}:probe"
PROBE_SECONDS = 0.2


class Away(Exception):
    """Redis did not answer. Whatever was sent may have run."""


class _Telling(redis.asyncio.Redis):
    """Tells the crash points that a command was written."""

    async def parse_response(self, *words: Any, **options: Any) -> Any:
        """Read the reply."""
        if points.armed is not None:
            await points.armed.amid()
        return await super().parse_response(*words, **options)


async def or_reset(sending: Awaitable[T]) -> T:
    """The same, with uvloop's RuntimeError for a connection that was reset while it lay idle as
    what it is. Other RuntimeErrors are mistakes of ours, and no absence."""
    try:
        return await sending
    except RuntimeError as error:
        if "handler is closed" not in str(error):
            raise
        raise ConnectionResetError(str(error)) from error


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
            redis_connect_func=self._meet,
        )
        client = redis.asyncio.Redis if points.armed is None else _Telling
        self.client = client(connection_pool=self._pool)
        self._execute: Callable[..., Awaitable[Any]] = self.client.execute_command
        self._probing: asyncio.Task[None] | None = None
        self._met_at = float("-inf")
        self._complaints = Seldom()

    @property
    def away(self) -> bool:
        """Whether it failed and has not answered since; to ask it would only cost time-outs."""
        return self._probing is not None and not self._probing.done()

    def met_within(self, seconds: float) -> bool:
        """Whether a connection was made of late, so that the server may be another one, or one that
        has forgotten something, than it was before."""
        return time.monotonic() < self._met_at + seconds

    async def _meet(self, connection: Any) -> None:
        await connection.on_connect()
        self._met_at = time.monotonic()

    async def run(self, script: Script, keys: Mapping[str, Any], **arguments: Any) -> Any:
        """Run a script with exactly its declared words. Raises `Away`."""
        if self.away:
            raise Away
        bound = script.bind(keys, arguments)
        try:
            try:
                return await self._send(script.name, "EVALSHA", script.sha, *bound)
            except redis.exceptions.NoScriptError:
                return await self._send(script.name, "EVAL", script.source, *bound)
        except ERRORS as error:
            self._lose(error)
            raise Away(str(error)) from error

    def _send(self, message: str, *command: Any) -> Awaitable[Any]:
        sending = or_reset(self._execute(*command))
        return sending if points.armed is None else points.armed.through(message, sending)

    def _lose(self, error: BaseException) -> None:
        if self.away:
            return
        told = self._complaints.due()
        if told:
            log.warning("redis.away", why=f"{type(error).__name__}: {error}")
        self._probing = asyncio.create_task(self._probe(told), name="redis-probe")

    async def _probe(self, told: bool) -> None:
        lost = time.monotonic()
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            # What lies idle in the pool was connected to a server that may be gone.
            with suppress(*ERRORS):
                await or_reset(self._pool.disconnect(inuse_connections=False))
            if await self._answers():
                break
        self._probing = None
        if told:
            log.info("redis.back", seconds=round(time.monotonic() - lost, 1))

    async def touch(self, keys: list[bytes]) -> None:
        """Look at keys of one drop: whoever is past its time expires now. Raises `Away`."""
        if self.away:
            raise Away
        try:
            await self._send("touch", "EXISTS", *keys)
        except ERRORS as error:
            self._lose(error)
            raise Away(str(error)) from error

    async def publish(self, channel: str, message: str) -> None:
        """Tell whoever listens there. Raises `Away`."""
        if self.away:
            raise Away
        try:
            await self._send("hint", "PUBLISH", channel, message)
        except ERRORS as error:
            self._lose(error)
            raise Away(str(error)) from error

    async def ping(self) -> bool:
        """Whether it answers now."""
        return not self.away and await self._answers()

    async def _answers(self) -> bool:
        """Whether it can be read and written: one that is full or a replica answers a PING."""
        try:
            return bool(await or_reset(self.client.set(PROBE_KEY, "", ex=60)))
        except ERRORS as error:
            self._lose(error)
            return False

    async def close(self) -> None:
        """Close all connections."""
        # Once is not enough: it may come just as the client turns an end into an error of its own,
        # which the probe lives through, and then it asks on for as long as the server is away.
        while self._probing is not None and not self._probing.done():
            self._probing.cancel()
            await asyncio.wait([self._probing], timeout=PROBE_SECONDS)
        await self.client.aclose()
        await self._pool.disconnect()
