"""A Postgres server, and the last inch of the driver: what lies below `Session.call`.

A backend runs one statement at a time as its course; it waits for locks, is ended by time-outs, and
its commit takes a moment during which it can die either way. A connection that breaks tells its
client what asyncpg would; the backend behind it may go on. Everything above, from
`engine.infra.postgres.Postgres` on, is the real code.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import asyncpg

from . import statements
from .ledger import Redo, SqlError, Tables, Transaction

if TYPE_CHECKING:
    from random import Random

    from .loop import Process, VirtualLoop

LOCK_TIMEOUT_MS, IDLE_IN_TRANSACTION_SECONDS = 1_000, 2.0  # as engine/infra/postgres.py asks for
DARK_SECONDS = 5.5  # until TCP gives a peer up that does not answer
ENDED = "57P01"


class Server:
    """One Postgres; a failover makes it its own standby."""

    def __init__(self, loop: VirtualLoop, tables: Tables, random: Random) -> None:
        self.loop, self.tables, self.random = loop, tables, random
        self.backends: list[Backend] = []
        self.away = False
        self.patience = 0.1  # how often a statement lets others have a turn at a lock
        self.flush_seconds = 0.000_5
        self.late_seconds: tuple[float, ...] = (0.02, 0.2, 0.8, 1.8)  # that a zombie takes
        self.after: Callable[[Transaction], None] = lambda tx: None  # the oracle, after a commit

    def pause(self) -> bool:
        return self.random.random() < self.patience

    def end_backends(self, commit_odds: float = 0.0) -> None:
        """All connections die; who is committing may just have made it."""
        for backend in list(self.backends):
            if backend.committing and self.random.random() < commit_odds:
                backend.commit()
            backend.end()


class Backend:
    """The server's side of one connection."""

    def __init__(self, server: Server, statement_ms: int) -> None:
        self.server, self.statement_ms = server, statement_ms
        self.tx: Transaction | None = None
        self.course: Any = None
        self.explicit = self.failed = self.committing = self.dead = self.gone = False
        self.tell: Callable[[Any], None] | None = None
        self.on_end: Callable[[], None] = lambda: None
        self.timers: dict[str, Any] = {}
        self.asleep = False
        server.backends.append(self)

    # ── statements ───────────────────────────────────────────────────────────────────────────

    def run(self, message: Any, sender: Any, sent_at: float, tell: Callable[[Any], None]) -> None:
        """One message: BEGIN, COMMIT, ROLLBACK, or (text, values)."""
        if self.dead:
            return
        self._cancel("idle")
        self.tell = tell
        if message == "BEGIN":
            self.explicit = True
            self._finish(None)
        elif message == "ROLLBACK":
            self._undo()
            self._finish(None)
        elif message == "COMMIT":
            self.explicit = False
            if self.failed or self.tx is None:
                self._undo()
                self._finish(None)
            else:
                self._flush(None)
        elif self.failed:
            self._finish(SqlError("25P02"))
        else:
            if self.tx is None:
                self.tx = Transaction(self.server.tables, self.server.pause)
                self.tx.wake = self._wake
            self.tx.sender, self.tx.sent_at = sender, sent_at
            self.course = statements.run(self.tx, *message)
            self._set("statement", self.statement_ms / 1000, self._time_out, "57014")
            self._step()

    def refuse(self, message: Any, sqlstate: str, tell: Callable[[Any], None]) -> None:
        """An error of the server's own instead of a statement."""
        self.tell = tell
        if message in ("COMMIT", "ROLLBACK"):
            self._undo()
        self._fail(SqlError(sqlstate))

    def _step(self) -> None:
        """Go on until the end, a lock, or somebody else's turn."""
        self.asleep = False
        if self.dead or self.course is None:
            return
        self._cancel("lock")
        try:
            waits = next(self.course)
        except StopIteration as stop:
            self.course = None
            if not self.explicit:
                self._flush(stop.value)
            elif self.gone:  # nobody is there to say COMMIT
                self.end()
            else:
                self._finish(stop.value)
            return
        except (SqlError, Redo) as error:
            self._fail(error if isinstance(error, SqlError) else SqlError("P0001"))
            return
        self.asleep = True
        if waits is None:
            self.server.loop.outside(self.server.random.random() * 0.002, self._step)
            return
        assert self.tx is not None
        ms = LOCK_TIMEOUT_MS if self.tx.lock_ms is None else self.tx.lock_ms
        self._set("lock", ms / 1000, self._time_out, "55P03")

    def _wake(self) -> None:
        self.server.loop.outside(0.0, self._woken)

    def _woken(self) -> None:
        if self.asleep and self.tx is not None and self.tx.waits_for is not None:
            self._step()

    def _time_out(self, sqlstate: str) -> None:
        if self.course is not None and not self.committing:
            self._fail(SqlError(sqlstate))

    def _fail(self, error: SqlError) -> None:
        if self.course is not None:
            self.course.close()
            self.course = None
        if self.explicit:
            self.failed = True
            if self.tx is not None:
                self.tx.end()  # an error undoes it at once; what is left is to be told ROLLBACK
            self._finish(error)
            return
        self._undo()
        self._finish(error)

    def _flush(self, rows: Any) -> None:
        """The commit record is on its way to the disk: the point of no return is not known yet."""
        self.committing = True
        seconds = self.server.flush_seconds * (0.5 + self.server.random.random())
        self.server.loop.outside(seconds, self._flushed, rows)

    def _flushed(self, rows: Any) -> None:
        if not self.dead and self.committing:
            self.commit()
            self._finish(rows)

    def commit(self) -> None:
        self.committing = False
        tx, self.tx = self.tx, None
        assert tx is not None
        writes = dict(tx.writes)
        tx.commit()
        tx.writes = writes  # for the oracle
        self.server.after(tx)

    def _undo(self) -> None:
        if self.tx is not None:
            self.tx.end()
        self.tx, self.explicit, self.failed, self.committing = None, False, False, False

    def _finish(self, outcome: Any) -> None:
        for name in tuple(self.timers):
            self._cancel(name)
        if self.explicit:
            self._set("idle", IDLE_IN_TRANSACTION_SECONDS, self.end)
        tell, self.tell = self.tell, None
        if tell is not None:
            tell(outcome)
        if self.gone:
            self.end()

    def end(self) -> None:
        """The backend dies; what it had not committed is undone."""
        if self.dead:
            return
        self.dead = True
        for name in tuple(self.timers):
            self._cancel(name)
        if self.course is not None:
            self.course.close()
            self.course = None
        self._undo()
        self.server.backends.remove(self)
        tell, self.tell = self.tell, None
        if tell is not None:
            tell(SqlError(ENDED))
        self.on_end()

    def hang_up(self) -> None:
        """The client is gone: a statement under way runs to its end, a transaction does not."""
        self.gone = True
        if self.course is None and not self.committing:
            self.end()

    def _set(self, name: str, seconds: float, callback: Callable[..., None], *args: Any) -> None:
        self._cancel(name)
        self.timers[name] = self.server.loop.outside(seconds, callback, *args)

    def _cancel(self, name: str) -> None:
        timer = self.timers.pop(name, None)
        if timer is not None:
            timer.cancel()


# ── the driver's last inch ───────────────────────────────────────────────────────────────────


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
            raise _as_asyncpg(error.sqlstate) from None
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


def _as_asyncpg(sqlstate: str) -> Exception:
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
