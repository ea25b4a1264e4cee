"""A server that sells: a 201 until its stock is gone, and a memory of what it was sent."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

HOLD = b'{"id":"019aa4de-7c1f-7b6e-9d3c-%012d","dropId":7,"userId":"%s"}'
PURCHASE = b'{"id":"p","reservationId":"%s"}'
SOLD_OUT = b"HTTP/1.1 409 Conflict\r\ncontent-length: 2\r\n\r\n{}"


def created(body: bytes) -> bytes:
    """A 201."""
    return b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


class Till:
    """Wishes are answered with holds, purchases of holds with purchases."""

    def __init__(self, stock: int, stall_seconds: float = 0.0) -> None:
        self.port = 0
        self.stock = stock
        self.bodies: list[bytes] = []
        self._stalls = stall_seconds  # once, before the first answer
        self._serving = dict[asyncio.Task[None], asyncio.StreamWriter]()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving = asyncio.current_task()
        assert serving is not None
        self._serving[serving] = writer
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split()[0])
                self.bodies.append(await reader.readexactly(length))
                stall, self._stalls = self._stalls, 0.0
                if stall:
                    time.sleep(stall)  # noqa: ASYNC251 - all of the server stands still
                writer.write(self._told(self.bodies[-1], len(self.bodies)))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()  # the loop ends with the last of them
            del self._serving[serving]

    async def hang_up(self) -> None:
        """End all connections, surely. Nobody is cancelled: he may be leaving already."""
        for writer in self._serving.values():
            writer.transport.abort()
        await asyncio.gather(*self._serving)

    def _told(self, body: bytes, number: int) -> bytes:
        if number > self.stock:
            return SOLD_OUT
        words = body.split(b'"')
        if b"reservationId" in body:
            return created(PURCHASE % words[3])
        return created(HOLD % (number, words[words.index(b"userId") + 2]))


@contextmanager
def open_till(stock: int, stall_seconds: float = 0.0) -> Iterator[Till]:
    """Until the end of the block, in a thread of its own."""
    till, ready, loop = Till(stock, stall_seconds), threading.Event(), asyncio.new_event_loop()
    closing = asyncio.Event()

    async def serve() -> None:
        server = await asyncio.start_server(till.answer, "127.0.0.1")
        till.port = server.sockets[0].getsockname()[1]
        ready.set()
        async with server:
            await closing.wait()
        await till.hang_up()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert ready.wait(10)
        yield till
    finally:
        loop.call_soon_threadsafe(closing.set)
        thread.join(10)
        loop.close()
