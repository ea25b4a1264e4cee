"""A small HTTP/1.1 client for crowds: thousands of requests without becoming the bottleneck."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import msgspec


class Reply(msgspec.Struct, frozen=True):
    """An answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The code of the one error shape, after checking that it is that shape."""
        shape = self.json
        assert set(shape) == {"success", "error", "message", "retryable", "details", "requestId"}, (
            shape
        )
        assert shape["success"] is False
        assert isinstance(shape["details"], dict)
        return str(shape["error"])


async def chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The pieces of a body in chunks; EOFError if it is cut before its end."""
    while length := int(await reader.readuntil(b"\r\n"), 16):
        yield (await reader.readexactly(length + 2))[:-2]
    await reader.readexactly(2)


class Crowd:
    """Keep-alive connections to one service, as many as requests are under way, `most` at once."""

    def __init__(self, base: str, most: int = 200) -> None:
        parts = urlsplit(base)
        self._host, self._port, self._prefix = parts.hostname or "127.0.0.1", parts.port, parts.path
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._room = asyncio.Semaphore(most)

    async def send(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Reply:
        """One request. `body` is encoded as JSON unless it is bytes. Raises ConnectionError."""
        raw = (
            b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        )
        lines = [f"{method} {self._prefix}{path} HTTP/1.1", f"host: {self._host}:{self._port}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        lines += [f"content-length: {len(raw)}", "", ""]
        async with self._room:
            reader, writer = self._kept() or await self._connect()
            try:
                writer.write("\r\n".join(lines).encode() + raw)
                reply = await self._read(reader, method)
            except BaseException:
                writer.close()
                raise
            self._idle.append((reader, writer))
            return reply

    def _kept(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A connection that stands; those the service has closed meanwhile are let go."""
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()
        return None

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self._host, self._port)

    async def _read(self, reader: asyncio.StreamReader, method: str) -> Reply:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as cut:
            raise ConnectionResetError("cut before an answer") from cut
        first, *rest = head.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in rest if line)
        }
        if headers.get("transfer-encoding") == "chunked" and method != "HEAD":
            body = b"".join([piece async for piece in chunks(reader)])
        else:
            length = int(headers.get("content-length", "0"))
            body = await reader.readexactly(length) if length and method != "HEAD" else b""
        return Reply(int(first.split()[1]), headers, body)

    async def close(self) -> None:
        """Hang up."""
        for _, writer in self._idle:
            writer.close()
        await asyncio.gather(*(w.wait_closed() for _, w in self._idle), return_exceptions=True)
        self._idle.clear()
