"""Probes: look at Postgres, Redis and this machine, one connection each, and judge nothing.

A probe that cannot look raises `Unseen` with the reason, free of passwords.
"""

from __future__ import annotations

import asyncio
import os
import re
import resource
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import redis.asyncio
import redis.exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from engine.infra import primary, sql
from engine.infra.health import BEAT_SECONDS
from engine.infra.postgres import DRIVER_ERRORS
from engine.infra.settings import Settings
from engine.ops import migrate
from engine.ops.doorstep import reason
from engine.ops.findings import Schema, Server

PROBE_SECONDS = 2.0
CONFIG = ("appendfsync", "hash-max-listpack-entries", "notify-keyspace-events", "save")
_queries = sql.load("preflight")


class Unseen(Exception):
    """A server could not be looked at. Says why."""


class Clock(msgspec.Struct, frozen=True):
    """A server's clock beside ours: how far ahead it is, and how long asking took."""

    skew_seconds: float
    round_trip_seconds: float


class PostgresSeen(msgspec.Struct, frozen=True):
    """What was seen of Postgres."""

    server: Server
    schema: Schema
    clock: Clock


class RedisSeen(msgspec.Struct, frozen=True):
    """What was seen of Redis: INFO and some of CONFIG, as far as it shows them to us."""

    info: dict[str, object]
    config: dict[str, str]
    clock: Clock | None


async def postgres(settings: Settings) -> PostgresSeen:
    """Look at Postgres. Raises `Unseen`."""
    try:
        async with asyncio.timeout(PROBE_SECONDS), _connection(settings) as connection:
            await connection.execute("SELECT")  # the round trip below should be only that
            asked = time.time()
            row = await connection.fetchrow(_queries["server_facts"].text)
            answered = time.time()
            facts = {name: row[name] for name in Server.__struct_fields__}
            return PostgresSeen(
                Server(**facts),
                await _schema(connection),
                _clock(row["now"].timestamp(), asked, answered),
            )
    except TimeoutError:
        raise Unseen(f"no answer within {PROBE_SECONDS:g} s") from None
    except (OSError, ValueError, *DRIVER_ERRORS) as wrong:
        raise Unseen(reason(wrong, settings.database_url)) from None


async def bouncer(settings: Settings) -> RedisSeen:
    """Look at Redis. Raises `Unseen`."""
    try:
        async with asyncio.timeout(PROBE_SECONDS), _client(settings.redis_url) as client:
            info = await _allowed(client.info()) or {}
            config: dict[str, str] = {}
            for name in CONFIG:
                config |= await _allowed(client.config_get(name)) or {}
            asked = time.time()
            told = await _allowed(client.time())
            answered = time.time()
            clock = None if told is None else _clock(told[0] + told[1] / 1e6, asked, answered)
            return RedisSeen(info, config, clock)
    except TimeoutError:
        raise Unseen(f"no answer within {PROBE_SECONDS:g} s") from None
    except (OSError, ValueError, redis.exceptions.RedisError) as wrong:
        raise Unseen(reason(wrong, settings.redis_url)) from None


def files_max() -> int:
    """How many files a worker may open, who takes what it may have; sockets are files."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


def cpus() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@asynccontextmanager
async def _connection(settings: Settings) -> AsyncIterator[Any]:
    words: dict[str, Any] = {"server_settings": {"application_name": "velvetrope"}}
    if settings.pgbouncer:
        words["statement_cache_size"] = 0
    elif settings.schema:
        words["server_settings"]["search_path"] = sql.quoted(settings.schema)
    connection = await primary.connect(settings.database_url, **words)
    try:
        yield connection
    finally:
        connection.terminate()


@asynccontextmanager
async def _client(url: str) -> AsyncIterator[Any]:
    client = redis.asyncio.Redis.from_url(
        url,
        socket_timeout=PROBE_SECONDS,
        socket_connect_timeout=PROBE_SECONDS,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )
    async with client:
        await client.ping()
        yield client


async def _allowed(asking: Any) -> Any:
    """The answer, or None if this user may not ask."""
    try:
        return await asking
    except redis.exceptions.ConnectionError:
        raise
    except redis.exceptions.ResponseError:
        return None


async def _schema(connection: Any) -> Schema:
    row = await connection.fetchrow(_queries["schema_facts"].text)
    there = set(row["tables"])
    ran = set()
    if "schema_migrations" in there:
        ran = {each["version"] for each in await connection.fetch(_queries["migrations_done"].text)}
    wanted = {path.stem for path in (sql.folder() / "migrations").glob("*.sql")}
    keepers = 0
    if "keepers" in there:
        alive = sql.load("engine")["count_keepers"].text
        keepers = (await connection.fetchrow(alive, BEAT_SECONDS))["alive"]
    page = (sql.folder() / "schema.sql").read_text()
    tables = set(re.findall(r"^CREATE TABLE (\w+)", page, re.MULTILINE))
    indexes = set(re.findall(r"^CREATE (?:UNIQUE )?INDEX (\w+)", page, re.MULTILINE))
    indexes |= set(re.findall(r"ADD CONSTRAINT (\w+) (?:PRIMARY KEY|UNIQUE)", page))
    bodies = dict(zip(row["functions"], row["bodies"], strict=True))
    return Schema(
        schema=row["schema"],
        missing_tables=sorted(tables - there),
        closed_tables=sorted(tables & set(row["closed_tables"])),
        missing_indexes=sorted(indexes - set(row["indexes"])),
        stale_functions=[n for n, body in migrate.bodies().items() if bodies.get(n) != body],
        pending=sorted(wanted - ran),
        ahead=sorted(ran - wanted),
        keepers=keepers,
    )


def _clock(theirs: float, asked: float, answered: float) -> Clock:
    """Their clock was read about halfway between asking and hearing."""
    return Clock(theirs - (asked + answered) / 2, answered - asked)
