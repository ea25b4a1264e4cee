"""An event loop without time, threads or sockets: its clock jumps to the next timer.

Who of several that are ready goes first is asked of the seed, where asyncio promises nothing: tasks
are independent, but what waits for one future is called in its order. A callback belongs to the
process in whose context it was made, so a process can be killed (its callbacks never run), or be
frozen (they run later), without a word to the code in it.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections.abc import Callable
from random import Random
from typing import Any

HANDLE_SECONDS = 0.000_002  # what a callback costs; a world where all is free has fewer orders


class Process:
    """A process of the engine: alive, frozen or dead."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.frozen_until = 0.0
        self.frozen_seconds = 0.0  # in all
        self.kept: list[asyncio.Handle] = []  # callbacks that wait for the thaw
        self.steps = 0
        self.at_step: tuple[int, Callable[[], object]] | None = None


PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


class Stuck(Exception):
    """Nothing is ready, nothing is due, and somebody waits."""


class _NoSelector:
    def select(self, timeout: float | None) -> list[Any]:
        raise AssertionError("a virtual loop asks no selector")

    def get_map(self) -> dict[Any, Any]:
        return {}


class VirtualLoop(asyncio.BaseEventLoop):
    """See the module. `disorder` is how often the order of what is ready is drawn."""

    _ready: Any
    _timer_cancelled_count: int
    _scheduled: Any  # a heap of (when, number, handle)

    def __init__(self, random: Random, disorder: float = 1.0) -> None:
        super().__init__()
        self._selector = _NoSelector()
        self._random, self._disorder = random, disorder
        self.now = 0.0
        self.steps = self._tasks = self._timers = 0
        self.complaints: list[str] = []
        self.world = contextvars.Context()  # of no process
        self.trace: Callable[[str], None] | None = None
        self.set_exception_handler(self._complain)

    def time(self) -> float:
        return self.now

    def create_task(self, coro: Any, *, name: Any = None, context: Any = None) -> Any:
        """asyncio numbers nameless tasks for the whole process; here for the run."""
        self._tasks += 1
        return super().create_task(coro, name=name or f"task-{self._tasks}", context=context)

    def outside(self, seconds: float, callback: Callable[..., object], *args: Any) -> Any:
        """Call later, in the world: whatever becomes of the process that asked."""
        return self.call_at(self.now + seconds, callback, *args, context=self.world)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> Any:
        """As asyncio's, with a heap that compares numbers only."""
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._timers += 1
        heapq.heappush(self._scheduled, (when, self._timers, handle))
        handle._scheduled = True  # type: ignore[attr-defined]
        return handle

    def is_still(self) -> bool:
        """Whether nothing is under way in the world: no message, no statement, no accident."""
        return not any(h._context is self.world and not h._cancelled for _, _, h in self._scheduled)

    def kill(self, process: Process) -> None:
        """Its tasks never run again."""
        process.dead = True
        process.kept.clear()

    def freeze(self, process: Process, seconds: float) -> None:
        """Its callbacks run after so long."""
        if process.dead or process.frozen_until > self.now:
            return
        process.frozen_until = self.now + seconds
        process.frozen_seconds += seconds
        self.outside(seconds, self._thaw, process)

    def _thaw(self, process: Process) -> None:
        self._ready.extend(process.kept)
        process.kept.clear()

    # ── what BaseEventLoop leaves to its children ────────────────────────────────────────────

    def _run_once(self) -> None:
        scheduled = self._scheduled
        while scheduled and scheduled[0][2]._cancelled:
            self._drop_timer()
        if not self._ready and not self._stopping:  # type: ignore[attr-defined]
            if not scheduled:
                raise Stuck
            self.now = max(self.now, scheduled[0][0])
        while scheduled and scheduled[0][0] <= self.now:
            handle = self._drop_timer()
            if not handle._cancelled:
                self._ready.append(handle)
        batch = list(self._ready)
        self._ready.clear()
        if len(batch) > 1 and self._random.random() < self._disorder:
            batch = self._disordered(batch)
        for handle in batch:
            if not handle._cancelled:
                self._run(handle)

    def _drop_timer(self) -> asyncio.TimerHandle:
        handle: asyncio.TimerHandle = heapq.heappop(self._scheduled)[2]
        if handle._cancelled:
            self._timer_cancelled_count -= 1
        handle._scheduled = False  # type: ignore[attr-defined]
        return handle

    def _run(self, handle: Any) -> None:
        process = handle._context.get(PROCESS)
        if process is not None:
            if process.dead:
                return
            if process.frozen_until > self.now:
                process.kept.append(handle)
                return
            process.steps += 1
            if process.at_step is not None and process.steps == process.at_step[0]:
                process.at_step[1]()
                if process.dead:
                    return
        self.now += HANDLE_SECONDS
        self.steps += 1
        if self.trace is not None:
            name = "world" if process is None else process.name
            self.trace(f"{self.now:.6f} {name} {_called(handle)}")
        handle._run()

    def _disordered(self, batch: list[Any]) -> list[Any]:
        """Another order, in which what waits for the same future keeps its own."""
        groups: dict[Any, list[Any]] = {}
        for i, handle in enumerate(batch):
            args = handle._args
            if args and asyncio.isfuture(args[0]):
                owner: Any = id(args[0])
            elif type(handle._callback).__name__ in ("TaskStepMethWrapper", "builtin_function"):
                owner = -1 - i
            else:
                owner = None if isinstance(handle, asyncio.TimerHandle) else "soon"
                owner = -1 - i if owner is None else owner
            groups.setdefault(owner, []).append(handle)
        order = list(groups.values())
        self._random.shuffle(order)
        return [handle for group in order for handle in group]

    def _process_events(self, event_list: Any) -> None:
        raise AssertionError("a virtual loop hears no events")

    def _write_to_self(self) -> None:
        """Nobody sleeps, so nobody needs to be woken."""

    def run_in_executor(self, *args: Any) -> Any:  # type: ignore[override]
        raise AssertionError("a virtual loop has no threads")

    def _complain(self, loop: Any, context: dict[str, Any]) -> None:
        error = context.get("exception")
        # What a killed process left is found when memory is tidied, which no seed decides.
        if context["message"].startswith("Exception in callback"):
            self.complaints.append(f"{context['message']}: {error!r}")


def _called(handle: Any) -> str:
    callback = handle._callback
    name = getattr(callback, "__qualname__", type(callback).__name__)
    owner = getattr(callback, "__self__", None)
    return f"{name} of {owner.get_name()}" if isinstance(owner, asyncio.Task) else name
