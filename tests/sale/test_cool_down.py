"""Who lets holds go waits before the next one: by Postgres's word, whatever Redis remembers."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from datetime import datetime
from typing import Any

import msgspec
import pytest

from engine.infra.settings import Settings
from engine.runtime import Ground
from engine.sale import expire, store
from engine.sale.models import Release
from tests.faults.test_redis_forgets import redis_of
from tests.support.damage import do
from tests.support.ghosts import admit
from tests.support.http import Reply
from tests.support.shop import Shop
from tests.support.wait import wait_until

DAY = 86_400
NOBODY = "redis://127.0.0.1:1/0"  # refuses every connection


class Sale:
    """A drop with a cool-down of ten times a hold, and a clock that can be turned."""

    def __init__(self, shop: Shop, ground: Ground, settings: Settings, drop_id: int) -> None:
        self.shop, self.ground, self.drop_id = shop, ground, drop_id
        self._url = settings.database_url

    async def holds(self, buyer: str, seconds: float, units: int = 1) -> str:
        """A hold that was made so long ago and has as long yet."""
        reply = await self.shop.reserve(self.drop_id, buyer, quantity=units)
        assert reply.status == 201, reply.body
        ago = "created_at = created_at - make_interval(secs => $2)"
        await do(
            self._url, f"UPDATE reservations SET {ago} WHERE id = $1", reply.json["id"], seconds
        )
        return str(reply.json["id"])

    async def runs_out(self, id: str, seconds_ago: float = 0) -> None:
        """Let its deadline pass, and a sweeper come by."""
        then = "expires_at = clock_timestamp() - make_interval(secs => $2)"
        await do(self._url, f"UPDATE reservations SET {then} WHERE id = $1", id, seconds_ago)
        await expire.expire_due(self.ground.postgres, self.ground.bouncer)

    async def later(self, seconds: float) -> None:
        """Let time pass for everybody who waits."""
        ago = "cools_until = cools_until - make_interval(secs => $1)"
        await do(self._url, f"UPDATE allowances SET {ago}", seconds)

    async def waits(self, buyer: str) -> tuple[float, int]:
        """Seconds that a buyer must wait yet, and the holds that were let go in a row."""
        found = await store.find_allowances(self.ground.postgres, self.drop_id, [buyer])
        if buyer not in found:
            return 0.0, 0
        return (found[buyer].cools_ms or 0) / 1_000, found[buyer].abandoned


@pytest.fixture
async def sale(shop: Shop, ground: Ground, settings: Settings) -> Sale:
    """Twenty units, five a buyer."""
    terms = {"maxPerBuyer": 5, "maxPerOrder": 5, "holdSeconds": 600}
    drop_id = await shop.open_drop(20, cooldownFactor=10, **terms)
    return Sale(shop, ground, settings, drop_id)


def _cools(reply: Reply) -> dict[str, Any]:
    assert (reply.status, reply.error) == (429, "RATE_LIMITED"), reply.body
    assert reply.json["retryable"] is True
    details: dict[str, Any] = reply.json["details"]
    assert details["reason"] == "cooldown"
    return details


# ── how long ─────────────────────────────────────────────────────────────────────────────────────


async def test_who_gives_a_hold_back_waits_ten_times_as_long_and_is_told_until_when(
    sale: Sale,
) -> None:
    hold = await sale.holds("ann", 20)
    assert (await sale.shop.release(hold, "ann")).status == 204

    refused = await sale.shop.reserve(sale.drop_id, "ann")

    details = _cools(refused)
    seconds = int(refused.headers["retry-after"])
    assert 200 <= seconds <= 240, "20 s, and as long as it took"
    assert details["abandoned"] == 1
    until = datetime.fromisoformat(details["until"])
    assert abs((until - datetime.now(until.tzinfo)).total_seconds() - seconds) < 10
    assert refused.headers["ratelimit"] == f'"cooldown";r=0;t={seconds}'
    assert refused.headers["ratelimit-policy"] == f'"cooldown";q=1;w={seconds}'
    elsewhere = await sale.shop.open_drop(3)
    assert (await sale.shop.reserve(elsewhere, "ann")).status == 201
    assert (await sale.shop.reserve(sale.drop_id, "bob")).status == 201
    await sale.later(seconds + 1)
    assert (await sale.shop.reserve(sale.drop_id, "ann")).status == 201
    assert await sale.shop.settled(sale.drop_id)


async def test_units_count_and_each_further_hold_in_a_row_doubles_it(sale: Sale) -> None:
    told = []
    for seconds, units in ((10, 1), (10, 1), (10, 3), (10, 1)):
        hold = await sale.holds("ann", seconds, units)
        await sale.shop.release(hold, "ann")
        told.append(await sale.waits("ann"))
        await sale.later(DAY)

    # Ten seconds, and as long as it took.
    assert [wait for wait, _ in told] == pytest.approx([100, 200, 1_200, 800], rel=0.2)
    assert [abandoned for _, abandoned in told] == [1, 2, 3, 4]


async def test_what_several_holds_add_up_to_does_not_depend_on_who_sweeps_them_together(
    sale: Sale,
) -> None:
    anns = [await sale.holds("ann", 10) for _ in range(3)]
    bobs = [await sale.holds("bob", 10) for _ in range(3)]
    for id in anns:
        await sale.shop.release(id, "ann")
    await store.release_holds(sale.ground.postgres, [Release(id, "bob") for id in bobs])

    (anns_wait, anns_row), (bobs_wait, bobs_row) = await sale.waits("ann"), await sale.waits("bob")
    assert anns_wait == pytest.approx(bobs_wait, rel=0.2)
    assert bobs_wait > 350, "the third of them counts four times"
    assert anns_row == bobs_row == 3


async def test_nobody_waits_longer_than_a_day(sale: Sale) -> None:
    await sale.shop.change(sale.drop_id, cooldownFactor=1_000)
    await sale.shop.release(await sale.holds("ann", 3_600, 5), "ann")

    wait, _ = await sale.waits("ann")

    assert DAY - 60 < wait <= DAY


async def test_a_late_sweeper_lengthens_no_cool_down(sale: Sale) -> None:
    hold = await sale.holds("ann", 100)
    await sale.runs_out(hold, seconds_ago=60)

    wait, abandoned = await sale.waits("ann")

    assert abandoned == 1
    assert wait == pytest.approx((100 - 60) * 10 - 60, abs=60)


# ── what ends it ─────────────────────────────────────────────────────────────────────────────────


async def test_a_purchase_ends_the_row(sale: Sale) -> None:
    first, second = await sale.holds("ann", 20), await sale.holds("ann", 20)
    await sale.shop.release(first, "ann")
    assert (await sale.waits("ann"))[0] > 100

    assert (await sale.shop.confirm(second, "ann")).status == 201

    assert await sale.waits("ann") == (0, 0)
    assert (await sale.shop.reserve(sale.drop_id, "ann")).status == 201


async def test_an_operator_who_turns_it_off_lets_everybody_in(sale: Sale) -> None:
    await sale.shop.release(await sale.holds("ann", 20), "ann")
    _cools(await sale.shop.reserve(sale.drop_id, "ann"))
    _cools(await sale.shop.reserve(sale.drop_id, "ann"))

    assert (await sale.shop.change(sale.drop_id, cooldown_factor=0)).json["cooldownFactor"] == 0

    assert (await sale.shop.reserve(sale.drop_id, "ann")).status == 201


async def test_without_a_factor_nobody_waits_and_nothing_is_written(
    shop: Shop, ground: Ground, settings: Settings
) -> None:
    drop_id = await shop.open_drop(5)
    assert (await shop.show(drop_id))["cooldownFactor"] == 0
    sale = Sale(shop, ground, settings, drop_id)
    for _ in range(3):
        await shop.release(await sale.holds("ann", 50), "ann")

    assert await sale.waits("ann") == (0, 0)
    assert (await shop.reserve(drop_id, "ann")).status == 201


@pytest.mark.parametrize("factor", [-1, 1_001])
async def test_a_factor_is_a_whole_number_up_to_a_thousand(shop: Shop, factor: int) -> None:
    body = {"name": "Aurora", "price": "1", "totalStock": 1, "cooldownFactor": factor}
    reply = await shop.send("POST", "/drops", body)

    assert (reply.status, reply.error) == (400, "VALIDATION_ERROR")
    assert reply.json["details"]["fields"] == [
        {"field": "cooldownFactor", "problem": "want 0 to 1000"}
    ]


async def test_the_pruner_forgets_a_row_a_day_after_its_cool_down(sale: Sale) -> None:
    await sale.shop.release(await sale.holds("ann", 20), "ann")
    await sale.shop.release(await sale.holds("bob", 20), "bob")
    _cools(await sale.shop.reserve(sale.drop_id, "ann"))

    await store.prune(sale.ground.postgres, 72, 100)
    kept = await sale.waits("ann")
    await sale.later(DAY - 60)
    await store.prune(sale.ground.postgres, 72, 100)
    in_a_row = await sale.waits("ann")
    await sale.later(600)
    await store.prune(sale.ground.postgres, 72, 100)

    assert (kept[0] > 100, kept[1], in_a_row) == (True, 1, (0, 1))
    assert await sale.waits("ann") == await sale.waits("bob") == (0, 0)


# ── whatever Redis says ──────────────────────────────────────────────────────────────────────────


async def test_flushall_lifts_no_cool_down(sale: Sale, settings: Settings) -> None:
    await sale.shop.release(await sale.holds("ann", 20), "ann")
    told = []
    for _ in range(3):
        async with redis_of(settings.redis_url) as client:
            await client.flushall()
        told.append(_cools(await sale.shop.reserve(sale.drop_id, "ann"))["until"])

    assert len(set(told)) == 1


async def test_without_redis_postgres_says_the_same(sale: Sale, settings: Settings) -> None:
    await sale.shop.release(await sale.holds("ann", 20), "ann")
    known = _cools(await sale.shop.reserve(sale.drop_id, "ann"))
    async with Shop.open(msgspec.structs.replace(settings, redis_url=NOBODY)) as alone:
        replies = await asyncio.gather(
            *(alone.reserve(sale.drop_id, "ann", key) for key in (None, "hers", None)),
            *(alone.reserve(sale.drop_id, f"other-{n}") for n in range(5)),
        )

    assert [_cools(reply) for reply in replies[:3]] == [known] * 3
    assert [reply.status for reply in replies[3:]] == [201] * 5


async def test_after_the_first_time_the_bouncer_says_it_and_spoils_no_batch(sale: Sale) -> None:
    await sale.shop.release(await sale.holds("ann", 20), "ann")
    before = (await admit(sale.ground, sale.drop_id, [("a" * 32, 1, "ann")], attempt=1)).words
    await sale.ground.bouncer.settle(
        sale.drop_id, closed=[("a" * 32, sale.ground.postgres.epoch * (1 << 20) + 1, False)]
    )
    _cools(await sale.shop.reserve(sale.drop_id, "ann"))

    after = await admit(sale.ground, sale.drop_id, [("b" * 32, 1, "ann")], attempt=2)

    assert (before, after.words) == (["admitted"], ["cooling"])


async def test_a_bouncer_that_is_wrong_stops_nobody(sale: Sale) -> None:
    await sale.ground.bouncer.settle(sale.drop_id, cools=[("ann", 60_000)])

    first = await sale.shop.reserve(sale.drop_id, "ann")

    assert first.status == 201
    told = await admit(sale.ground, sale.drop_id, [("b" * 32, 1, "ann")])
    assert told.words == ["admitted"], "it was told that it was wrong"


async def test_who_asked_before_hears_the_same_again_in_a_cool_down(sale: Sale) -> None:
    first = await sale.shop.reserve(sale.drop_id, "ann", "hers")
    await sale.shop.release(first.json["id"], "ann")
    again = [await sale.shop.reserve(sale.drop_id, "ann", "hers") for _ in range(2)]

    assert {reply.status for reply in again} == {201}
    assert {reply.json["id"] for reply in again} == {first.json["id"]}
    assert {reply.json["status"] for reply in again} == {"released"}


async def test_one_who_must_wait_spoils_nothing_for_the_others_of_the_batch(sale: Sale) -> None:
    await sale.shop.release(await sale.holds("ann", 20), "ann")

    replies = await asyncio.gather(
        *(sale.shop.reserve(sale.drop_id, name) for name in ("bob", "ann", "cat", "ann", "dan"))
    )

    assert [reply.status for reply in replies] == [201, 429, 201, 429, 201]
    assert await sale.shop.settled(sale.drop_id)


async def test_who_has_all_he_may_have_hears_of_that(sale: Sale) -> None:
    await sale.shop.release(await sale.holds("ann", 20), "ann")
    await sale.later(DAY)
    first = await sale.holds("ann", 20, 4)
    await sale.holds("ann", 20)
    await sale.shop.change(sale.drop_id, maxPerBuyer=1)
    await sale.shop.release(first, "ann")

    assert (await sale.shop.reserve(sale.drop_id, "ann")).error == "LIMIT_REACHED"


# ── bots ─────────────────────────────────────────────────────────────────────────────────────────


async def test_a_bot_that_reserves_and_releases_in_a_loop_gets_ever_less(
    shop: Shop, ground: Ground
) -> None:
    drop_id = await shop.open_drop(20, cooldownFactor=100)
    told: Counter[int] = Counter()
    until = time.monotonic() + 3
    while time.monotonic() < until:
        reply = await shop.reserve(drop_id, "bot")
        told[reply.status] += 1
        if reply.status == 201:
            await shop.release(reply.json["id"], "bot")

    print(dict(told), "of a bot that gave back at once, for 3 s")
    assert told[201] <= 8, "doubled each time, a hundred times a few ms is over soon"
    assert told[429] > 50
    assert await shop.settled(drop_id)


async def test_no_claim_slips_through_between_a_deadline_and_its_sweep(
    shop: Shop, ground: Ground
) -> None:
    drop_id = await shop.open_drop(20, cooldownFactor=100, holdSeconds=1)
    buyers = [f"bot-{n}" for n in range(10)]
    for buyer in buyers:
        assert (await shop.reserve(drop_id, buyer)).status == 201
    told: Counter[str] = Counter()

    async def hammer(buyer: str) -> None:
        async def is_cooling() -> bool:
            reply = await shop.reserve(drop_id, buyer)
            told[reply.error if reply.status >= 400 else "held"] += 1
            return reply.status == 429

        await wait_until(is_cooling, "the hold was swept", pause=0)

    async def sweep() -> None:
        while told["RATE_LIMITED"] < len(buyers):
            await expire.expire_due(ground.postgres, ground.bouncer)
            await asyncio.sleep(0)

    await asyncio.gather(sweep(), *(hammer(buyer) for buyer in buyers))

    assert told["held"] == 0
    assert told["LIMIT_REACHED"] > len(buyers), "they asked before, during and after"
    assert await shop.settled(drop_id)
