"""The operator's day: a sale opens at its hour, is paused, goes on and is closed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta

from tests.support.http import Reply
from tests.support.wait import wait_until
from tests.walkthrough.conftest import Buyer, Operator


async def test_a_sale_opens_at_its_hour(operator: Operator, buyer: Callable[[str], Buyer]) -> None:
    hour = datetime.now(UTC) + timedelta(seconds=2)
    drop, ann = await operator.opens(units=5, startsAt=hour.isoformat()), buyer("ann")
    early = await ann.reserves(drop)
    assert (early.status, early.error) == (409, "NOT_STARTED")
    assert early.json["retryable"] is True
    assert await operator.status_of(drop) == "upcoming"

    async def opens() -> Reply | None:
        reply = await ann.reserves(drop)
        return reply if reply.status == 201 else None

    hold = await wait_until(opens, "the sale is open")

    assert hold is not None
    assert datetime.fromisoformat(hold.json["serverTime"]) >= hour - timedelta(milliseconds=1)
    assert await operator.status_of(drop) == "live"
    assert await operator.counts(drop) == (4, 1, 0)


async def test_the_operator_pauses_resumes_and_closes(
    operator: Operator, buyer: Callable[[str], Buyer]
) -> None:
    drop, ann, bob = await operator.opens(units=5, maxPerBuyer=2), buyer("ann"), buyer("bob")
    before = await ann.reserves(drop)

    assert (await operator.does("pause", drop))["status"] == "paused"
    refused = await bob.reserves(drop)
    assert (refused.status, refused.error) == (409, "PAUSED")
    assert refused.json["details"] == {"pausedReason": "admin"}
    assert (await ann.buys(before)).status == 201  # a hold is a promise

    assert (await operator.does("resume", drop))["status"] == "live"
    bobs = await bob.reserves(drop)
    assert bobs.status == 201

    assert (await operator.does("close", drop))["status"] == "ended"
    late = await ann.reserves(drop)
    assert (late.status, late.error, late.json["retryable"]) == (409, "ENDED", False)
    assert (await bob.buys(bobs)).status == 201
    assert await operator.counts(drop) == (3, 0, 2)


async def test_a_large_drop_is_prepared_and_then_live(
    operator: Operator,
    buyer: Callable[[str], Buyer],
    keepers_at_work: Callable[[], AbstractAsyncContextManager[None]],
) -> None:
    drop, ann = await operator.opens(units=25_000), buyer("ann")
    assert await operator.status_of(drop) == "preparing"
    early = await ann.reserves(drop)
    assert (early.status, early.error, early.json["retryable"]) == (409, "PREPARING", True)

    async def is_live() -> bool:
        return await operator.status_of(drop) == "live"

    async with keepers_at_work():
        await wait_until(is_live, "all 25,000 units are on the shelf")
        hold = await wait_until(lambda: _held(ann, drop), "the bouncer has heard of it")

    assert hold is not None
    assert await operator.counts(drop) == (24_999, 1, 0)


async def _held(someone: Buyer, drop: int) -> Reply | None:
    reply = await someone.reserves(drop)
    return reply if reply.status == 201 else None
