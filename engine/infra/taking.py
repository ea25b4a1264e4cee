"""Taking: somebody may have a connection as soon as a request says what it is for."""

from __future__ import annotations

import asyncio
from typing import Protocol

from starlette.types import Scope


class Taker(Protocol):
    """Who speaks something else than one answer a request."""

    def takes(self, scope: Scope, upgrade: bool) -> bool:
        """Whether he wants the connection of this request: one for a WebSocket (`upgrade`), or a
        plain one. It is asked of every request that is not of the hot lane; no side effects."""

    def take(self, transport: asyncio.Transport, scope: Scope, head: bytes) -> bool:
        """The connection is his: he sets its protocol. `head` is the whole request as bytes, with
        its body; nothing came before it that waits for an answer, and nothing came behind it.
        False: he could not after all, and has not touched it.
        """
