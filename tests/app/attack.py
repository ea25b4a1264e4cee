"""Requests as bytes, so that a test can send what no honest client would."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec

from tests.support.http import Reply

VALIDATION = 400, "VALIDATION_ERROR"
UNAUTHORIZED = 401, "UNAUTHORIZED"
FORBIDDEN = 403, "FORBIDDEN"
NOT_FOUND = 404, "NOT_FOUND"
NOT_ALLOWED = 405, "METHOD_NOT_ALLOWED"
TIMEOUT = 408, "REQUEST_TIMEOUT"
TOO_LONG = 414, "URI_TOO_LONG"
HEADERS = 431, "HEADERS_TOO_LARGE"
TOO_LARGE = 413, "PAYLOAD_TOO_LARGE"


class Attack(msgspec.Struct, frozen=True):
    """A request and the refusal it deserves. `$drop`, `$hold` and `$bought` stand for real ids."""

    method: str
    path: str
    body: Any = None  # bytes as they are, anything else as JSON
    headers: tuple[str, ...] = ()
    refusal: tuple[int, str] = VALIDATION
    name: str = ""

    @property
    def id(self) -> str:
        """What the test is called."""
        body = "" if self.body is None else str(self.body)
        words = self.name or f"{self.path} {body} {' '.join(self.headers)}"
        return f"{self.method} {words}".strip()[:80].encode("ascii", "backslashreplace").decode()

    def raw(self, known: dict[str, str]) -> bytes:
        """The request on the wire; headers of one's own replace Host and Content-Length."""
        body = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        body = b"" if self.body is None else body
        for word, value in known.items():
            body = body.replace(word.encode(), value.encode())
        path = self.path
        for word, value in known.items():
            path = path.replace(word, value)
        lines = [f"{self.method} {path} HTTP/1.1", *self.headers]
        given = {line.partition(":")[0].lower() for line in self.headers}
        if "host" not in given:
            lines.append("Host: 127.0.0.1")
        if not given & {"content-length", "transfer-encoding"}:
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


async def exchange(port: int, raw: bytes) -> Reply:
    """Send bytes on a new connection and read one answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(raw)
        head = await reader.readuntil(b"\r\n\r\n")
        first, *rest = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in rest if line)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        return Reply(int(first.split()[1]), headers, body)
    finally:
        writer.transport.abort()


def chunked(*chunks: bytes) -> bytes:
    """A body in chunks."""
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))
