"""Two buyers, one unit, and the slow one pays last: who pays has a unit, or gets the money back."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from engine.infra.settings import Settings
from tests.support.http import Reply
from tests.support.provider import Provider
from tests.support.service import Service
from tests.support.wait import wait_until

ROUNDS = int(os.environ.get("ROUNDS", "25"))  # 200 by hand; a multiple of the next
AT_ONCE, KILL_EVERY = 25, 10
COPIES = 3  # of each of the provider's callbacks, sent at the same moment


async def _insist(send: Callable[[], Awaitable[Reply]], *wanted: int) -> Reply:
    """The same request until it is answered: a killed worker answers nobody."""

    async def answered() -> Reply | None:
        try:
            reply = await send()
        except (ConnectionError, OSError):
            return None
        assert reply.status in (*wanted, 503, 409), reply.body
        return reply if reply.status in wanted else None

    reply = await wait_until(answered, f"one of {wanted}", seconds=40, pause=0.05)
    assert reply is not None
    return reply


class Killer:
    """Kills a worker with -9 and starts another, one after the other."""

    def __init__(self, service: Service) -> None:
        self._service, self._turn, self.killed = service, asyncio.Lock(), 0

    async def kill(self) -> None:
        """There is always one worker left."""
        async with self._turn:
            await self._service.kill(self._service.workers[self.killed])
            self.killed += 1
            await self._service.start_worker()


async def _round(service: Service, provider: Provider, killer: Killer, number: int) -> int:
    """Ann pays after Bob has bought what was hers; the drop of this round."""
    terms = {"name": "The last pair", "price": "120.00", "totalStock": 1}
    terms |= {"holdSeconds": 1, "paySeconds": 1}
    opened = await _insist(
        lambda: service.send("POST", "/drops", terms, {"idempotency-key": f"drop-{number}"}), 201
    )
    drop_id = opened.json["id"]
    anns = await _hold(service, drop_id, "ann", number)
    bobs = await _hold(service, drop_id, "bob", number)
    await _paid(provider, bobs, f"bob-{number}", "purchased")
    deadly = [killer.kill()] if number % KILL_EVERY == 0 else []
    await asyncio.gather(
        _paid(provider, anns, f"ann-{number}", "refund_due"),
        # What was said before comes after it.
        _insist(lambda: provider.says("pending", anns, f"ann-{number}"), 200),
        *deadly,
    )
    await _paid(provider, bobs, f"bob-{number}", "purchased")
    return int(drop_id)


async def _hold(service: Service, drop_id: int, buyer: str, number: int) -> dict[str, Any]:
    """A hold whose payment has begun. Bob's begins when Ann's time is up."""
    key = f"{buyer}-{number}"
    reply = await _insist(lambda: service.reserve(drop_id, buyer, key), 201)
    hold: dict[str, Any] = reply.json
    path, body = f"/reservations/{hold['id']}/pay", {"userId": buyer}
    # On a busy machine its second may be over before its payment begins.
    await _insist(
        lambda: service.send("POST", path, body, {"idempotency-key": f"{key}-pay"}), 200, 410
    )
    return hold


async def _paid(provider: Provider, hold: dict[str, Any], reference: str, outcome: str) -> None:
    """The same word several times at once; each answer says the same."""
    replies = await asyncio.gather(
        *(_insist(lambda: provider.says("succeeded", hold, reference), 200) for _ in range(COPIES))
    )
    told = [reply.json["outcome"] for reply in replies]
    assert set(told) == {outcome}, (reference, told, replies[0].body)


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_who_pays_last_gets_the_money_back_in_many_rounds_with_killed_workers(
    service: Service, settings: Settings
) -> None:
    provider, killer = Provider(service), Killer(service)
    drops: list[int] = []
    for first in range(0, ROUNDS, AT_ONCE):
        rounds = (_round(service, provider, killer, first + n) for n in range(AT_ONCE))
        drops += await asyncio.gather(*rounds)

    assert killer.killed == -(-ROUNDS // KILL_EVERY)
    database = await asyncpg.connect(settings.database_url)
    bought = await database.fetch("SELECT drop_id, buyer, payment_reference FROM purchases")
    owed = await database.fetch("SELECT drop_id, buyer, reference, reason, verified FROM refunds")
    paid = await database.fetch("SELECT reference, status::text, outcome FROM payments")
    await database.close()
    assert sorted(row["drop_id"] for row in bought) == sorted(drops), "one purchase a drop"
    assert sorted(row["drop_id"] for row in owed) == sorted(drops), "one refund due a drop"
    assert {row["buyer"] for row in bought} == {"bob"}
    assert {(row["buyer"], row["reason"], row["verified"]) for row in owed} == {
        ("ann", "sold_out", True)
    }
    outcomes = Counter((row["reference"][:3], row["status"], row["outcome"]) for row in paid)
    assert outcomes == {
        ("bob", "succeeded", "purchased"): ROUNDS,
        ("ann", "succeeded", "refund_due"): ROUNDS,
    }
    without_unit = {row["reference"] for row in paid if row["outcome"] == "purchased"} - {
        row["payment_reference"] for row in bought
    }
    charged_twice = Counter(row["payment_reference"] for row in bought).most_common(1)[0][1] - 1
    assert (without_unit, charged_twice) == (set(), 0)
    for drop_id in drops:
        assert (await service.audit(drop_id))["clean"]
    print(
        f"\n{ROUNDS} rounds, {killer.killed} workers killed: {len(bought)} purchases, {len(owed)}"
        f" refunds due, {len(without_unit)} paid without a unit, {charged_twice} charged twice"
    )
