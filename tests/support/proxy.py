"""A TCP proxy that can lose answers: the request arrives and takes effect, the reply does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Proxy:
    """Forwards connections to a port; while `mute`, swallows the first reply and hangs up.

    `lose`: does so once, for the next request in which these bytes occur.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self.mute = False
        self.lose = b""
        self.swallowed = 0
        self.port = 0

    @classmethod
    @asynccontextmanager
    async def open(cls, port: int, host: str = "127.0.0.1") -> AsyncIterator[Proxy]:
        """Listen on a free port until the end."""
        proxy = cls(host, port)
        proxy._server = await asyncio.start_server(proxy._link, "127.0.0.1", 0)
        proxy.port = proxy._server.sockets[0].getsockname()[1]
        try:
            yield proxy
        finally:
            proxy._server.close()
            await proxy.cut()

    async def cut(self) -> None:
        """Hang up every connection."""
        links = tuple(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        try:
            there = await asyncio.open_connection(*self._target)
            try:
                await self._pump(reader, writer, *there)
            finally:
                there[1].close()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._links.discard(task)
            writer.close()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        there_reader: asyncio.StreamReader,
        there_writer: asyncio.StreamWriter,
    ) -> None:
        losing = False

        async def forward() -> None:
            nonlocal losing
            while data := await reader.read(65_536):
                if self.lose and self.lose in data:
                    losing, self.lose = True, b""
                there_writer.write(data)
            there_writer.write_eof()

        async def back() -> None:
            while data := await there_reader.read(65_536):
                if self.mute or losing:
                    self.swallowed += 1
                    return
                writer.write(data)

        ways = [asyncio.create_task(forward()), asyncio.create_task(back())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
