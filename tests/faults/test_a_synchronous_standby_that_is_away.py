"""INV-3 up to the chosen level: what waits for a standby is not told before the standby has it."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from engine.infra.settings import Settings
from engine.ops.devstack import Server
from loadtest.chaos.standby import Pair, ask
from tests.support.failover import HELD
from tests.support.http import Reply
from tests.support.keeping import Keeping
from tests.support.scrape import scrape
from tests.support.shop import Shop
from tests.support.wait import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


async def _waits(server: Server, text: str, seconds: float = 0.0) -> int:
    """The backend that waits for the standby with this statement, for so long already."""
    query = (
        f"SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%{text}(%'"
        f" AND clock_timestamp() - query_start > make_interval(secs => {seconds})"
    )

    async def waiting() -> int:
        return int(await ask(server, query) or 0)

    return await wait_until(waiting, f"{text} waits for the standby")


async def test_without_its_standby_a_claim_is_unknown_and_never_retryable(
    two: Pair, there: Settings
) -> None:
    impatient = msgspec.structs.replace(there, request_deadline_ms=1_000)
    async with Shop.open(impatient) as shop:
        drop_id = await shop.open_drop(10)
        await two.wait_for_standby()
        await two.cut()

        sent = await shop.reserve(drop_id, "ann", "ann-1")
        again = await shop.reserve(drop_id, "ann", "ann-1")
        never_sent = await shop.reserve(drop_id, "bob")

        assert [sent.error, again.error] == ["OUTCOME_UNKNOWN"] * 2
        assert never_sent.error == "RETRYABLE"
        await two.mend()

        async def known() -> Reply | None:
            reply = await shop.reserve(drop_id, "ann", "ann-1")
            return reply if reply.status == 201 else None

        reply = await wait_until(known, "the standby is back, and she has her hold")
        assert reply is not None
        assert (await shop.stock(drop_id))["heldStock"] == 1
        await wait_until(lambda: shop.settled(drop_id), "nothing is stranded", seconds=8)


@pytest.mark.parametrize(
    ("verb", "first", "then"),
    [
        ("reserve", "claim_units", "abort_requests"),
        ("confirm", "purchase_units", "purchase_units"),
    ],
)
async def test_a_commit_whose_wait_somebody_cancels_is_not_told_before_two_nodes_have_it(
    two: Pair, there: Settings, verb: str, first: str, then: str
) -> None:
    """Postgres calls it success, with a warning: it is on one node only."""
    async with Shop.open(there) as shop:
        drop_id = await shop.open_drop(10)
        hold = await shop.reserve(drop_id, "ann", "ann-1")
        await two.wait_for_standby()
        await two.cut()
        if verb == "reserve":
            asking = asyncio.create_task(shop.reserve(drop_id, "bob", "bob-1"))
        else:
            asking = asyncio.create_task(shop.confirm(hold.json["id"], "ann", "ann-2"))
        # Past every limit that the worker gave it: none of them ends such a wait.
        pid = await _waits(two.primary, first, seconds=2.5)
        await ask(two.primary, f"SELECT pg_cancel_backend({pid})")
        await _waits(two.primary, then)

        assert not asking.done(), "told of what is on one node only"
        await two.mend()
        assert (await asking).status == 201
        await two.catch_up()
        assert await ask(two.standby, HELD) == (2 if verb == "reserve" else 0)
        async with Keeping(there):
            await wait_until(lambda: shop.settled(drop_id), "nothing is stranded", seconds=8)
        assert (await scrape(shop)).value("unreplicated_commits_total") > 0
