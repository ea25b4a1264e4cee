"""Each toxic does to a connection to a real Valkey what it says, and nothing more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import msgspec
import pytest
import redis.asyncio
import uvloop

from engine.ops import devstack
from engine.ops.launch import free_port
from loadtest.chaos.lane import QUEUE_BYTES
from loadtest.chaos.proxy import Proxy
from tests.support.wait import wait_until

SOON = 0.15  # seconds in which something would have come that must not come


class Caller(msgspec.Struct, frozen=True):
    """A raw connection that speaks lines."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, line: str) -> bytes:
        """One request, and the first line of its answer."""
        self.writer.write(line.encode() + b"\r\n")
        return (await self.reader.readline()).strip()

    async def hears_nothing(self) -> None:
        """Neither bytes nor an end."""
        reading = asyncio.create_task(self.reader.read(1))
        done, _ = await asyncio.wait([reading], timeout=SOON)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        assert not done, reading


@asynccontextmanager
async def calling(url: str) -> AsyncIterator[Caller]:
    """A connection to where this URL leads."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        yield Caller(reader, writer)
    finally:
        writer.close()


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[Proxy]:
    """A proxy before Valkey."""
    async with Proxy.open(redis_url, seed=7) as opened:
        yield opened


@pytest.fixture
async def caller(proxy: Proxy) -> AsyncIterator[Caller]:
    """A connection through it that has been used."""
    async with calling(proxy.url) as opened:
        assert await opened.ask("CLIENT SETNAME far") == b"+OK"
        yield opened


@pytest.fixture
async def near(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    """A client that is led past it."""
    async with redis.asyncio.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


async def _far_clients(near: redis.asyncio.Redis) -> int:
    return sum(each["name"] == "far" for each in await near.client_list())


async def test_bytes_pass_unchanged_both_ways_more_than_it_keeps(
    proxy: Proxy, near: redis.asyncio.Redis
) -> None:
    value = bytes(range(256)) * (3 * QUEUE_BYTES // 256)
    async with redis.asyncio.Redis.from_url(proxy.url) as far:
        await far.set("k", value)
        assert await far.get("k") == value
    assert await near.strlen("k") == len(value)


async def test_the_url_keeps_all_but_the_address() -> None:
    async with Proxy.open("redis://ann:p%40ss@localhost:1234/3?protocol=3") as proxy:
        assert proxy.url == f"redis://ann:p%40ss@127.0.0.1:{proxy.port}/3?protocol=3"
        assert proxy.target == ("localhost", 1234)


async def test_latency_delays_each_way_and_ends_at_once(proxy: Proxy, caller: Caller) -> None:
    proxy.latency_ms = 60
    async with calling(proxy.url) as later:
        for each in (caller, later):
            begun = time.monotonic()
            assert await each.ask("PING") == b"+PONG"
            assert time.monotonic() - begun >= 0.12
        proxy.forth.latency_ms, proxy.back.latency_ms = 0, 60
        begun = time.monotonic()
        assert await later.ask("PING") == b"+PONG"
        assert time.monotonic() - begun >= 0.06

    proxy.latency_ms = 60_000
    caller.writer.write(b"PING\r\n")
    await caller.hears_nothing()
    proxy.latency_ms = 0
    assert await caller.reader.readline() == b"+PONG\r\n"


async def test_jitter_keeps_the_order(proxy: Proxy, caller: Caller) -> None:
    proxy.jitter_ms = 5
    wanted = [b":%d\r\n" % number for number in range(1, 101)]

    async def ask() -> None:
        for _ in wanted:
            caller.writer.write(b"INCR n\r\n")
            await asyncio.sleep(0)

    asking = asyncio.create_task(ask())
    heard = [await caller.reader.readline() for _ in wanted]
    await asking

    assert heard == wanted


async def test_a_slow_line_takes_its_time(proxy: Proxy, caller: Caller) -> None:
    value = "x" * 20_000
    assert await caller.ask(f"SET k {value}") == b"+OK"
    proxy.back.bytes_per_s = 100_000
    begun = time.monotonic()

    assert await caller.ask("GET k") == b"$20000"
    assert await caller.reader.readexactly(20_000) == value.encode()

    assert time.monotonic() - begun >= 0.17  # all but the last slice were waited for


async def test_nothing_passes_a_black_hole_until_it_ends(
    proxy: Proxy, caller: Caller, near: redis.asyncio.Redis
) -> None:
    proxy.black_hole = True
    async with calling(proxy.url) as later:
        for each in (caller, later):
            each.writer.write(b"INCR n\r\n")
        await asyncio.gather(caller.hears_nothing(), later.hears_nothing())
        assert await near.get("n") is None

        proxy.black_hole = False
        heard = {await each.reader.readline() for each in (caller, later)}

    assert heard == {b":1\r\n", b":2\r\n"}


async def test_a_black_hole_on_the_way_back_keeps_only_the_answers(
    proxy: Proxy, caller: Caller, near: redis.asyncio.Redis
) -> None:
    proxy.back.black_hole = True
    caller.writer.write(b"INCR n\r\n")

    await wait_until(lambda: near.get("n"), "it has its effect")
    await caller.hears_nothing()
    await proxy.heal()

    assert await caller.reader.readline() == b":1\r\n"


async def test_who_came_and_left_in_a_black_hole_was_never_there(
    proxy: Proxy, near: redis.asyncio.Redis
) -> None:
    before = (await near.info("stats"))["total_connections_received"]
    proxy.black_hole = True
    async with calling(proxy.url) as caller:
        caller.writer.write(b"INCR n\r\n")
        await wait_until(lambda: _is(len(proxy.links) == 1), "it is accepted")
    await wait_until(lambda: _is(all(link.forth.ended for link in proxy.links)), "it left")
    proxy.black_hole = False

    await wait_until(lambda: _is(not proxy.links), "it is forgotten")
    assert (await near.info("stats"))["total_connections_received"] == before
    assert await near.get("n") is None


async def _is(fact: bool) -> bool:
    return fact


async def test_a_sender_nobody_listens_to_is_no_longer_read(proxy: Proxy, caller: Caller) -> None:
    proxy.black_hole = True
    sent, piece = 0, b"x" * 65_536

    async def flood() -> None:
        nonlocal sent
        while True:
            caller.writer.write(piece)
            await caller.writer.drain()
            sent += len(piece)

    flooding = asyncio.create_task(flood())
    [link] = proxy.links
    await wait_until(lambda: _is(link.forth._is_paused), "it is not read")
    kept = link.forth._queued
    await caller.hears_nothing()

    assert link.forth._queued == kept <= QUEUE_BYTES + (1 << 18)  # and what one read gives
    flooding.cancel()
    await asyncio.gather(flooding, return_exceptions=True)
    await proxy.reset()


async def test_while_it_refuses_only_old_connections_live(proxy: Proxy, caller: Caller) -> None:
    proxy.refusing = True
    with pytest.raises(ConnectionError):
        async with calling(proxy.url) as later:
            await later.ask("PING")
            assert await later.reader.readexactly(1)

    assert await caller.ask("PING") == b"+PONG"
    assert proxy.done["refuse"] == 1


async def test_a_lost_answer_belongs_to_a_request_that_had_its_effect(
    proxy: Proxy, caller: Caller, near: redis.asyncio.Redis
) -> None:
    proxy.losing = True
    with pytest.raises(ConnectionResetError):
        await caller.ask("INCR n")

    assert await near.get("n") == "1"
    assert proxy.done["lose"] == 1


async def test_a_reset_is_heard_by_both_sides(
    proxy: Proxy, caller: Caller, near: redis.asyncio.Redis
) -> None:
    assert await _far_clients(near) == 1
    await proxy.reset()

    with pytest.raises(ConnectionResetError):
        await caller.reader.read(1)
    await wait_until(lambda: _none(near), "Valkey has heard it")
    assert proxy.done["reset"] == 1


async def test_a_cut_is_an_end_for_both_sides(
    proxy: Proxy, caller: Caller, near: redis.asyncio.Redis
) -> None:
    await proxy.cut()

    assert await caller.reader.read(1) == b""
    await wait_until(lambda: _none(near), "Valkey has heard it")
    async with calling(proxy.url) as later:
        assert await later.ask("PING") == b"+PONG"


async def _none(near: redis.asyncio.Redis) -> bool:
    return await _far_clients(near) == 0


async def test_a_client_is_not_told_that_its_server_is_gone(
    proxy: Proxy, caller: Caller, near: redis.asyncio.Redis
) -> None:
    await proxy.half_open("server")
    await wait_until(lambda: _none(near), "Valkey has lost it")

    caller.writer.write(b"INCR n\r\n")
    await caller.hears_nothing()
    assert await near.get("n") is None
    async with calling(proxy.url) as later:
        assert await later.ask("PING") == b"+PONG"

    await proxy.heal()
    with pytest.raises(ConnectionResetError):
        await caller.reader.read(1)


async def test_a_server_is_not_told_that_its_client_is_gone(
    proxy: Proxy, caller: Caller, near: redis.asyncio.Redis
) -> None:
    await proxy.half_open("client")

    with pytest.raises(ConnectionResetError):
        await caller.reader.read(1)
    assert await _far_clients(near) == 1
    await proxy.heal()
    await wait_until(lambda: _none(near), "Valkey has heard it")


async def test_a_half_open_client_that_gives_up_is_forgotten(proxy: Proxy, caller: Caller) -> None:
    await proxy.half_open("server")
    caller.writer.close()

    await wait_until(lambda: _is(not proxy.links), "nothing is left")


async def test_without_a_server_the_client_is_reset() -> None:
    async with (
        Proxy.open(f"redis://127.0.0.1:{free_port()}/0") as proxy,
        calling(proxy.url) as caller,
    ):
        with pytest.raises(ConnectionResetError):
            await caller.reader.read(1)
        await wait_until(lambda: _is(not proxy.links), "nothing is left")


async def test_who_has_no_more_to_say_still_hears_the_answer() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read())[::-1])  # after the client's end
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Proxy.open(f"tcp://127.0.0.1:{port}") as proxy:
        async with calling(proxy.url) as caller:
            caller.writer.write(b"abc")
            caller.writer.write_eof()
            assert await caller.reader.read() == b"cba"
        await wait_until(lambda: _is(not proxy.links), "nothing is left")


def test_it_does_the_same_on_the_loop_that_a_run_of_chaos_uses(
    valkey_server: devstack.Server,
) -> None:
    async def run() -> None:
        async with Proxy.open(valkey_server.url) as proxy:
            async with calling(proxy.url) as caller:
                proxy.latency_ms = 20
                begun = time.monotonic()
                assert await caller.ask("PING") == b"+PONG"
                assert time.monotonic() - begun >= 0.038  # this loop's clock ticks in milliseconds
                await proxy.reset()
                with pytest.raises(ConnectionResetError):
                    await caller.reader.read(1)
            async with calling(proxy.url) as caller:
                proxy.bytes_per_s = 1_000
                assert await caller.ask("PING") == b"+PONG"
                await proxy.cut()
                assert await caller.reader.read(1) == b""

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


async def test_its_end_is_the_end_of_its_connections(redis_url: str) -> None:
    async with Proxy.open(redis_url) as proxy:
        async with calling(proxy.url) as one, calling(proxy.url) as two:
            assert await one.ask("PING") == await two.ask("PING") == b"+PONG"
            proxy.black_hole = True
            two.writer.write(b"PING\r\n")
            await proxy.close()
            for each in (one, two):
                with pytest.raises(ConnectionResetError):
                    await each.reader.read(1)
        assert not proxy.links
