"""What /health says: whether we serve, with whom, and what an operator should do about it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import msgspec
import pytest

from engine.infra.health import SAID
from engine.infra.settings import Settings
from loadtest.chaos.pgproxy import PgProxy
from loadtest.chaos.proxy import Proxy
from tests.support.keeping import Keeping
from tests.support.shop import Shop
from tests.support.wait import wait_until


class Site(msgspec.Struct, frozen=True):
    """A worker with a proxy before each of its servers, so that either can go away."""

    shop: Shop
    settings: Settings
    redis: Proxy
    postgres: PgProxy

    async def lose_redis(self) -> None:
        """It answers nobody."""
        self.redis.losing = True
        await self.redis.cut()

    async def lose_postgres(self) -> None:
        """It lets nobody in."""
        self.postgres.refusing = True
        await self.postgres.cut()

    async def health(self) -> tuple[int, dict[str, Any]]:
        """Status, and the body without its time stamp, which must be now."""
        reply = await self.shop.send("GET", "/health")
        told = reply.json
        age = datetime.now(UTC) - datetime.fromisoformat(told.pop("timestamp"))
        assert timedelta(seconds=-1) < age < timedelta(seconds=5)
        return reply.status, told

    async def wait_for(self, status: str, **parts: str) -> dict[str, Any]:
        """What is said once this is so."""

        async def so() -> dict[str, Any] | None:
            code, told = await self.health()
            assert code == (503 if told["status"] == "unhealthy" else 200)
            return told if told | parts | {"status": status} == told else None

        told = await wait_until(so, f"{status} {parts}", seconds=15)
        assert told is not None
        return told


@pytest.fixture
async def site(settings: Settings) -> AsyncIterator[Site]:
    """One worker."""
    async with (
        Proxy.open(settings.redis_url) as redis,
        PgProxy.open(settings.database_url) as postgres,
    ):
        through = msgspec.structs.replace(settings, redis_url=redis.url, database_url=postgres.url)
        async with Shop.open(through) as shop:
            yield Site(shop, settings, redis, postgres)


async def test_with_everybody_there_all_is_well(site: Site) -> None:
    async with Keeping(site.settings):
        told = await site.wait_for("ok")

    assert told == {
        "status": "ok",
        "message": SAID["ok"],
        "database": "ok",
        "redis": "ok",
        "keepers": "ok",
    }


async def test_without_a_keeper_it_is_degraded_and_says_what_to_start(site: Site) -> None:
    code, told = await site.health()

    assert (code, told["status"], told["keepers"]) == (200, "degraded", "away")
    assert told["message"] == SAID["no_keeper"]
    assert "velvetrope keep" in told["message"]
    assert (told["database"], told["redis"]) == ("ok", "ok")


async def test_a_keeper_that_beats_no_more_is_away_after_5_s(site: Site) -> None:
    """It left its row behind; the row's age is set by hand."""
    async with Keeping(site.settings):
        await site.wait_for("ok")
    database = await asyncpg.connect(site.settings.database_url)
    aged = "UPDATE keepers SET beat_at = clock_timestamp() - make_interval(secs => $1)"

    await database.execute(aged, 4)
    assert (await site.health())[1]["keepers"] == "ok"
    await database.execute(aged, 5.1)
    assert (await site.health())[1]["keepers"] == "away"

    await database.execute(aged, 2 * 3_600)
    async with Keeping(site.settings):
        await site.wait_for("ok")
    assert await database.fetchval("SELECT count(*) FROM keepers") == 1, "the dead are forgotten"
    await database.close()


async def test_without_redis_it_is_degraded_and_sells(site: Site) -> None:
    drop_id = await site.shop.open_drop(1)
    async with Keeping(site.settings):
        await site.wait_for("ok")
        await site.lose_redis()

        told = await site.wait_for("degraded", redis="away")
        assert told["message"] == SAID["no_redis"]
        assert (told["database"], told["keepers"]) == ("ok", "ok")
        assert (await site.shop.send("GET", "/health/ready")).status == 200
        assert (await site.shop.reserve(drop_id, "ann")).status == 201

        site.redis.losing = False
        await site.wait_for("ok")


async def test_without_redis_and_keepers_both_are_said(site: Site) -> None:
    await site.lose_redis()

    told = await site.wait_for("degraded", redis="away", keepers="away")

    assert told["message"] == f"{SAID['no_redis']} {SAID['no_keeper']}"


async def test_without_postgres_it_is_unhealthy_and_alive(site: Site) -> None:
    await site.lose_postgres()

    told = await site.wait_for("unhealthy", database="away", redis="ok")
    ready = await site.shop.send("GET", "/health/ready")

    assert told["message"] == SAID["unhealthy"]
    assert (ready.status, ready.json) == (503, {"status": "unhealthy"})
    assert (await site.shop.send("GET", "/health/live")).status == 200
    site.postgres.refusing = False
    await site.wait_for("degraded", database="ok")
