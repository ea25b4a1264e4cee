"""Eager: run a coroutine at once, and make a task of what is left only if it has to.

Most requests of the hot lane are refused from memory and never wait: a task, two rounds of the
loop and a context would cost them a tenth of their time. (Python 3.12 has `eager_start` for it.)
Those that do wait nearly always wait for one `Outcome`, and are resumed by whoever tells it: no
future and no task for them either. So what runs here is in no task, or in somebody else's: nothing
in it may ask for the current one (no `asyncio.timeout`, no `TaskGroup`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from types import coroutine
from typing import Any, Generic, TypeVar, cast

import structlog

log = structlog.get_logger()

R = TypeVar("R")
_rests: set[asyncio.Task[None]] = set()  # of what was resumed and waits again: a loop forgets tasks


class Outcome(Generic[R]):
    """What comes of something, told once: whoever awaits it gets it, or it is raised there. To
    cancel one who waits is nothing to the others."""

    __slots__ = ("_problem", "_result", "_waiting", "told")

    def __init__(self) -> None:
        self.told = False
        self._result: R | None = None
        self._problem: Exception | None = None
        self._waiting: list[Callable[[], object]] = []

    def answer(self, result: R) -> None:
        """Tell; who was told something else before stays told."""
        if not self.told:
            self._result = result
            self._tell()

    def fail(self, problem: Exception) -> None:
        """Tell of a failure; likewise."""
        if not self.told:
            self._problem = problem
            self._tell()

    def then(self, call: Callable[[], object]) -> None:
        """Call it as soon as the outcome is told."""
        if self.told:
            call()
        else:
            self._waiting.append(call)

    def result(self) -> R:
        """What was told."""
        if self._problem is not None:
            raise self._problem.with_traceback(None)  # or it would grow with all who hear the same
        return cast(R, self._result)

    @property
    def problem(self) -> Exception | None:
        """Why it failed, if it did."""
        return self._problem

    def __await__(self) -> Generator[Any, None, R]:
        if not self.told:
            if asyncio.current_task() is None:
                yield self  # to `eagerly`
            else:
                gate = asyncio.get_running_loop().create_future()
                self._waiting.append(partial(_open, gate))
                yield from gate
        return self.result()

    def _tell(self) -> None:
        self.told = True
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            call()


def _open(gate: asyncio.Future[None]) -> None:
    if not gate.done():
        gate.set_result(None)


def eagerly(work: Coroutine[Any, Any, None]) -> Coroutine[Any, Any, None] | None:
    """Run `work` to its end or its first wait; what is left, to be made a task of. If it waits for
    an outcome nothing is left: it will be resumed."""
    try:
        awaited = work.send(None)
    except StopIteration:
        return None
    if isinstance(awaited, Outcome):
        awaited.then(partial(_resume, work))
        return None
    return _rest(work, awaited)


def _resume(work: Coroutine[Any, Any, None]) -> None:
    """Go on, within whoever told the outcome: no failure of this one may become his."""
    try:
        rest = eagerly(work)
    except BaseException:  # his cancellation is not ours
        log.exception("eager.failed", work=repr(work))
        return
    if rest is not None:
        task = asyncio.create_task(rest, name="rest")
        _rests.add(task)
        task.add_done_callback(_rests.discard)


@coroutine
def _rest(work: Coroutine[Any, Any, None], awaited: Any) -> Generator[Any, Any, None]:
    """Hand on what it waits for, and what comes of that. A future that was yielded once is still
    marked as being waited for, so the task takes it as if it had yielded it itself."""
    while True:
        try:
            yield awaited
        except BaseException as problem:
            try:
                awaited = work.throw(problem)
            except StopIteration:
                return
        else:
            yield from work.__await__()
            return
