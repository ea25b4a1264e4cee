"""Postgres: the pool, one call for every query, and three honest ways to fail.

    Unreachable  no connection could be had: nothing was sent
    Undone       the server said so: the statement was rolled back
    Unknown      the connection died with the statement under way: it may have committed, and if
                 it has not, it still may

Nothing here cancels a statement: a cancel that meets a commit could turn "durable" into "maybe".
Time limits are the server's (`statement_timeout`, `lock_timeout`).

Nothing is asked of a primary that lost its office: each new connection says which timeline it leads
to. A later one than before cuts all that lead to the earlier one, whatever waits there; an earlier
one is not used. Who waits long for an answer looks, by a new connection, who holds the office now.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar
from weakref import WeakSet

import asyncpg
import structlog

from engine.infra import points, primary, sql
from engine.infra.errors import Misconfigured, OutcomeUnknown, Retryable
from engine.infra.log import Seldom
from engine.infra.meter import meter
from engine.infra.settings import Settings

log = structlog.get_logger()

# Errors of the server after which the same statement may simply be sent again.
TRANSIENT = {"40001", "40P01", "55P03", "57014"}
MEET_SECONDS = 3.0  # to connect, and as long again to greet
PAUSE_SECONDS = (1.0, 8.0)  # between two looks, at first and at most
SLOW_SECONDS = 3.0  # a call of that age may be with a server that is no longer the primary
TRANSACTION_STATEMENTS = 2  # a transaction lives no longer than so many of the longest statements
# No such table, function or schema.
MISSING = {"42P01", "42883", "3F000"}
# The driver could not write an argument down: nothing was sent.
UNENCODABLE = asyncpg.exceptions._base.DataError
T = TypeVar("T")
DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class Unreachable(Retryable):
    """The database cannot be reached. Nothing was taken; please try again."""


class Undone(Retryable):
    """The database refused the statement and undid it."""

    def __init__(self, sqlstate: str | None) -> None:
        super().__init__()
        self.transient = sqlstate in TRANSIENT
        self.sqlstate = sqlstate


class Unknown(OutcomeUnknown):
    """The connection was lost with a statement under way. Repeat with the same Idempotency-Key."""


class Connection(asyncpg.Connection):
    """A connection that keeps no session state, so there is nothing to reset between uses."""

    history: tuple[str, str] = ("", "")  # the database and the timeline it leads to
    alone = False  # what it committed last is on no standby, though one was to have it

    def get_reset_query(self) -> str:
        """Empty: saves a round trip for every use."""
        return ""

    def _process_log_message(self, fields: dict[str, str], last_query: str) -> None:
        """A wait for a synchronous standby that somebody cancels ends in success and a WARNING. A
        listener would be called later than the result, and has to be laid anew for every use. The
        function's name is the one part that servers do not translate."""
        if fields.get("R") == "SyncRepWaitForLSN":
            self.alone = True
            meter.count("unreplicated_commits")
            log.error("postgres.unreplicated", said=fields.get("M"))
        super()._process_log_message(fields, last_query)  # type: ignore[misc]  # not in the stubs

    def heed(self) -> None:
        """Raise `Unknown` of what was committed on one node only: who asks again waits for two. And
        of what a server said whose connection was cut since: another one took its place."""
        if self.alone or self.is_closed():
            self.alone = False
            raise Unknown


class Session:
    """One connection in use."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def call(self, query: sql.Query, **words: Any) -> Any:
        """Run one query; the words must be exactly the ones it names."""
        assert words.keys() == set(query.words), (
            f"{query.name}: {sorted(words)}, declared {query.words}"
        )
        values = [words[word] for word in query.words]
        many, spoken_to = query.cardinality == "many", _driven(self._connection)
        try:
            fetch = self._connection.fetch if many else self._connection.fetchrow
            asking = fetch(query.text, *values)
            found = await _pointed(query.name, asking, self._connection)
        except asyncpg.PostgresError as error:
            raise _sorted(error) from error
        except UNENCODABLE as error:
            raise Undone(None) from error
        except (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            _drop(self._connection)
            raise Unknown from error
        spoken_to.heed()
        assert found is not None or query.cardinality == "maybe", f"{query.name}: no row"
        return found


def _pointed(message: str, sending: Awaitable[T], connection: Any) -> Awaitable[T]:
    """The same by way of its crash points, while any is armed. The driver counts what it sends to
    be run; to have a statement prepared is not counted."""
    if points.armed is None:
        return sending
    protocol, transport = connection._protocol, connection._transport
    before = protocol.queries_count

    def has_left() -> bool:
        return protocol.queries_count > before and not transport.get_write_buffer_size()

    return points.armed.through(message, sending, has_left)


def _driven(connection: Any) -> Any:
    """The driver's connection: the pool's hand on it is empty as soon as somebody cuts it."""
    return getattr(connection, "_con", None) or connection


def _drop(connection: Any) -> None:
    """End a connection that may be in any state; the pool may have let go of it already."""
    with suppress(asyncpg.InterfaceError):
        connection.terminate()


def _sorted(error: asyncpg.PostgresError) -> Exception:
    """An error of the server: undone for certain, or was the connection ended under our hands?

    Class 08 is the connection itself, 57P the server going down: such an error can reach us
    after the commit, so it proves nothing.
    """
    state = error.sqlstate or ""
    if state.startswith(("08", "57P", "XX")) or getattr(error, "severity_en", "ERROR") != "ERROR":
        return Unknown()
    return Undone(state)


class Postgres:
    """The pool of one process, and which history it talks to."""

    def __init__(self, settings: Settings, statement_timeout_ms: int = 2_000) -> None:
        self._settings = settings
        self._statement_timeout_ms = statement_timeout_ms
        self._pool: Any = None
        self.identity = ""  # names this database among all others
        self._timeline = ""  # of its log; rises with every promotion
        self._sessions = 0  # in use or waited for
        self.epoch = 0  # rises when history was lost
        self._words = primary.words(settings, Connection, statement_timeout_ms, MEET_SECONDS)
        self._connections: WeakSet[Any] = WeakSet()
        self._since: dict[Any, float] = {}  # when the connections in use were taken
        self._watching: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._complaints = Seldom()

    async def open(self) -> None:
        """Connect once, to fail early and with a sentence."""
        try:
            self._pool = await asyncpg.create_pool(
                self._settings.database_url,
                min_size=0,
                max_size=self._settings.pool_size,
                init=self._meet,
                **(self._words | {"connect": primary.connect}),
            )
            async with self._pool.acquire():
                pass
        except Undone as undone:
            if undone.sqlstate in MISSING:
                raise Misconfigured(
                    "the database has not been prepared: run `velvetrope migrate` first"
                ) from None
            raise Misconfigured(f"the database refused us: SQLSTATE {undone.sqlstate}") from None
        except (OSError, TimeoutError, *DRIVER_ERRORS, ValueError) as error:
            raise Misconfigured(f"DATABASE_URL cannot be reached: {error}") from None
        self._watching = asyncio.create_task(self._watch(), name="postgres-watch")

    async def _meet(self, connection: Any) -> None:
        """Greet a new connection: is it still the database we knew, and the same history?

        Dead peers are noticed by TCP within seconds: no statement of ours has a client time-out,
        but for those of the greeting, which a cancel cannot hurt.
        """
        sock = connection._transport.get_extra_info("socket")
        if sock is not None and sock.family != getattr(socket, "AF_UNIX", None):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in (("TCP_KEEPIDLE", 3), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 3)):
                if hasattr(socket, option):
                    sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 5_000)
        try:
            async with asyncio.timeout(MEET_SECONDS):
                await self._greet(connection)
        except BaseException:
            connection.terminate()
            raise

    async def _greet(self, connection: Any) -> None:
        session, queries = Session(connection), sql.load("engine")
        row = await session.call(queries["database_identity"])
        self._recognise(connection, row["id"][:12], row["timeline"])
        # A connection to a new primary comes after a failover: its epoch begins before its use.
        epoch = (await session.call(queries["bump_epoch"], seen=None))["epoch"]
        if not self._settings.pgbouncer:  # what is set there is set for whoever comes next
            life_ms = TRANSACTION_STATEMENTS * self._statement_timeout_ms
            await session.call(queries["limit_transactions"], milliseconds=life_ms)
        if connection.history == (self.identity, self._timeline):
            self._believe(epoch)

    def _recognise(self, connection: Any, identity: str, timeline: str) -> None:
        """Take a later history for the only one; use no earlier one. Raises `Unreachable`."""
        if identity == self.identity and timeline < self._timeline:
            if self._complaints.due():
                log.error("postgres.zombie", timeline=timeline, newest=self._timeline)
            raise Unreachable
        connection.history = identity, timeline
        self._connections.add(connection)
        if connection.history == (self.identity, self._timeline):
            return
        if self.identity:
            log.warning("postgres.promoted", timeline=timeline, before=self._timeline)
        self.identity, self._timeline = identity, timeline
        for other in tuple(self._connections):
            if other.history != connection.history:
                _drop(other)

    def _believe(self, epoch: int) -> None:
        if self.epoch and epoch != self.epoch:
            log.warning("postgres.epoch", epoch=epoch, before=self.epoch)
        self.epoch = epoch

    async def _watch(self) -> None:
        """A server may stop in its tracks, or be cut off, and its connections live on. Or a keeper
        counts a million rows: who looks in vain looks less often."""
        pause = PAUSE_SECONDS[0]
        while True:
            await asyncio.sleep(pause)
            if time.monotonic() - min(self._since.values(), default=float("inf")) > SLOW_SECONDS:
                await self.look()
                pause = min(2 * pause, PAUSE_SECONDS[1])
            else:
                pause = PAUSE_SECONDS[0]

    async def look(self) -> None:
        """See by a new connection who is the primary now; several at once look together."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="postgres-look")
        await asyncio.wait([self._looking])

    async def _look(self) -> None:
        with suppress(OSError, TimeoutError, Unreachable, Unknown, Undone, *DRIVER_ERRORS):
            connection = await primary.connect(self._settings.database_url, **self._words)
            try:
                await self._meet(connection)
            finally:
                connection.terminate()

    async def close(self) -> None:
        """Give the connections back; those that do not answer are cut."""
        tasks = [task for task in (self._watching, self._looking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._pool is not None:
            try:
                await asyncio.wait_for(self._pool.close(), 3)
            except TimeoutError:
                self._pool.terminate()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """One connection for one or more calls, each its own transaction."""
        if self._sessions >= self._settings.pool_size:
            meter.count("pool_waits")
        self._sessions += 1
        try:
            try:
                connection = await self._pool.acquire()
            except (
                OSError,
                TimeoutError,
                Unknown,
                Undone,
                Unreachable,
                *DRIVER_ERRORS,
            ) as error:
                raise Unreachable from error
            self._since[connection] = time.monotonic()
            try:
                yield Session(connection)
            finally:
                del self._since[connection]
                await self._pool.release(connection)
        finally:
            self._sessions -= 1

    @asynccontextmanager
    async def transaction(self, isolation: str = "read_committed") -> AsyncIterator[Session]:
        """Several calls that happen together or not at all."""
        async with self.session() as session:
            connection = session._connection
            spoken_to = _driven(connection)
            transaction = connection.transaction(isolation=isolation)
            try:
                await _pointed("begin", transaction.start(), connection)
            except (OSError, *DRIVER_ERRORS) as error:
                _drop(connection)
                raise Unreachable from error
            try:
                yield session
            except BaseException:
                # A connection that died took the transaction with it; what is known of it is
                # in the error that brought us here.
                with suppress(OSError, *DRIVER_ERRORS):
                    await _pointed("rollback", transaction.rollback(), connection)
                raise
            try:
                await _pointed("commit", transaction.commit(), connection)
            except asyncpg.PostgresError as error:
                raise _sorted(error) from error
            except (OSError, *DRIVER_ERRORS) as error:
                _drop(connection)
                raise Unknown from error
            spoken_to.heed()

    async def call(self, query: sql.Query, **words: Any) -> Any:
        """One query, one transaction, one round trip."""
        async with self.session() as session:
            return await session.call(query, **words)

    async def refresh_epoch(self, seen: int | None = None) -> int:
        """The epoch of the primary now. `seen` is one that Postgres must be past, unless it is
        only another server that we have to talk to."""
        if seen is not None and seen > self.epoch:
            await self.look()
            if self.epoch >= seen:
                return self.epoch
        row = await self.call(sql.load("engine")["bump_epoch"], seen=seen)
        self._believe(int(row["epoch"]))
        return self.epoch

    @property
    def size(self) -> int:
        """Connections there may be."""
        return self._settings.pool_size

    @property
    def in_use(self) -> int:
        """Connections that are not idle."""
        return int(self._pool.get_size() - self._pool.get_idle_size())
