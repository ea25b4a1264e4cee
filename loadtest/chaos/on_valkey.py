"""Valkey: lost, back with old memories, full, busy, or with cut connections."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import redis.asyncio
import redis.exceptions

from loadtest.chaos.nemesis import Deed, Skip, nemesis
from loadtest.chaos.stage import Stage

MEMORY = "512mb"  # what devstack gives it
# Processor time: the clock of a script stands still while it runs.
BUSY = "local until_s = os.clock() + tonumber(ARGV[1]) while os.clock() < until_s do end return 1"


@asynccontextmanager
async def _asked(stage: Stage, patience_seconds: float = 2.0) -> AsyncIterator[Any]:
    """A connection of an operator, straight to it."""
    client = redis.asyncio.Redis.from_url(
        stage.ground.valkey.url,
        socket_timeout=patience_seconds,
        socket_connect_timeout=patience_seconds,
    )
    try:
        yield client
    except (OSError, redis.exceptions.RedisError) as error:
        raise Skip(f"Valkey does not answer: {error}") from None
    finally:
        with suppress(OSError, redis.exceptions.RedisError):
            await client.aclose()


@asynccontextmanager
async def _killed(stage: Stage) -> AsyncIterator[None]:
    await stage.ground.kill_valkey()
    try:
        yield
    finally:
        await stage.ground.revive_valkey()


@nemesis("valkey killed, back as it was", on="valkey", seconds=(0.1, 4.0), forgets=True)
async def killed(stage: Stage, deed: Deed) -> AsyncIterator[None]:
    """Up to a second of its memory is gone."""
    async with _killed(stage):
        yield


@nemesis("valkey killed, back empty", on="valkey", seconds=(0.1, 4.0), weight=1.5, forgets=True)
async def back_empty(stage: Stage, deed: Deed) -> AsyncIterator[None]:
    """All is gone, open intents included."""
    async with _killed(stage):
        stage.ground.forget_aof()
        yield


@nemesis(
    "valkey killed, back with an old file",
    on="valkey",
    seconds=(0.1, 4.0),
    weight=1.5,
    forgets=True,
)
async def back_stale(stage: Stage, deed: Deed) -> AsyncIterator[None]:
    """It remembers what was true a while ago: stock long sold, intents long closed."""
    async with _killed(stage):
        if not stage.ground.put_old_aof():
            deed.nothing = "no older file was kept yet: it came back as it was"
        yield


@nemesis("valkey killed, its file cut", on="valkey", seconds=(0.1, 3.0), forgets=True)
async def back_cut(stage: Stage, deed: Deed) -> AsyncIterator[None]:
    """The end of the log is missing, in the middle of a command."""
    async with _killed(stage):
        deed.words["bytes"] = stage.ground.cut_aof(deed.dice.randint(1, 20_000))
        if not deed.words["bytes"]:
            deed.nothing = "its file was empty: it came back as it was"
        yield


@nemesis("valkey stopped", on="valkey", seconds=(0.2, 6.0), weight=1.5)
async def stopped(stage: Stage, deed: Deed) -> AsyncIterator[None]:
    """What was sent meanwhile runs afterwards, for clients that have long given up."""
    process = stage.ground.valkey.process
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


@nemesis("valkey flushed", on="valkey", weight=1.5, forgets=True)
async def flushed(stage: Stage, deed: Deed) -> AsyncIterator[None]:
    """FLUSHALL."""
    async with _asked(stage) as client:
        await client.flushall()
    yield


@nemesis("valkey forgets scripts", on="valkey")
async def scripts_flushed(stage: Stage, deed: Deed) -> AsyncIterator[None]:
    """SCRIPT FLUSH: every EVALSHA is NOSCRIPT."""
    async with _asked(stage) as client:
        await client.script_flush()
    yield


@nemesis("valkey full", on="valkey", seconds=(0.3, 4.0))
async def full(stage: Stage, deed: Deed) -> AsyncIterator[None]:
    """maxmemory 1: it reads, and refuses to write."""
    async with _asked(stage) as client:
        await client.config_set("maxmemory", "1")
    try:
        yield
    finally:
        async with _asked(stage) as client:
            await client.config_set("maxmemory", MEMORY)


@nemesis("valkey cuts its clients", on="valkey")
async def clients_killed(stage: Stage, deed: Deed) -> AsyncIterator[None]:
    """CLIENT KILL of all, subscribers included: bells ring for nobody."""
    async with _asked(stage) as client:
        for kind in ("normal", "pubsub"):
            deed.words[kind] = await client.client_kill_filter(_type=kind, skipme=True)
    if not sum(deed.words.values()):
        raise Skip("nobody was connected")
    yield


@nemesis("valkey pauses", on="valkey", seconds=(0.2, 4.0))
async def paused(stage: Stage, deed: Deed) -> AsyncIterator[None]:
    """CLIENT PAUSE: nobody is answered, and nothing is lost."""
    async with _asked(stage) as client:
        await client.client_pause(int(deed.planned.seconds * 1_000) + 50, all=True)
    yield


@nemesis("valkey busy", on="valkey", seconds=(0.3, 3.0))
async def busy(stage: Stage, deed: Deed) -> AsyncIterator[None]:
    """A script of somebody's that takes seconds."""

    async def run() -> None:
        async with _asked(stage, deed.planned.seconds + 10) as client:
            await client.eval(BUSY, 0, deed.planned.seconds)

    running = asyncio.create_task(run(), name="busy")
    try:
        yield
    finally:
        await running
