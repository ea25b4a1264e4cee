"""An answer on the wire: head and body leave in one write.

uvicorn writes them apart, and each write is a system call, the dearest part of a short answer; and
it looks at each header with two regular expressions. A request of the hot lane that is there as a
whole does without ASGI's messages too (`straight`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from starlette.types import Scope
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from engine.infra.errors import Problem
from engine.infra.http import (
    GUARDS,
    Answer,
    Call,
    Handler,
    head_of,
    headers_of,
    problem_answer,
    respond,
)
from engine.infra.ids import trace_id

JSON = b"application/json"
_PLAIN = b"".join(b"%b: %b\r\n" % header for header in (*GUARDS, (b"content-type", JSON)))


class Cycle(RequestResponseCycle):
    """One request and its answer, of which head and body leave together."""

    _head = b""

    def __init__(
        self,
        scope: Any,
        transport: asyncio.Transport,
        flow: FlowControl,
        logger: Any,
        default_headers: list[tuple[bytes, bytes]],
        expect_100_continue: bool,
        keep_alive: bool,
        on_response: Callable[[Cycle], None],
    ) -> None:
        # Instead of uvicorn's: an event for who waits for the body is made when somebody does.
        self.scope, self.transport, self.flow, self.logger = scope, transport, flow, logger
        self.default_headers, self.on_response = default_headers, on_response
        self.disconnected, self.keep_alive = False, keep_alive
        self.waiting_for_100_continue = expect_100_continue
        self.body, self.more_body = bytearray(), True
        self.response_started = self.response_complete = False
        self.chunked_encoding: bool | None = None
        self.expected_content_length = 0
        self._news = False  # of what `receive` has not told yet
        self._waiting: asyncio.Event | None = None

    def wake(self) -> None:
        """There is more of the body, or nobody to send it, or nothing left to answer."""
        self._news = True
        if self._waiting is not None:
            self._waiting.set()

    async def receive(self) -> Any:
        """The next piece of the body; that the client is gone, or has its answer."""
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        if not (self.disconnected or self.response_complete):
            self.flow.resume_reading()
            if not self._news:
                self._waiting = asyncio.Event()
                await self._waiting.wait()
                self._waiting = None
            self._news = False
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body, self.body = bytes(self.body), bytearray()
        return {"type": "http.request", "body": body, "more_body": self.more_body}

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
            self.wake()
            self.on_response(self)

    def reply(self, answer: Answer, call: Call) -> None:
        """The whole answer to a whole request, at once."""
        if self.disconnected or self.transport.is_closing():
            self.disconnected = True
            return
        self.response_started, self.waiting_for_100_continue = True, False
        head = self._plain_lines(answer, call) or self._lines(
            answer.status, headers_of(answer, call)
        )
        self.transport.write(head + answer.body)
        self.response_complete = True
        self.wake()
        self.on_response(self)

    async def send_500_response(self) -> None:
        """A crash beyond the place where crashes are answered."""
        request_id = trace_id()
        answer = problem_answer(Problem("Something went wrong on our side."), request_id)
        headers = [*head_of(answer, request_id), (b"connection", b"close")]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": answer.body})

    def _plain_lines(self, answer: Answer, call: Call) -> bytes:
        """The head of an answer whose own headers were written down before; empty for any other.
        Only the request's id and key are from outside, and both are checked to be printable."""
        own = answer.lines
        if own is None or call.notes is not None or answer.status == 204 or not self.keep_alive:
            return b""
        if answer.content_type != JSON:
            return b""
        key = b"" if call.key is None else b"\r\nidempotency-key: %b" % call.key.encode()
        return b"%b%bx-request-id: %b%b\r\n%b%bcontent-length: %d\r\n\r\n" % (
            STATUS_LINE[answer.status],
            _constant.lines(self.default_headers),
            call.request_id.encode(),
            key,
            own,
            _PLAIN,
            len(answer.body),
        )

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


async def straight(handler: Handler, operation: str, cycle: Cycle) -> None:
    """Answer a whole request of the hot lane, past ASGI's messages."""
    try:
        call = Call(cast(Scope, cycle.scope), operation)
        answer = await respond(handler, call, bytes(cycle.body))
        if cycle.flow.write_paused and not cycle.disconnected:
            await cycle.flow.drain()
        cycle.reply(answer, call)
    except BaseException:
        cycle.logger.exception("Exception in the hot lane")
        if cycle.response_started:
            cycle.transport.close()
        else:
            await cycle.send_500_response()


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
