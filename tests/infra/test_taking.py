"""A connection is somebody else's from the request on that he takes, and from no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from engine.infra.lobby import Lobby
from engine.infra.settings import Settings
from engine.infra.wire import Protocol
from tests.support.wait import wait_until

UPGRADE = (
    b"GET /ws?room=drops HTTP/1.1\r\nhost: here\r\nconnection: keep-alive, Upgrade\r\n"
    b"upgrade: websocket\r\nsec-websocket-key: abc\r\n\r\n"
)
PLAIN = b"GET /events HTTP/1.1\r\nhost: here\r\n\r\n"
POST = b"POST /events HTTP/1.1\r\nhost: here\r\ncontent-length: %d\r\n\r\n%b"
API = b"GET /api HTTP/1.1\r\nhost: here\r\n\r\n"


class Parrot(asyncio.Protocol):
    """Who has taken a connection: says everything twice."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data * 2)


class Parrots:
    """Takes `/ws` and `/events`."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.is_full = False

    def takes(self, scope: Scope, upgrade: bool) -> bool:
        return bool(scope["path"] == ("/ws" if upgrade else "/events"))

    def take(self, transport: asyncio.Transport, scope: Scope, head: bytes) -> bool:
        if self.is_full:
            return False
        self.heads.append(head)
        transport.set_protocol(Parrot(transport))
        transport.write(b"taken ")
        return True


class House:
    """A worker's door, with a taker."""

    def __init__(self, lobby: Lobby, state: ServerState, taker: Parrots | None) -> None:
        self.lobby, self.state, self.taker, self.port = lobby, state, taker, 0
        self.answering = asyncio.Event()
        self.answering.set()

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        await self.answering.wait()
        told = f"app {scope['path']} {len(body)}".encode()
        length = (b"content-length", b"%d" % len(told))
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": told})

    @classmethod
    @asynccontextmanager
    async def open(cls, taker: Parrots | None) -> AsyncIterator[House]:
        house = cls(Lobby(Settings(body_timeout_ms=60_000), 10), ServerState(), taker)
        config = uvicorn.Config(
            house.app,
            interface="asgi3",
            ws="none",
            lifespan="off",
            proxy_headers=False,
            log_config=None,
        )
        config.load()

        def protocol() -> Any:
            return Protocol(house.lobby, config, house.state, {}, taker=taker)

        server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
        house.port = server.sockets[0].getsockname()[1]
        try:
            yield house
        finally:
            house.answering.set()
            server.close()


class Client:
    """One connection, by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    @asynccontextmanager
    async def of(cls, house: House) -> AsyncIterator[Client]:
        client = cls(*await asyncio.open_connection("127.0.0.1", house.port))
        try:
            yield client
        finally:
            client.writer.close()

    async def hear(self, end: bytes) -> bytes:
        async with asyncio.timeout(10):
            return await self.reader.readuntil(end)


async def test_an_upgrade_is_taken_with_its_head_and_gives_up_its_seat() -> None:
    parrots = Parrots()
    async with House.open(parrots) as house, Client.of(house) as client:
        client.writer.write(UPGRADE)
        await client.hear(b"taken ")
        assert (house.lobby.guests, house.state.connections) == (0, set())
        assert not house.lobby.heads and not house.lobby.idle
        client.writer.write(b"frame;")

        assert await client.hear(b"frame;frame;") == b"frame;frame;"
    assert parrots.heads == [UPGRADE]


async def test_an_upgrade_with_a_body_is_no_upgrade_and_is_answered() -> None:
    """A WebSocket's handshake has none: who took it could not read it, and said nothing."""
    parrots = Parrots()
    async with House.open(parrots) as house, Client.of(house) as client:
        client.writer.write(UPGRADE.removesuffix(b"\r\n") + b"content-length: 5\r\n\r\n")
        await asyncio.sleep(0.05)  # else it comes with the head, and that was never taken
        client.writer.write(b"hello" + API)
        assert await client.hear(b"app /ws 5")
        assert await client.hear(b"app /api 0")
    assert parrots.heads == []


async def test_a_plain_request_is_taken_when_its_body_is_there() -> None:
    parrots = Parrots()
    body = b"x" * 40_000
    async with House.open(parrots) as house, Client.of(house) as client:
        raw = POST % (len(body), body)
        client.writer.write(raw[:20_000])
        await wait_until(_async(lambda: len(house.lobby.bodies)), "the body is awaited")
        since = [*house.lobby.bodies.values()]
        client.writer.write(raw[20_000:30_000])
        await asyncio.sleep(0.02)
        assert [*house.lobby.bodies.values()] == since, "bytes that trickle extended its time"
        client.writer.write(raw[30_000:])

        await client.hear(b"taken ")
        assert not house.lobby.bodies
        assert house.lobby.guests == 0
    assert parrots.heads == [raw]


async def test_chunks_arrive_as_one_body() -> None:
    parrots = Parrots()
    async with House.open(parrots) as house, Client.of(house) as client:
        client.writer.write(
            b"POST /events HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        )
        await client.hear(b"taken ")
    assert parrots.heads == [POST % (5, b"abcde")]


async def test_a_connection_that_was_answered_before_is_taken() -> None:
    parrots = Parrots()
    async with House.open(parrots) as house, Client.of(house) as client:
        client.writer.write(API)
        await client.hear(b"app /api 0")
        client.writer.write(PLAIN)
        await client.hear(b"taken ")
    assert parrots.heads == [PLAIN]


async def test_what_has_company_in_the_pipe_is_not_taken() -> None:
    """Before it or behind it: an answer or a request would get lost."""
    parrots = Parrots()
    async with House.open(parrots) as house:
        for first, second in ((PLAIN, API), (API, PLAIN), (API, UPGRADE), (UPGRADE, API)):
            async with Client.of(house) as client:
                house.answering.clear()
                client.writer.write(first + second)
                await wait_until(_async(lambda: house.lobby.guests), "the client is there")
                await asyncio.sleep(0.02)
                house.answering.set()
                for each in (first, second):
                    path = each.split()[1].split(b"?")[0]
                    assert b"200" in await client.hear(b"app %b 0" % path)
            await wait_until(_async(lambda: not house.lobby.guests), "the client is gone")
    assert parrots.heads == []


async def test_a_head_behind_it_that_has_only_begun_is_company_too() -> None:
    parrots = Parrots()
    async with House.open(parrots) as house, Client.of(house) as client:
        client.writer.write(PLAIN + API[:10])
        await client.hear(b"app /events 0")
        client.writer.write(API[10:])
        await client.hear(b"app /api 0")
    assert parrots.heads == []


async def test_a_body_beyond_what_is_read_ahead_is_for_the_app() -> None:
    parrots = Parrots()
    body = b"x" * 200_000
    async with House.open(parrots) as house, Client.of(house) as client:
        client.writer.write(POST % (len(body), body))
        await client.hear(b"app /events 200000")
    assert parrots.heads == []


async def test_who_waits_for_100_continue_is_for_the_app() -> None:
    parrots = Parrots()
    async with House.open(parrots) as house, Client.of(house) as client:
        client.writer.write(
            b"POST /events HTTP/1.1\r\ncontent-length: 3\r\nexpect: 100-continue\r\n\r\n"
        )
        await client.hear(b"100 Continue\r\n\r\n")
        client.writer.write(b"abc")
        await client.hear(b"app /events 3")
    assert parrots.heads == []


async def test_a_client_that_hangs_up_amid_a_body_that_is_awaited_leaves_nothing() -> None:
    parrots = Parrots()
    async with House.open(parrots) as house:
        async with Client.of(house) as client:
            client.writer.write(POST[:-6] % 500 + b"\r\n\r\nabc")
            await wait_until(_async(lambda: len(house.lobby.bodies)), "the body is awaited")
        await wait_until(_async(lambda: not house.lobby.guests), "it is gone")
        assert not house.lobby.bodies
    assert parrots.heads == []


async def test_what_he_cannot_take_after_all_goes_to_the_app() -> None:
    parrots = Parrots()
    parrots.is_full = True
    async with House.open(parrots) as house, Client.of(house) as client:
        for raw, told in (
            (UPGRADE, b"/ws 0"),
            (PLAIN, b"/events 0"),
            (POST % (3, b"abc"), b"/events 3"),
        ):
            client.writer.write(raw)
            await client.hear(b"app " + told)
        assert house.lobby.guests == 1
        parrots.is_full = False
        client.writer.write(PLAIN)
        await client.hear(b"taken ")
    assert parrots.heads == [PLAIN]


async def test_without_a_taker_all_goes_to_the_app() -> None:
    async with House.open(None) as house, Client.of(house) as client:
        for raw, path in ((UPGRADE, b"/ws"), (PLAIN, b"/events")):
            client.writer.write(raw)
            await client.hear(b"app %b 0" % path)


def _async(look: Any) -> Any:
    async def looked() -> Any:
        return look()

    return looked
