"""A sale is changed while hundreds reserve: conservation at every version, every answer true."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import msgspec
import pytest

from engine.infra.settings import Settings
from engine.runtime import Ground
from engine.sale import expire
from tests.support.http import Crowd, Reply
from tests.support.locks import stock_locked, waiting_claims
from tests.support.rush import Rush, check_sale
from tests.support.service import Service
from tests.support.shop import Shop
from tests.support.wait import wait_until

TOTAL = 1_500
BUYERS = 500


class Seen(msgspec.Struct):
    """Every version of a drop's stock that was seen, and from where."""

    polled: dict[int, dict[str, int]] = {}
    rows: dict[int, dict[str, int]] = {}

    def check(self, total: int) -> None:
        """Conservation at every version, from wherever it was seen."""
        for version, row in self.rows.items():
            assert row["free"] + row["held"] + row["sold"] + row["withdrawn"] == total, row
            assert min(row.values()) >= 0, (version, row)
            assert row["held"] + row["sold"] <= total - row["withdrawn"], (version, row)
        for version, stock in self.polled.items():
            assert stock["totalStock"] == total, stock
            row = self.rows.get(version, {})
            assert row.get("free", stock["availableStock"]) == stock["availableStock"]


@asynccontextmanager
async def watched(shop: Shop, drop_id: int, database_url: str) -> AsyncIterator[Seen]:
    """Read the stock over and over, through the service and past it, until the end."""
    seen, looking = Seen(), True
    database = await asyncpg.connect(database_url)

    async def poll() -> None:
        while looking:
            stock = await shop.stock(drop_id)
            seen.polled[stock["version"]] = stock

    async def read() -> None:
        query = "SELECT version, free, held, sold, withdrawn FROM stock WHERE drop_id = $1"
        while looking:
            row = dict(await database.fetchrow(query, drop_id) or {})
            seen.rows[row.pop("version")] = row
            await asyncio.sleep(0)

    readers = [asyncio.create_task(poll()), asyncio.create_task(read())]
    try:
        yield seen
        looking = False
        await asyncio.gather(*readers)
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        await database.close()


@pytest.mark.slow
async def test_withdrawing_while_500_buyers_reserve_release_and_buy_conserves_every_unit(
    service: Service, settings: Settings
) -> None:
    drop_id = await service.open_drop(TOTAL, holdSeconds=600, maxPerBuyer=None)
    await service.crowd.close()
    service.crowd = Crowd(service.url, most=BUYERS + 2)  # and an operator, and a reader
    replies: list[Reply] = []
    returned = bought = 0

    async def buyer(n: int) -> None:
        nonlocal returned, bought
        dice, name = random.Random(n), f"b{n}"
        while (reply := await service.reserve(drop_id, name)).status == 201:
            fate = dice.choice(["keep", "buy", "release", "release", "release"])
            if fate == "release":
                assert (await service.release(reply.json["id"], name)).status == 204
                returned += 1
                continue  # its units may be another's by now
            replies.append(reply)
            if fate == "buy":
                assert (await service.confirm(reply.json["id"], name)).status == 201
                bought += 1
        replies.append(reply)

    async def operator() -> Counter[int]:
        answers: Counter[int] = Counter()
        while answers[200] < 30 and not answers[409]:
            answers[(await service.change(drop_id, withdrawStock=10)).status] += 1
        return answers

    async with watched(service, drop_id, settings.database_url) as seen:
        withdrawing = asyncio.create_task(operator())
        await asyncio.gather(*(buyer(n) for n in range(BUYERS)))
        answers = await withdrawing

    assert set(answers) <= {200, 409}
    withdrawn = answers[200] * 10
    assert withdrawn >= 30, "the operator came too late for a race"
    seen.check(TOTAL)
    words = check_sale(replies, TOTAL - withdrawn, {"SOLD_OUT"})
    await wait_until(lambda: service.settled(drop_id), "all is settled", seconds=8)
    stock = await service.stock(drop_id)
    assert (stock["heldStock"], stock["soldStock"]) == (words["held"] - bought, bought)
    assert stock["withdrawnStock"] == withdrawn
    among = [row["withdrawn"] for row in seen.rows.values() if row["free"]]
    assert len(set(among)) > 2, "nobody reserved between two withdrawals"
    print(
        f"{words['held']} held, {bought} of them bought, {returned} returned,"
        f" {withdrawn} withdrawn; {len(seen.rows)} versions seen in the row,"
        f" {len(seen.polled)} through the service"
    )


@pytest.mark.parametrize("end", ["release", "expiry"])
async def test_units_that_come_back_while_all_are_withdrawn_are_withdrawn_too(
    shop: Shop, ground: Ground, settings: Settings, end: str
) -> None:
    """The return stands before the stock row, its units not free yet for anybody else to see."""
    drop_id = await shop.open_drop(3, holdSeconds=1)
    hold = (await shop.reserve(drop_id, "ann")).json

    async def come_back() -> None:
        if end == "release":
            assert (await shop.release(hold["id"], "ann")).status == 204
        else:
            assert await expire.expire_due(ground.postgres, ground.bouncer) == 1

    if end == "expiry":

        async def is_over() -> bool:
            shown = (await shop.send("GET", f"/reservations/{hold['id']}")).json
            return bool(shown["status"] == "expired")

        await wait_until(is_over, "the deadline has passed")
    async with stock_locked(settings.database_url, drop_id) as connection:
        returning = asyncio.create_task(come_back())
        await wait_until(lambda: _waiting(connection, "_holds("), "the return waits")
        withdrawing = asyncio.create_task(shop.change(drop_id, withdrawStock=3))
        await wait_until(lambda: _waiting(connection, "withdraw_units"), "the withdrawal waits")
    await returning
    reply = await withdrawing

    assert reply.status == 200, reply.body
    assert (await shop.stock(drop_id))["withdrawnStock"] == 3
    assert await shop.settled(drop_id)


async def test_a_withdrawal_waits_for_a_claim_under_way_and_takes_nothing_from_it(
    shop: Shop, settings: Settings
) -> None:
    drop_id = await shop.open_drop(3)
    async with stock_locked(settings.database_url, drop_id) as connection:
        reserving = asyncio.create_task(shop.reserve(drop_id, "ann"))

        async def claims() -> bool:
            return await waiting_claims(connection) == 1

        await wait_until(claims, "the claim has its unit and waits for the stock row")
        withdrawing = asyncio.create_task(shop.change(drop_id, withdrawStock=3))
        await wait_until(lambda: _waiting(connection, "withdraw_units"), "the withdrawal waits")
    hold, reply = await reserving, await withdrawing

    assert hold.status == 201
    assert (reply.status, reply.error) == (409, "SOLD_OUT")
    assert reply.json["details"] == {"availableStock": 2, "heldStock": 1}
    assert (await shop.change(drop_id, withdrawStock="all")).json["withdrawnStock"] == 2
    assert (await shop.confirm(hold.json["id"], "ann")).status == 201
    assert await shop.settled(drop_id)


async def _waiting(connection: asyncpg.Connection, words: str) -> bool:
    await connection.execute("SELECT pg_stat_clear_snapshot()")
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND wait_event_type = 'Lock' AND query LIKE '%' || $1 || '%'"
    )
    return bool(await connection.fetchval(query, words))


@pytest.mark.slow
async def test_a_drop_repriced_in_the_rush_charges_each_hold_its_own_price(
    service: Service, settings: Settings
) -> None:
    drop_id = await service.open_drop(3_000, price="120.00", holdSeconds=600)
    async with Rush.of(service, drop_id, settings.database_url) as rush:
        await rush.sells(300)
        asked = time.monotonic()
        assert (await service.change(drop_id, price="150.00")).status == 200
        answered = time.monotonic()
        await rush.sells(300)

    prices: Counter[str] = Counter()
    for began, reply in zip(rush.began, rush.replies, strict=True):
        assert reply.status == 201, reply.body
        prices[price := reply.json["amount"]] += 1
        assert price in ("120.00", "150.00")
        if began >= answered:
            assert price == "150.00", f"asked for {began - answered:.3f} s after the new price"
    assert min(prices.values()) > 100, "the price was not changed in mid-rush"
    by_price = {
        price: [r.json for r in rush.replies if r.json["amount"] == price] for price in prices
    }
    for price, holds in by_price.items():
        some = holds[:50] + holds[-50:]
        bought = await asyncio.gather(*(service.confirm(h["id"], h["userId"]) for h in some))
        assert {reply.status for reply in bought} <= {200, 201}
        assert {reply.json["amount"] for reply in bought} == {price}
    await wait_until(lambda: service.settled(drop_id), "all is settled", seconds=8)
    print(f"{dict(prices)}; the PATCH was answered after {answered - asked:.3f} s")


@pytest.mark.slow
async def test_pause_and_resume_reach_both_workers_within_a_second_under_load(
    service: Service, settings: Settings
) -> None:
    drop_id = await service.open_drop(10_000, holdSeconds=600)
    for _ in range(2):
        assert (await service.change(drop_id, addStock=10_000)).status == 200
    async with Rush.of(service, drop_id, settings.database_url, clients=100) as rush:
        await rush.sells(500)
        assert (await service.send("POST", f"/drops/{drop_id}/pause")).status == 200
        paused = time.monotonic()
        at_pause = len(rush.replies)
        holds = [reply.json for reply in rush.replies[:40] if reply.status == 201]
        bought = await asyncio.gather(*(service.confirm(h["id"], h["userId"]) for h in holds))
        await asyncio.sleep(1)  # the second in which it must have reached everybody
        assert (await service.send("POST", f"/drops/{drop_id}/resume")).status == 200
        resumed = time.monotonic()
        at_resume = len(rush.replies)
        await rush.sells(500)
        await asyncio.sleep(1)

    rush.check(30_000, {"PAUSED"})
    assert {reply.status for reply in bought} == {201}, "live holds can be bought"
    asked = list(zip(rush.began, rush.replies, strict=True))
    late = [b - paused for b, r in asked if paused < b < resumed - 0.2 and r.status == 201]
    refused = [b - resumed for b, r in asked if b > resumed and r.status != 201]
    print(
        f"{len(asked)} asked, {at_resume - at_pause} of them while paused;"
        f" last 201 asked for {max(late, default=0):.3f} s after /pause was answered,"
        f" last PAUSED {max(refused, default=0):.3f} s after /resume"
    )
    assert max(late, default=0) < 1
    assert max(refused, default=0) < 1
    assert at_resume - at_pause > 500, "there was no load"
