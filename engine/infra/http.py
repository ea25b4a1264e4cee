"""HTTP at the edge: one call in, one answer out, one error shape for everything.

A handler takes a `Call` and returns an `Answer` or raises a `Problem`. `serve` turns that into
ASGI; it is the only place that reads a body, writes a header or shows an error.
"""

from __future__ import annotations

import asyncio
import functools
import re
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import parse_qsl

import msgspec
import structlog
from starlette.types import Message, Receive, Scope, Send

from engine.infra import tracing
from engine.infra.accounts import account
from engine.infra.errors import Invalid, Problem, TooLarge
from engine.infra.ids import trace_id

if TYPE_CHECKING:
    from engine.infra.limits import Budgets

log = structlog.get_logger()
encode = msgspec.json.Encoder().encode

BODY_BYTES_MAX = 65_536
KEY_LENGTH_MAX = 128
PRICE_MAX_CENTS = 10_000_000_000
_PRICE = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,2}))?")
DIGITS_MAX = 9  # of a number in a header or a query: Python refuses to read thousands of them
# For answers that bring none of their own. What every answer has, pages too, `serve` tells uvicorn.
# JSON is no document: these two are for the day when somebody renders or stores it all the same.
GUARDS = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
_GUARDED = frozenset(name for name, _ in GUARDS)
CLIENT_GONE = 499  # in a trace alone: nobody hears it
SLOW_READER_SECONDS = 30.0  # for one piece of a long answer; then the connection is cut

T = TypeVar("T")


class ClientGone(Exception):
    """The client hung up before its body was read: there is nobody to answer."""


class Call:
    """One request: where to, by whom, with what."""

    __slots__ = (
        "body",
        "budgets",
        "code",
        "drop_id",
        "headers",
        "is_named",
        "key",
        "notes",
        "operation",
        "over",
        "params",
        "request_id",
        "scope",
        "signed",
        "spent",
    )

    def __init__(self, scope: Scope, operation: str = "") -> None:
        self.scope = scope
        self.operation = operation  # its name for limits, metrics and logs; never the path
        self.params: dict[str, str] = scope.get("path_params") or {}
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.body = b""
        self.code = ""  # of the problem it was answered with
        self.drop_id: int | None = None  # whose refusals these are, for the line that sums them up
        self.key: str | None = None  # the Idempotency-Key in force, echoed in the answer
        # What its caller may still ask for (limits.py): None where nothing is counted.
        self.budgets: Budgets | None = None
        self.spent: tuple[Any, str] | None = None  # the budget that paid for it, and whose it was
        self.signed = ""  # the key whose signature it carries, once that was verified
        self.over: Problem | None = None  # what it is told if it turns out to be no repetition
        self.notes: list[tuple[bytes, bytes]] | None = None  # headers for its answer
        given = self.headers.get(b"x-request-id", b"")
        self.is_named = 0 < len(given) <= 128 and _printable(given)  # by the client
        self.request_id = given.decode("ascii") if self.is_named else trace_id()

    @property
    def query(self) -> dict[str, str]:
        """The query string's last value of each name."""
        return dict(parse_qsl(self.scope["query_string"].decode("latin-1"), keep_blank_values=True))

    def idempotency_key(self) -> str | None:
        """The client's key, or None. Raises `Invalid` for one that cannot be a key."""
        given = self.headers.get(b"idempotency-key")
        if given is None:
            return None
        if sum(name == b"idempotency-key" for name, _ in self.scope["headers"]) > 1:
            raise Invalid("Idempotency-Key was sent twice")
        # The draft standard writes it as a quoted string; most clients do not.
        if len(given) >= 2 and given[:1] == given[-1:] == b'"':
            given = given[1:-1]
        if not 0 < len(given) <= KEY_LENGTH_MAX or not _printable(given):
            raise Invalid(
                "Idempotency-Key must be 1 to 128 printable characters",
                fields=[
                    {"field": "Idempotency-Key", "problem": "1 to 128 printable ASCII characters"}
                ],
            )
        return given.decode("ascii")

    def take(self, body: bytes) -> None:
        """A body that is there, if its length may be what it is said to be. Raises `TooLarge`."""
        length = self.headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > DIGITS_MAX or int(length) > BODY_BYTES_MAX:
            raise TooLarge
        self.body = body

    async def read(self, receive: Receive) -> None:
        """Read the body, 64 KiB at most."""
        self.take(b"")
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunk = message.get("body", b"")
            self.body = self.body + chunk if self.body else chunk
            if len(self.body) > BODY_BYTES_MAX:
                raise TooLarge
            if not message.get("more_body", False):
                return


class Answer:
    """A status, a body (bytes, or anything msgspec encodes) and extra headers.

    `pieces` stand for a body too long for memory: they are made while they are sent.
    """

    __slots__ = ("body", "content_type", "headers", "lines", "pieces", "status")

    def __init__(
        self,
        body: Any = None,
        status: int = 200,
        headers: list[tuple[bytes, bytes]] | None = None,
        content_type: bytes = b"application/json",
        pieces: AsyncGenerator[bytes, None] | None = None,
    ) -> None:
        self.status = status
        self.pieces = pieces
        self.body: bytes = (
            b"" if body is None else body if isinstance(body, bytes) else encode(body)
        )
        self.headers = headers or []
        # Them as they go over the wire, if somebody wrote them down before: many share a refusal.
        self.lines = b"" if not headers else None
        self.content_type = content_type


Handler = Callable[[Call], Coroutine[Any, Any, Answer]]


def _printable(text: bytes) -> bool:
    return text.isascii() and text.decode("ascii").isprintable()


def decoder(kind: type[T]) -> Callable[[Call], T]:
    """A function that decodes a call's body into a Struct. An empty body is an empty object."""
    decode = msgspec.json.Decoder(kind).decode

    def read(call: Call) -> T:
        try:
            try:
                return decode(call.body or b"{}")
            except msgspec.ValidationError as wrong:
                if "got `float`" not in str(wrong):
                    raise
            return msgspec.convert(_whole(msgspec.json.decode(call.body)), kind)
        except msgspec.ValidationError as wrong:
            problem, _, path = str(wrong).partition(" - at `$")
            field = path.strip("`").lstrip(".") or "body"
            raise Invalid(
                f"{field}: {problem}", fields=[{"field": field, "problem": problem}]
            ) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise Invalid(
                "The body is not valid JSON", fields=[{"field": "body", "problem": "not JSON"}]
            ) from None

    return read


def _whole(told: Any) -> Any:
    """The same with 2.0 as 2: to JSON they are one number, and some clients write it so."""
    if isinstance(told, dict):
        return {name: _whole(value) for name, value in told.items()}
    return int(told) if isinstance(told, float) and told.is_integer() else told


def invalid(field: str, problem: str) -> Invalid:
    """A refusal that names one field."""
    return Invalid(f"{field}: {problem}", fields=[{"field": field, "problem": problem}])


def either(field: str, *values: Any) -> Any:
    """The one value given under a field's several names; None if there is none, 400 if two."""
    found: Any = msgspec.UNSET
    for value in values:
        if value is not msgspec.UNSET:
            if found is not msgspec.UNSET:
                raise invalid(field, "given twice, under two names")
            found = value
    return None if found is msgspec.UNSET else found


@functools.lru_cache(4096)
def iso(moment: datetime) -> str:
    """ISO 8601 in UTC with milliseconds and a Z. A batch shares its moments, so they are cached."""
    return (
        moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
    )


def parse_time(field: str, text: str) -> datetime:
    """A moment from ISO 8601; without a zone it is UTC."""
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise invalid(field, "not a time like 2030-01-31T12:00:00Z") from None


def money(cents: int) -> str:
    """Cents as a string with two decimals."""
    return f"{cents // 100}.{cents % 100:02d}"


def cents(field: str, amount: str | int | float) -> int:
    """Cents from a price: a string or a number, at most two decimals, 0 to a hundred million. What
    a client's arithmetic left of 0.30, such as 0.30000000000000004, is 0.30."""
    price = _PRICE.fullmatch(f"{amount:.11g}" if isinstance(amount, float) else str(amount))
    exact = price and int(price[1]) * 100 + int(((price[2] or "") + "00")[:2])
    if exact is None or exact > PRICE_MAX_CENTS:
        raise invalid(field, "want an amount from 0 to 100000000 with at most two decimals")
    return exact


class Error(msgspec.Struct, rename="camel"):
    """The one shape of every error. Programs go by `error`, people by `message`; `requestId` finds
    it in the log."""

    success: Literal[False]
    error: str
    message: str
    retryable: bool
    details: dict[str, Any]
    request_id: str


def problem_answer(problem: Problem, request_id: str) -> Answer:
    """The one error shape."""
    said = problem.said
    if said is None:
        details = {name: value for name, value in problem.details.items() if name != "allow"}
        body = Error(False, problem.code, problem.message, problem.retryable, details, "")
        headers: list[tuple[bytes, bytes]] = [*problem.headers]
        if problem.retry_after_seconds is not None:
            headers.append((b"retry-after", str(problem.retry_after_seconds).encode()))
        if "allow" in problem.details:
            headers.append((b"allow", problem.details["allow"].encode()))
        said = problem.said = encode(body).removesuffix(b'""}'), headers, lines_of(headers)
    answer = Answer(said[0] + encode(request_id) + b"}", problem.status, said[1])
    answer.lines = said[2]
    return answer


def lines_of(headers: list[tuple[bytes, bytes]]) -> bytes | None:
    """Headers as they go over the wire; None if any takes another's place, or breaks a line."""
    lines = b"".join(b"%b: %b\r\n" % header for header in headers)
    is_sound = lines.count(b"\n") == lines.count(b"\r") == len(headers)
    return lines if is_sound and not any(name in _GUARDED for name, _ in headers) else None


async def respond(handler: Handler, call: Call, body: Receive | bytes | None) -> Answer:
    """What a handler answers, or the problem that it raised; counted, and logged if it is due. The
    body is there, is still to be read, or (None) does not matter. Raises `ClientGone`."""
    began, code = time.monotonic(), ""
    try:
        if isinstance(body, bytes):
            call.take(body)
        elif body is not None:
            await call.read(body)
        answer = await handler(call)
        if answer.pieces is not None:  # what fails here can still be told
            answer.body = await anext(answer.pieces, b"")
    except Problem as problem:
        code = problem.code
        answer = problem_answer(problem, call.request_id)
    except ClientGone:
        raise
    except Exception:
        # Never a stack trace to a client; the id in the answer finds it in the log.
        log.exception("http.crashed", request_id=call.request_id, path=call.scope["path"])
        code = Problem.code
        answer = problem_answer(Problem("Something went wrong on our side."), call.request_id)
    call.code = code
    account(call, answer.status, code, time.monotonic() - began)
    return answer


async def serve(
    handler: Handler, operation: str, scope: Scope, receive: Receive, send: Send
) -> None:
    """Answer one HTTP request with the handler of an operation, whatever happens in it."""
    call = Call(scope, operation)
    spans = tracing.on()
    span = None if spans is None else spans.begin(operation, scope["method"], call.headers)
    try:
        body = receive if scope["method"] not in ("GET", "HEAD") else None
        answer = await respond(handler, call, body)
    except ClientGone:
        if span is not None:
            span.end(CLIENT_GONE, "", call.request_id)
        return
    if span is not None:
        span.end(answer.status, call.code, call.request_id)
    if answer.pieces is not None:
        await _stream(answer, answer.pieces, call, receive, send)
    else:
        await _write(answer, call, send)


async def _stream(
    answer: Answer, pieces: AsyncGenerator[bytes, None], call: Call, receive: Receive, send: Send
) -> None:
    """Send piece by piece, no faster than the client reads, and no longer than it is there. What
    fails on the way cuts the connection, so that a part is never taken for the whole."""
    headers = headers_of(answer, call)
    start: Message = {"type": "http.response.start", "status": answer.status, "headers": headers}
    leaving = asyncio.create_task(_leaves(receive), name="client-leaves")
    piece = answer.body  # the first one, read before anything was promised
    try:
        async with aclosing(pieces):
            await send(start)
            while piece and not leaving.done():
                async with asyncio.timeout(SLOW_READER_SECONDS):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                piece = await anext(pieces, b"")
            if not piece:
                await send({"type": "http.response.body", "body": b""})
    except (Problem, TimeoutError) as problem:
        log.warning("http.cut", request_id=call.request_id, why=type(problem).__name__)
    finally:
        leaving.cancel()


async def _leaves(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _write(answer: Answer, call: Call, send: Send) -> None:
    headers = headers_of(answer, call)
    start: Message = {"type": "http.response.start", "status": answer.status, "headers": headers}
    await send(start)
    body = b"" if call.scope["method"] == "HEAD" else answer.body
    await send({"type": "http.response.body", "body": body})


def headers_of(answer: Answer, call: Call) -> list[tuple[bytes, bytes]]:
    """The headers of an answer to a call: also what its limits have to say, and its key."""
    headers = head_of(answer, call.request_id)
    if call.notes is not None:
        headers += call.notes
    if call.key is not None:
        headers.append((b"idempotency-key", call.key.encode()))
    return headers


def head_of(answer: Answer, request_id: str) -> list[tuple[bytes, bytes]]:
    """The headers of an answer; with its length, unless it comes in pieces."""
    headers = [(b"x-request-id", request_id.encode()), *GUARDS]
    if answer.headers:
        own = [name for name, _ in answer.headers]
        headers = [each for each in headers if each[0] not in own] + answer.headers
    if answer.pieces is None and answer.status not in (204, 304):  # those two have no body
        headers.append((b"content-length", b"%d" % len(answer.body)))
    if answer.body or answer.pieces is not None:
        headers.append((b"content-type", answer.content_type))
    return headers
