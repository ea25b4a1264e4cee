"""An answer on the wire: head and body leave in one write.

uvicorn writes them apart, and each write is a system call, the dearest part of a short answer; and
it looks at each header with two regular expressions.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from engine.infra.errors import Problem
from engine.infra.http import head_of, problem_answer
from engine.infra.ids import trace_id


class Cycle(RequestResponseCycle):
    """One request and its answer, of which head and body leave together."""

    _head = b""

    async def send(self, message: Any) -> None:
        """Take a part of the answer; no faster than the client reads."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected or self.transport.is_closing():
            self.disconnected = True  # with several in the pipe only the last is told
            return
        if not self.response_started:
            self.response_started, self.waiting_for_100_continue = True, False
            self._head = self._lines(message["status"], message["headers"])
            return
        if self.response_complete:
            raise RuntimeError("an answer after the answer")
        more = message.get("more_body", False)
        self.transport.write(self._head + self._framed(message.get("body", b""), more))
        self._head = b""
        if not more:
            self.response_complete = True
            self.message_event.set()
            self.on_response(self)

    async def send_500_response(self) -> None:
        """A crash beyond the place where crashes are answered."""
        request_id = trace_id()
        answer = problem_answer(Problem("Something went wrong on our side."), request_id)
        headers = [*head_of(answer, request_id), (b"connection", b"close")]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": answer.body})

    def _lines(self, status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
        """The head. Values are ours or checked, so one look at all of them together suffices."""
        parts: list[bytes] = []
        length: int | None = None
        for name, value in headers:
            if name == b"content-length":
                length = int(value)
            elif name == b"connection" and value == b"close":
                self.keep_alive = False
                continue
            parts += (name, b": ", value, b"\r\n")
        own = b"".join(parts)
        if own.count(b"\n") != len(parts) // 4 or own.count(b"\r") != len(parts) // 4:
            raise RuntimeError("a line break in a header")
        self.expected_content_length = length or 0
        # HTTP/1.0 knows no chunks: the end of the connection is the end of the body.
        self.chunked_encoding = (
            length is None
            and status not in (204, 304)
            and self.scope["method"] != "HEAD"
            and self.scope["http_version"] == "1.1"
        )
        chunks = b"transfer-encoding: chunked\r\n" if self.chunked_encoding else b""
        close = b"" if self.keep_alive else b"connection: close\r\n"
        return b"%b%b%b%b%b\r\n" % (
            STATUS_LINE[status],
            _constant.lines(self.default_headers),
            own,
            chunks,
            close,
        )

    def _framed(self, body: bytes, more: bool) -> bytes:
        if self.scope["method"] == "HEAD":
            return b""
        if self.chunked_encoding:
            piece = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            return piece if more else piece + b"0\r\n\r\n"
        if self.scope["http_version"] == "1.1":
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0 or (self.expected_content_length and not more):
                raise RuntimeError("an answer not as long as it says")
        return body


class Constant:
    """The lines that all answers of a second share: uvicorn makes a new list when one changes."""

    def __init__(self) -> None:
        self._headers: list[tuple[bytes, bytes]] = []
        self._lines = b""

    def lines(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """Them as bytes."""
        if headers is not self._headers:
            self._headers = headers
            self._lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        return self._lines


_constant = Constant()


def farewell(problem: Problem, default_headers: list[tuple[bytes, bytes]]) -> bytes:
    """A whole answer for what never became a request."""
    request_id = trace_id()
    answer = problem_answer(problem, request_id)
    lines = b"".join(b"%b: %b\r\n" % header for header in head_of(answer, request_id))
    constant = _constant.lines(default_headers)
    status = STATUS_LINE[problem.status]
    return b"%b%b%bconnection: close\r\n\r\n%b" % (status, constant, lines, answer.body)
