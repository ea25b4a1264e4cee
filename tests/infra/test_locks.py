"""Of all processes one has a lock, and nobody who lost it writes under it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from engine.infra import sql
from engine.infra.locks import Lock, LockLost, Locks, LockTaken, guard, rows
from engine.infra.redis import Redis
from engine.infra.settings import Settings
from engine.runtime import Ground
from tests.support.keeping import locks_of
from tests.support.wait import wait_until

NOWHERE = "redis://127.0.0.1:1/0"
WRITE = sql.parse(
    """
-- name: write :one
-- Something.
UPDATE engine_state SET direct_until = direct_until RETURNING epoch;
""".lstrip()
)["write"]


@pytest.fixture
async def locks(ground: Ground) -> AsyncIterator[Locks]:
    """One process's."""
    made = locks_of(ground)
    yield made
    await made.close()


@pytest.fixture
async def others(ground: Ground) -> AsyncIterator[Locks]:
    """Another process's."""
    made = locks_of(ground)
    yield made
    await made.close()


@pytest.fixture
def asked(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each query was sent."""
    seen, call = Counter[str](), ground.postgres.call

    async def noted(query: sql.Query, **words: Any) -> Any:
        seen[query.name] += 1
        return await call(query, **words)

    monkeypatch.setattr(ground.postgres, "call", noted)
    return seen


async def take(locks: Locks, name: str = "work", seconds: float = 5, wait: float = 0) -> Lock:
    lock = await locks.acquire(name, seconds, wait)
    assert lock is not None
    return lock


async def _do(settings: Settings, statement: str) -> None:
    database = await asyncpg.connect(settings.database_url)
    await database.execute(statement)
    await database.close()


async def test_one_has_it_and_each_owner_has_a_larger_token(
    ground: Ground, locks: Locks, others: Locks
) -> None:
    first = await take(locks)
    assert await others.acquire("work", 5) is None
    assert await locks.acquire("work", 5) is None, "not even its own process has it twice"
    assert (await take(others, "other work")).token == 1, "each name counts by itself"
    assert await locks.renew(first)
    assert await locks.release(first)
    assert first.lost.is_set()
    assert not await locks.release(first), "twice is once"
    assert not await locks.renew(first)

    second = await take(others, seconds=0.05)
    assert second.token == first.token + 1
    await second.lost.wait()
    third = await take(locks, wait=1)
    assert third.token == second.token + 1
    assert not await others.release(second), "it is not its any more"
    assert not await others.renew(second)

    [other, ours] = await rows(ground.postgres, None, 10)
    assert (ours.name, ours.token, ours.live) == ("work", third.token, True)
    assert (other.name, other.live) == ("other work", True)
    assert await locks.release(third)
    [ours] = await rows(ground.postgres, "other work", 10)
    assert (ours.owner, ours.token, ours.live) == (None, third.token, False), "the token stays"


async def test_what_is_asked_again_by_its_owner_is_the_same_lock(ground: Ground) -> None:
    """An answer may be lost on its way: then the row is the owner's already."""
    query = sql.load("locks")["acquire_lock"]
    told = [
        await ground.postgres.call(query, name="work", owner=owner, seconds=5.0)
        for owner in ("a", "a", "b")
    ]

    assert [row["taken"] for row in told] == [1, 1, None]
    assert 4 < told[2]["rest"] <= 5


async def test_a_crowd_of_waiters_costs_two_queries_an_owner_at_most(
    locks: Locks, others: Locks, asked: Counter[str]
) -> None:
    held = await take(others, seconds=30)
    order = list[int]()

    async def waits(number: int) -> None:
        lock = await take(locks, seconds=30, wait=20)
        order.append(number)
        await locks.release(lock)

    waiting = [asyncio.create_task(waits(number)) for number in range(20)]

    async def listens() -> bool:
        return asked["acquire_lock"] == 3  # the holder's, one in vain, one more when it listens

    await wait_until(listens, "somebody listens", seconds=5)
    await asyncio.sleep(0.2)
    assert asked["acquire_lock"] == 3, "nobody asks while nothing happens"
    began = time.monotonic()
    await others.release(held)
    await asyncio.gather(*waiting)

    assert order == list(range(20)), "in the order in which they came"
    assert time.monotonic() - began < 5, "long before it would have run out"
    assert asked["acquire_lock"] <= 3 + 2 * 20, (
        "each is known to have it, and to have given it back"
    )


async def test_without_redis_a_waiter_sleeps_until_the_end_of_the_holders_time(
    ground: Ground, asked: Counter[str]
) -> None:
    deaf = Locks(ground.postgres, Redis(NOWHERE), NOWHERE)
    lock = await take(deaf, seconds=0.4)
    assert not await deaf.acquire("work", 1, wait_seconds=0.1), "it waits no longer than it said"
    assert asked["acquire_lock"] == 2
    waiting = asyncio.create_task(take(deaf, seconds=1, wait=5))
    await asyncio.sleep(0.2)
    assert await deaf.renew(lock)

    began = time.monotonic()
    after = await waiting

    assert 0.3 < time.monotonic() - began < 1.5
    assert after.token == lock.token + 1
    assert asked["acquire_lock"] <= 5, "in vain, at the end that was told first, at the next"
    await deaf.release(after)
    await deaf.close()
    await deaf._redis.close()


async def test_who_lost_it_writes_nothing(
    ground: Ground, locks: Locks, others: Locks, settings: Settings
) -> None:
    old = await take(locks)
    async with ground.postgres.transaction() as session:
        await guard(session, old)
        await session.call(WRITE)
    await _do(settings, "UPDATE locks SET expires_at = clock_timestamp()")
    with pytest.raises(LockLost):
        async with ground.postgres.transaction() as session:
            await guard(session, old)
            raise AssertionError("its time is over")

    new = await take(others)
    with pytest.raises(LockLost):
        async with ground.postgres.transaction() as session:
            await guard(session, old)
    async with ground.postgres.transaction() as session:
        await guard(session, new)


async def test_nobody_takes_it_between_the_guard_and_the_commit(
    ground: Ground, locks: Locks, others: Locks
) -> None:
    """Its time ends in the middle of a write: the next holder comes after the commit."""
    slow = await take(locks, seconds=0.1)
    events = list[str]()

    async def succeeds() -> None:
        await take(others, wait=10)
        events.append("taken")

    async with ground.postgres.transaction() as session:
        await guard(session, slow)
        succeeding = asyncio.create_task(succeeds())
        await slow.lost.wait()
        assert await others.acquire("other work", 1), "other names are free"
        await asyncio.sleep(0.3)
        await session.call(WRITE)
        events.append("written")
    await succeeding

    assert events == ["written", "taken"]


async def test_a_held_lock_outlives_its_seconds_and_its_loss_is_told(
    locks: Locks, others: Locks, settings: Settings
) -> None:
    async with locks.held("work", seconds=0.6) as lock:
        await asyncio.sleep(0.9)
        assert not lock.lost.is_set()
        with pytest.raises(LockTaken):
            async with others.held("work", seconds=1):
                pass
        # As after a minute in which this process was stopped.
        await _do(settings, "UPDATE locks SET owner = 'b', token = token + 1")
        began = time.monotonic()
        await lock.lost.wait()
        assert time.monotonic() - began < 0.6
    async with others.held("free again", seconds=1) as other:
        pass
    assert other.lost.is_set()


async def test_a_holder_that_hears_nothing_takes_it_for_lost_in_time(
    ground: Ground, locks: Locks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own count, from when it asked: Postgres began to count later."""

    async def silence(query: sql.Query, **words: Any) -> Any:
        await asyncio.sleep(1)

    began = time.monotonic()
    async with locks.held("work", seconds=0.3) as lock:
        monkeypatch.setattr(ground.postgres, "call", silence)
        await lock.lost.wait()
        assert 0.25 < time.monotonic() - began < 0.6
        monkeypatch.undo()


async def test_a_leader_leads_until_it_stops_asking(
    locks: Locks, others: Locks, ground: Ground
) -> None:
    assert await locks.leads("work", 0.2)
    assert not await others.leads("work", 0.2)
    assert await locks.leads("work", 0.2)
    await wait_until(lambda: others.leads("work", 5), "the other leads", seconds=2)
    assert not await locks.leads("work", 5)
    await others.close()
    assert await locks.leads("work", 5), "it was given back"
    [row] = await rows(ground.postgres, None, 2)
    assert row.token == 3


@pytest.mark.slow
async def test_two_processes_count_without_a_mistake_while_holders_die(settings: Settings) -> None:
    """50 tasks in two processes read a number and write the next one, with nothing but the lock
    between them; some die with it, some sleep through its end, and one process is killed."""
    database = await asyncpg.connect(settings.database_url)
    await database.execute(
        "CREATE TABLE counted (id serial, n integer, token bigint); "
        "CREATE TABLE refused (token bigint)"
    )

    async def start(seed: int) -> asyncio.subprocess.Process:
        words = settings.database_url, settings.redis_url, "25", str(seed)
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.support.counting", *words
        )

    async def counted() -> list[asyncpg.Record]:
        return await database.fetch("SELECT n, token FROM counted ORDER BY id")

    async def some_counted() -> bool:
        return len(await counted()) >= 8

    stays, victim = await start(1), await start(2)
    await wait_until(some_counted, "they count", seconds=20)
    victim.kill()
    third = await start(3)
    codes = [await asyncio.wait_for(each.wait(), 40) for each in (stays, victim, third)]

    found = await counted()
    refused = {row["token"] for row in await database.fetch("SELECT token FROM refused")}
    last = await database.fetchval("SELECT token FROM locks")
    await database.close()
    tokens = [row["token"] for row in found]
    assert codes == [0, -9, 0]
    assert [row["n"] for row in found] == list(range(1, len(found) + 1)), "none twice, none lost"
    assert tokens == sorted(set(tokens)), "they rise with each owner"
    assert not refused & set(tokens)
    assert refused, "somebody slept through the end"
    assert last >= 50
    print(f"{len(found)} counted, {len(refused)} refused, {last} owners")
