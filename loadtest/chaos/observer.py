"""Looks at every drop several times a second, past the proxies, and writes down what it saw.

The bouncer first, then the figures: so the bouncer can only be the one that is behind.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import asyncpg
import redis.asyncio
import redis.exceptions
import uvloop

from engine.infra import sql
from engine.infra.redis import ABI
from loadtest.chaos import facts
from loadtest.chaos.history import Sight, Writer, now

EVERY_SECONDS = 0.2
TICK_SECONDS = 1.0
PATIENCE_SECONDS = 0.5  # a server that is stopped is not waited for

FIGURES = """
SELECT s.drop_id, e.epoch, s.version, s.free, s.held, s.sold,
       (SELECT count(*) FROM reservations AS r
         WHERE r.drop_id = s.drop_id AND r.state IN ('active', 'paying')
           AND r.expires_at <= clock_timestamp()) AS overdue
  FROM stock AS s CROSS JOIN engine_state AS e
 ORDER BY s.drop_id
"""

WRONG = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
Believed = tuple[tuple[int, int, int] | None, int]


class Eye:
    """Connections of its own to both servers, made again whenever they are lost."""

    def __init__(self, postgres_url: str, redis_url: str) -> None:
        self._postgres_url = postgres_url
        self._redis = redis.asyncio.Redis.from_url(
            redis_url, socket_timeout=PATIENCE_SECONDS, socket_connect_timeout=PATIENCE_SECONDS
        )
        self._connection: Any = None
        self._identity = ""
        self._drops: list[int] = []

    async def look(self) -> list[Sight]:
        """One look at every drop that was seen before, or is seen now."""
        at = now()
        believed = await self._ask_bouncer()
        rows = await self._ask_postgres()
        if rows is not None:
            self._drops = [row["drop_id"] for row in rows]
        by_drop = {row["drop_id"]: row for row in rows or ()}
        return [self._sight(at, drop, by_drop.get(drop), believed) for drop in self._drops]

    def _sight(self, at: int, drop: int, row: Any, believed: dict[int, Believed] | None) -> Sight:
        belief, intents = believed.get(drop, (None, 0)) if believed is not None else (None, None)
        if row is None:
            return Sight(at, drop, believed=belief, intents=intents)
        return Sight(
            at,
            drop,
            row["epoch"],
            row["version"],
            row["free"],
            row["held"],
            row["sold"],
            row["overdue"],
            belief,
            intents,
        )

    async def tick(self) -> None:
        """Bind Postgres's clock to ours, for the checker; when it answers."""
        if self._connection is None or self._connection.is_closed():
            return
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await facts.tick(self._connection)
        except WRONG:
            self._drop_connection()

    async def _ask_postgres(self) -> list[Any] | None:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                if self._connection is None or self._connection.is_closed():
                    self._connection = await asyncpg.connect(
                        self._postgres_url, timeout=PATIENCE_SECONDS
                    )
                    row = await self._connection.fetchrow(
                        sql.load("engine")["database_identity"].text
                    )
                    self._identity = row["id"][:12]
                found: list[Any] = await self._connection.fetch(FIGURES)
                return found
        except WRONG:
            self._drop_connection()
            return None

    def _drop_connection(self) -> None:
        if self._connection is not None:
            with suppress(asyncpg.InterfaceError):
                self._connection.terminate()
            self._connection = None

    async def _ask_bouncer(self) -> dict[int, Believed] | None:
        """Of each drop its epoch, version and available, and the open intents."""
        if not self._identity:
            return None
        try:
            async with asyncio.timeout(PATIENCE_SECONDS), self._redis.pipeline(False) as pipe:
                for drop in self._drops:
                    key = f"{ABI}:{{{self._identity}:{drop}}}"
                    pipe.hmget(f"{key}:drop", ["epoch", "version", "free", "open"])
                    pipe.hlen(f"{key}:intents")
                told = await pipe.execute()
        except (OSError, TimeoutError, redis.exceptions.RedisError):
            return None
        return {
            drop: (_belief(told[2 * at]), int(told[2 * at + 1]))
            for at, drop in enumerate(self._drops)
        }

    async def close(self) -> None:
        """Hang up."""
        self._drop_connection()
        with suppress(OSError, redis.exceptions.RedisError):
            await self._redis.aclose()


def _belief(told: list[bytes | None]) -> tuple[int, int, int] | None:
    epoch, version, free, open_units = (None if each is None else int(each) for each in told)
    if epoch is None or version is None or free is None:
        return None
    return epoch, version, free - (open_units or 0)


def unrest(sights: list[Sight]) -> str:
    """What keeps the drops from being at rest (INV-7), in words; "" if nothing does."""
    if not sights:
        return "nothing was seen"
    return "; ".join(f"drop {each.drop}: {why}" for each in sights if (why := _unrest(each)))


def _unrest(sight: Sight) -> str:
    if sight.version is None:
        return "Postgres does not answer"
    if sight.intents is None:
        return "Redis does not answer"
    told = []
    if sight.intents:
        told.append(f"{sight.intents} open intents")
    if sight.overdue:
        told.append(f"{sight.overdue} holds past their deadline")
    if sight.believed is not None and sight.believed != (sight.epoch, sight.version, sight.free):
        truth = (sight.epoch, sight.version, sight.free)
        told.append(f"the bouncer believes {sight.believed}, Postgres says {truth}")
    return ", ".join(told)


@contextmanager
def observing(folder: Path, postgres_url: str, redis_url: str) -> Iterator[None]:
    """A process that looks and writes until the block ends."""
    spawn = multiprocessing.get_context("spawn")
    arguments = (folder / "sights.jsonl", postgres_url, redis_url)
    process: BaseProcess = spawn.Process(target=_work, args=arguments, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join(3)
        process.kill()
        process.join()


def _work(path: Path, postgres_url: str, redis_url: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    uvloop.run(_observe(path, postgres_url, redis_url))


async def _observe(path: Path, postgres_url: str, redis_url: str) -> None:
    eye = Eye(postgres_url, redis_url)
    tick_at = 0.0
    with Writer(path) as writer:
        while True:
            due = time.monotonic() + EVERY_SECONDS
            if time.monotonic() >= tick_at:
                tick_at = time.monotonic() + TICK_SECONDS
                await eye.tick()
            for sight in await eye.look():
                writer.write(sight)
            await asyncio.sleep(max(due - time.monotonic(), 0.0))
