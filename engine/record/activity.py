"""Activity: what users did, written down behind their backs.

    log.note("session_created", user_id, call, session_id=session.id, platform="ios")

Nothing waits for it: what is noted goes into a bounded queue, and a task of the worker writes it,
many rows at once. While Postgres is away they wait. What is lost is counted: because the queue was
full, because Postgres took no such row, or because the worker had to leave before it was written.
Of a process that was killed what is neither written nor lost is what was noted less both.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec
import structlog

from engine.infra import storable
from engine.infra.addresses import Addresses
from engine.infra.combiner import Crew
from engine.infra.errors import Fault
from engine.infra.http import Call
from engine.infra.ids import new_id, parse_id
from engine.infra.log import Seldom
from engine.infra.meter import meter
from engine.infra.postgres import Postgres, Undone
from engine.record import activity_store
from engine.record.activity_store import Row

log = structlog.get_logger()

QUEUE_MAX = 10_000
BATCH_MAX = 500
GATHER_SECONDS = 0.05  # what comes meanwhile goes along
PAUSE_SECONDS = (0.25, 5.0)  # between two attempts while Postgres is away, at first and at most
ATTEMPTS = 2  # at a row that Postgres refuses: its month may have come to be in that instant
ACTION_LENGTH, AGENT_LENGTH, ADDRESS_LENGTH = 64, 300, 64
DETAILS_BYTES = 8_192


class Noted(msgspec.Struct, frozen=True):
    """One act, as it waits to be written."""

    id: str
    action: str
    user_id: str | None
    session_id: str | None
    ip_address: str | None
    user_agent: str | None
    details: dict[str, Any]
    at: float  # by this process's monotonic clock


class Activity:
    """The log of one worker."""

    def __init__(self, postgres: Postgres, crew: Crew, addresses: Addresses) -> None:
        self._postgres, self._crew, self._addresses = postgres, crew, addresses
        self._waiting: deque[Noted] = deque()
        self._writing = False
        self._complaints = Seldom()

    def note(
        self,
        action: str,
        user_id: str | None,
        call: Call | None = None,
        session_id: str | None = None,
        **details: Any,
    ) -> None:
        """Something was done. Returns at once, and never fails."""
        if len(self._waiting) >= QUEUE_MAX:
            meter.count("activity", "overflow")
            return
        address = agent = None
        if call is not None:
            address = self._addresses.client(call.scope, call.headers)
            agent = call.headers.get(b"user-agent", b"")[:AGENT_LENGTH].decode("latin-1")
        noted = Noted(
            new_id(), action, user_id, session_id, address, agent, details, time.monotonic()
        )
        self._waiting.append(noted)
        meter.count("activity", "noted")
        if not self._writing:
            self._writing = True
            self._crew.start(self._write(), "activity")

    async def _write(self) -> None:
        """Write until nothing waits, then end: a quiet worker pays nothing."""
        batch: list[Noted] = []
        pause = PAUSE_SECONDS[0]
        try:
            while batch or self._waiting:
                if not batch:
                    if not self._crew.closing:
                        await asyncio.sleep(GATHER_SECONDS)
                    count = min(len(self._waiting), BATCH_MAX)
                    batch = [self._waiting.popleft() for _ in range(count)]
                try:
                    await self._keep([row(each) for each in batch])
                    batch, pause = [], PAUSE_SECONDS[0]
                except Fault as fault:
                    if self._complaints.due():
                        log.warning("activity.waits", why=type(fault).__name__, rows=len(batch))
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, PAUSE_SECONDS[1])
        finally:
            self._writing = False
            if batch:  # the worker had to leave
                meter.count("activity", "unwritten", by=len(batch) + len(self._waiting))
                log.error("activity.unwritten", rows=len(batch) + len(self._waiting))
                self._waiting.clear()

    async def _keep(self, rows: Sequence[Row], attempts: int = ATTEMPTS) -> None:
        """Write rows. Where one of them is refused the others are kept: each half is tried apart.
        Raises a `Fault` while none can be written; what was written before is known by its id."""
        try:
            await activity_store.insert_activity(self._postgres, rows)
        except Undone as undone:
            if undone.transient:
                raise
            if len(rows) > 1:
                await self._keep(rows[: len(rows) // 2])
                await self._keep(rows[len(rows) // 2 :])
            elif attempts > 1:
                await self._keep(rows, attempts - 1)
            else:
                meter.count("activity", "refused")
                log.warning("activity.refused", sqlstate=undone.sqlstate, action=rows[0].action)
            return
        meter.count("activity", "written", by=len(rows))


def row(noted: Noted) -> Row:
    """What is written of an act: nothing that Postgres could not take."""
    address, agent = noted.ip_address, noted.user_agent
    return Row(
        noted.id,
        parse_id(noted.user_id or ""),
        parse_id(noted.session_id or ""),
        storable.text(noted.action, ACTION_LENGTH),
        storable.document(noted.details, DETAILS_BYTES) if noted.details else None,
        None if address is None else storable.text(address, ADDRESS_LENGTH),
        None if agent is None else storable.text(agent, AGENT_LENGTH),
        time.monotonic() - noted.at,
    )
