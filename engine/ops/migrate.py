"""Migrate: bring a database to the present, once, in order, under a lock.

Migrations in sql/migrations run once each and are never edited: their hash is kept. Functions in
sql/functions are replaced at every run; they hold no data.
"""

from __future__ import annotations

import hashlib

import asyncpg

from engine.infra import sql
from engine.infra.errors import Misconfigured
from engine.infra.postgres import quoted
from engine.infra.settings import Settings

LOCK = 0x76656C76  # "velv": one migration at a time in a database
POSTGRES_MIN = 150_000

_BOOK = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version     text PRIMARY KEY,
    sha256      text NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT clock_timestamp()
)
"""


async def migrate(settings: Settings) -> int:
    """Apply what is missing; how many migrations ran. Raises `Misconfigured`."""
    server_settings = {"search_path": quoted(settings.schema)} if settings.schema else {}
    try:
        connection = await asyncpg.connect(
            settings.database_url, server_settings=server_settings, timeout=5
        )
    except (OSError, TimeoutError, asyncpg.PostgresError, ValueError) as error:
        raise Misconfigured(f"DATABASE_URL cannot be reached: {error}") from None
    try:
        if connection.get_server_version().major * 10_000 < POSTGRES_MIN:
            raise Misconfigured(
                f"Postgres 15 or newer is needed, this is {connection.get_server_version().major}"
            )
        await connection.execute("SELECT pg_advisory_lock($1)", LOCK)
        if settings.schema:
            await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(settings.schema)}")
        return await _apply(connection)
    finally:
        await connection.close()


async def _apply(connection: asyncpg.Connection) -> int:
    await connection.execute(_BOOK)
    done = {
        row["version"]: row["sha256"]
        for row in await connection.fetch("SELECT * FROM schema_migrations")
    }
    paths = sorted((sql.folder() / "migrations").glob("*.sql"))
    if newer := sorted(set(done) - {path.stem for path in paths}):
        raise Misconfigured(f"the database is ahead of this program ({newer[0]}): use a newer one")
    count = 0
    for path in paths:
        text = path.read_text()
        sha = hashlib.sha256(text.encode()).hexdigest()
        if path.stem in done:
            if done[path.stem] != sha:
                raise Misconfigured(
                    f"migration {path.name} was edited after it ran: write a new one instead"
                )
            continue
        async with connection.transaction():
            await connection.execute(text)
            await connection.execute(
                "INSERT INTO schema_migrations (version, sha256) VALUES ($1, $2)", path.stem, sha
            )
        count += 1
    await _replace_functions(connection)
    return count


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
