"""Whatever frees a unit must do so alone: polling, events, compensation."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from engine.infra.settings import Settings
from tests.support.keeping import Keeping
from tests.support.shop import Shop
from tests.support.wait import wait_until


async def _hold_100(shop: Shop) -> int:
    drop_id = await shop.open_drop(100, holdSeconds=1)
    replies = await asyncio.gather(*(shop.reserve(drop_id, f"b{n}") for n in range(100)))
    assert {reply.status for reply in replies} == {201}
    return drop_id


async def _all_free(shop: Shop, drop_id: int) -> bool:
    return (await shop.stock(drop_id))["availableStock"] == 100


async def test_with_polling_off_events_free_100_due_holds(shop: Shop, settings: Settings) -> None:
    async with Keeping(settings, sweeper_poll_ms=0, reconciler_ms=0):
        drop_id = await _hold_100(shop)

        await wait_until(lambda: _all_free(shop, drop_id), "events have freed all", seconds=5)


async def test_with_events_off_polling_frees_100_due_holds(shop: Shop, settings: Settings) -> None:
    async with Keeping(settings, bell="off", reconciler_ms=0):
        drop_id = await _hold_100(shop)

        await wait_until(lambda: _all_free(shop, drop_id), "polling has freed all", seconds=5)


async def test_without_any_keeper_a_hold_past_its_deadline_can_be_neither_bought_nor_released(
    shop: Shop,
) -> None:
    drop_id = await shop.open_drop(1, holdSeconds=1)
    hold = (await shop.reserve(drop_id, "ann")).json

    async def is_over() -> bool:
        shown = (await shop.send("GET", f"/reservations/{hold['id']}")).json
        return bool(shown["status"] == "expired")

    await wait_until(is_over, "the deadline has passed")

    assert (await shop.confirm(hold["id"], "ann")).error == "HOLD_EXPIRED"
    assert (await shop.release(hold["id"], "ann")).error == "HOLD_EXPIRED"
    assert (await shop.stock(drop_id))["heldStock"] == 1  # nobody swept, and it did not matter


async def test_with_the_reconciler_off_100_failed_claims_leave_the_bouncer_exact(
    shop: Shop, settings: Settings
) -> None:
    """Compensation alone: Postgres refuses each claim, each intent gives its unit back."""
    drop_id = await shop.open_drop(100, maxPerBuyer=None)
    connection = await asyncpg.connect(settings.database_url)
    await connection.execute(
        "ALTER TABLE reservations ADD CONSTRAINT a_fault CHECK (buyer NOT LIKE 'doomed%') NOT VALID"
    )

    replies = await asyncio.gather(*(shop.reserve(drop_id, f"doomed-{n}") for n in range(100)))

    await connection.close()
    assert {reply.error for reply in replies} == {"RETRYABLE"}
    assert await shop.settled(drop_id)
    assert (await shop.audit(drop_id))["bouncer"]["available"] == 100


async def test_a_poisoned_request_fails_alone(shop: Shop, settings: Settings) -> None:
    drop_id = await shop.open_drop(64)
    connection = await asyncpg.connect(settings.database_url)
    await connection.execute(
        "ALTER TABLE reservations ADD CONSTRAINT a_fault CHECK (buyer <> 'poison') NOT VALID"
    )
    buyers = [f"b{n}" for n in range(40)] + ["poison"] + [f"c{n}" for n in range(20)]

    replies = await asyncio.gather(*(shop.reserve(drop_id, buyer) for buyer in buyers))

    await connection.close()
    assert [b for b, r in zip(buyers, replies, strict=True) if r.status != 201] == ["poison"]
    assert await shop.settled(drop_id)


@pytest.mark.slow
async def test_holds_are_freed_within_300_ms_of_their_deadline_while_50000_others_live(
    shop: Shop, settings: Settings
) -> None:
    crowd = await shop.open_drop(50_000, holdSeconds=3_600, maxPerBuyer=None)
    short = await shop.open_drop(400, holdSeconds=2)
    async with Keeping(settings):

        async def is_full() -> bool:
            full = (await shop.stock(crowd))["totalStock"] == 50_000
            return full and await shop.settled(crowd)

        await wait_until(is_full, "the large drop is full, and the bouncer knows", seconds=30)
        for first in range(0, 50_000, 5_000):
            batch = (
                shop.reserve(crowd, f"c{n}", quantity=10) for n in range(first, first + 5_000, 10)
            )
            assert {reply.status for reply in await asyncio.gather(*batch)} == {201}
        assert (await shop.stock(crowd))["heldStock"] == 50_000

        async def watch(n: int) -> None:
            await asyncio.sleep(n * 0.01)  # deadlines spread over four seconds
            assert (await shop.reserve(short, f"s{n}")).status == 201

        await asyncio.gather(*(watch(n) for n in range(400)))
        connection = await asyncpg.connect(settings.database_url)

        async def all_ended() -> bool:
            return (await shop.stock(short))["heldStock"] == 0

        await wait_until(all_ended, "all short holds ended", seconds=15)
        rows = await connection.fetch(
            "SELECT r.expires_at, o.created_at FROM reservations r"
            " JOIN outbox o ON o.kind = 'expired' AND r.id = ANY (o.subjects) WHERE r.drop_id = $1",
            short,
        )
        await connection.close()
    lags = sorted((row["created_at"] - row["expires_at"]).total_seconds() for row in rows)
    assert len(lags) == 400
    print(f"freed after p50 {lags[200]:.3f} s, p99 {lags[396]:.3f} s, max {lags[-1]:.3f} s")
    assert lags[396] <= 0.3
