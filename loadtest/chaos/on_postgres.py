"""Postgres: crashed, stopped, with ended backends, old snapshots and locked rows."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg

from loadtest.chaos.nemesis import Deed, Skip, nemesis
from loadtest.chaos.stage import Stage

WRONG = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
BACKENDS = "SELECT pid FROM pg_stat_activity WHERE application_name = 'velvetrope' ORDER BY pid"
NOBODY = "the service has no connection just now"
END = "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM unnest($1::integer[]) AS pid"


@asynccontextmanager
async def _asked(stage: Stage) -> AsyncIterator[Any]:
    """A connection of an operator, straight to it."""
    try:
        connection = await asyncpg.connect(stage.ground.postgres.url, timeout=3)
    except WRONG as error:
        raise Skip(f"Postgres does not answer: {error}") from None
    try:
        yield connection
    except WRONG as error:
        raise Skip(f"Postgres refused: {error}") from None
    finally:
        with suppress(*WRONG):
            connection.terminate()


@nemesis("postgres crashed", on="postgres", seconds=(0.1, 1.5), weight=2)
async def crashed(stage: Stage, deed: Deed) -> AsyncIterator[None]:
    """An immediate stop, or kill -9: every commit under way is in doubt."""
    number = deed.dice.choice((signal.SIGQUIT, signal.SIGKILL))
    deed.words["signal"] = number.name
    await stage.ground.kill_postgres(number)
    try:
        yield
    finally:
        await stage.ground.revive_postgres()


@nemesis("postgres stopped", on="postgres", seconds=(0.2, 6.0), weight=1.5)
async def stopped(stage: Stage, deed: Deed) -> AsyncIterator[None]:
    """All its processes stand still, locks in their hands."""
    deed.words["processes"] = stage.ground.stop_postgres(signal.SIGSTOP)
    try:
        yield
    finally:
        stage.ground.stop_postgres(signal.SIGCONT)


@nemesis("backends ended", on="postgres", weight=1.5)
async def all_ended(stage: Stage, deed: Deed) -> AsyncIterator[None]:
    """pg_terminate_backend of every connection of the service."""
    async with _asked(stage) as connection:
        pids = [row["pid"] for row in await connection.fetch(BACKENDS)]
        deed.words["count"] = await connection.fetchval(END, pids)
    if not deed.words["count"]:
        raise Skip(NOBODY)
    yield


@nemesis("some backends ended", on="postgres", weight=1.5)
async def some_ended(stage: Stage, deed: Deed) -> AsyncIterator[None]:
    """pg_terminate_backend of one to three of them."""
    async with _asked(stage) as connection:
        pids = [row["pid"] for row in await connection.fetch(BACKENDS)]
        chosen = deed.dice.sample(pids, min(deed.dice.randint(1, 3), len(pids)))
        deed.words["count"] = await connection.fetchval(END, chosen)
    if not deed.words["count"]:
        raise Skip(NOBODY)
    yield


@nemesis("an old snapshot", on="postgres", seconds=(2.0, 8.0))
async def long_read(stage: Stage, deed: Deed) -> AsyncIterator[None]:
    """A long REPEATABLE READ transaction: nothing that died since can be cleared away."""
    snapshot = {"isolation": "repeatable_read", "readonly": True}
    async with _asked(stage) as connection, connection.transaction(**snapshot):
        deed.words["units"] = await connection.fetchval("SELECT count(*) FROM units")
        yield


@nemesis("a locked stock row", on="postgres", seconds=(1.0, 3.0), weight=1.5)
async def locked(stage: Stage, deed: Deed) -> AsyncIterator[None]:
    """Somebody's transaction holds the stock of a drop."""
    drop = deed.dice.choice(stage.drops)
    deed.target = f"drop {drop}"
    async with _asked(stage) as connection, connection.transaction():
        await connection.execute("SET LOCAL lock_timeout = '2s'")
        await connection.fetch("SELECT FROM stock WHERE drop_id = $1 FOR UPDATE", drop)
        yield
