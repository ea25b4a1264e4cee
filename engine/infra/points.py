"""Crash points: wherever a message leaves this process or comes back, it can die or stop.

    CRASH_POINT=kill:<point>[:<hit>]   SIGKILL when it comes by there (for the hit-th time)
    CRASH_POINT=stop:<point>[:<hit>]   SIGSTOP; whoever asked for it sends SIGCONT
    CRASH_POINT=note:<file>            nothing happens; every point it comes by is written down

    <point>   <who>/<message>.<phase>, as in reserve/claim_units.amid
      who     the task: reserve, purchase, release, payment, give-back, sweeper, reaper, ...; one
              without a name of its own is called as its process is: request or round
      message the query or script; begin, commit, rollback, touch
      phase   before  nothing of it has left
              amid    it has left, and nothing of the reply has reached our code: the server may
                      not have begun yet, be at it, or be done
              after   its reply (or its failure) has reached us, and nothing was done with it

There are no calls to make: the funnels that every message goes through make them (postgres.py,
redis.py), so a new query is a new point. While nothing is armed a message costs one comparison.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import structlog

from engine.infra.errors import Misconfigured

log = structlog.get_logger()

T = TypeVar("T")

PHASES = ("before", "amid", "after")
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


class Points:
    """What was armed in one process."""

    def __init__(self, deed: str, where: str, hit: int, role: str) -> None:
        self._deed, self._where, self._hit, self._role = deed, where, hit, role
        self._reached: Counter[str] = Counter()
        self._under_way: dict[asyncio.Task[Any] | None, str] = {}

    async def through(
        self, message: str, sending: Awaitable[T], has_left: Callable[[], bool] | None = None
    ) -> T:
        """The reply to a message. `has_left` says whether it is on its way; without it somebody
        calls `amid`. Up to the first await of `sending` itself nothing is awaited."""
        task = asyncio.current_task()
        name = self._under_way[task] = f"{self._who(task)}/{message}"
        self._reach(f"{name}.before")
        look = None if has_left is None else _Look(self, f"{name}.amid", has_left)
        try:
            return await sending
        finally:
            if look is not None:
                look.over = True
            del self._under_way[task]
            self._reach(f"{name}.after")

    async def amid(self) -> None:
        """The message of this task was written, and its reply is read next."""
        await asyncio.sleep(0)  # what is written in a turn of the loop leaves at its end (uvloop)
        if (name := self._under_way.get(asyncio.current_task())) is not None:
            self._reach(f"{name}.amid")

    def _who(self, task: asyncio.Task[Any] | None) -> str:
        name = task.get_name() if task is not None else ""
        if not name or name == "within" or name.startswith("Task-"):
            return self._role
        kind, _, rest = name.partition("-")
        return rest.partition("-")[0] if kind in ("combiner", "keeper") else name

    def _reach(self, point: str) -> None:
        if self._deed == "note":
            with Path(self._where).open("a") as book:
                book.write(f"{point}\n")
        elif point == self._where:
            self._reached[point] += 1
            if self._reached[point] == self._hit:
                os.kill(os.getpid(), SIGNALS[self._deed])


class _Look:
    """Looks, at every turn of the loop, whether a message has left. Whoever waits for a reply is
    woken after what was put off in the turn before it came, so this comes first."""

    def __init__(self, points: Points, point: str, has_left: Callable[[], bool]) -> None:
        self._points, self._point, self._has_left = points, point, has_left
        self._loop = asyncio.get_running_loop()
        self.over = False
        self._loop.call_soon(self._once)

    def _once(self) -> None:
        if self._has_left():
            self._points._reach(self._point)
        elif not self.over:
            self._loop.call_soon(self._once)


armed: Points | None = None


def arm(auth: str, role: str, environment: Mapping[str, str] = os.environ) -> None:
    """Arm what CRASH_POINT says, if anything; `role` is who the nameless tasks are. Raises
    `Misconfigured` where it could hurt: with AUTH=open a worker answers loopback alone."""
    global armed
    said = environment.get("CRASH_POINT", "")
    if not said:
        return
    if auth != "open":
        raise Misconfigured(
            "CRASH_POINT lets this process die on purpose, which only a test wants: unset it "
            "(a test sets AUTH=open as well)"
        )
    deed, _, rest = said.partition(":")
    point, _, hit = rest.partition(":")
    is_point = "/" in point and point.rpartition(".")[2] in PHASES and (hit or "1").isdecimal()
    if deed == "note" and rest:
        armed = Points(deed, rest, 0, role)
    elif deed in SIGNALS and is_point:
        armed = Points(deed, point, int(hit or 1), role)
    else:
        raise Misconfigured(
            f"CRASH_POINT={said} is none: write kill:<who>/<message>.<phase>[:<hit>], stop:… or "
            f"note:<file>; phases are {', '.join(PHASES)}"
        )
    log.warning("points.armed", crash_point=said, mend="unset CRASH_POINT unless this is a test")
