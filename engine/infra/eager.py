"""Eager: run a coroutine at once, and make a task of what is left only if it has to wait.

Most requests of the hot lane are refused from memory and never wait: a task, two rounds of the
loop and a context would cost them a tenth of their time. (Python 3.12 has `eager_start` for it.)
Until its first wait the coroutine runs outside any task, so nothing there may ask for the current
one: no `asyncio.timeout`, no `TaskGroup`.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from types import coroutine
from typing import Any


def eagerly(work: Coroutine[Any, Any, None]) -> Coroutine[Any, Any, None] | None:
    """Run `work` to its end or its first wait; what is left, to be made a task of."""
    try:
        awaited = work.send(None)
    except StopIteration:
        return None
    return _rest(work, awaited)


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
