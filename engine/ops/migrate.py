"""Migrate: bring a database to the present, once, in order, under a lock.

Migrations in sql/migrations run once each and are never edited: their hash is kept. Functions in
sql/functions are replaced at every run; they hold no data.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg

from engine.infra import primary, sql
from engine.infra.errors import Misconfigured
from engine.infra.postgres import DRIVER_ERRORS
from engine.infra.settings import Settings
from engine.ops.binaries import POSTGRES_MIN
from engine.ops.doorstep import reason

LOCK = 0x76656C76  # "velv": one migration at a time in a database

LOCK_WAIT_MS = 500
PATIENCE_SECONDS = 120

_BOOK = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version     text PRIMARY KEY,
    sha256      text NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT clock_timestamp()
)
"""


def _nobody(_name: str) -> None:
    """Nobody listens."""


async def migrate(settings: Settings, tell: Callable[[str], None] = _nobody) -> int:
    """Apply what is missing, telling each by name before it runs; how many migrations ran.

    Raises `Misconfigured`.
    """
    async with _connection(settings) as connection:
        # Polled: who waits inside a statement holds a snapshot, for which the other's CREATE INDEX
        # CONCURRENTLY would wait in turn.
        while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK):
            await asyncio.sleep(0.1)
        if settings.schema:
            await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {sql.quoted(settings.schema)}")
        await connection.execute(_BOOK)
        missing = _missing(await _done(connection))
        for together in _in_one_commit(missing):
            for path in together:
                tell(path.stem)
            await _patiently(connection, together, tell, last=together[-1] == missing[-1])
        if not missing:
            await _replace_functions(connection)
        return len(missing)


def _in_one_commit(paths: list[Path]) -> list[list[Path]]:
    """What follows each other comes in one commit, and the functions with the last: nobody finds
    new rows and old functions, however many migrations an update brings."""
    groups: list[list[Path]] = []
    for path in paths:
        if groups and not (_is_alone(path) or _is_alone(groups[-1][0])):
            groups[-1].append(path)
        else:
            groups.append([path])
    return groups


def _is_alone(path: Path) -> bool:
    """Whether it waits for everybody and stops nobody, outside of a transaction."""
    return "CONCURRENTLY" in path.read_text()


async def _patiently(
    connection: Any, paths: list[Path], tell: Callable[[str], None], *, last: bool
) -> None:
    """Run migrations without stopping a sale: while one waits for a table that a report reads,
    everybody else waits behind it. So it waits half a second, lets them pass, and tries again."""
    if _is_alone(paths[0]):
        for statement in re.sub("--.*", "", paths[0].read_text()).split(";"):
            if statement.strip():
                await connection.execute(statement)
        await _note(connection, paths[0])
        if last:
            await _replace_functions(connection)
        return
    names = ", ".join(path.stem for path in paths)
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            async with connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_WAIT_MS}ms'")
                for path in paths:
                    await connection.execute(path.read_text())
                    await _note(connection, path)
                if last:
                    await _replace_functions(connection)
            return
        except asyncpg.LockNotAvailableError:
            if time.monotonic() > until:
                raise Misconfigured(
                    f"{names} waited {PATIENCE_SECONDS} s for a table that somebody keeps "
                    "locked: end the dump, report or open transaction, and run it again"
                ) from None
            tell(f"{names}: waiting for a table that somebody reads")
            await asyncio.sleep(1)


async def _note(connection: Any, path: Path) -> None:
    await connection.execute(
        "INSERT INTO schema_migrations (version, sha256) VALUES ($1, $2)",
        path.stem,
        _sha(path),
    )


async def pending(settings: Settings) -> list[str]:
    """What `migrate` would do, by name: migrations that have not run, functions that differ."""
    async with _connection(settings) as connection:
        missing = [path.stem for path in _missing(await _done(connection))]
        there = {
            row["proname"]: row["prosrc"]
            for row in await connection.fetch(
                "SELECT proname, prosrc FROM pg_proc"
                " WHERE pronamespace = quote_ident(current_schema())::regnamespace"
            )
        }
        return missing + [name for name, body in bodies().items() if there.get(name) != body]


def bodies() -> dict[str, str]:
    """Every function of this version by name: what stands between its dollar quotes."""
    texts = {path.stem: path.read_text() for path in (sql.folder() / "functions").glob("*.sql")}
    return {name: text.split("$$")[1] for name, text in sorted(texts.items())}


@asynccontextmanager
async def _connection(settings: Settings) -> AsyncIterator[Any]:
    # What the role says is meant for a sale: an index of ten million rows takes minutes.
    server_settings = dict.fromkeys(
        ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"), "0"
    )
    if settings.schema:
        server_settings["search_path"] = sql.quoted(settings.schema)
    if not settings.database_url:
        raise Misconfigured("DATABASE_URL is needed here, or a `make run` in this folder")
    if settings.pgbouncer:  # the lock that keeps a second migration out is a session's
        raise Misconfigured("DATABASE_URL leads to PgBouncer: migrate needs Postgres's own address")
    try:
        connection = await primary.connect(
            settings.database_url, server_settings=server_settings, timeout=5
        )
    except (OSError, TimeoutError, *DRIVER_ERRORS, ValueError) as error:
        raise Misconfigured(
            f"DATABASE_URL cannot be reached: {reason(error, settings.database_url)}"
        ) from None
    try:
        major = connection.get_server_version().major
        if major < POSTGRES_MIN:
            raise Misconfigured(f"Postgres {POSTGRES_MIN} or newer is needed, this is {major}")
        yield connection
    finally:
        await connection.close()


async def _done(connection: Any) -> dict[str, str]:
    """The migrations that ran, with the hashes they had; none of a database that is new."""
    try:
        rows = await connection.fetch("SELECT * FROM schema_migrations")
    except asyncpg.UndefinedTableError:
        return {}
    return {row["version"]: row["sha256"] for row in rows}


def _missing(done: Mapping[str, str]) -> list[Path]:
    """The migrations that have not run, in order."""
    paths = sorted((sql.folder() / "migrations").glob("*.sql"))
    if newer := sorted(set(done) - {path.stem for path in paths}):
        raise Misconfigured(f"the database is ahead of this program ({newer[0]}): use a newer one")
    for path in paths:
        if path.stem in done and done[path.stem] != _sha(path):
            raise Misconfigured(
                f"migration {path.name} was edited after it ran: write a new one instead"
            )
    return [path for path in paths if path.stem not in done]


def _sha(path: Path) -> str:
    return hashlib.sha256(path.read_text().encode()).hexdigest()


async def _replace_functions(connection: asyncpg.Connection) -> None:
    """Put the functions of this version in place. One whose result changed is dropped first."""
    texts = {
        path.stem: path.read_text() for path in sorted((sql.folder() / "functions").glob("*.sql"))
    }
    async with connection.transaction():
        for name, text in texts.items():
            try:
                async with connection.transaction():
                    await connection.execute(text)
            except asyncpg.InvalidFunctionDefinitionError:
                await connection.execute(f"DROP FUNCTION {name}")
                await connection.execute(text)
