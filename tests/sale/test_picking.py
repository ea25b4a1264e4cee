"""Named units in the worker: what the bouncer believes of them may be old, lost or untrue, and the
only effect is a claim that Postgres refuses. Nobody hears "taken" that Postgres did not confirm."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest
import redis.asyncio

from engine import runtime
from engine.infra.combiner import Crew
from engine.infra.ids import new_id
from engine.infra.settings import Settings
from engine.runtime import Ground
from engine.sale import drops, expire, store
from engine.sale.bouncer import Bouncer
from engine.sale.errors import SlotNotAvailable, SoldOut
from engine.sale.models import Change, Confirm, Hold, Release
from engine.sale.purchase import Purchasing
from engine.sale.reconcile import reap, reconcile, tell
from engine.sale.refund import refund
from engine.sale.release import Releasing, publish_returned
from engine.sale.repair import repair
from tests.faults.test_without_redis import NOBODY
from tests.support.picking import UNITS, Lossy, Worker, at_work, open_hall
from tests.support.seats import agrees, bits
from tests.support.shop import Shop
from tests.support.wait import wait_until


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[redis.asyncio.Redis]:
    """Looks at keys behind the bouncer's back."""
    opened = redis.asyncio.Redis.from_url(settings.redis_url)
    yield opened
    await opened.aclose()


@pytest.fixture
async def worker(ground: Ground) -> AsyncIterator[Worker]:
    """A worker whose bouncer hears of all that it does."""
    async with at_work(ground) as made:
        yield made


async def _shelf(ground: Ground, drop_id: int) -> set[int]:
    return set((await store.free_numbers(ground.postgres, drop_id))[1])


# ── yes and no ───────────────────────────────────────────────────────────────────────────────────


async def test_picked_units_are_held_all_or_none_and_the_taken_are_named(
    ground: Ground, worker: Worker, client: redis.asyncio.Redis
) -> None:
    drop_id = await open_hall(ground)

    hold = await worker.pick(drop_id, 3, 5)
    with pytest.raises(SlotNotAvailable) as refused:
        await worker.pick(drop_id, 4, 5)
    with pytest.raises(SlotNotAvailable) as both:
        await worker.pick(drop_id, 3, 4, 5, 6)

    assert (hold.units, hold.names) == ([3, 5], ["A3", "A5"])
    assert refused.value.details == {"units": ["A5"]}
    assert both.value.details == {"units": ["A3", "A5"]}
    assert await _shelf(ground, drop_id) == set(range(1, UNITS + 1)) - {3, 5}
    assert await agrees(client, ground, drop_id)


async def test_the_best_there_is_is_beside_each_other_or_is_not_given(
    ground: Ground, worker: Worker, client: redis.asyncio.Redis
) -> None:
    drop_id = await open_hall(ground)
    await worker.pick(drop_id, *range(2, UNITS - 4, 3))

    runs = [(await worker.best(drop_id, quantity)).units for quantity in (2, 5, 2)]
    with pytest.raises(SoldOut) as scattered:
        await worker.best(drop_id, 3)

    assert runs == [[3, 4], [15, 16, 17, 18, 19], [6, 7]]
    free = {"availableStock": 6, "heldStock": UNITS - 6, "longestRun": 2}
    assert scattered.value.details == free
    assert "3 units beside each other" in str(scattered.value)
    assert scattered.value.retryable
    assert await agrees(client, ground, drop_id)


async def test_nothing_that_is_left_is_sold_out_to_the_best_and_taken_to_a_pick(
    ground: Ground, worker: Worker
) -> None:
    drop_id = await open_hall(ground)
    for first in (1, 11):
        await worker.pick(drop_id, *range(first, first + 10))

    with pytest.raises(SoldOut):
        await worker.best(drop_id, 1)
    with pytest.raises(SlotNotAvailable) as refused:
        await worker.pick(drop_id, 7)

    assert refused.value.details == {"units": ["A7"]}


async def test_a_pick_is_not_refused_from_memory_which_only_knows_how_many_are_left(
    shop: Shop,
) -> None:
    drop_id = await shop.open_drop(2, pick="named", maxPerBuyer=2, maxPerOrder=2)
    assert (await shop.reserve(drop_id, "ann", None, 2)).status == 201
    assert (await shop.reserve(drop_id, "bob")).error == "SOLD_OUT"

    body = {"dropId": drop_id, "userId": "bob", "units": ["2"]}
    refused = await shop.send("POST", "/reservations", body)

    assert refused.error == "SLOT_NOT_AVAILABLE"
    assert refused.json["details"] == {"units": ["2"]}


async def test_a_winner_who_lost_his_answer_gets_his_units_again_and_not_that_they_are_taken(
    ground: Ground, worker: Worker
) -> None:
    drop_id = await open_hall(ground)
    key = new_id().replace("-", "")
    first = await worker.pick(drop_id, 8, 9, key=key)

    async with at_work(ground) as other:
        again = await other.pick(drop_id, 8, 9, key=key)

    assert again.replayed
    assert (again.id, again.units) == (first.id, [8, 9])


async def test_without_a_bouncer_picks_and_the_best_are_sold_as_well(settings: Settings) -> None:
    async with runtime.ground(msgspec.structs.replace(settings, redis_url=NOBODY)) as ground:
        drop_id = await open_hall(ground)
        async with at_work(ground) as worker:
            await worker.pick(drop_id, *range(2, UNITS, 2))
            with pytest.raises(SlotNotAvailable) as taken:
                await worker.pick(drop_id, 1, 2)
            with pytest.raises(SoldOut) as scattered:
                await worker.best(drop_id, 3)
            best = await worker.best(drop_id, 2)
            await worker.pick(drop_id, *range(1, UNITS - 2, 2))
            with pytest.raises(SlotNotAvailable) as gone:
                await worker.pick(drop_id, 1)

    assert taken.value.details == gone.value.details | {"units": ["A2"]}
    assert scattered.value.details["longestRun"] == 2
    assert best.units == [UNITS - 1, UNITS]


async def test_what_comes_back_is_free_again_and_what_is_bought_is_not(
    ground: Ground, worker: Worker, client: redis.asyncio.Redis
) -> None:
    drop_id = await open_hall(ground, hold_seconds=1)
    given, bought, left = [await worker.pick(drop_id, n, n + 1) for n in (1, 5, 9)]
    crew = Crew()
    releasing = Releasing(ground.postgres, ground.bouncer, crew)
    purchasing = Purchasing(ground.postgres, ground.bouncer, crew)

    await releasing.release(Release(given.id, given.buyer))
    await purchasing.purchase(Confirm(bought.id, bought.buyer, None, new_id(), False))

    async def expired() -> bool:
        return await expire.expire_drop(ground.postgres, ground.bouncer, drop_id) > 0

    await wait_until(expired, f"{left.id} ran out")
    await crew.drain(2)
    assert await _shelf(ground, drop_id) == set(range(1, UNITS + 1)) - {5, 6}
    assert await agrees(client, ground, drop_id)


async def test_the_bitmap_follows_refunds_withdrawals_and_new_stock(
    ground: Ground, worker: Worker, client: redis.asyncio.Redis
) -> None:
    drop_id = await open_hall(ground)
    crew = Crew()
    purchasing = Purchasing(ground.postgres, ground.bouncer, crew)
    for first, restock in ((3, True), (7, False)):
        hold = await worker.pick(drop_id, first, first + 1)
        wish = Confirm(hold.id, hold.buyer, None, new_id(), False)
        bought = await purchasing.purchase(wish)
        async with ground.postgres.transaction() as session:
            _, returned = await refund(session, bought.purchase.id, restock, None)
        await publish_returned(ground.bouncer, returned)
        assert await agrees(client, ground, drop_id)
    await crew.drain(2)

    for change in (Change(withdraw_stock=5), Change(add_stock=2, names=("B1", "B2"))):
        async with ground.postgres.transaction() as session:
            await drops.change(session, drop_id, change)
        await tell(ground.postgres, ground.bouncer, [drop_id])
        assert await agrees(client, ground, drop_id)

    assert len(await _shelf(ground, drop_id)) == UNITS - 2 - 5 + 2


# ── untrue bitmaps ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["seats", "picked"])
async def test_a_unit_that_is_said_to_be_taken_and_is_not_is_held_by_who_asks_and_heals(
    ground: Ground, worker: Worker, client: redis.asyncio.Redis, name: str
) -> None:
    """In `picked` it is on the way of nobody: then he waits for a while before Postgres decides."""
    drop_id = await open_hall(ground)
    key = ground.bouncer._key(drop_id, name)
    for number in (5, 6):
        await client.setbit(key, number, int(name == "picked"))

    hold = await worker.pick(drop_id, 5)

    assert hold.names == ["A5"]
    if name == "picked":
        assert (await repair(ground.postgres, ground.bouncer, drop_id, dry_run=False)).clean

    async def healed() -> bool:
        return await agrees(client, ground, drop_id)

    await wait_until(healed, "the bitmap is the shelf")


async def test_a_unit_that_is_said_to_be_free_and_is_not_costs_a_claim_that_is_refused(
    ground: Ground, worker: Worker, client: redis.asyncio.Redis
) -> None:
    drop_id = await open_hall(ground)
    await worker.pick(drop_id, 5)
    await client.setbit(ground.bouncer._key(drop_id, "seats"), 5, 1)
    shelf = await _shelf(ground, drop_id)

    with pytest.raises(SlotNotAvailable) as refused:
        await worker.pick(drop_id, 4, 5)
    left = await _shelf(ground, drop_id)
    best = await worker.best(drop_id, 6)

    assert refused.value.details == {"units": ["A5"]}
    assert left == shelf, "nothing was held of it"
    assert best.units == [6, 7, 8, 9, 10, 11], "Postgres picks where the bitmap was wrong"


async def test_a_bitmap_that_is_missing_refuses_nobody_and_is_loaded_by_whoever_notices(
    ground: Ground, worker: Worker, client: redis.asyncio.Redis
) -> None:
    drop_id = await open_hall(ground)
    await client.delete(ground.bouncer._key(drop_id, "seats"))

    holds = await asyncio.gather(worker.pick(drop_id, 5), worker.best(drop_id, 3))

    assert [hold.units for hold in holds] == [[5], [1, 2, 3]]

    async def healed() -> bool:
        return await agrees(client, ground, drop_id)

    await wait_until(healed, "it is loaded", seconds=2)


# ── late and lost news ───────────────────────────────────────────────────────────────────────────


async def test_more_units_than_one_order_may_hold_are_refused_by_their_own_name(
    shop: Shop,
) -> None:
    drop_id = await shop.open_drop(3, pick="named", maxPerBuyer=None, maxPerOrder=1)

    refused = await shop.send(
        "POST", "/reservations", {"dropId": drop_id, "userId": "ann", "units": ["1", "2"]}
    )

    assert refused.status == 400
    [wrong] = refused.json["details"]["fields"]
    assert wrong["field"] == "units"
    assert "maxPerOrder" in wrong["problem"]


async def test_workers_that_tell_in_another_order_than_they_committed_end_in_the_same_bitmap(
    ground: Ground, worker: Worker, client: redis.asyncio.Redis
) -> None:
    drop_id = await open_hall(ground)
    late = Lossy.of(ground)
    late.let = asyncio.Event()
    async with at_work(ground, late) as slow:
        first = asyncio.create_task(slow.pick(drop_id, 1), name="first")

        async def committed() -> bool:
            return 1 not in await _shelf(ground, drop_id)

        await wait_until(committed, "the first has committed and not told")
        await worker.pick(drop_id, 2)
        await worker.pick(drop_id, 3)
        belief = await ground.bouncer.inspect(drop_id)
        assert belief is not None
        assert belief.missed
        assert await bits(client, ground, drop_id, "seats") == set(range(1, UNITS + 1))
        with pytest.raises(SlotNotAvailable):
            await worker.pick(drop_id, 2)
        late.let.set()
        await first

    assert await agrees(client, ground, drop_id)


async def test_a_settle_that_is_lost_is_made_good_by_the_second_round_and_by_the_reaper(
    settings: Settings, client: redis.asyncio.Redis
) -> None:
    """As if the worker had died between its commit and its word."""
    async with runtime.ground(msgspec.structs.replace(settings, intent_ttl_ms=300)) as ground:
        drop_id = await open_hall(ground)
        lossy = Lossy.of(ground)
        lossy.lost = 1
        async with at_work(ground, lossy) as worker:
            await worker.pick(drop_id, 1, 2)
            await worker.pick(drop_id, 3)
        missed: dict[int, int] = {}

        await reconcile(ground.postgres, ground.bouncer, missed)
        stale = await bits(client, ground, drop_id, "seats")
        await reconcile(ground.postgres, ground.bouncer, missed)

        assert stale == set(range(1, UNITS + 1)), "another may be telling it just now"
        assert await bits(client, ground, drop_id, "seats") == set(range(4, UNITS + 1))
        assert await bits(client, ground, drop_id, "picked") == {1, 2}

        async def reaped() -> bool:
            return await reap(ground.postgres, ground.bouncer) > 0

        await wait_until(reaped, "the intent is taken for dead")
        assert await agrees(client, ground, drop_id)


async def test_repair_says_that_the_bitmap_is_missing_and_loads_it(
    ground: Ground, client: redis.asyncio.Redis
) -> None:
    drop_id = await open_hall(ground)
    await client.delete(ground.bouncer._key(drop_id, "seats"))

    dry = await repair(ground.postgres, ground.bouncer, drop_id, dry_run=True)
    done = await repair(ground.postgres, ground.bouncer, drop_id, dry_run=False)
    after = await repair(ground.postgres, ground.bouncer, drop_id, dry_run=False)

    def told(found: Sequence[Any]) -> list[tuple[str, bool]]:
        return [(each.action, each.done) for each in found]

    assert told(dry.found) == [("seat", False)]
    assert told(done.found) == [("seat", True)]
    assert after.found == []
    assert await agrees(client, ground, drop_id)


# ── everybody at once ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("rounds", [3, pytest.param(40, marks=pytest.mark.at_length)])
async def test_of_two_hundred_who_pick_one_unit_in_two_workers_one_has_it(
    ground: Ground, worker: Worker, client: redis.asyncio.Redis, rounds: int
) -> None:
    drop_id = await open_hall(ground, total_stock=rounds, names=())
    async with at_work(ground) as other:
        for number in range(1, rounds + 1):
            asked = (each.pick(drop_id, number) for each in [worker, other] * 100)
            told = await asyncio.gather(*asked, return_exceptions=True)
            won = [each for each in told if isinstance(each, Hold)]
            lost = [each for each in told if isinstance(each, SlotNotAvailable)]
            assert (len(won), len(lost)) == (1, 199)
            assert {tuple(each.details["units"]) for each in lost} == {(str(number),)}

    assert await agrees(client, ground, drop_id)


@pytest.mark.parametrize("blind", [True, False], ids=["claimed", "suspected"])
async def test_a_copy_that_gets_the_units_while_its_twin_is_refused_is_the_answer_of_both(
    ground: Ground, client: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch, blind: bool
) -> None:
    """Between any two looks before a "no" somebody may go, and the copy on another worker come."""
    drop_id, copies = await open_hall(ground), list[Hold]()
    bouncer = Bouncer(ground.redis, ground.postgres, intent_ttl_ms=1)  # nothing is young to it
    async with at_work(ground, bouncer) as worker, at_work(ground, bouncer) as other:
        before, key = await other.pick(drop_id, 5), new_id().replace("-", "")
        if blind:  # then Postgres itself refuses it
            await client.delete(ground.bouncer._key(drop_id, "seats"))

        def then_the_copy(look: Any) -> Any:
            async def looks(*words: Any) -> Any:
                found = await look(*words)
                if not copies:
                    gone = await store.release_holds(ground.postgres, [Release(before.id, None)])
                    await publish_returned(bouncer, gone)
                    copies.append(await other.pick(drop_id, 5, key=key))
                return found

            return looks

        for name in ("find_taken", "look_up_requests"):
            monkeypatch.setattr(store, name, then_the_copy(getattr(store, name)))
        hold = await worker.pick(drop_id, 5, key=key)

    assert [hold.id] == [copy.id for copy in copies]
    assert hold.replayed
