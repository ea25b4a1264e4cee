"""Combine concurrent requests: one batch in flight, what arrives meanwhile is the next batch.

There is no timer: an idle combiner serves a lone request at once, a busy one serves hundreds with
one commit. Where many wait, a second batch may begin beside the first (`at_once`): while the one is
committed, the other is admitted. The work runs in a task of the worker, never in the task of a
request, so a client who hangs up changes nothing.

    put ─▶ queue ─▶ batch (≤ batch_max) ─▶ work ─▶ each seat's outcome

A seat is told something by its deadline. "Nothing was taken" (Retryable) is said only while it is
known: not while a statement of it is under way, and not of a request that carries the client's
key, since an earlier copy of it may have succeeded.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

import structlog

from engine.infra import tracing
from engine.infra.eager import Outcome
from engine.infra.errors import Fault, InProgress, OutcomeUnknown, Problem, Retryable
from engine.infra.meter import meter

log = structlog.get_logger()

AHEAD_MIN = 128  # who wait before a batch begins beside another: each has a price of its own

W = TypeVar("W")
R = TypeVar("R")


class Seat(Outcome[R], Generic[W, R]):
    """A wish in the queue, and what comes of it."""

    __slots__ = (
        "at_risk",
        "attempt",
        "copying",
        "deadline",
        "given",
        "keyed",
        "over",
        "span",
        "trusted",
        "wish",
    )

    def __init__(
        self,
        wish: W,
        deadline: float,
        keyed: bool = False,
        over: Exception | None = None,
    ) -> None:
        super().__init__()
        self.wish = wish
        self.deadline = deadline
        self.at_risk = False  # sent to Postgres, answer not known
        self.attempt = 0  # which try of this request; 0: the epoch's first
        self.keyed = keyed  # an earlier copy may have been sent, and may have succeeded
        self.given: Any = None  # what was set aside for it when it was let through
        self.copying = False  # another worker is at it: this one waits for that one's outcome
        self.span: Any = None  # of its request, if that is traced
        self.over = over  # what it is told unless an earlier copy of it was done: nothing is tried
        self.trusted = False  # its limit was checked in Postgres: no suspicion stops it

    def fault(self) -> Problem:
        """What can truthfully be said when it did not get done."""
        if self.copying and not self.at_risk:
            return InProgress()
        return OutcomeUnknown() if self.at_risk or self.keyed else Retryable()


class Crew:
    """Owner of the worker's own tasks and of all its combiners' deadlines."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._combiners: set[Combiner[Any, Any]] = set()
        self.closing = False

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """A named task that lives until it is done; its errors are logged, never lost."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def within(self, work: Coroutine[Any, Any, R], seconds: float, late: type[Fault]) -> R:
        """The result of work, or `late` when it takes too long. Then it goes on by itself: to
        cancel a statement on its way could turn what was done into what nobody knows."""
        task = asyncio.create_task(work, name="within")
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        done, _ = await asyncio.wait([task], timeout=seconds)
        if not done:
            raise late
        return task.result()

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # heard by whoever waited, or by nobody

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task.failed", task=task.get_name(), exc_info=error)

    def dismiss(self, combiner: Combiner[Any, Any]) -> None:
        """Forget an idle combiner."""
        self._combiners.discard(combiner)

    def queued(self) -> dict[str, int]:
        """How many wait for a batch, by kind of combiner."""
        waiting: dict[str, int] = {}
        for combiner in self._combiners:
            waiting[combiner.kind] = waiting.get(combiner.kind, 0) + combiner.waiting
        return waiting

    async def watch(self) -> None:
        """Tell overdue seats what is known. Runs for the life of the worker."""
        while True:
            await asyncio.sleep(0.1)
            now = time.monotonic()
            for combiner in tuple(self._combiners):
                combiner.tell_overdue(now)

    def _under_way(self) -> bool:
        at_work = any(task.get_name() != "deadlines" for task in self._tasks)
        return at_work or any(combiner.busy for combiner in self._combiners)

    async def drain(self, seconds: float) -> None:
        """Wait until every batch is done; then end what is left."""
        self.closing = True
        until = time.monotonic() + seconds
        while time.monotonic() < until and self._under_way():
            await asyncio.sleep(0.01)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Combiner(Generic[W, R]):
    """One queue, and a batch in flight; `at_once` of them while `AHEAD_MIN` or more wait."""

    def __init__(
        self,
        crew: Crew,
        name: str,
        work: Callable[[list[Seat[W, R]]], Awaitable[None]],
        *,
        batch_max: int = 512,
        queue_max: int = 20_000,
        deadline_seconds: float = 5.0,
        at_once: int = 1,
    ) -> None:
        self._crew, self._name, self._work = crew, name, work
        self.kind = name.partition("-")[0]  # for metrics: there are as many names as drops
        self._batch_max, self._queue_max = batch_max, queue_max
        self._deadline_seconds, self._at_once = deadline_seconds, at_once
        self._queue: deque[Seat[W, R]] = deque()
        self._batches: list[list[Seat[W, R]]] = []
        self._later: set[Seat[W, R]] = set()
        self._running = 0
        crew._combiners.add(self)

    @property
    def waiting(self) -> int:
        """How many wait for a batch."""
        return len(self._queue) + len(self._later)

    @property
    def busy(self) -> bool:
        """Whether anybody waits."""
        return bool(self._running or self._queue or self._later)

    def put(self, wish: W, keyed: bool = False, over: Exception | None = None) -> Seat[W, R]:
        """Queue a wish; a `Fault` at once when the queue is full or the worker is leaving."""
        seat: Seat[W, R] = Seat(wish, time.monotonic() + self._deadline_seconds, keyed, over)
        if len(self._queue) >= self._queue_max or self._crew.closing:
            raise seat.fault()
        if tracing.on() is not None:
            seat.span = tracing.current()
        self._queue.append(seat)
        self._wake()
        return seat

    def again(self, seat: Seat[W, R], after_seconds: float = 0.0) -> None:
        """Queue a seat once more: nothing of it is under way."""
        seat.at_risk = False
        if seat.told:
            return
        if after_seconds <= 0:
            self._queue.append(seat)
            self._wake()
            return
        self._later.add(seat)
        asyncio.get_running_loop().call_later(after_seconds, self._again_now, seat)

    def _again_now(self, seat: Seat[W, R]) -> None:
        self._later.discard(seat)
        self.again(seat)

    def _wake(self) -> None:
        if self._running < (self._at_once if len(self._queue) >= AHEAD_MIN else 1):
            self._running += 1
            self._crew.start(self._run(), f"combiner-{self._name}")

    async def _run(self) -> None:
        try:
            while len(self._queue) >= (AHEAD_MIN if self._running > 1 else 1):
                count = min(len(self._queue), self._batch_max)
                taken = (self._queue.popleft() for _ in range(count))
                batch = [seat for seat in taken if not seat.told]
                if batch:
                    self._batches.append(batch)
                    try:
                        await self._serve(batch)
                    finally:
                        self._batches.remove(batch)
        finally:
            self._running -= 1
        if self._queue:
            self._wake()

    async def _serve(self, batch: list[Seat[W, R]]) -> None:
        meter.batch(self.kind, len(batch))
        spans = tracing.on()
        span = None if spans is None else spans.batch(self._name, batch)
        try:
            await self._work(batch)
        except (Fault, asyncio.CancelledError) as end:
            for seat in batch:
                seat.fail(seat.fault())
            if isinstance(end, asyncio.CancelledError):  # the worker leaves
                raise
        except Exception:
            log.exception("batch.failed", combiner=self._name, size=len(batch))
            for seat in batch:
                seat.fail(seat.fault())
        finally:
            if span is not None:
                span.end(batch)

    def tell_overdue(self, now: float) -> None:
        """Answer the seats whose deadline has passed with what is known of them."""
        for seats in (self._queue, *self._batches, self._later):
            for seat in tuple(seats):
                if now >= seat.deadline:
                    seat.fail(seat.fault())
