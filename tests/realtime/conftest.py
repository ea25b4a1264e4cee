"""The facade behind a real port, with a door that knows tokens."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from engine.identity.access import Door
from engine.identity.watch import Watch
from engine.infra.combiner import Crew
from engine.infra.settings import Settings
from engine.realtime.sessions import Wire
from engine.realtime.socketio import SocketIo

SALT = b"a salt"
SECRET = "0123456789abcdef0123456789abcdef"
FRIEND = b"https://shop.example"


class Served:
    """A facade and where it listens."""

    def __init__(self, facade: SocketIo, server: uvicorn.Server, port: int) -> None:
        self.facade, self.server, self.port = facade, server, port
        self.url = f"http://127.0.0.1:{port}"

    @classmethod
    @asynccontextmanager
    async def open(cls, auth: Any = "required", **options: Any) -> AsyncIterator[Served]:
        """Serve until the test is over."""
        with socket.socket() as bound:
            # Small, so that it soon shows who does not read; whoever is accepted inherits it.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
            bound.bind(("127.0.0.1", 0))
            bound.listen(128)
            port = bound.getsockname()[1]
            nobody: Any = None
            crew = Crew()
            door = Door(
                Settings(auth=auth, jwt_secret=SECRET, port=port), nobody, crew, Watch(nobody, crew)
            )
            facade = SocketIo({FRIEND}, door.caller, **{"name": "w1", **options})
            config = uvicorn.Config(
                facade,
                loop="none",
                http="httptools",
                ws=Wire,
                lifespan="off",
                log_level="warning",
                access_log=False,
                timeout_graceful_shutdown=3,
            )
            server = uvicorn.Server(config)
            serving = asyncio.create_task(server._serve([bound]), name="uvicorn")
            while not server.started:
                await asyncio.sleep(0.01)
            try:
                yield cls(facade, server, port)
            finally:
                await facade.close()
                server.should_exit = True
                await serving


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """A facade that wants tokens."""
    async with Served.open() as running:
        yield running
