"""A buyer's connection: HTTP/1.1 over asyncio, in full control of when it gives up.

Nothing is sent twice behind anybody's back. A lost connection is said with what is known of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec

HEAD_MAX = 65_536


class Lost(Exception):
    """There is no answer: refused, reset, closed, timeout or hung_up."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Reply(msgspec.Struct, frozen=True):
    """An answer. Names of headers are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Wire:
    """One connection to a port of this machine, opened when needed, and again after a loss."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        patience_seconds: float,
        hang_up_seconds: float | None = None,
    ) -> Reply:
        """Send a request and wait for its answer. `hang_up_seconds`: leave so long after the
        sending, without it. Raises `Lost`, and then the connection is gone."""
        try:
            async with asyncio.timeout(patience_seconds):
                reader, writer = await self._connected()
                writer.write(self._request(method, path, body, headers))
                if hang_up_seconds is not None:
                    await writer.drain()
                    await asyncio.sleep(hang_up_seconds)
                    raise Lost("hung_up")
                return await _read(reader)
        except BaseException as wrong:
            self.close()
            if isinstance(wrong, OSError | EOFError | ValueError):  # a time-out is an OSError
                raise Lost(_why(wrong)) from None
            raise

    def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is not None and self._streams[0].at_eof():
            self.close()  # the server left while we rested: nothing of ours is lost
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self.port, limit=HEAD_MAX)
        return self._streams

    def _request(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: 127.0.0.1:{self.port}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


async def _read(reader: asyncio.StreamReader) -> Reply:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = dict[str, str]()
    for line in head[1:]:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    status = int(head[0].split(" ", 2)[1])
    length = int(headers.get("content-length", "0"))
    return Reply(status, headers, await reader.readexactly(length) if length else b"")


def _why(wrong: BaseException) -> str:
    match wrong:
        case TimeoutError():
            return "timeout"
        case ConnectionRefusedError():
            return "refused"
        case EOFError():
            return "closed"
    return "reset"
