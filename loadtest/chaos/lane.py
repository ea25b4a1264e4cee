"""One direction of one connection: bytes that arrive in order, late, slowly, or after a while."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

QUEUE_BYTES = 1 << 20  # kept in one direction; then its sender is no longer read
SLICE_SECONDS = 0.02  # a slow line delivers so much at a time
NO_LINGER = struct.pack("ii", 1, 0)

End = Literal["", "fin", "rst"]


def reset(transport: asyncio.Transport) -> None:
    """End a connection with RST instead of FIN."""
    with suppress(OSError):  # its socket may be closed already
        raw = transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
    transport.abort()


class Way:
    """The toxics of one direction."""

    latency_ms: float = 0.0
    jitter_ms: float = 0.0  # at most so much more, evenly drawn
    bytes_per_s: float = 0.0
    black_hole: bool = False
    calm: bool = True  # whether bytes may simply be passed on

    def __init__(self, dice: random.Random, changed: Callable[[], None]) -> None:
        self._dice = dice
        self._changed = changed

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        if not name.startswith("_") and name != "calm":
            late = self.latency_ms or self.jitter_ms
            self.calm = not (late or self.bytes_per_s or self.black_hole)
            self._changed()

    def delay(self) -> float:
        """Seconds that bytes arriving now are under way."""
        return (self.latency_ms + self.jitter_ms * self._dice.random()) / 1_000


class Lane:
    """One direction of one connection."""

    def __init__(self, way: Way, settle: Callable[[], None]) -> None:
        self.source: asyncio.Transport | None = None
        self.target: asyncio.Transport | None = None  # None: not there yet, or gone
        self.ended: End = ""  # how the sender ended
        self.gone = False  # nobody is at the other end any more: what comes is dropped
        self._told: End = ""  # how we ended towards the other side
        self._way, self._settle = way, settle
        self._queue: deque[tuple[float, bytes]] = deque()  # due by the loop's clock
        self._queued = 0  # bytes
        self._clear_at = 0.0  # when a slow line has sent what it was given
        self._timer: asyncio.TimerHandle | None = None
        self._is_full = self._is_paused = False

    @property
    def is_finished(self) -> bool:
        """Whether nothing will pass any more, not even an end."""
        return self.gone or bool(self._told)

    def carry(self, data: bytes) -> None:
        """Bytes for the other side, now or when it is time."""
        if self._way.calm and not self._queue and self.target is not None:
            self.target.write(data)
        elif not self.gone:
            due = asyncio.get_running_loop().time() + self._way.delay()
            self._queue.append((due, data))
            self._queued += len(data)
            if self._timer is None:
                self.wake()
            else:
                self.throttle()

    def end(self, how: End = "fin") -> None:
        """The sender ended: so does the other side, after all that is under way."""
        if self.ended != "rst":
            self.ended = how
        self.wake()

    def drop(self) -> None:
        """Nobody is at the other end any more."""
        self.gone, self.target = True, None
        self._queue.clear()
        self._queued = 0
        if self._timer is not None:
            self._timer.cancel()
        self.throttle()

    def throttle(self, full: bool | None = None) -> None:
        """Read the sender only while the other side keeps up."""
        self._is_full = self._is_full if full is None else full
        pause = not self.gone and (self._is_full or self._queued > QUEUE_BYTES)
        if pause != self._is_paused and self.source is not None and not self.source.is_closing():
            self._is_paused = pause
            (self.source.pause_reading if pause else self.source.resume_reading)()

    def wake(self) -> None:
        """Deliver what is due, and come back for the rest."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.target is not None and not self._way.black_hole:
            self._deliver(self.target)
        self.throttle()

    def _deliver(self, target: asyncio.Transport) -> None:
        loop = asyncio.get_running_loop()
        while self._queue:
            at = self._due()
            if at > loop.time():
                self._timer = loop.call_at(at, self.wake)
                return
            target.write(self._take(loop.time()))
        if self.ended != self._told:
            self._told = self.ended
            if self.ended == "rst":
                reset(target)
            elif not target.is_closing():
                with suppress(OSError):  # reset by its peer a moment ago
                    target.write_eof()
            self._settle()

    def _due(self) -> float:
        late = self._way.latency_ms or self._way.jitter_ms
        slow = self._way.bytes_per_s
        return max(self._queue[0][0] if late else 0.0, self._clear_at if slow else 0.0)

    def _take(self, now: float) -> bytes:
        due, data = self._queue.popleft()
        rate = self._way.bytes_per_s
        if rate:
            size = max(1, int(rate * SLICE_SECONDS))
            if len(data) > size:
                self._queue.appendleft((due, data[size:]))
                data = data[:size]
            self._clear_at = max(now, self._clear_at) + len(data) / rate
        self._queued -= len(data)
        return data
