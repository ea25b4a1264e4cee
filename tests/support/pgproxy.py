"""A proxy that understands Postgres's protocol well enough to lose exactly one statement's reply.

lose    the statement runs, its reply does not arrive, the connection is cut
drop    the statement does not arrive, the connection is cut
hold    the connection is cut towards the client, and the statement arrives when told: a zombie
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

import msgspec

Fate = Literal["lose", "drop", "hold"]
SSL_REQUEST = 80877103


class Trap(msgspec.Struct):
    """What becomes of the next statement whose text contains `marker`."""

    marker: str
    fate: Fate
    caught: asyncio.Event
    let_go: asyncio.Event
    reply: asyncio.Future[bytes]  # everything the server answered, up to its ReadyForQuery
    laid: bool = True  # whether it still waits for a statement


class PgProxy:
    """Forwards connections to a Postgres; `arm` it to lose a statement."""

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self._links: set[asyncio.Task[None]] = set()
        self._zombies: set[asyncio.Task[None]] = set()
        self._traps: list[Trap] = []
        self.refusing = False  # whether new connections are turned away
        self.url = ""

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[PgProxy]:
        """Listen on a free port until the end; `.url` leads through it."""
        proxy = cls(url)
        server = await asyncio.start_server(proxy._link, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        user = f"{proxy._parts.username}@" if proxy._parts.username else ""
        proxy.url = urlunsplit(proxy._parts._replace(netloc=f"{user}127.0.0.1:{port}"))
        try:
            yield proxy
        finally:
            server.close()
            for trap in proxy._traps:
                trap.let_go.set()
            await proxy.cut()
            for task in tuple(proxy._zombies):
                task.cancel()
            await asyncio.gather(*proxy._zombies, return_exceptions=True)

    def arm(self, marker: str, fate: Fate, times: int = 1) -> Trap:
        """Lay a trap for the next statement with this text; the first of `times` is returned."""
        loop = asyncio.get_running_loop()
        traps = [
            Trap(marker, fate, asyncio.Event(), asyncio.Event(), loop.create_future())
            for _ in range(times)
        ]
        self._traps += traps
        return traps[0]

    def disarm(self) -> None:
        """Forget the traps that caught nothing."""
        for trap in self._traps:
            trap.laid = False

    async def cut(self) -> None:
        """Hang up every connection."""
        links = tuple(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    def _caught_by(self, statement: str) -> Trap | None:
        for trap in self._traps:
            if trap.laid and trap.marker in statement:
                trap.laid = False
                return trap
        return None

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        try:
            if self.refusing:
                return
            there = await asyncio.open_connection(self._parts.hostname, self._parts.port)
            kept = False
            try:
                kept = await self._talk(reader, writer, *there)
            finally:
                if not kept:
                    there[1].close()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._links.discard(task)
            writer.close()

    async def _talk(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        there_reader: asyncio.StreamReader,
        there_writer: asyncio.StreamWriter,
    ) -> bool:
        """Forward until a trap snaps or a side hangs up; whether the server's side is kept."""
        back = asyncio.create_task(_copy(there_reader, writer))
        forth = asyncio.create_task(self._forward(reader, writer, there_writer))
        try:
            await asyncio.wait([back, forth], return_when=asyncio.FIRST_COMPLETED)
            found = forth.result() if forth.done() and not forth.exception() else None
        finally:
            for task in (back, forth):
                task.cancel()
            await asyncio.gather(back, forth, return_exceptions=True)
        if found is None:
            return False
        trap, statement = found
        if trap.fate == "drop":
            trap.caught.set()
            return False
        zombie = asyncio.create_task(_deliver(trap, statement, there_reader, there_writer))
        self._zombies.add(zombie)
        zombie.add_done_callback(self._zombies.discard)
        trap.caught.set()
        if trap.fate == "lose":  # the client learns of the cut only when the server has committed
            await asyncio.shield(zombie)
        return True

    async def _forward(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        there: asyncio.StreamWriter,
    ) -> tuple[Trap, bytes] | None:
        """The client's messages, one by one; the trap and the statement it caught."""
        await _greet(reader, writer, there)
        prepared: dict[bytes, str] = {}
        while True:
            kind = await reader.readexactly(1)
            size = await reader.readexactly(4)
            body = await reader.readexactly(struct.unpack("!I", size)[0] - 4)
            message, text = kind + size + body, ""
            if kind == b"P":  # Parse: name, text
                name, parsed, _ = body.split(b"\0", 2)
                prepared[name] = parsed.decode()
            elif kind == b"B":  # Bind: portal, name
                text = prepared.get(body.split(b"\0", 2)[1], "")
            elif kind == b"Q":
                text = body[:-1].decode()
            trap = self._caught_by(text) if text else None
            if trap is not None:
                while kind not in (b"S", b"Q"):  # up to its Sync
                    kind = await reader.readexactly(1)
                    size = await reader.readexactly(4)
                    message += kind + size
                    message += await reader.readexactly(struct.unpack("!I", size)[0] - 4)
                return trap, message
            there.write(message)


async def _greet(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, there: asyncio.StreamWriter
) -> None:
    """The start-up message, which has no kind; TLS is declined."""
    while True:
        size = await reader.readexactly(4)
        body = await reader.readexactly(struct.unpack("!I", size)[0] - 4)
        if struct.unpack("!I", body[:4])[0] != SSL_REQUEST:
            there.write(size + body)
            return
        writer.write(b"N")


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)


async def _deliver(
    trap: Trap, statement: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Give the server what was caught, at once or when told, and keep its answer."""
    try:
        if trap.fate == "hold":
            await trap.let_go.wait()
        writer.write(statement)
        answer = b""
        while True:
            head = await reader.readexactly(5)
            answer += head + await reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)
            if head[:1] == b"Z":
                trap.reply.set_result(answer)
                return
    except (OSError, asyncio.IncompleteReadError) as error:
        if not trap.reply.done():
            trap.reply.set_exception(error)
            trap.reply.exception()  # seen, whether or not somebody asks
    finally:
        writer.close()
