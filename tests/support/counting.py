"""A process whose tasks count under one lock: some die with it, some sleep through its end.

python -m tests.support.counting DATABASE_URL REDIS_URL TASKS SEED
"""

from __future__ import annotations

import asyncio
import random
import sys

from engine import runtime
from engine.infra import sql
from engine.infra.locks import LockLost, Locks, guard
from engine.infra.settings import Settings
from engine.runtime import Ground

NAME, SECONDS = "counter", 0.25
QUERIES = sql.parse("""
-- name: last :one
-- The newest number.
SELECT coalesce(max(n), 0) AS n FROM counted;

-- name: count :one
-- The next one.
INSERT INTO counted (n, token) VALUES (@n, @token) RETURNING n;

-- name: refuse :one
-- One that lost the lock.
INSERT INTO refused (token) VALUES (@token) RETURNING token;
""")


async def _count(base: Ground, locks: Locks, dice: random.Random) -> None:
    fate = dice.random()
    lock = await locks.acquire(NAME, SECONDS, wait_seconds=25)
    assert lock is not None, "nobody waits that long"
    if fate < 0.08:
        return  # dies, and gives nothing back
    if fate < 0.16:
        await lock.lost.wait()
        await asyncio.sleep(SECONDS / 5)
    try:
        async with base.postgres.transaction() as session:
            await guard(session, lock)
            n = (await session.call(QUERIES["last"]))["n"]
            await asyncio.sleep(dice.random() / 200)  # two holders would read the same
            await session.call(QUERIES["count"], n=n + 1, token=lock.token)
    except LockLost:
        await base.postgres.call(QUERIES["refuse"], token=lock.token)
        return
    await locks.release(lock)


async def _main(database_url: str, redis_url: str, tasks: int, seed: int) -> None:
    settings = Settings(database_url=database_url, redis_url=redis_url)
    async with runtime.ground(settings) as base:
        locks = Locks(base.postgres, base.redis, redis_url)
        dice = random.Random(seed)
        await asyncio.gather(*(_count(base, locks, dice) for _ in range(tasks)))
        await locks.close()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
