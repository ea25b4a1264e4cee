"""The replica of DATABASE_READ_URL: is it one, of our database, and how far behind?"""

from __future__ import annotations

import asyncio

import asyncpg

from engine.infra import sql
from engine.infra.postgres import DRIVER_ERRORS
from engine.infra.settings import Settings
from engine.ops import doorstep
from engine.ops.findings import Finding

CHECK = "DATABASE_READ_URL"
PROBE_SECONDS = 2.0
BEHIND_WARN_SECONDS = 10.0


async def look(settings: Settings) -> list[Finding]:
    """What there is to say of it; nothing where none is named."""
    if not settings.database_read_url:
        return []
    read_url = settings.replica.database_url
    where = doorstep.masked(read_url)
    try:
        found = await _facts(read_url, settings.replica)
    except (OSError, TimeoutError, ValueError, *DRIVER_ERRORS) as wrong:
        why = doorstep.reason(wrong, read_url)
        mend = "start it, or mend DATABASE_READ_URL; until then the primary tells the lists"
        return [Finding(CHECK, "warn", f"no Postgres of ours at {where} ({why})", mend)]
    try:
        primary = await _facts(settings.database_url, settings)
    except (OSError, TimeoutError, ValueError, *DRIVER_ERRORS):
        primary = found  # DATABASE_URL has a finding of its own
    return [judge(where, found, primary["seed"])]


def judge(where: str, found: asyncpg.Record | dict[str, object], seed: object) -> Finding:
    """The finding of a server that answers; `seed` names the primary's database."""
    behind = found["behind_seconds"]
    if found["seed"] != seed:
        mend = "point it at a replica of DATABASE_URL: its lists would show others' people"
        return Finding(CHECK, "fail", f"{where} is another database", mend, refuses=True)
    if not found["follows"]:
        mend = "point it at a replica, or leave it empty"
        return Finding(CHECK, "warn", f"{where} is no replica: it takes writes", mend)
    if not isinstance(behind, float | int):
        mend = "look whether it receives anything"
        return Finding(CHECK, "warn", f"{where}, a replica, nobody knows how far behind", mend)
    told = f"{where}, a replica, {behind:.1f} s behind"
    if behind > BEHIND_WARN_SECONDS:
        mend = "lists show what was: look whether it receives, and what holds it up"
        return Finding(CHECK, "warn", told, mend)
    return Finding(CHECK, "ok", told)


async def _facts(url: str, settings: Settings) -> asyncpg.Record:
    told = {"application_name": "velvetrope"}
    if settings.schema and not settings.pgbouncer:
        told["search_path"] = sql.quoted(settings.schema)
    async with asyncio.timeout(PROBE_SECONDS):
        connection = await asyncpg.connect(url, server_settings=told, statement_cache_size=0)
        try:
            row = await connection.fetchrow(sql.load("preflight")["replica_facts"].text)
        finally:
            connection.terminate()
    assert row is not None, "engine_state has one row"
    return row
