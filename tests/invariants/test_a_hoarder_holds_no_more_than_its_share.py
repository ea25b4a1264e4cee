"""A bot with 1 % of the traffic that never pays holds at most 1 % of the stock for more than one
hold time, where the drop has a cool-down; and far more for good where it has none."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable
from pathlib import Path

import asyncpg
import pytest

from engine.infra.settings import Settings
from tests.support.http import Reply
from tests.support.service import Service

STOCK, HOLD_SECONDS, SECONDS = 1_000, 2, 10
ACCOUNTS, BOTS = 400, 4  # 1 % of the accounts, which ask as often as all the others
EACH = 10  # units a buyer may have
PAUSE_SECONDS = 0.4  # between two requests of one account
SHARE = STOCK // 100
FACTOR = 2

Sample = tuple[float, int]


class Crowd:
    """Accounts that ask, each at its own pace, and how often they did."""

    def __init__(self, service: Service, drop_id: int) -> None:
        self._service, self._drop_id = service, drop_id
        self.until = time.monotonic() + SECONDS
        self.asked: Counter[str] = Counter()
        self.told: Counter[str] = Counter()

    async def bot(self, name: str) -> None:
        """As many units as it may have, again and again; never a purchase."""
        while await self._rest():
            reply = await self._count("bot", self._service.reserve(self._drop_id, name, None, EACH))
            self.told["held" if reply.status == 201 else reply.error] += 1

    async def person(self, name: str) -> None:
        """Reserves one and buys it, or in one case of ten lets it run out; else looks on."""
        dice = random.Random(name)
        wants = dice.random() < 0.02  # at each visit, until it has one
        while await self._rest():
            if not wants:
                path = f"/drops/{self._drop_id}/stock"
                await self._count("people", self._service.send("GET", path))
                wants = wants or dice.random() < 0.1
                continue
            hold = await self._count("people", self._service.reserve(self._drop_id, name))
            wants = False
            if hold.status == 201 and dice.random() < 0.9 and await self._rest():
                bought = self._service.confirm(hold.json["id"], name)
                assert (await self._count("people", bought)).status == 201

    async def _rest(self) -> bool:
        await asyncio.sleep(PAUSE_SECONDS * random.uniform(0.5, 1.5))
        return time.monotonic() < self.until

    async def _count(self, who: str, asking: Awaitable[Reply]) -> Reply:
        self.asked[who] += 1
        return await asking


async def _watch(settings: Settings, drop_id: int, until: float) -> list[Sample]:
    """What the bot holds, twenty times a second, from Postgres."""
    connection = await asyncpg.connect(settings.database_url)
    seen: list[Sample] = []
    while time.monotonic() < until:
        held = await connection.fetchval(
            "SELECT coalesce(sum(quantity), 0) FROM reservations WHERE drop_id = $1"
            " AND buyer LIKE 'bot-%' AND state IN ('active', 'paying')"
            " AND expires_at > clock_timestamp()",
            drop_id,
        )
        seen.append((time.monotonic(), int(held)))
        await asyncio.sleep(0.05)
    await connection.close()
    return seen


def _longest_above_its_share(seen: list[Sample]) -> float:
    """Seconds without a break above 1 %, after the first hold time is over."""
    first = next(at for at, held in seen if held)
    longest, began = 0.0, None
    for at, held in seen:
        if held <= SHARE or at < first + HOLD_SECONDS:
            began = None
            continue
        began = at if began is None else began
        longest = max(longest, at - began)
    return longest


@pytest.mark.at_length
@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "factor",
    [
        pytest.param(FACTOR, id="with a cool-down"),
        pytest.param(0, id="without, for comparison", marks=pytest.mark.at_length),
    ],
)
async def test_a_bot_with_a_hundredth_of_the_traffic_holds_at_most_a_hundredth_of_the_stock(
    settings: Settings, tmp_path: Path, factor: int
) -> None:
    async with Service.open(settings, tmp_path) as service:
        terms = {"holdSeconds": HOLD_SECONDS, "maxPerBuyer": EACH, "cooldownFactor": factor}
        drop_id = await service.open_drop(STOCK, **terms)
        crowd = Crowd(service, drop_id)

        watching = asyncio.create_task(_watch(settings, drop_id, crowd.until))
        await asyncio.gather(
            *(crowd.bot(f"bot-{n}") for n in range(BOTS)),
            *(crowd.person(f"person-{n}") for n in range(ACCOUNTS - BOTS)),
        )
        seen = await watching
        audit = await service.audit(drop_id)

    traffic = crowd.asked["bot"] / crowd.asked.total()
    longest = _longest_above_its_share(seen)
    mean, most = sum(held for _, held in seen) / len(seen), max(held for _, held in seen)
    print(
        f"factor {factor}: {traffic:.1%} of {crowd.asked.total():,} requests are the bot's, it"
        f" holds {most / STOCK:.1%} at most, {mean / STOCK:.1%} on average; after the"
        f" first hold time of {HOLD_SECONDS} s above 1 % for {longest:.2f} s at most;"
        f" people bought {audit['sold']}; the bot was told {dict(crowd.told)}"
    )
    assert audit["clean"], audit["problems"]
    assert len(seen) > SECONDS * 8, "sampled too seldom to say anything"
    assert 0.005 < traffic < 0.015
    assert most > SHARE, "it did not even try"
    assert audit["free"] > 0, "nobody was kept from anything by an empty shelf"
    if factor:
        assert longest <= HOLD_SECONDS
    else:  # a scenario in which nobody hoards proves nothing
        assert mean > 2 * SHARE
        assert sum(held > SHARE for _, held in seen) > len(seen) / 2
