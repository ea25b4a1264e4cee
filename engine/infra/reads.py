"""Reads: lists and history from a replica (DATABASE_READ_URL), or from the primary without one.

Only what may be a little old is read here, never stock, and never what somebody has just done. A
replica that is away, lags behind a migration, or ended the statement because it was in the way of
what came from the primary costs the caller nothing: the primary is asked. So is it for a while
after a replica did not answer, but for one caller in two seconds who looks.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import asyncpg
import structlog
from asyncpg.connect_utils import SessionAttribute

from engine.infra import primary, sql
from engine.infra.errors import Misconfigured
from engine.infra.log import Seldom
from engine.infra.meter import meter
from engine.infra.postgres import Connection, Postgres, Undone, Unknown, Unreachable
from engine.infra.settings import Settings

log = structlog.get_logger()

CONNECT_SECONDS = 1.0
ANSWER_SECONDS = 0.5  # more than the longest statement
AWAY_SECONDS = 2.0  # between two looks at one that did not answer
# The statement is too long, or writes: the primary would be no better.
OURS = {"57014", "25006"}


class Reads(Postgres):
    """The pool of a replica, and the primary's for when it does not answer."""

    def __init__(
        self, settings: Settings, main: Postgres, statement_timeout_ms: int = 2_000
    ) -> None:
        replica = settings.replica
        super().__init__(replica, statement_timeout_ms)
        self._main, self._url = main, replica.database_url
        self._seconds = statement_timeout_ms / 1_000 + ANSWER_SECONDS
        self._words = primary.words(replica, Connection, statement_timeout_ms, CONNECT_SECONDS)
        if not replica.pgbouncer:  # which would refuse it: there the role says it
            self._words["server_settings"]["default_transaction_read_only"] = "on"
        self._away_until = 0.0
        self._complaints = Seldom()

    async def open(self) -> None:
        """Nothing is asked of it yet: it may come later."""
        try:
            self._pool = await asyncpg.create_pool(
                self._url,
                min_size=0,
                max_size=self.size,
                init=self._meet,
                **(self._words | {"connect": _connect}),
            )
        except ValueError as error:
            raise Misconfigured(f"DATABASE_READ_URL is no address: {error}") from None

    async def _greet(self, connection: Any) -> None:
        """Whoever answers may be read."""

    async def call(self, query: sql.Query, **words: Any) -> Any:
        """One query, by the replica if it can, else by the primary."""
        now = time.monotonic()
        if now >= self._away_until:
            if self._away_until:  # it did not answer: while one looks nobody else waits for it
                self._away_until = now + AWAY_SECONDS
            try:
                found = await self._ask(query, words)
            except (Undone, Unreachable, Unknown) as fault:
                if isinstance(fault, Undone):
                    self._away_until = 0.0
                    if fault.sqlstate in OURS:
                        raise
                else:
                    self._away_until = time.monotonic() + AWAY_SECONDS
                if self._complaints.due():
                    log.warning("reads.on_primary", why=type(fault).__name__)
            else:
                self._away_until = 0.0
                return found
        meter.count("replica_fallbacks")
        return await self._main.call(query, **words)

    async def _ask(self, query: sql.Query, words: dict[str, Any]) -> Any:
        """Nothing is at stake, so that it may be given up: a server may stop in its tracks."""
        async with self.session() as session:
            try:
                async with asyncio.timeout(self._seconds):
                    return await session.call(query, **words)
            except TimeoutError:
                session._connection.terminate()
                raise Unknown from None

    async def steady(self) -> Postgres:
        """Whom to ask for something that is longer than a statement: what begins with the primary
        does not go on with a replica, which may not be so far."""
        try:
            await self._ask(sql.load("engine")["is_there"], {})
        except (Undone, Unreachable, Unknown):
            return self._main
        return self


async def _connect(url: str, **words: Any) -> Any:
    return await asyncpg.connect(url, **words, target_session_attrs=SessionAttribute.prefer_standby)


async def steady(reads: Postgres) -> Postgres:
    """The same for whatever pool is read from."""
    return await reads.steady() if isinstance(reads, Reads) else reads
