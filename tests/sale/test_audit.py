"""GET /drops/{id}/audit: live figures, units that are free and on no offer, the last count."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import msgspec
import pytest
import redis.asyncio

from engine.identity.tokens import create
from engine.infra.postgres import Postgres, Session
from engine.infra.settings import Settings
from engine.runtime import Ground
from engine.sale import audit as auditing
from engine.sale.models import Proof
from engine.sale.prove import prove
from tests.support.damage import DAMAGES, do, stage
from tests.support.ghosts import strand
from tests.support.keeping import Keeping, auditor_of
from tests.support.shop import Shop
from tests.support.wait import wait_until

NOTHING = {"units": 0, "seconds": 0.0}


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[redis.asyncio.Redis]:
    """Touches keys behind the bouncer's back."""
    opened = redis.asyncio.Redis.from_url(settings.redis_url)
    yield opened
    await opened.aclose()


async def _rising(shop: Shop, drop_id: int, units: int) -> None:
    """So many units are free and on nobody's offer, for longer and longer."""

    async def seen() -> float:
        undersell = (await shop.audit(drop_id))["undersell"]
        return float(undersell["seconds"]) if undersell["units"] == units else 0.0

    first = await wait_until(seen, f"{units} are not on offer")

    async def longer() -> bool:
        return await seen() >= first + 0.2

    await wait_until(longer, "it has been so for longer", seconds=5)


# ── undersell ────────────────────────────────────────────────────────────────────────────────────


async def test_while_all_is_well_every_free_unit_is_on_offer(shop: Shop) -> None:
    drop_id, _ = await stage(shop)

    audit = await shop.audit(drop_id)

    assert audit["undersell"] == NOTHING
    assert (audit["free"], audit["bouncer"]["available"], audit["drift"]) == (7, 7, 0)


async def test_units_on_their_way_are_on_offer_until_their_worker_is_taken_for_dead(
    shop: Shop, ground: Ground, settings: Settings
) -> None:
    drop_id, _ = await stage(shop)
    ground.bouncer._intent_ttl_ms = 1_500
    await strand(ground, drop_id, 3)
    audit = await shop.audit(drop_id)
    assert (audit["undersell"], audit["bouncer"]["openUnits"]) == (NOTHING, 3)

    await _rising(shop, drop_id, 3)

    long_ago = "UPDATE stock SET changed_at = now() - interval '1 hour' WHERE drop_id = $1"
    await do(settings.database_url, long_ago, drop_id)
    audit = await shop.audit(drop_id)
    assert 0 < audit["undersell"]["seconds"] < 60, "however long the drop was quiet before"
    assert audit["clean"] is True, "nothing is broken: it only costs sales"
    assert audit["bouncer"]["oldestIntentMs"] > 0
    async with Keeping(settings, reaper_ms=50):
        await wait_until(lambda: shop.settled(drop_id), "the reaper came by")
    assert (await shop.audit(drop_id))["undersell"] == NOTHING


async def test_a_bouncer_that_offers_less_than_there_is_undersells(
    shop: Shop, ground: Ground, client: redis.asyncio.Redis
) -> None:
    drop_id, _ = await stage(shop)
    await client.hincrby(ground.bouncer._key(drop_id, "drop"), "free", -4)

    await _rising(shop, drop_id, 4)

    audit = await shop.audit(drop_id)
    assert (audit["free"], audit["drift"]) == (7, -4)


async def test_a_bouncer_that_offers_more_than_there_is_undersells_nothing(
    shop: Shop, ground: Ground, client: redis.asyncio.Redis
) -> None:
    drop_id, _ = await stage(shop)
    await client.hincrby(ground.bouncer._key(drop_id, "drop"), "free", 4)

    audit = await shop.audit(drop_id)

    assert (audit["undersell"], audit["drift"]) == (NOTHING, 4)


@pytest.mark.parametrize(
    ("field", "value"), [("shut", "admin"), ("starts_ms", 4_102_444_800_000), ("ends_ms", 1)]
)
async def test_a_bouncer_that_lets_nobody_in_while_the_drop_is_live_undersells_all_of_it(
    shop: Shop, ground: Ground, client: redis.asyncio.Redis, field: str, value: str | int
) -> None:
    """It goes by terms that are no longer the drop's, and its figures are right."""
    drop_id, _ = await stage(shop)
    key = ground.bouncer._key(drop_id, "drop")
    if field == "ends_ms":
        await client.hset(key, "starts_ms", 1)
    await client.hset(key, field, value)

    await _rising(shop, drop_id, 7)

    audit = await shop.audit(drop_id)
    assert (audit["status"], audit["drift"], audit["clean"]) == ("live", 0, True)
    assert (await shop.reserve(drop_id, "dan")).status == 409


@pytest.mark.parametrize("change", ["pause", "close", "startsAt", "withdraw"])
async def test_what_is_not_for_sale_is_not_undersold(
    shop: Shop, ground: Ground, client: redis.asyncio.Redis, change: str
) -> None:
    drop_id, _ = await stage(shop)
    if change == "startsAt":
        await shop.change(drop_id, startsAt="2190-01-01")
    elif change == "withdraw":
        await shop.change(drop_id, withdrawStock="all")
    else:
        await shop.send("POST", f"/drops/{drop_id}/{change}")
    await client.hincrby(ground.bouncer._key(drop_id, "drop"), "free", -4)

    assert (await shop.audit(drop_id))["undersell"] == NOTHING


async def test_without_a_bouncer_postgres_offers_all(
    shop: Shop, client: redis.asyncio.Redis
) -> None:
    drop_id, _ = await stage(shop)
    await client.flushall()

    audit = await shop.audit(drop_id)

    assert (audit["bouncer"], audit["drift"], audit["undersell"]) == (None, None, NOTHING)
    assert (audit["clean"], audit["free"]) == (True, 7)


# ── the last count ───────────────────────────────────────────────────────────────────────────────


async def _proven(shop: Shop, drop_id: int) -> datetime:
    return datetime.fromisoformat((await shop.audit(drop_id))["provenAt"])


async def test_an_audit_counts_every_row_of_a_small_drop(shop: Shop, settings: Settings) -> None:
    drop_id, _ = await stage(shop)
    first = await _proven(shop, drop_id)

    async def counted_again() -> bool:
        return await _proven(shop, drop_id) > first

    await wait_until(counted_again, "it was counted anew")
    await do(settings.database_url, DAMAGES[0].harm, drop_id)
    assert (await shop.audit(drop_id))["clean"] is False


async def test_however_many_ask_the_rows_are_counted_once_in_five_seconds(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[str] = []
    call = Session.call

    async def noted(self: Session, query: Any, **words: Any) -> Any:
        counted.extend([query.name] if query.name == "count_units" else [])
        return await call(self, query, **words)

    monkeypatch.setattr(Session, "call", noted)
    assert Settings().recount_seconds == 5
    async with Shop.open(msgspec.structs.replace(settings, recount_seconds=5)) as shop:
        drop_id, _ = await stage(shop)

        audits = await asyncio.gather(*(shop.audit(drop_id) for _ in range(50)))
        await shop.reserve(drop_id, "dan")
        later = await shop.audit(drop_id)

    assert len(counted) == 1
    assert len({audit["provenAt"] for audit in (*audits, later)}) == 1
    assert (audits[0]["held"], later["held"]) == (2, 3), "the figures are live"


async def test_strangers_who_ask_for_audits_do_not_keep_an_operator_from_pausing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody may ask, one count runs at a time, and whoever waits for it has a turn in hand."""
    counting, enough = asyncio.Event(), asyncio.Event()

    async def slow(postgres: Postgres, drop_id: int) -> Proof | None:
        async with postgres.session():
            counting.set()
            await enough.wait()
        return await prove(postgres, drop_id)

    monkeypatch.setattr(auditing, "prove", slow)
    async with Shop.open(msgspec.structs.replace(settings, recount_seconds=5)) as shop:
        ids = [await shop.open_drop(1) for _ in range(12)]
        crowd = [asyncio.create_task(shop.audit(ids[n % 12])) for n in range(60)]
        await counting.wait()

        async with asyncio.timeout(2):
            for verb, status in (("pause", "paused"), ("resume", "live"), ("close", "ended")):
                reply = await shop.send("POST", f"/drops/{ids[0]}/{verb}")
                assert (reply.status, reply.json["status"]) == (200, status)

        assert not any(each.done() for each in crowd)
        enough.set()
        assert all(audit["clean"] for audit in await asyncio.gather(*crowd))


async def test_a_large_drop_is_proven_by_the_auditor(
    shop: Shop, ground: Ground, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditing, "LARGE", 9)
    drop_id, _ = await stage(shop)
    audit = await shop.audit(drop_id)
    assert (audit["provenAt"], audit["clean"]) == (None, True)
    keeper = auditor_of(ground)

    await keeper.work()
    first = await _proven(shop, drop_id)
    assert await _proven(shop, drop_id) == first
    await do(settings.database_url, DAMAGES[0].harm, drop_id)
    assert (await shop.audit(drop_id))["clean"] is True, "as of the last count"
    await keeper.work()

    assert await _proven(shop, drop_id) > first
    assert (await shop.audit(drop_id))["problems"][0].startswith("INV-2")


async def test_a_hold_that_nobody_sweeps_shows_for_how_long(shop: Shop) -> None:
    drop_id = await shop.open_drop(1, holdSeconds=1)
    await shop.reserve(drop_id, "ann")
    assert (await shop.audit(drop_id))["overdueSeconds"] == 0

    async def overdue() -> bool:
        return float((await shop.audit(drop_id))["overdueSeconds"]) > 0.2

    await wait_until(overdue, "it is overdue")
    assert (await shop.audit(drop_id))["clean"] is True


async def test_everybody_hears_what_is_wrong_and_only_operators_whose_it_is(
    settings: Settings,
) -> None:
    secret = "0123456789abcdef" * 2
    closed = msgspec.structs.replace(
        settings, auth="required", jwt_secret=secret, hmac_secret=secret[::-1]
    )
    async with Shop.open(settings) as opened:
        drop_id, _ = await stage(opened)
    await do(
        settings.database_url,
        "UPDATE allowances SET buyer = 'eve' WHERE drop_id = $1 AND buyer = 'cat'",
        drop_id,
    )
    async with Shop.open(closed) as shop:
        admin = {"authorization": f"Bearer {create(secret, 'boss', 60, 'admin')}"}
        public = await shop.send("GET", f"/drops/{drop_id}/audit")
        told = await shop.send("GET", f"/drops/{drop_id}/audit", headers=admin)

    assert public.json["clean"] is told.json["clean"] is False
    assert public.json["offenders"] == []
    assert not any(name in public.body for name in (b"cat", b"eve"))
    assert told.json["offenders"] == [
        "cat owns 1, is counted with 0",
        "eve owns 0, is counted with 1",
    ]
