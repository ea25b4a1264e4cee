"""A listener over Server-Sent Events (the HTML standard, 9.2): one answer that does not end."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from engine.identity.models import Caller
from engine.realtime.frames import Wired
from engine.realtime.hub import Hub
from engine.realtime.listener import Listener

RETRY_MS = 2_000  # a browser's own wait before it comes again
UNHEARD_MS = 5_000  # what was sent may go unacknowledged
HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-store\r\nx-accel-buffering: no\r\nx-content-type-options: nosniff\r\n"
    b"connection: close\r\n%b\r\nretry: %d\n\n"
)


class Stream(Listener):
    """One stream. It is told what its address asked for, and can say nothing itself."""

    kind = "events"

    def __init__(
        self,
        hub: Hub,
        client: str | None,
        rooms: Sequence[str],
        caller: Caller | None,
        seen: tuple[int, int] | None,
        extra: bytes,
    ) -> None:
        """`seen`: the (epoch, place) of the last event it heard before; `extra`: header lines."""
        super().__init__(hub, client)
        self.caller, self.seen = caller, seen
        self._asked, self._extra = rooms, extra

    def connection_made(self, transport: Any) -> None:
        """It is ours now. Nobody answers our comments, so the kernel notices who is gone."""
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        if hasattr(socket, "TCP_USER_TIMEOUT") and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNHEARD_MS)

    def begin(self) -> None:
        """Answer, and tell how things stand."""
        self.is_open = True
        self.send(HEAD % (self._extra, RETRY_MS))
        self.hub.enter(self)
        for room in self._asked:
            self.hub.join(self, room)

    def pick(self, news: Wired) -> bytes:
        """As an event."""
        return news.events

    def ping(self) -> None:
        """A comment. Nobody answers it: what is not read stays in the transport, which is seen."""
        self.heard_at = self.hub.now()
        self.send(b":\n\n")

    def say_goodbye(self, code: int, why: str) -> None:
        """A browser comes again by itself."""
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        """There is nothing to be said here."""

    def eof_received(self) -> bool:
        """The client is done."""
        return False
