"""Postgres: the pool, one call for every query, and three honest ways to fail.

    Unreachable  no connection could be had: nothing was sent
    Undone       the server said so: the statement was rolled back
    Unknown      the connection died with the statement under way: it may have committed, and if
                 it has not, it still may

Nothing here cancels a statement: a cancel that meets a commit could turn "durable" into "maybe".
Time limits are the server's (`statement_timeout`, `lock_timeout`).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import asyncpg

from engine.infra import points, sql
from engine.infra.errors import Misconfigured, OutcomeUnknown, Retryable
from engine.infra.meter import meter
from engine.infra.settings import Settings

# Errors of the server after which the same statement may simply be sent again.
TRANSIENT = {"40001", "40P01", "55P03", "57014"}
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

    def get_reset_query(self) -> str:
        """Empty: saves a round trip for every use."""
        return ""


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
        many = query.cardinality == "many"
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


def quoted(name: str) -> str:
    """A name as SQL writes it, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


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
        self._sessions = 0  # in use or waited for
        self.epoch = 0  # rises when history was lost

    async def open(self) -> None:
        """Connect once, to fail early and with a sentence."""
        settings = self._settings
        server_settings = {
            "application_name": "velvetrope",
            "statement_timeout": str(self._statement_timeout_ms),
            "lock_timeout": "1000",
            "idle_in_transaction_session_timeout": "2000",
            "synchronous_commit": "on",
            "jit": "off",
        }
        if settings.schema:
            server_settings["search_path"] = quoted(settings.schema)
        try:
            self._pool = await asyncpg.create_pool(
                settings.database_url,
                min_size=0,
                max_size=settings.pool_size,
                connection_class=Connection,
                init=self._meet,
                timeout=3,
                server_settings=server_settings,
            )
            async with self._pool.acquire():
                pass
        except Undone as undone:
            if undone.sqlstate in MISSING:
                raise Misconfigured(
                    "the database has not been prepared: run `velvetrope migrate` first"
                ) from None
            raise Misconfigured(f"the database refused us: SQLSTATE {undone.sqlstate}") from None
        except (OSError, TimeoutError, asyncpg.PostgresError, ValueError) as error:
            raise Misconfigured(f"DATABASE_URL cannot be reached: {error}") from None

    async def _meet(self, connection: Any) -> None:
        """Greet a new connection: is it still the database we knew, and the same history?

        Dead peers are noticed by TCP within seconds: no statement of ours has a client time-out.
        """
        sock = connection._transport.get_extra_info("socket")
        if sock is not None and sock.family != getattr(socket, "AF_UNIX", None):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in (("TCP_KEEPIDLE", 3), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 3)):
                if hasattr(socket, option):
                    sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 5_000)
        session, queries = Session(connection), sql.load("engine")
        # A connection to a new primary comes after a failover: its epoch begins before its use.
        await session.call(queries["bump_epoch"], seen=None)
        life_ms = TRANSACTION_STATEMENTS * self._statement_timeout_ms
        await session.call(queries["limit_transactions"], milliseconds=life_ms)
        row = await session.call(queries["database_identity"])
        self.identity, self.epoch = row["id"][:12], row["epoch"]

    async def close(self) -> None:
        """Give the connections back; those that do not answer are cut."""
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
                asyncpg.PostgresError,
                asyncpg.InterfaceError,
            ) as error:
                raise Unreachable from error
            try:
                yield Session(connection)
            finally:
                await self._pool.release(connection)
        finally:
            self._sessions -= 1

    @asynccontextmanager
    async def transaction(self, isolation: str = "read_committed") -> AsyncIterator[Session]:
        """Several calls that happen together or not at all."""
        async with self.session() as session:
            connection = session._connection
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

    async def call(self, query: sql.Query, **words: Any) -> Any:
        """One query, one transaction, one round trip."""
        async with self.session() as session:
            return await session.call(query, **words)

    async def refresh_epoch(self, seen: int | None = None) -> int:
        """The epoch of the primary now. `seen` is one that Postgres must be past."""
        row = await self.call(sql.load("engine")["bump_epoch"], seen=seen)
        self.epoch = int(row["epoch"])
        return self.epoch

    @property
    def size(self) -> int:
        """Connections there may be."""
        return self._settings.pool_size

    @property
    def in_use(self) -> int:
        """Connections that are not idle."""
        return int(self._pool.get_size() - self._pool.get_idle_size())
