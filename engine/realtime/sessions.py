"""Sessions: Engine.IO, on which Socket.IO stands, with a bound on everything a client may do.

python-engineio trusts its clients: a queue without an end, a writer that waits for a reader for
ever, an exception for every odd frame. Here each of them costs the session, and nobody else's.

Polling needs the process that made the session: its id begins with that process's name.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

import engineio
from engineio import packet as engineio_packet
from engineio.async_drivers import asgi
from socketio import packet as socketio_packet
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.server import ServerProtocol

from engine.infra.errors import Invalid, MethodNotAllowed, Problem
from engine.infra.meter import meter

FRAME_BYTES_MAX = 4_096  # that a client may send at once
FRAMES_A_SECOND, FRAMES_AT_ONCE = 20, 40
QUEUE_MAX = 512  # frames that wait for one client
# Who answers no ping is gone after both: over polling, where nobody waits for a socket, at most
# once more the second. Together that is less than 10 s.
PING_SECONDS, PONG_SECONDS = 4, 3
WRITE_SECONDS = 5.0  # for one frame that nobody reads
LAST_WORDS_SECONDS = 1.0  # for a closing frame; then the connection is cut
TRY_AGAIN_LATER, NONSENSE = 1013, 1008
CUT = "velvetrope.cut"  # the ASGI extension that ends a connection at once
# Ping, pong, upgrade, noop; and of Socket.IO: connect, disconnect, event. Binary has no use here.
_FRAME = re.compile(r"[1356]|2probe|4[012].*", re.DOTALL)
_RESERVED = frozenset({"connect", "disconnect", "*"})  # events that only the server makes
_SEPARATOR = "."  # base64url, in which the rest of a session's id is written, has none

# python-engineio tells a log of what every stranger sends, with stack traces.
_quiet = logging.getLogger(__name__)
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False
_quiet.setLevel(logging.CRITICAL)


def owner_of(sid: str) -> str | None:
    """The name of the process whose session this is; None for an id that is not ours."""
    name, found, rest = sid.partition(_SEPARATOR)
    return name if found and name and rest else None


def session_of(scope: Scope) -> str | None:
    """The session that a request names, read as python-engineio reads it."""
    try:
        named = parse_qs(scope["query_string"].decode()).get("sid")
    except UnicodeDecodeError:
        return None
    return named[0] if named else None


class Told:
    """What a request was told; of refusals, which have another shape here, what was wrong."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._send, self._is_http = send, scope["type"] == "http"
        self._status = 0
        self._why = b""

    async def __call__(self, message: Message) -> None:
        """Send it on, unless it is a refusal."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
        elif self._is_refusal:
            self._why += message.get("body", b"")
        if not self._is_refusal:
            await self._send(message)

    @property
    def _is_refusal(self) -> bool:
        return self._is_http and self._status >= HTTPStatus.BAD_REQUEST

    @property
    def problem(self) -> Problem | None:
        """Why it was refused, if it was. To an Upgrade that is none there is no answer at all."""
        if self._status == HTTPStatus.METHOD_NOT_ALLOWED:
            return MethodNotAllowed("Only GET and POST are possible here", allow="GET, POST")
        if self._is_refusal or (self._is_http and not self._status):
            why = self._why.decode(errors="replace").strip('"')
            return Invalid(why or "This is no request of a session that we understand")
        return None


class Wire(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol for these sessions: small messages, no pings of its own (the
    sessions have theirs), and a connection that nobody reads is cut instead of waited for."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.conn = ServerProtocol(max_size=FRAME_BYTES_MAX, logger=_quiet)
        self.ping_interval = None

    async def run_asgi(self) -> None:
        """Run the app; what was not read shortly after its end is never read."""
        extensions: dict[str, Any] = self.scope["extensions"]
        extensions[CUT] = self.transport.abort
        await super().run_asgi()
        self.loop.call_later(LAST_WORDS_SECONDS, self.transport.abort)


class Pace:
    """How often one client may speak: GCRA, as in `limits.Policy`."""

    __slots__ = ("_full_at",)

    def __init__(self) -> None:
        self._full_at = 0.0

    def allows(self) -> bool:
        """Whether it may speak now; then it did."""
        now = time.monotonic()
        full_at = max(self._full_at, now) + 1 / FRAMES_A_SECOND
        if full_at > now + FRAMES_AT_ONCE / FRAMES_A_SECOND:
            return False
        self._full_at = full_at
        return True


class Text(socketio_packet.Packet):  # type: ignore[misc]  # it has no types
    """Socket.IO's packet, without attachments: a client could announce millions of them."""

    uses_binary_events = False

    def decode(self, encoded_packet: str) -> int:
        """Take a client's packet apart. Raises `ValueError` for one that no client sends."""
        if not isinstance(encoded_packet, str) or encoded_packet[:1] not in ("0", "1", "2"):
            raise ValueError("no packet of a client")
        super().decode(encoded_packet)
        if self.packet_type == socketio_packet.EVENT:
            named = self.data[0] if isinstance(self.data, list) and self.data else None
            if not isinstance(named, str) or named in _RESERVED:
                raise ValueError("no event of a client")
        return 0


class Frame(engineio_packet.Packet):  # type: ignore[misc]  # it has no types
    """What a client is sent; it is encoded once, however many hear it."""


class _Frames(asgi.WebSocket):  # type: ignore[misc]  # it has no types
    """A session's WebSocket."""

    def __init__(self, handler: Any, server: Any) -> None:
        super().__init__(handler, server)
        self._session = handler.__self__
        self._cut: Callable[[], None] | None = None
        self._is_nonsense = False

    async def __call__(self, environ: dict[str, Any]) -> Any:
        """Speak until one of both leaves."""
        self._cut = environ["asgi.scope"].get("extensions", {}).get(CUT)
        return await super().__call__(environ)

    async def wait(self) -> str | None:
        """The client's next frame. None, which ends it: nonsense, too fast, or no session."""
        frame = await super().wait()
        self._is_nonsense = not (
            isinstance(frame, str) and _FRAME.fullmatch(frame) and pace_of(self._session).allows()
        )
        return None if self._is_nonsense or self._session.closed else frame

    async def send(self, message: str) -> None:
        """Write one frame; cut off who does not read it."""
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                await super().send(message)
        except TimeoutError:
            if self._cut is not None:
                self._cut()
            raise

    async def close(self) -> None:
        """Say goodbye, and why."""
        code = 1000
        if self._is_nonsense:
            code = NONSENSE
        elif self._session.session.get("is_slow"):
            code = TRY_AGAIN_LATER
        with contextlib.suppress(Exception):  # it is gone already, however
            await self.asgi_send({"type": "websocket.close", "code": code})


def pace_of(session: Any) -> Pace:
    """How fast a session may speak, over whichever transport."""
    pace: Pace = session.session.setdefault("pace", Pace())
    return pace


class Sessions(engineio.AsyncServer):  # type: ignore[misc]  # it has no types
    """All sessions of this process. `name` stands in their ids; `subject` tells addresses apart."""

    def __init__(
        self, name: str = "", subject: Callable[[Scope], str | None] | None = None, **options: Any
    ) -> None:
        super().__init__(
            async_mode="asgi",
            ping_interval=PING_SECONDS,
            ping_timeout=PONG_SECONDS,
            max_http_buffer_size=FRAME_BYTES_MAX,
            http_compression=False,
            cors_allowed_origins=[],  # who embeds us has looked at the origin
            **options | {"logger": _quiet},
        )
        self._async: dict[str, Any] = {**self._async, "websocket": _Frames}
        self._name = name
        self._chores = set[asyncio.Task[Any]]()
        self._subject = subject
        self.clients = Counter[str]()  # sessions by the address that opened them
        self._counted: dict[str, str] = {}
        self._polled = set[str]()
        self.dropped = 0

    def generate_id(self) -> str:
        """A session's id: whose it is, and what nobody guesses."""
        return f"{self._name}{_SEPARATOR}{super().generate_id()}"

    def start_background_task(
        self, target: Callable[..., Coroutine[Any, Any, Any]], *args: Any, **named: Any
    ) -> asyncio.Task[Any]:
        """Run a chore that `close` ends."""
        chore = asyncio.create_task(target(*args, **named), name=f"session-{target.__name__}")
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)
        return chore

    def tell(self, sid: str, frame: Frame) -> None:
        """Put a frame before a client. One that has not read the last 512 is dropped."""
        session = self.sockets.get(sid)
        if session is None or session.closed:
            return
        if session.queue.qsize() < QUEUE_MAX:
            session.queue.put_nowait(frame)
        elif not session.session.get("is_slow"):
            session.session["is_slow"] = True
            self.dropped += 1
            meter.count("listeners_dropped", "slow")
            self.start_background_task(self.disconnect, sid)

    async def disconnect(self, sid: str | None = None) -> None:
        """End a session at once. python-engineio would wait until the client has read all."""
        session = self.sockets.pop(sid, None)
        if session is not None:
            _forget(session.queue)
            await session.close(wait=False, abort=True)

    async def close(self) -> None:
        """End all sessions: their clients come back, to whoever is there."""
        for session in list(self.sockets.values()):
            await session.close(wait=False)
            session.queue.put_nowait(None)
        self.sockets.clear()
        for chore in self._chores.copy():
            chore.cancel()

    async def handle_request(self, scope: Scope, receive: Receive, send: Send) -> Any:
        """Serve a request. Who polls a session twice at once has lost it, as with Engine.IO's own
        server: each poll keeps a connection for seconds, and one session could keep them all."""
        sid = session_of(scope) if scope["type"] == "http" and scope["method"] == "GET" else None
        if sid is None or sid not in self.sockets:
            return await super().handle_request(scope, receive, send)
        if sid in self._polled:
            await self.disconnect(sid)
            return await super().handle_request(scope, receive, send)
        self._polled.add(sid)
        try:
            return await super().handle_request(scope, receive, send)
        finally:
            self._polled.discard(sid)

    def _count(self, sid: str, scope: Scope) -> None:
        subject = None if self._subject is None else self._subject(scope)
        if subject is not None:
            self.clients[subject] += 1
            self._counted[sid] = subject

    def _discount(self, sid: str) -> None:
        subject = self._counted.pop(sid, None)
        if subject is not None:
            self.clients[subject] -= 1
            if not self.clients[subject]:
                del self.clients[subject]

    async def _trigger_event(self, event: str, *args: Any, **options: Any) -> Any:
        """What happened to a session. Over polling its messages come this way alone."""
        if event == "connect":
            self._count(args[0], args[1]["asgi.scope"])
        elif event == "disconnect":
            self._discount(args[0])
        elif event == "message":
            session = self.sockets.get(args[0])
            if session is None:
                return None
            if not session.upgraded and not pace_of(session).allows():
                return await self.disconnect(args[0])
        return await super()._trigger_event(event, *args, **options)


def _forget(queue: asyncio.Queue[Any]) -> None:
    """Throw away what nobody read, and send the writer home."""
    while not queue.empty():
        queue.get_nowait()
    queue.put_nowait(None)
