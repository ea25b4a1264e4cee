"""A coroutine that is run at once, up to its first wait."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from engine.infra.eager import Outcome, eagerly


async def test_what_never_waits_is_done_at_once() -> None:
    done: list[str] = []

    async def work() -> None:
        done.append("done")

    assert eagerly(work()) is None
    assert done == ["done"]


async def test_what_waits_goes_on_in_a_task_from_where_it_stood() -> None:
    gate: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    heard: list[str] = []

    async def work() -> None:
        heard.append("began")
        heard.append(await gate)
        await asyncio.sleep(0)
        heard.append(await asyncio.sleep(0.001, "slept"))

    rest = eagerly(work())
    assert rest is not None
    assert heard == ["began"]
    task = asyncio.create_task(rest, name="rest")
    await asyncio.sleep(0)
    gate.set_result("opened")
    await task
    assert heard == ["began", "opened", "slept"]


async def test_a_future_that_was_done_before_its_task_began_is_heard() -> None:
    gate: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    heard: list[str] = []

    async def work() -> None:
        heard.append(await gate)

    rest = eagerly(work())
    assert rest is not None
    gate.set_result("early")
    await asyncio.create_task(rest, name="rest")
    assert heard == ["early"]


async def test_what_fails_at_the_first_wait_is_caught_there_and_may_wait_again() -> None:
    gate: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    heard: list[str] = []

    async def work() -> None:
        for _ in range(2):
            try:
                await gate
            except KeyError as problem:
                heard.append(f"caught {problem}")
                await asyncio.sleep(0)
        heard.append("went on")

    rest = eagerly(work())
    assert rest is not None
    task = asyncio.create_task(rest, name="rest")
    await asyncio.sleep(0)
    gate.set_exception(KeyError("no"))
    await task
    assert heard == ["caught 'no'", "caught 'no'", "went on"]


async def test_to_cancel_the_rest_is_to_cancel_the_work() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append("ended")

    rest = eagerly(work())
    assert rest is not None
    task = asyncio.create_task(rest, name="rest")
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["ended"]


async def test_what_fails_before_it_waits_fails_at_once() -> None:
    async def work() -> None:
        raise KeyError("no")

    with pytest.raises(KeyError):
        eagerly(work())


async def test_who_waits_for_an_outcome_is_resumed_by_whoever_tells_it() -> None:
    outcome, heard = await _in_no_task()
    assert heard == ["began"]

    outcome.answer("done")

    assert heard == ["began", "done"]


async def test_many_hear_one_outcome_in_tasks_or_in_none() -> None:
    outcome, heard = await _in_no_task()

    async def work() -> str:
        return await outcome

    tasks = [asyncio.create_task(work(), name="waits") for _ in range(2)]
    leaves = asyncio.create_task(work(), name="leaves")
    await asyncio.sleep(0)
    leaves.cancel()
    await asyncio.sleep(0)
    outcome.answer("done")
    outcome.fail(KeyError("too late"))

    assert [await task for task in tasks] == ["done", "done"]
    assert await outcome == "done"
    assert heard == ["began", "done"]
    assert leaves.cancelled()


async def test_a_failure_that_many_hear_is_no_longer_for_it() -> None:
    outcome: Outcome[str] = Outcome()
    outcome.fail(KeyError("no"))
    depths = []
    for _ in range(3):
        with pytest.raises(KeyError) as caught:
            await outcome
        depths.append(len(caught.traceback))

    assert depths[0] == depths[2]


async def test_what_crashes_when_it_is_resumed_harms_neither_who_told_it_nor_the_others() -> None:
    outcome: Outcome[str] = Outcome()
    heard: list[str] = []

    async def crashes() -> None:
        await outcome
        raise RuntimeError("a bug")

    async def works() -> None:
        heard.append(await outcome)

    await _outside(crashes(), works())
    outcome.answer("done")

    assert heard == ["done"]


async def test_what_is_resumed_and_waits_for_something_else_goes_on_in_a_task() -> None:
    outcome: Outcome[str] = Outcome()
    second: Outcome[str] = Outcome()
    gate: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    heard: list[str] = []

    async def work() -> None:
        heard.append(await outcome)
        heard.append(await gate)
        heard.append(await second)

    await _outside(work())
    outcome.answer("one")
    assert heard == ["one"]
    gate.set_result("two")
    second.answer("three")

    while len(heard) < 3:
        await asyncio.sleep(0)
    assert heard == ["one", "two", "three"]


async def _in_no_task() -> tuple[Outcome[str], list[str]]:
    """An outcome, and what somebody who waits for it outside any task has heard."""
    outcome: Outcome[str] = Outcome()
    heard = ["began"]

    async def work() -> None:
        heard.append(await outcome)

    await _outside(work())
    return outcome, heard


async def _outside(*works: Coroutine[Any, Any, None]) -> None:
    """Begin them as a protocol does: in no task."""
    loop = asyncio.get_running_loop()
    begun: asyncio.Future[list[Any]] = loop.create_future()
    loop.call_soon(lambda: begun.set_result([eagerly(work) for work in works]))
    assert await begun == [None] * len(works)
