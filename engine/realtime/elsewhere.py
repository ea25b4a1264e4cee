"""Elsewhere: a connection goes to the process where it belongs, if that one is there.

    a listener                   to the process that holds all listeners, if one runs
    a session's next request     to the process that has the session

Nobody there, or nobody with time for it: this process serves it, as if there were no other.
"""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.infra.handover import Handover
from engine.realtime.doorway import FACADE, Doorway
from engine.realtime.sessions import owner_of

LISTENER = "listener"


class Elsewhere:
    """A `Taker`, before the doorway of this process.

    handover   to the others
    name       of this process, to which they hand what belongs here
    """

    def __init__(self, handover: Handover, name: str, doorway: Doorway) -> None:
        self.handover, self.name, self.doorway = handover, name, doorway

    def takes(self, scope: Scope, upgrade: bool) -> bool:
        """Whether the connection is a listener's, or of a session that another process has."""
        if self.doorway.takes(scope, upgrade):
            return True
        return scope["path"].rstrip("/") == FACADE and self._place(scope) is not None

    def take(self, transport: asyncio.Transport, scope: Scope, head: bytes) -> bool:
        """Give it away, or let it in here."""
        place = self._place(scope)
        if place is not None and self.handover.give(transport, head, place):
            return True
        if not self.doorway.takes(scope, any(name == b"upgrade" for name, _ in scope["headers"])):
            return False
        self.doorway.take(transport, scope, head)
        return True

    def leave(self) -> None:
        """The process goes: all who listen are told to come back, to another."""
        self.doorway.leave()

    def _place(self, scope: Scope) -> str | None:
        """The name of the process that should have it; None: this one."""
        name = LISTENER
        if scope["path"].rstrip("/") == FACADE and b"sid=" in scope["query_string"]:
            [session] = parse_qs(scope["query_string"].decode("latin-1")).get("sid", [""])[:1]
            name = owner_of(session) or self.name
        return None if name == self.name else name


class Once:
    """An app with a connection for each answer: whoever was handed here to poll may ask for
    something else next, and that is a worker's.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and hang up."""

        async def last(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        await self._app(scope, receive, last if scope["type"] == "http" else send)
