"""INV-3, INV-4: one request, at most one hold; replays are identical; no winner is told "no"."""

from __future__ import annotations

import asyncio

import pytest
import redis.asyncio

from engine.infra.settings import Settings
from loadtest.chaos.proxy import Proxy
from tests.support.http import Crowd
from tests.support.service import Service
from tests.support.shop import Shop
from tests.support.wait import wait_until


@pytest.mark.slow
async def test_winners_who_lost_their_answer_get_it_again_after_the_sell_out_and_after_flushall(
    service: Service, settings: Settings
) -> None:
    drop_id = await service.open_drop(200, holdSeconds=600)
    async with Proxy.open(f"http://127.0.0.1:{service.port}/api/v1") as proxy:
        proxy.losing = True
        lossy = Crowd(proxy.url)

        async def loses_the_answer(n: int) -> None:
            body = {"dropId": drop_id, "userId": f"winner-{n}"}
            with pytest.raises(ConnectionError):
                await lossy.send("POST", "/reservations", body, {"idempotency-key": f"try-{n}"})

        async def all_hold() -> bool:
            # On a machine that stands still some are told to try again, and lose that answer too.
            await asyncio.gather(*(loses_the_answer(n) for n in range(200)))
            return int((await service.stock(drop_id))["heldStock"]) == 200

        await wait_until(all_hold, "every winner holds a unit", 30)
        assert proxy.done["lose"] >= 200
    assert (await service.reserve(drop_id, "late")).error == "SOLD_OUT"

    first = await _again(service, drop_id)
    client = redis.asyncio.Redis.from_url(settings.redis_url)
    await client.flushall()
    await client.aclose()
    second = await _again(service, drop_id)

    assert first == second
    assert len({answer[1] for answer in first}) == 200


async def _again(service: Service, drop_id: int) -> list[tuple[int, bytes]]:
    replies = await asyncio.gather(
        *(service.reserve(drop_id, f"winner-{n}", f"try-{n}") for n in range(200))
    )
    assert {reply.status for reply in replies} == {201}
    assert {reply.headers.get("idempotent-replayed") for reply in replies} == {"true"}
    return [(reply.status, reply.body) for reply in replies]


async def test_50_copies_of_one_keyed_request_make_one_hold_and_50_equal_answers(
    service: Service,
) -> None:
    drop_id = await service.open_drop(100, holdSeconds=600, maxPerBuyer=10)

    replies = await asyncio.gather(*(service.reserve(drop_id, "ann", "the-key") for _ in range(50)))

    assert {reply.status for reply in replies} == {201}
    assert len({reply.body for reply in replies}) == 1
    assert (await service.stock(drop_id))["heldStock"] == 1


@pytest.mark.parametrize("forget", [pytest.param(False, marks=pytest.mark.at_length), True])
async def test_100_parallel_requests_of_one_buyer_with_a_limit_of_2_get_exactly_2(
    service: Service, settings: Settings, forget: bool
) -> None:
    drop_id = await service.open_drop(1_000, holdSeconds=600, maxPerBuyer=2)
    if forget:
        client = redis.asyncio.Redis.from_url(settings.redis_url)
        await client.flushall()
        await client.aclose()

    replies = await asyncio.gather(*(service.reserve(drop_id, "greedy") for _ in range(100)))

    holds = [reply.json["id"] for reply in replies if reply.status == 201]
    assert len(holds) == 2
    assert {reply.error for reply in replies if reply.status != 201} == {"LIMIT_REACHED"}
    assert (await service.release(holds[0], "greedy")).status == 204
    assert (await service.reserve(drop_id, "greedy")).status == 201
    assert (await service.reserve(drop_id, "greedy")).error == "LIMIT_REACHED"
    await wait_until(lambda: service.settled(drop_id), "the bouncer is exact")


async def test_the_same_key_for_another_request_is_refused_and_takes_nothing(shop: Shop) -> None:
    drop_id = await shop.open_drop(10, maxPerBuyer=10)
    assert (await shop.reserve(drop_id, "ann", "k")).status == 201

    reply = await shop.reserve(drop_id, "ann", "k", quantity=2)

    assert (reply.status, reply.error) == (422, "IDEMPOTENCY_MISMATCH")
    assert (await shop.stock(drop_id))["heldStock"] == 1


async def test_a_refusal_is_about_now_so_the_same_key_may_succeed_later(shop: Shop) -> None:
    drop_id = await shop.open_drop(1)
    taken = await shop.reserve(drop_id, "ann")
    assert (await shop.reserve(drop_id, "bob", "bobs")).error == "SOLD_OUT"

    await shop.release(taken.json["id"], "ann")

    assert (await shop.reserve(drop_id, "bob", "bobs")).status == 201
