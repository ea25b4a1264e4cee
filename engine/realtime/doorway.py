"""The doorway: a connection that wants to listen leaves HTTP here, and becomes a listener.

    /ws          with an upgrade         a WebSocket
    /events      ?room=drops,drop:1      a stream of events
    /socket.io   with an upgrade         a session of socketio.py; its polling stays HTTP

The first two also under /api/v1. Who may not come in is told so in the one error shape, and hung
up on.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from urllib.parse import parse_qs

import uvicorn
from starlette.types import Scope
from uvicorn.server import ServerState

from engine.identity.access import is_loopback_name
from engine.infra.addresses import Addresses
from engine.infra.answering import farewell
from engine.infra.errors import Forbidden, Problem, RateLimited, Retryable
from engine.infra.gate import Https
from engine.infra.http import Call, invalid
from engine.infra.settings import Settings
from engine.realtime.hub import Hub
from engine.realtime.listener import ROOMS_MAX, Listener
from engine.realtime.sessions import Wire
from engine.realtime.shows import key_of
from engine.realtime.socket import Socket
from engine.realtime.socketio import SocketIo
from engine.realtime.stream import Stream

SOCKETS, STREAMS = {"/ws", "/api/v1/ws"}, {"/events", "/api/v1/events"}
FACADE = "/socket.io"
_LAST = re.compile(rb"(\d{1,18})-(\d{1,18})")
COME_AGAIN_SECONDS = 10


class Doorway:
    """Takes connections over from the HTTP protocol of this process (see infra/taking.py)."""

    def __init__(
        self, settings: Settings, hub: Hub, facade: SocketIo, arrive: Callable[[Call], None]
    ) -> None:
        """`arrive` charges the address of a request (`Limits.arrive`)."""
        self.hub, self.facade, self._arrive = hub, facade, arrive
        self._config = uvicorn.Config(facade, lifespan="off", proxy_headers=False, log_config=None)
        self._config.load()
        self._is_open = settings.auth == "open"
        self._origins, self._https = settings.origins, Https(settings)
        self._addresses = Addresses(settings.trusted_proxies)
        self._most, self._most_of_one = settings.max_listeners, settings.max_listeners_per_address

    def takes(self, scope: Scope, upgrade: bool) -> bool:
        """Whether this request's connection is to become a listener."""
        path = scope["path"].rstrip("/")
        if not upgrade:
            return path in STREAMS and scope["method"] == "GET"
        return path in SOCKETS or path == FACADE

    def take(self, transport: asyncio.Transport, scope: Scope, head: bytes) -> None:
        """From here on it is ours. `head` is the request as it came."""
        headers, path = dict(scope["headers"]), scope["path"].rstrip("/")
        if (objection := self._https.objection(scope)) is not None:
            transport.write(farewell(objection, []))
            transport.close()
            return
        if path == FACADE:  # it looks at all this itself, whichever way its clients come
            wire = Wire(self._config, ServerState(), {})
            transport.set_protocol(wire)
            wire.connection_made(transport)
            wire.data_received(head)
            transport.resume_reading()
            return
        try:
            self._check_origin(headers)
            self._arrive(Call(scope, "live"))
            client = self._addresses.subject(scope, headers)
            self._check_room(client)
            listener: Listener = (
                Socket(self.hub, client)
                if path in SOCKETS
                else self._stream(scope, headers, client)
            )
        except Problem as problem:
            transport.write(farewell(problem, []))
            transport.close()
            return
        transport.set_protocol(listener)
        listener.connection_made(transport)
        transport.resume_reading()
        if isinstance(listener, Stream):
            listener.begin()
        else:
            listener.data_received(head)

    def leave(self) -> None:
        """Let everybody go now: long polls and sockets would keep the process for seconds."""
        self.hub.dismiss()
        self._going = asyncio.create_task(self.facade.close(), name="facade-close")

    def _stream(self, scope: Scope, headers: dict[bytes, bytes], client: str | None) -> Listener:
        """Raises `Problem` for rooms that are none, or private ones of somebody else."""
        query = parse_qs(scope["query_string"].decode("latin-1"))
        rooms = [room for given in query.get("room", []) for room in given.split(",") if room]
        if not rooms:
            raise invalid(
                "room", "want ?room=drops, drop:1, slots, ledger or me; several as drop:1,drop:2"
            )
        caller = None
        given = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        if given[2] or "userId" in query:
            caller = self.hub.door.listener(given[2] or None, query.get("userId", [None])[0])
        for room in rooms:
            key_of(room, None if caller is None else caller.subject)
        if len(rooms) > ROOMS_MAX:
            raise invalid("room", f"want at most {ROOMS_MAX}")
        last = _LAST.fullmatch(headers.get(b"last-event-id", b""))
        # Of several rooms it may have heard one and not the other.
        seen = (int(last[1]), int(last[2])) if last is not None and len(rooms) == 1 else None
        return Stream(self.hub, client, rooms, caller, seen, self._cross(headers))

    def _cross(self, headers: dict[bytes, bytes]) -> bytes:
        origin = headers.get(b"origin", b"")
        if origin not in self._origins:
            return b"vary: Origin\r\n" if self._origins else b""
        return b"access-control-allow-origin: %b\r\nvary: Origin\r\n" % origin

    def _check_origin(self, headers: dict[bytes, bytes]) -> None:
        """No page elsewhere listens in a visitor's name: browsers send no preflight for this."""
        origin, host = headers.get(b"origin"), headers.get(b"host", b"")
        for name, given in (("host", host), ("origin", origin)):
            if self._is_open and given and not is_loopback_name(given):
                raise Forbidden(f"AUTH=open answers loopback only: {name} is not loopback")
        if origin is None or origin in self._origins:
            return
        if origin.lower().partition(b"://")[2] != host.lower() and not self._is_open:
            raise Forbidden("This page may not listen here: see CORS_ORIGINS")

    def _check_room(self, client: str | None) -> None:
        if self._most and len(self.hub.listeners) >= self._most:
            raise Retryable("Too many listeners. Come again in a while, or ask for the stock.")
        if client is not None and self._most_of_one <= self.hub.clients[client]:
            raise RateLimited(
                f"At most {self._most_of_one} listeners an address", seconds=COME_AGAIN_SECONDS
            )
