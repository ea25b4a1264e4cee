"""Activity: what users did, written down behind their backs.

    log.note("session_created", user_id, call, session_id=session.id, platform="ios")

Nothing waits for it: what is noted goes into a bounded queue, and a task of the worker writes it,
many rows at once. What is lost, because the queue was full or the process died, is counted.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from engine.infra.combiner import Crew
from engine.infra.http import Call
from engine.infra.postgres import Postgres

QUEUE_MAX = 10_000


class Noted(msgspec.Struct, frozen=True):
    """One act, as it waits to be written."""

    action: str
    user_id: str | None
    session_id: str | None
    ip_address: str | None
    user_agent: str | None
    details: dict[str, Any]


class Activity:
    """The log of one worker."""

    def __init__(self, postgres: Postgres, crew: Crew) -> None:
        self._postgres, self._crew = postgres, crew
        self._waiting: deque[Noted] = deque(maxlen=QUEUE_MAX)

    def note(
        self,
        action: str,
        user_id: str | None,
        call: Call | None = None,
        session_id: str | None = None,
        **details: Any,
    ) -> None:
        """Something was done. Returns at once, and never fails."""
        agent = None if call is None else call.headers.get(b"user-agent", b"").decode("latin-1")
        self._waiting.append(Noted(action, user_id, session_id, None, agent, details))
