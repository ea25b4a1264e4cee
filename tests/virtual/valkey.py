"""A Redis server, and the last inch of its client: what lies below `Redis._execute`.

A connection knows which server it was made to. What is sent may be lost, may run and lose its
reply, or run after its sender gave up; `fate` (weather.py) decides. Everything above, from
`Redis.run` on, is the real code.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import redis.exceptions as errors

from .keyspace import Keyspace, Scripts

if TYPE_CHECKING:
    from engine.infra.redis import Redis

    from .loop import VirtualLoop

CONNECTIONS, TIMEOUT_SECONDS = 16, 1.0  # as in engine/infra/redis.py
_scripts = Scripts()  # compiled once a process: a script has no memory of its own


class Valkey:
    """One server; `generation` tells its lives apart."""

    def __init__(self, loop: VirtualLoop, now_us: Callable[[], int]) -> None:
        self.loop = loop
        self.generation = 0
        self.away = self.full = False
        self.frozen_until = 0.0
        self.sources: dict[str, str] = {}
        self.bells: list[Callable[[], None]] = []  # who hears keys expire
        self.keyspace = Keyspace(now_us, self._expired)
        self.after: Callable[[str], None] = lambda name: None  # the oracle, after each script

    def _expired(self, key: bytes) -> None:
        if b":bell:" in key:
            for ring in self.bells:
                self.loop.outside(0.001, ring)

    def perform(self, command: str, *args: Any) -> Any:
        """Run one command now. Raises redis.exceptions.ResponseError and its children."""
        words = [_encoded(arg) for arg in args]
        if command in ("EVALSHA", "EVAL"):
            return self._evaluate(command, words)
        if self.full and command == "SET":
            raise errors.OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")
        return self.keyspace.call(command.encode(), *words)

    def _evaluate(self, command: str, words: list[bytes]) -> Any:
        if command == "EVAL":
            source = words[0].decode()
            self.sources[hashlib.sha1(words[0]).hexdigest()] = source
        else:
            found = self.sources.get(words[0].decode())
            if found is None:
                raise errors.NoScriptError("No matching script. Please use EVAL.")
            source = found
        if self.full and "no-writes" not in source.partition("\n")[0]:
            raise errors.OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")
        count = int(words[1])
        reply = _scripts.run(self.keyspace, source, words[2 : 2 + count], words[2 + count :])
        self.after(source)
        return reply

    def restart(self, snapshot: Any = None) -> None:
        """Another life, with what a snapshot kept of the one before."""
        self.generation += 1
        self.sources.clear()
        self.keyspace.clear()
        if snapshot is not None:
            self.keyspace.restore(snapshot)


def _encoded(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


class Connection:
    """What redis-py's `_meet` greets."""

    def __init__(self, generation: int) -> None:
        self.generation = generation

    async def on_connect(self) -> None:
        """The greeting costs nothing of its own here."""


class Client:
    """The client's last inch in one process: sixteen connections, none of which is trusted."""

    def __init__(self, server: Valkey, redis: Redis, fate: Callable[[str], str], lag: Any) -> None:
        self.server, self.redis, self.fate, self.lag = server, redis, fate, lag
        self.idle: list[Connection] = []
        self.in_use = 0
        self.waiting: deque[asyncio.Future[None]] = deque()
        redis._execute = self.execute
        redis.client = self  # type: ignore[assignment]
        redis._pool = self  # type: ignore[assignment]

    # What engine/infra/redis.py uses of redis-py.

    async def set(self, key: str, value: str, ex: int) -> Any:
        return await self.execute("SET", key, value, "EX", ex)

    def pipeline(self, transaction: bool) -> Pipeline:
        assert not transaction
        return Pipeline(self)

    async def disconnect(self, inuse_connections: bool = True) -> None:
        self.idle.clear()

    async def aclose(self) -> None:
        self.idle.clear()

    async def execute(self, *args: Any) -> Any:
        """One command on a connection of the pool. Raises what redis-py raises."""
        await self._take_seat()
        try:
            connection = await self._connected()
            reply = await self._exchange(connection, args)
            self.idle.append(connection)
            return reply
        finally:
            self._leave_seat()

    async def _take_seat(self) -> None:
        if self.in_use < CONNECTIONS:
            self.in_use += 1
            return
        seat: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append(seat)
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await seat
        except TimeoutError:
            if seat.done() and not seat.cancelled():
                self._leave_seat()
            raise errors.ConnectionError("No connection available.") from None
        except BaseException:
            if seat.done() and not seat.cancelled():
                self._leave_seat()
            raise

    def _leave_seat(self) -> None:
        while self.waiting:
            seat = self.waiting.popleft()
            if not seat.done():
                seat.set_result(None)
                return
        self.in_use -= 1

    async def _connected(self) -> Connection:
        server = self.server
        if self.idle:
            connection = self.idle.pop()
            # A connection whose end was seen is made anew; one whose end was not, fails in use.
            if connection.generation == server.generation or self.fate("redis idle") == "unseen":
                return connection
        await asyncio.sleep(self.lag())
        if server.away:
            raise errors.ConnectionError("Connection refused.")
        connection = Connection(server.generation)
        await self.redis._meet(connection)
        return connection

    async def _exchange(self, connection: Connection, args: tuple[Any, ...]) -> Any:
        server, loop = self.server, self.server.loop
        if server.away or connection.generation != server.generation:
            await asyncio.sleep(self.lag())
            raise errors.ConnectionError("Connection closed by server.")
        reply: asyncio.Future[Any] = loop.create_future()
        fate = self.fate("redis")
        arrives = min(1.2 + 40 * self.lag(), 2.5) if fate == "late" else self.lag()
        if fate not in ("request lost", "cut before"):
            loop.outside(arrives, self._arrive, connection, args, reply, fate)
        if fate == "cut before":
            loop.outside(self.lag(), _cut, reply)
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                return await reply
        except TimeoutError:
            raise errors.TimeoutError("Timeout reading from server") from None

    def _arrive(
        self, connection: Connection, args: tuple[Any, ...], reply: asyncio.Future[Any], fate: str
    ) -> None:
        server = self.server
        if server.frozen_until > server.loop.now:
            wait = server.frozen_until - server.loop.now
            server.loop.outside(wait, self._arrive, connection, args, reply, fate)
            return
        if server.away or connection.generation != server.generation:
            _cut(reply)
            return
        try:
            outcome: Any = server.perform(*args)
        except errors.ResponseError as error:
            outcome = error
        if fate == "reply lost":
            return
        if fate == "cut after":
            server.loop.outside(self.lag(), _cut, reply)
        else:
            server.loop.outside(self.lag(), _tell, reply, outcome)


def _cut(reply: asyncio.Future[Any]) -> None:
    _tell(reply, errors.ConnectionError("Connection closed by server."))


def _tell(reply: asyncio.Future[Any], outcome: Any) -> None:
    if reply.done():
        return
    if isinstance(outcome, BaseException):
        reply.set_exception(outcome)
    else:
        reply.set_result(outcome)


class Pipeline:
    """Several EXISTS in one go."""

    def __init__(self, client: Client) -> None:
        self._client, self._keys = client, []  # type: tuple[Client, list[bytes]]

    async def __aenter__(self) -> Pipeline:
        return self

    async def __aexit__(self, *error: object) -> None:
        """Nothing to reset."""

    def exists(self, key: bytes) -> None:
        self._keys.append(key)

    async def execute(self) -> Any:
        return await self._client.execute("EXISTS", *self._keys)
