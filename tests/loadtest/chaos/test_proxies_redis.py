"""Each fate does to one request, of a real Valkey, what it says, and to that one alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from engine.infra import lua
from loadtest.chaos.redisproxy import RedisProxy
from loadtest.chaos.traps import Fate
from tests.support.wait import wait_until

BUMP = "return redis.call('INCRBY', KEYS[1], 1)"


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[RedisProxy]:
    """A proxy before Valkey."""
    async with RedisProxy.open(redis_url, seed=7) as opened:
        yield opened


@pytest.fixture
async def near(redis_url: str) -> AsyncIterator[Any]:
    """A client that is led past it."""
    async with redis.asyncio.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@asynccontextmanager
async def _client(proxy: RedisProxy, protocol: int = 3) -> AsyncIterator[Any]:
    """A client through it with one connection, which repeats nothing by itself."""
    async with redis.asyncio.Redis.from_url(
        proxy.url,
        single_connection_client=True,
        protocol=protocol,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    ) as client:
        await client.ping()
        yield client


@pytest.fixture(params=[2, 3])
async def far(request: pytest.FixtureRequest, proxy: RedisProxy) -> AsyncIterator[Any]:
    """Such a client, of either protocol."""
    async with _client(proxy, request.param) as client:
        yield client


async def test_a_lost_request_has_run_and_its_client_is_not_told(
    proxy: RedisProxy, far: Any, near: Any
) -> None:
    trap = proxy.arm("INCRBY", "lose")
    with pytest.raises(redis.exceptions.ConnectionError):
        await far.incr("n")

    assert await trap.reply == b":1\r\n"
    assert await near.get("n") == "1"
    assert proxy.done == {"lose": 1}


@pytest.mark.parametrize("fate", ["drop", "tear"])
async def test_a_dropped_or_torn_request_has_not_run(
    proxy: RedisProxy, far: Any, near: Any, fate: Fate
) -> None:
    trap = proxy.arm("incrby", fate, size=9)
    with pytest.raises(redis.exceptions.ConnectionError):
        await far.incr("n")

    assert trap.caught.is_set()
    await wait_until(lambda: _is(not proxy.links), "Valkey has heard the end")
    assert await near.get("n") is None


async def _is(fact: bool) -> bool:
    return fact


async def test_a_duplicate_runs_twice_and_the_client_hears_the_first_reply_only(
    proxy: RedisProxy, far: Any, near: Any
) -> None:
    trap = proxy.arm("INCRBY", "duplicate")

    assert await far.incr("n") == 1
    assert await trap.reply == b":2\r\n"
    assert await near.get("n") == "2"
    await far.hset("h", mapping={"a": "1", "b": "2"})
    assert await far.hgetall("h") == {"a": "1", "b": "2"}, "the replies are in step"
    assert await far.incr("n") == 3


async def test_a_held_request_runs_when_it_is_let_go_and_its_client_heard_a_reset_before(
    proxy: RedisProxy, far: Any, near: Any
) -> None:
    zombie = proxy.arm("INCRBY n", "hold")
    assert await far.incr("other") == 1
    with pytest.raises(redis.exceptions.ConnectionError):
        await far.incr("n")
    await proxy.cut()
    await proxy.reset()
    assert await near.get("n") is None

    zombie.let_go.set()

    assert await zombie.reply == b":1\r\n"
    assert await near.get("n") == "1"
    await wait_until(lambda: _is(not proxy.held), "nothing is left")


async def test_healing_delivers_what_is_held(proxy: RedisProxy, far: Any, near: Any) -> None:
    proxy.arm("INCRBY", "hold", seconds=60)
    with pytest.raises(redis.exceptions.ConnectionError):
        await far.incr("n")

    await proxy.heal()

    assert await near.get("n") == "1"
    assert not proxy.held


@pytest.mark.parametrize("marker", ["bump", "EVALSHA bump", "evalsha"])
async def test_a_script_is_known_by_its_name(
    proxy: RedisProxy, far: Any, near: Any, marker: str
) -> None:
    sha = await near.script_load(BUMP)
    proxy.scripts[sha] = "bump"
    trap = proxy.arm(marker, "duplicate")

    assert await far.evalsha(sha, 1, "n") == 1
    assert await trap.reply == b":2\r\n"


async def test_a_script_is_known_by_its_source(proxy: RedisProxy, far: Any, near: Any) -> None:
    proxy.scripts[await near.script_load(BUMP)] = "bump"
    trap = proxy.arm("bump", "lose")
    with pytest.raises(redis.exceptions.ConnectionError):
        await far.eval(BUMP, 1, "n")

    assert await trap.reply == b":1\r\n"


def test_the_engines_scripts_are_known() -> None:
    said = RedisProxy("redis://localhost").said((b"EVALSHA", lua.load("admit").sha.encode()))

    assert said == "EVALSHA admit"


async def test_of_requests_sent_ahead_only_the_caught_one_and_what_follows_are_lost(
    proxy: RedisProxy, near: Any
) -> None:
    said = [b"*2\r\n$4\r\nINCR\r\n$1\r\n%b\r\n" % key for key in (b"a", b"b", b"c", b"d")]
    before = b"".join(said[:3])[:-1]
    for slice_bytes in (1, 7, 1_000):
        await near.flushall()
        twice = proxy.arm("INCR b", "duplicate")
        lost = proxy.arm("INCR c", "lose")
        parts = urlsplit(proxy.url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        for at in range(0, len(before), slice_bytes):
            writer.write(before[at : at + slice_bytes])
            await asyncio.sleep(0)
        writer.write(said[2][-1:] + said[3])
        try:
            assert await reader.readexactly(8) == b":1\r\n:1\r\n"
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
        finally:
            writer.close()
        assert (await twice.reply, await lost.reply) == (b":2\r\n", b":1\r\n")
        assert await near.mget("a", "b", "c", "d") == ["1", "2", "1", None]


async def test_pushes_are_no_replies(proxy: RedisProxy, near: Any) -> None:
    """Invalidations arrive between the replies; a duplicate's second reply is still told apart."""
    async with _client(proxy) as far:
        await far.execute_command("CLIENT", "TRACKING", "ON", "BCAST")
        for n in range(1, 6):
            trap = proxy.arm("INCRBY", "duplicate")
            assert await far.incr("n") == 2 * n - 1
            assert await trap.reply == b":%d\r\n" % (2 * n)
        assert await far.get("n") == "10"


async def test_a_subscriber_hears_all_and_is_left_alone(
    proxy: RedisProxy, far: Any, near: Any
) -> None:
    proxy.risk = {"drop": 1.0}
    proxy.risky = ("SUBSCRIBE", "PSUBSCRIBE", "UNSUBSCRIBE")
    async with far.pubsub() as bell:
        await bell.subscribe("one", "two")
        await bell.psubscribe("th*")
        for _ in range(3):
            assert (await bell.get_message(timeout=5))["type"].endswith("subscribe")
        for name in ("one", "two", "three"):
            await near.publish(name, "ding")
            assert (await bell.get_message(timeout=5))["data"] == "ding"
        await bell.unsubscribe()
    assert not proxy.done


async def test_of_a_transaction_only_the_beginning_and_the_end_are_caught(
    proxy: RedisProxy, far: Any, near: Any
) -> None:
    inside = proxy.arm("INCRBY", "duplicate")
    async with far.pipeline(transaction=True) as pipe:
        assert await pipe.incr("n").incr("n").execute() == [1, 2]
    assert not inside.caught.is_set()
    assert await far.incr("n") == 3
    assert inside.caught.is_set()

    lost = proxy.arm("EXEC", "lose")
    with pytest.raises(redis.exceptions.ConnectionError):
        async with far.pipeline(transaction=True) as pipe:
            await pipe.incr("n").execute()
    assert await lost.reply == b"*1\r\n:5\r\n"


async def test_fates_by_chance_are_counted(proxy: RedisProxy, near: Any) -> None:
    proxy.risk = {"lose": 0.2, "drop": 0.2, "duplicate": 0.2, "hold": 0.1}
    proxy.risky = ("INCRBY",)
    for _ in range(60):
        async with _client(proxy) as far:
            with suppress(redis.exceptions.ConnectionError):
                await far.incr("n")
    await proxy.heal()

    done = proxy.done
    assert set(done) == {"lose", "drop", "duplicate", "hold"}
    assert int(await near.get("n")) == 60 - done["drop"] + done["duplicate"]
