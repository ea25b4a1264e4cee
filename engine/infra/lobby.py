"""The lobby: the connections of one worker, by what we wait for, the longest waiting first.

    made ─▶ heads ─▶ bodies ─▶ (answering) ─▶ idle ─▶ heads …
              a full write buffer, or an answer still to be read ─▶ unread
              we hung up, and what they still send runs into the void ─▶ lingering

All in one place have the same patience, so their order is that of their deadlines: a sweep looks at
the first of each place, and a request costs one entry and one removal, never a timer. Bytes that
trickle in move nobody, so they extend nothing.

When every seat is taken, whoever waits longest gives up his to the next: only requests that we work
on can fill the house.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Protocol

import structlog

from engine.infra.errors import Problem, Retryable
from engine.infra.log import Seldom
from engine.infra.meter import meter
from engine.infra.settings import Settings

log = structlog.get_logger()

SWEEP_SECONDS = 0.1
AT_ONCE = 32  # cut in one go: thousands become due together, and requests wait meanwhile
LINGER_SECONDS = 2.0  # time to read our last word before a reset destroys it
LINGERING_MAX = 256  # above the seats
HEALTHY_SECONDS = 1.0  # a body or a reader so young is not slow
LEAVING_BODY_SECONDS = 1.0  # for a body, once the worker was told to go


class Guest(Protocol):
    """A connection, as the lobby knows it."""

    def overdue(self, place: Place) -> str:
        """Its patience in that place is over: end it, and say in a word why."""

    def give_way(self) -> None:
        """Its seat is needed."""

    def refuse(self, problem: Problem) -> None:
        """Say why, and hang up."""

    def abort(self) -> None:
        """End it without a word."""


class Place(OrderedDict[Guest, float]):
    """Guests and since when they are here, the longest first. Patience in seconds."""

    def __init__(self, patience_seconds: float) -> None:
        super().__init__()
        self.patience_seconds = patience_seconds

    def first(self) -> tuple[float, Guest | None]:
        """Who is here longest, and since when; (infinity, None) if nobody is."""
        for guest, since in self.items():
            return since, guest
        return float("inf"), None


class Lobby:
    """All connections of one worker."""

    def __init__(self, settings: Settings, seats: int) -> None:
        self.seats = seats
        self.heads = Place(settings.header_timeout_ms / 1000)
        self.bodies = Place(settings.body_timeout_ms / 1000)
        self.idle = Place(settings.keep_alive_ms / 1000)
        self.unread = Place(settings.slow_reader_ms / 1000)
        self.lingering = Place(LINGER_SECONDS)
        self.guests = 0
        self.is_leaving = False
        self._complaints = Seldom()
        self._loop = asyncio.get_running_loop()

    def enter(self, guest: Guest) -> bool:
        """One more. He gets the seat of whoever waits longest, or hears that there is none."""
        self.guests += 1
        is_full = self.guests - len(self.lingering) > self.seats and not self._make_room()
        if is_full:
            self._count("full")
            guest.refuse(Retryable("Every connection is busy. Nothing was taken: try again."))
        while len(self.lingering) > LINGERING_MAX:
            _, oldest = self.lingering.first()
            if oldest is not None:
                oldest.abort()
        return not is_full

    def go(self) -> None:
        """The worker leaves: bodies that are under way have a last moment."""
        self.is_leaving = True
        self.bodies.patience_seconds = min(self.bodies.patience_seconds, LEAVING_BODY_SECONDS)

    def _make_room(self) -> bool:
        """Whether somebody could be sent away."""
        # Who has asked for nothing yet, then who is slow; never whom we work for.
        (since, guest), (other_since, other) = self.idle.first(), self.heads.first()
        if other_since < since:
            guest = other
        if guest is None:
            young = self._loop.time() - HEALTHY_SECONDS
            slow = min(self.bodies.first(), self.unread.first(), key=lambda found: found[0])
            guest = slow[1] if slow[0] < young else None
        if guest is None:
            return False
        self._count("gave way")
        guest.give_way()
        return True

    def sweep(self) -> int:
        """End those whose patience is over, a handful; how many that were."""
        now, ended = self._loop.time(), 0
        for place in (self.heads, self.bodies, self.idle, self.unread, self.lingering):
            while ended < AT_ONCE:
                since, guest = place.first()
                if guest is None or since + place.patience_seconds > now:
                    break
                self._count(guest.overdue(place))
                ended += 1
        return ended

    async def keep_sweeping(self) -> None:
        """The worker's own task, as long as it lives."""
        while True:
            while self.sweep() == AT_ONCE:
                await asyncio.sleep(0)  # requests first
            await asyncio.sleep(SWEEP_SECONDS)

    def _count(self, why: str) -> None:
        meter.count("connections_cut", why)
        if why not in ("idle", "silent", "lingering") and self._complaints.due(why):
            log.warning("door.cut", why=why, connections=self.guests)
