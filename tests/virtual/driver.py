"""The last inch of the Postgres driver: what asyncpg is to `engine.infra.postgres`.

A connection that breaks tells its client what asyncpg would; the backend behind it may go on. What
becomes of a message is asked of the weather.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import asyncpg

from . import statements
from .ledger import SqlError
from .postgres import ENDED, Backend, Server

if TYPE_CHECKING:
    from .loop import Process

DARK_SECONDS = 5.5  # until TCP gives a peer up that does not answer


class _Transport:
    def get_extra_info(self, name: str) -> None:
        return None


class Connection:
    """What asyncpg's connection is to `Session`, `_meet` and `transaction`."""

    def __init__(self, server: Server, process: Process, ms: int, fate: Any, lag: Any) -> None:
        self.server, self.process, self.fate, self.lag = server, process, fate, lag
        self.backend = Backend(server, ms)
        self.backend.on_end = self._ended
        self.closed = False
        self.history = ("", "")
        self._transport = _Transport()

    def _ended(self) -> None:
        """The server closed it; we learn of it a moment later, or at the next use."""
        self.server.loop.outside(self.lag(), self._close)

    def _close(self) -> None:
        self.closed = True

    def terminate(self) -> None:
        if not self.closed:
            self.closed = True
            self.server.loop.outside(self.lag(), self.backend.hang_up)

    def is_closed(self) -> bool:
        return self.closed

    def heed(self) -> None:
        """There is no standby whose word could be missing."""

    async def fetch(self, text: str, *values: Any) -> list[Any]:
        found: list[Any] = await self.send((text, values))
        return found

    async def fetchrow(self, text: str, *values: Any) -> Any:
        found = await self.fetch(text, *values)
        return found[0] if found else None

    def transaction(self, isolation: str) -> _Transaction:
        return _Transaction(self)

    async def send(self, message: Any) -> Any:
        """One message and its answer. Raises what asyncpg raises."""
        if self.closed:
            raise asyncpg.InterfaceError("connection is closed")
        loop = self.server.loop
        name = message if isinstance(message, str) else statements.QUERIES[message[0]].name
        answer: asyncio.Future[Any] = loop.create_future()
        fate = self.fate("postgres", name)
        sent_at = loop.now

        def heard(outcome: Any) -> None:
            if fate in ("reply lost", "dark reply"):
                self._break(answer, 0.0 if fate == "reply lost" else DARK_SECONDS)
            else:
                loop.outside(self.lag(), _tell, answer, outcome)

        def arrive() -> None:
            if self.backend.dead:
                loop.outside(self.lag(), _tell, answer, SqlError(ENDED))
            elif fate.startswith("error "):
                self.backend.refuse(message, fate[6:], heard)
            else:
                self.backend.run(message, self.process, sent_at, heard)

        if fate in ("request lost", "dark request"):
            self._break(answer, 0.0 if fate == "request lost" else DARK_SECONDS)
        elif fate == "zombie":
            self._break(answer, self.lag(), hang_up=False)
            loop.outside(self.server.random.choice(self.server.late_seconds), self._late, arrive)
        else:
            loop.outside(min(self.lag() * (200 if fate == "slow" else 1), 3.0), arrive)
        try:
            return await answer
        except SqlError as error:
            if error.sqlstate == ENDED:
                self.closed = True
            raise as_asyncpg(error.sqlstate) from None
        except asyncio.CancelledError:
            self.terminate()
            raise

    def _late(self, arrive: Callable[[], None]) -> None:
        """What was sent before the connection broke is read now."""
        arrive()
        self.backend.hang_up()

    def _break(self, answer: asyncio.Future[Any], seconds: float, hang_up: bool = True) -> None:
        """The connection breaks: the client hears of it after so long, the server as well."""
        loop = self.server.loop

        def broken() -> None:
            self.closed = True
            _tell(answer, SqlError("08003"))

        loop.outside(seconds + self.lag(), broken)
        if hang_up:
            loop.outside(seconds + 2 * self.lag(), self.backend.hang_up)


class _Transaction:
    """BEGIN, COMMIT and ROLLBACK."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def start(self) -> None:
        await self._connection.send("BEGIN")

    async def commit(self) -> None:
        await self._connection.send("COMMIT")

    async def rollback(self) -> None:
        await self._connection.send("ROLLBACK")


def as_asyncpg(sqlstate: str) -> Exception:
    """The error that asyncpg makes of an SQLSTATE."""
    if sqlstate == "08003":
        text = "connection was closed in the middle of operation"
        return asyncpg.ConnectionDoesNotExistError(text)
    return asyncpg.PostgresError.new({"C": sqlstate, "M": "the model says no", "V": "ERROR"})


def _tell(answer: asyncio.Future[Any], outcome: Any) -> None:
    if answer.done():
        return
    if isinstance(outcome, SqlError):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)


class Pool:
    """asyncpg's pool: at most `size` connections, made when they are needed."""

    def __init__(self, size: int, connect: Callable[[], Connection], meet: Any) -> None:
        self._size, self._connect, self._meet = size, connect, meet
        self.idle: list[Connection] = []
        self.used = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def get_size(self) -> int:
        return self.used + len(self.idle)

    def get_idle_size(self) -> int:
        return len(self.idle)

    async def acquire(self) -> Connection:
        await self._take_seat()
        try:
            while self.idle:
                connection = self.idle.pop()
                if not connection.closed:
                    return connection
            return await self._made()
        except BaseException:
            self._leave_seat()
            raise

    async def connected(self) -> Connection:
        """A connection that nobody has met yet. Raises `OSError`."""
        connection = self._connect()
        await asyncio.sleep(connection.lag())
        if connection.backend.server.away:
            connection.backend.end()
            raise ConnectionRefusedError("Connect call failed")
        return connection

    async def _made(self) -> Connection:
        connection = await self.connected()
        try:
            await self._meet(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def release(self, connection: Connection) -> None:
        if not connection.closed:
            self.idle.append(connection)
        self._leave_seat()

    async def _take_seat(self) -> None:
        if self.used < self._size:
            self.used += 1
            return
        seat: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(seat)
        try:
            await seat
        except BaseException:
            if seat.done() and not seat.cancelled():
                self._leave_seat()
            raise

    def _leave_seat(self) -> None:
        while self._waiting:
            seat = self._waiting.popleft()
            if not seat.done():
                seat.set_result(None)
                return
        self.used -= 1

    async def close(self) -> None:
        self.terminate()

    def terminate(self) -> None:
        for connection in self.idle:
            connection.terminate()
        self.idle.clear()
