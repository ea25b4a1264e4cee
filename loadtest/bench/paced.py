"""A load at a fixed rate, whatever the server does: an open loop of our own client.

A request is due at a moment fixed beforehand, and its latency counts from then. A server that
stalls delays the requests behind it, and each of them is counted as late as its buyer felt it
(no coordinated omission: Gil Tene, "How NOT to Measure Latency"). Rates that a closed loop would
lower by itself, because nobody asks who waits, are kept.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import deque
from functools import partial
from typing import cast

from loadtest import client
from loadtest.client import GRACE_SECONDS, Figures, Gun, Line, Shot, Tally, Watch

TICK_SECONDS = 0.001  # what is due within it is sent together, and counts from when it was due


def fire(
    shot: Shot, connections: int, seconds: float, watch: Watch | None = None, *, rate: float
) -> Figures:
    """Send `rate` requests a second for `seconds`, on at most so many connections."""
    load = partial(paced_loop, rate=rate)
    # One process: the rate is half of what two have to reach, and each waits for the cores.
    return client.fire(shot, connections, seconds, watch, processes=1, load=load)


async def paced_loop(shot: Shot, connections: int, seconds: float, rate: float) -> Tally:
    """This process's part of the load."""
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    pace = Pace(shot, rate, seconds)
    lines = [
        (await loop.create_connection(lambda: PacedLine(pace), "127.0.0.1", shot.port))[1]
        for _ in range(connections)
    ]
    began = time.perf_counter()
    pace.start(began)
    try:
        await asyncio.wait_for(pace.finished, seconds + GRACE_SECONDS)
        unanswered = 0
    except TimeoutError:
        unanswered = pace.due - len(pace.latencies)
    for line in lines:
        line.close()
    return Tally(
        latencies=pace.latencies.tobytes(),
        statuses=dict(pace.statuses),
        errors=pace.errors + unanswered,
        seconds=max(pace.last_answer - began, seconds),
        lateness=pace.lateness.tobytes(),
    )


class Pace(Gun):
    """Who sends when: every request has its moment, and takes the first connection that is free."""

    def __init__(self, shot: Shot, rate: float, seconds: float) -> None:
        super().__init__(shot, float("inf"))
        self.due = round(rate * seconds)  # in all
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lateness = array("d")  # from a request's moment until it was sent
        self._step = 1 / rate
        self._began = 0.0
        self._asked = 0  # requests whose moment has come
        self._idle: deque[PacedLine] = deque()
        self._late: deque[float] = deque()  # moments of requests that found no connection

    def start(self, began: float) -> None:
        """The first request is due now."""
        self._began = began
        self._tick()

    def is_free(self, line: PacedLine) -> None:
        """This connection may send the next."""
        if self._late:
            self._give(line, self._late.popleft())
        else:
            self._idle.append(line)

    def hit(self, status: int, sent_at: float, body: bytes) -> None:
        """Count an answer; `sent_at` is when its request was due."""
        super().hit(status, sent_at, body)
        if len(self.latencies) + self.errors >= self.due and not self.finished.done():
            self.finished.set_result(None)

    def _tick(self) -> None:
        """Send all that is due, and come back when the next one is, but for the servers' sake not
        at once: a loop that looks for it all the time takes a core."""
        now = time.perf_counter()
        while self._asked < self.due:
            moment = self._began + self._asked * self._step
            if moment > now:
                asyncio.get_running_loop().call_later(max(moment - now, TICK_SECONDS), self._tick)
                return
            self._asked += 1
            while self._idle and self._idle[0].is_lost:
                self._idle.popleft()
            if self._idle:
                self._give(self._idle.popleft(), moment)
            else:
                self._late.append(moment)

    def _give(self, line: PacedLine, moment: float) -> None:
        self.lateness.append(time.perf_counter() - moment)
        line.ask(moment)


class PacedLine(Line):
    """A connection that sends when told to."""

    def __init__(self, pace: Pace) -> None:
        super().__init__(pace)
        self._pace = pace

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._pace.is_free(self)

    @property
    def is_lost(self) -> bool:
        """Whether the server hung up, or died."""
        return self._transport.is_closing()

    def ask(self, moment: float) -> None:
        """Send a request that was due at that moment."""
        self._awaiting = True
        self._sent_at = moment
        self._transport.write(self._pace.load())

    def close(self) -> None:
        """Hang up."""
        self._transport.close()

    def _send(self) -> None:
        self._pace.is_free(self)
