"""A listener: one connection that hears what is told in its rooms.

What is told is written straight to the socket, the same bytes for all. Who does not read is behind:
from then on nothing is kept for him, and when he reads again he is told how things stand now. Who
stays behind, or does not answer pings, is dropped: one reader costs nobody else anything.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from engine.identity.models import Caller
from engine.infra.ids import trace_id
from engine.infra.meter import meter
from engine.realtime.frames import Wired

if TYPE_CHECKING:
    from engine.realtime.hub import Hub

BEHIND_BYTES = 65_536  # that we keep for a reader
PING_SECONDS = 3.5
SILENCE_SECONDS = 4.5  # after a ping, or with something unread; with the last word, under 10
ROOMS_MAX = 32  # of one listener
LAST_WORD_SECONDS = 1.0  # to read why it ends


class Listener(asyncio.Protocol):
    """What a WebSocket and a stream of events have in common."""

    kind = ""

    def __init__(self, hub: Hub, client: str | None) -> None:
        self.hub = hub
        self.client = client  # whose connections are counted together; None: not counted
        self.id = trace_id()
        self.asked: dict[str, None] = {}  # rooms that it wants to hear
        self.arriving: set[str] = set()  # those that it is about to be shown
        self.rooms: dict[str, None] = {}  # those that it hears by now
        self.caller: Caller | None = None  # whose private room it may hear
        self.seen: tuple[int, int] | None = None  # the (epoch, place) it had come to before
        self.is_open = self.is_greeted = False
        self._transport: Any = None
        self._file = -1
        self._behind_since = 0.0  # 0: it keeps up
        self.has_missed = False  # news, while it was behind
        self._unread_since = 0.0
        self.heard_at = 0.0  # when it last showed that it reads
        self.pinged_at = 0.0  # 0: no ping waits for its answer

    @property
    def buyer(self) -> str | None:
        """Whose private room it may hear."""
        return None if self.caller is None else self.caller.subject

    @property
    def session(self) -> str:
        """The session of an account that it came with; empty: none."""
        return "" if self.caller is None else self.caller.session

    # ── the transport ────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: Any) -> None:
        """It is ours now."""
        self._transport = transport
        self._file = transport.get_extra_info("socket").fileno()
        transport.set_write_buffer_limits(high=BEHIND_BYTES, low=0)
        self.heard_at = self.hub.now()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self.is_open = False
        self._file = -1
        self.hub.leave(self)

    def pause_writing(self) -> None:
        """It does not read as fast as it is told."""
        self._behind_since = self.hub.now()

    def resume_writing(self) -> None:
        """It has read all: tell it how things stand, if it missed anything."""
        self._behind_since = 0.0
        if self.has_missed and self.is_open:
            self.has_missed = False
            self.hub.catch_up(self)

    # ── telling ──────────────────────────────────────────────────────────────────────────────

    def tell(self, news: Wired) -> None:
        """Write news, now, or not at all if it is behind."""
        if self._behind_since:
            self.has_missed = True
        elif self.is_open:
            self.send(self.pick(news))

    def greeted(self) -> None:
        """It has heard the first word."""

    def pick(self, news: Wired) -> bytes:
        """The form it understands."""
        raise NotImplementedError

    def send(self, data: bytes) -> None:
        """Write bytes, past the transport where nothing waits in it: half the cost."""
        if self._transport.get_write_buffer_size():
            self._transport.write(data)
            return
        try:
            sent = os.write(self._file, data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # the transport finds out, and says so to connection_lost
        if sent < len(data):
            self._transport.write(data[sent:])

    def ping(self) -> None:
        """Ask for a sign that it reads."""

    def look(self, now: float) -> None:
        """Ask for a sign of life when it is due; drop it if there was none, or it reads nothing."""
        if not self._transport.get_write_buffer_size():
            self._unread_since = 0.0
        elif not self._unread_since:
            self._unread_since = now
        if self._unread_since and now > self._unread_since + SILENCE_SECONDS:
            self.drop(1013, "slow")
        elif self.pinged_at and now > self.pinged_at + SILENCE_SECONDS:
            self.drop(1013, "silent")
        elif not self.pinged_at and now > self.heard_at + PING_SECONDS:
            self.ping()

    def drop(self, code: int, why: str) -> None:
        """End it, with a last word if it still reads."""
        meter.count("listeners_dropped", why)
        self.is_open = False
        self.hub.leave(self)
        self.say_goodbye(code, why)
        # What it still sends is read into the void: a reset would destroy our last word.
        asyncio.get_running_loop().call_later(LAST_WORD_SECONDS, self._transport.abort)

    def say_goodbye(self, code: int, why: str) -> None:
        """The last word."""
