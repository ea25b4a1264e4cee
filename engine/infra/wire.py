"""The wire: uvicorn's HTTP protocol with two changes.

A response leaves in one write: uvicorn writes its head and its body apart, and each write is a
system call, the dearest part of a short answer. And what is not even HTTP is answered in the one
error shape.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from engine.infra.errors import Invalid
from engine.infra.http import problem_answer
from engine.infra.ids import trace_id
from engine.infra.meter import meter


class OneWrite:
    """A transport that joins everything written within one turn of the event loop."""

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write with the rest of this turn."""
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)

    def close(self) -> None:
        """Write what is held, then close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._held:
            data = b"".join(self._held)
            self._held.clear()
            if not self._transport.is_closing():
                self._transport.write(data)


class Protocol(HttpToolsProtocol):
    """One connection."""

    def connection_made(self, transport: Any) -> None:
        """A client is there."""
        super().connection_made(OneWrite(transport, self.loop))  # type: ignore[arg-type]

    def send_400_response(self, msg: str) -> None:
        """400 and hang up."""
        request_id = trace_id()
        meter.answered("malformed", Invalid.status, Invalid.code, 0.0)
        answer = problem_answer(Invalid(msg), request_id)
        self.transport.write(
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
            b"content-length: %d\r\nx-request-id: %b\r\n\r\n%b"
            % (len(answer.body), request_id.encode(), answer.body)
        )
        self.transport.close()
