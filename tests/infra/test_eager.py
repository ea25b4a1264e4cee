"""A coroutine that is run at once, up to its first wait."""

from __future__ import annotations

import asyncio

import pytest

from engine.infra.eager import eagerly


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
