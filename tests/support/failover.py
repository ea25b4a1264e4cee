"""A sale that lives through a failover, and what has to be true of it afterwards."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg

from engine.infra.settings import Settings
from engine.ops.devstack import Server
from loadtest.chaos.standby import ask
from tests.support.http import Crowd, Reply
from tests.support.scrape import Scrape
from tests.support.service import Service
from tests.support.shop import Shop
from tests.support.wait import wait_until

UNITS = 20_000
# Counts the epochs in the database itself; the count is replicated with everything else.
COUNT_EPOCHS = """
CREATE TABLE epochs_begun (epoch bigint);
CREATE FUNCTION count_epoch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO epochs_begun VALUES (new.epoch); RETURN NULL; END $$;
CREATE TRIGGER count_epoch AFTER UPDATE OF epoch ON engine_state
    FOR EACH ROW EXECUTE FUNCTION count_epoch();
"""
EPOCHS = "SELECT array_agg(epoch) FROM epochs_begun"
HOLDS = "SELECT array_agg(id::text) FROM reservations WHERE state = 'active'"
HELD = "SELECT held FROM stock"


@asynccontextmanager
async def sale(settings: Settings, folder: Path) -> AsyncIterator[tuple[Service, int]]:
    """Two workers, two keepers and a large drop."""
    async with Service.open(settings, folder, keepers=2) as service:
        drop_id = await service.open_drop(UNITS, holdSeconds=600)

        async def filled() -> bool:
            return (await service.stock(drop_id))["availableStock"] == UNITS

        await wait_until(filled, "all units are on the shelf")
        yield service, drop_id


async def sells_again(shop: Shop, drop_id: int, since: float, seconds: float = 8.0) -> float:
    """Seconds from `since` until somebody buys."""

    async def sells() -> bool:
        return (await shop.reserve(drop_id, f"after-{time.monotonic_ns()}")).status == 201

    await wait_until(sells, "the sale goes on", seconds=seconds - (time.monotonic() - since))
    return time.monotonic() - since


def promised_by(replies: list[Reply]) -> dict[str, Reply]:
    return {reply.json["id"]: reply for reply in replies if reply.status == 201}


def never_twice(replies: list[Reply], surviving: set[str]) -> None:
    """No two of the holds that are there have a unit in common."""
    there = [reply for id, reply in promised_by(replies).items() if id in surviving]
    units = Counter(unit["id"] for reply in there for unit in reply.json["units"])
    assert there
    assert max(units.values()) == 1, "a unit was sold twice in one history"


def lines(service: Service, event: str) -> list[dict[str, Any]]:
    said = [json.loads(line) for line in service.log().splitlines() if line.startswith("{")]
    return [line for line in said if line["event"] == event]


async def one_epoch(service: Service, server: Server) -> None:
    """It was begun once, and every process that knew the old one knows this one."""
    assert len(begun := await ask(server, EPOCHS)) == 1, begun

    async def everybody_knows() -> bool:
        told = lines(service, "postgres.epoch")
        return len(told) >= len(service.workers) + len(service.keepers)

    await wait_until(everybody_knows, "workers and keepers have met the new primary", seconds=8)
    assert {line["epoch"] for line in lines(service, "postgres.epoch")} == set(begun)


async def figures_of(service: Service) -> Scrape:
    crowd = Crowd(f"http://127.0.0.1:{service.port}")
    reply = await crowd.send("GET", "/metrics")
    await crowd.close()
    return Scrape(reply.body)


async def execute(server: Server, statements: str) -> None:
    database = await asyncpg.connect(server.url)
    await database.execute(statements)
    await database.close()
