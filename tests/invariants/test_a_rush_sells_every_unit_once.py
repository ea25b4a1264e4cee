"""INV-1, INV-2, INV-3: five thousand buyers, a thousand units."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from tests.support.http import Reply
from tests.support.service import Service
from tests.support.wait import wait_until


async def _rush(service: Service, drop_id: int, buyers: int) -> list[Reply]:
    return await asyncio.gather(*(service.reserve(drop_id, f"buyer-{n}") for n in range(buyers)))


@pytest.mark.slow
async def test_5000_buyers_at_once_get_exactly_1000_distinct_units(service: Service) -> None:
    drop_id = await service.open_drop(1_000, holdSeconds=600)

    replies = await _rush(service, drop_id, 5_000)

    assert Counter(reply.status for reply in replies) == {201: 1_000, 409: 4_000}
    assert {reply.error for reply in replies if reply.status == 409} == {"SOLD_OUT"}
    units = [unit["id"] for reply in replies if reply.status == 201 for unit in reply.json["units"]]
    assert len(set(units)) == 1_000
    await wait_until(lambda: service.settled(drop_id), "the audit is clean and the bouncer exact")
    assert (await service.audit(drop_id))["held"] == 1_000


@pytest.mark.at_length
@pytest.mark.slow
async def test_when_half_abandon_every_unit_is_sold_in_the_end(service: Service) -> None:
    drop_id = await service.open_drop(1_000, holdSeconds=2)

    async def buyer(n: int) -> None:
        abandons = n % 2 == 0
        while True:
            reply = await service.reserve(drop_id, f"buyer-{n}")
            if reply.status == 201:
                if abandons:
                    return
                bought = await service.confirm(reply.json["id"], f"buyer-{n}")
                assert bought.status in (201, 410), bought.body
                if bought.status == 201:
                    return
            elif not reply.json["retryable"]:
                return
            else:
                assert reply.error in ("SOLD_OUT", "LIMIT_REACHED"), reply.body
                await asyncio.sleep(0.1)

    await asyncio.gather(*(buyer(n) for n in range(5_000)))

    await wait_until(lambda: service.settled(drop_id), "the audit is clean and the bouncer exact")
    audit = await service.audit(drop_id)
    assert (audit["free"], audit["held"], audit["sold"]) == (0, 0, 1_000)
