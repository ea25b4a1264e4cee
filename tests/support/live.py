"""A worker behind a real port in the test's own process, and those who listen to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import uvicorn
import websockets
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from engine import app, runtime
from engine.infra.lobby import Lobby
from engine.infra.settings import Settings
from engine.infra.wire import Protocol
from engine.realtime.hub import Hub
from tests.support.shop import Shop

PATIENCE_SECONDS = 10


class Ear:
    """One WebSocket, and all that it heard."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self.socket = socket
        self.heard: list[dict[str, Any]] = []

    async def say(self, **words: Any) -> None:
        """Send a frame."""
        await self.socket.send(json.dumps(words))

    async def next(self) -> dict[str, Any]:
        """The next frame."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            frame: dict[str, Any] = json.loads(await self.socket.recv())
        self.heard.append(frame)
        return frame

    async def hears(self, event: str, **data: Any) -> dict[str, Any]:
        """Wait for an event with these data; its data."""
        while True:
            frame = await self.next()
            told: dict[str, Any] = frame["data"]
            if frame["event"] == event and data.items() <= told.items():
                return told

    async def join(self, room: str, **auth: Any) -> dict[str, Any]:
        """Enter a room; its snapshot."""
        if auth:
            await self.say(action="auth", **auth)
            await self.hears("authenticated")
        await self.say(action="join", room=room)
        return await self.hears("snapshot", room=room)

    async def is_dropped(self) -> int | None:
        """Wait for the end; its code."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            with suppress(websockets.ConnectionClosed):
                async for _ in self.socket:
                    pass  # what is not read hides the end
            await self.socket.wait_closed()
        return self.socket.close_code


class Live(Shop):
    """A shop with a port."""

    def __init__(self, asgi: ASGIApp, hub: Hub, port: int, settings: Settings) -> None:
        super().__init__(asgi)
        self.hub, self.port, self.settings = hub, port, settings

    @classmethod
    @asynccontextmanager
    async def behind(cls, settings: Settings) -> AsyncIterator[Live]:
        """Open it; end it with all its connections."""
        async with runtime.worker(settings) as house:
            asgi = app.build(house.routes, settings, house.facade)
            config = uvicorn.Config(asgi, lifespan="off", proxy_headers=False, log_config=None)
            config.load()
            lobby, state = Lobby(settings, 1_000), ServerState()

            def protocol() -> Any:
                return Protocol(lobby, config, state, {}, taker=house.doorway)

            server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
            try:
                yield cls(
                    asgi, house.doorway.doorway.hub, server.sockets[0].getsockname()[1], settings
                )
            finally:
                server.close()

    @asynccontextmanager
    async def listener(self, path: str = "/ws", **options: Any) -> AsyncIterator[Ear]:
        """Somebody who listens."""
        url = f"ws://127.0.0.1:{self.port}{path}"
        async with websockets.connect(url, **options) as socket:
            ear = Ear(socket)
            assert (await ear.next())["event"] == "connected"
            yield ear


async def lines(
    port: int, path: str, headers: str = ""
) -> tuple[Callable[[], Awaitable[str]], Any]:
    """A GET by hand: a way to read its lines, and what closes it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n{headers}\r\n".encode())

    async def line() -> str:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return (await reader.readline()).decode().rstrip("\r\n")

    return line, writer
