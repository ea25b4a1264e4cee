"""/metrics: who may read it, what it says, and that it says what it can when a server is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from engine.identity import apikeys, tokens
from engine.infra.metrics import DROPS_MAX, METRICS
from engine.infra.settings import Settings
from engine.pages import metrics as page
from engine.runtime import Ground
from engine.sale import vitals
from loadtest.chaos.pgproxy import PgProxy
from loadtest.chaos.proxy import Proxy
from tests.support.ghosts import admit
from tests.support.keeping import Keeping
from tests.support.scrape import LOOPBACK, Scrape, scrape
from tests.support.service import Service
from tests.support.shop import Shop
from tests.support.wait import wait_until

SECRET = "a secret of the tests, 32 bytes long."


@pytest.fixture(autouse=True)
def _every_reading_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "FRESH_SECONDS", 0.0)


@pytest.fixture
async def guarded(settings: Settings) -> AsyncIterator[Shop]:
    """A worker with AUTH=required."""
    given = msgspec.structs.replace(
        settings, auth="required", jwt_secret=SECRET, hmac_secret=SECRET
    )
    async with Shop.open(given) as shop:
        yield shop


# ── who may read it ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("client", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
async def test_whoever_asks_from_this_machine_may_read(guarded: Shop, client: str) -> None:
    assert (await guarded.visit("GET", "/metrics", client=client)).status == 200


@pytest.mark.parametrize("client", ["10.0.0.7", "::2", "127.evil", "1127.0.0.1", "", None])
async def test_a_stranger_may_not(guarded: Shop, client: str | None) -> None:
    reply = await guarded.visit("GET", "/metrics", client=client)

    assert (reply.status, reply.error) == (401, "UNAUTHORIZED")


@pytest.mark.parametrize(
    "header",
    [
        *("x-forwarded-for", "forwarded", "x-real-ip", "via", "x-forwarded-host", "origin"),
        "X-Forwarded-For",
    ],
)
async def test_a_stranger_behind_a_proxy_next_door_may_not(guarded: Shop, header: str) -> None:
    reply = await guarded.visit("GET", "/metrics", headers={header: "127.0.0.1"}, client=LOOPBACK)

    assert reply.status == 401


async def test_a_web_page_that_rebound_its_name_may_not(guarded: Shop) -> None:
    reply = await guarded.visit("GET", "/metrics", headers={"host": "evil.test"}, client=LOOPBACK)

    assert reply.status == 401


@pytest.mark.parametrize(
    ("scopes", "status"), [(["metrics"], 200), (["admin"], 200), (["sale:read", "identity"], 403)]
)
async def test_a_key_needs_the_scope(
    guarded: Shop, ground: Ground, scopes: list[str], status: int
) -> None:
    key = await apikeys.create(ground.postgres, "prometheus", scopes)

    for client in ("10.0.0.7", LOOPBACK):
        reply = await guarded.visit("GET", "/metrics", headers={"x-api-key": key}, client=client)
        assert reply.status == status


@pytest.mark.parametrize(("role", "status"), [("admin", 200), ("buyer", 403)])
async def test_an_admins_token_may_and_a_buyers_may_not(
    guarded: Shop, role: str, status: int
) -> None:
    bearer = {"authorization": f"Bearer {tokens.create(SECRET, 'ann', 60, role)}"}

    assert (await guarded.visit("GET", "/metrics", headers=bearer)).status == status


async def test_it_stands_at_the_root_alone(shop: Shop) -> None:
    assert (await shop.visit("GET", "/metrics", client=LOOPBACK)).status == 200
    assert (await shop.visit("GET", "/metrics/", client=LOOPBACK)).status == 200
    for mount in ("/api", "/api/v1"):
        assert (await shop.visit("GET", f"{mount}/metrics", client=LOOPBACK)).status == 404
    assert (await shop.visit("POST", "/metrics", client=LOOPBACK)).status == 405


# ── what it says ─────────────────────────────────────────────────────────────────────────────────


async def test_a_sale_is_counted(shop: Shop) -> None:
    before = await scrape(shop)
    drop_id = await shop.open_drop(3, maxPerBuyer=3)
    held = await shop.reserve(drop_id, "ann", "anns key", 2)
    await shop.reserve(drop_id, "ann", "anns key", 2)
    await shop.confirm(held.json["id"], "ann", "to buy")
    await shop.confirm(held.json["id"], "ann", "to buy")
    other = await shop.reserve(drop_id, "bob")
    for number in range(5):
        assert (await shop.reserve(drop_id, f"c{number}")).error == "SOLD_OUT"
    await shop.release(other.json["id"], "bob")

    after = await scrape(shop)

    def rose(name: str, **labels: str) -> float:
        return after.value(name, **labels) - before.value(name, **labels)

    assert rose("holds_total") == 2
    assert rose("held_units_total") == 3
    assert rose("purchases_total") == 1
    assert rose("releases_total") == 1
    assert rose("replays_total", operation="reserve") == 1
    assert rose("replays_total", operation="purchase") == 1
    assert rose("requests_total", operation="reserve", status="201") == 3
    assert rose("requests_total", operation="reserve", status="409") == 5
    assert rose("refusals_total", operation="reserve", code="SOLD_OUT") == 5
    assert 0 < rose("memory_refusals_total") < 5
    assert rose("request_seconds_count", operation="reserve") == 8
    assert 0 < rose("request_seconds_sum", operation="reserve") < 30
    assert rose("request_seconds_bucket", operation="reserve", le="+Inf") == 8
    assert rose("batch_requests_count", combiner="purchase") == 2
    assert {
        state: after.value("stock_units", drop=str(drop_id), state=state)
        for state in ("free", "held", "sold", "withdrawn")
    } == {"free": 1, "held": 0, "sold": 2, "withdrawn": 0}


async def test_expired_holds_are_counted_and_then_no_longer_overdue(
    shop: Shop, settings: Settings
) -> None:
    before = await scrape(shop)
    drop_id = await shop.open_drop(1, holdSeconds=1)
    await shop.reserve(drop_id, "ann")

    async def overdue() -> bool:
        return (await scrape(shop)).value("expiry_lag_seconds") > 0.2

    async def swept() -> bool:
        now = await scrape(shop)
        return (
            now.value("expiries_total") - before.value("expiries_total") == 1
            and now.value("expiry_lag_seconds") == 0
        )

    await wait_until(overdue, "nobody sweeps, and it shows")
    async with Keeping(settings):
        await wait_until(swept, "it is swept, and that shows")


async def test_what_a_dead_worker_left_is_seen_and_its_end_too(
    shop: Shop, ground: Ground, settings: Settings
) -> None:
    drop_id = await shop.open_drop(5, maxPerBuyer=2)
    await shop.reserve(drop_id, "ann")
    ghost = "01932c5e-7a40-7c55-8d5c-3f2b1a0c9d8e"
    await admit(ground, drop_id, [(ghost, 2, "eve")])
    drop = str(drop_id)

    seen = await scrape(shop)
    assert seen.value("open_intents", drop=drop) == 1
    assert seen.value("undersell_units", drop=drop) == 0, "it may be on its way"

    async def too_old() -> bool:
        now = await scrape(shop)
        return (
            now.value("oldest_intent_seconds", drop=drop) > 5
            and now.value("undersell_units", drop=drop) == 2
        )

    async def gone() -> bool:
        now = await scrape(shop)
        return (
            now.value("open_intents", drop=drop) == 0
            and now.value("undersell_units", drop=drop) == 0
            and now.value("intents_reaped_total") > seen.value("intents_reaped_total")
        )

    await wait_until(too_old, "it is too old")
    async with Keeping(settings):
        await wait_until(gone, "the reaper has been here")


async def test_what_nobody_told_the_bouncer_shows_as_lag(
    shop: Shop, ground: Ground, settings: Settings
) -> None:
    drop_id = await shop.open_drop(5)
    hold = await shop.reserve(drop_id, "ann")
    statement = "UPDATE stock SET version = version + 3 WHERE drop_id = $1"
    async with ground.postgres.session() as session:
        await session._connection.execute(statement, drop_id)

    async def behind() -> bool:
        now = await scrape(shop)
        return (
            now.value("publish_lag_versions", drop=str(drop_id)) == 3
            and now.value("publish_lag_seconds", drop=str(drop_id)) > 0
        )

    async def told() -> bool:
        return (await scrape(shop)).value("publish_lag_versions", drop=str(drop_id)) == 0

    assert hold.status == 201
    await wait_until(behind, "the bouncer is behind")
    async with Keeping(settings):
        await wait_until(told, "the reconciler has told it")


async def test_two_workers_answer_with_the_same_sums(service: Service) -> None:
    drop_id = await service.open_drop(10)
    for number in range(10):
        assert (await service.reserve(drop_id, f"b{number}")).status == 201
    service.crowd._prefix = ""

    async def summed() -> bool:
        replies = [await service.crowd.send("GET", "/metrics") for _ in range(4)]
        await service.crowd.close()  # the next ones reach who they reach
        found = [Scrape(reply.body) for reply in replies]
        return all(
            each.value("holds_total") == 10
            and each.value("processes", kind="worker") == 2
            and each.value("processes", kind="keeper") == 1
            and each.value("keepers") == 1
            and each.value("pool_connections") == 24
            and each.has("keeper_round_age_seconds", keeper="sweeper")
            for each in found
        )

    for _ in range(5):
        await wait_until(summed, "any worker tells of all")

    await service.kill(service.workers[0])
    service.workers.pop(0)

    async def still_summed() -> bool:
        reply = await service.crowd.send("GET", "/metrics")
        found = Scrape(reply.body)
        assert found.value("holds_total") == 10, "what the dead counted stays"
        return found.value("processes", kind="worker") == 1

    await wait_until(still_summed, "one worker less")


# ── bounded ──────────────────────────────────────────────────────────────────────────────────────


async def test_strangers_cannot_invent_labels(shop: Shop) -> None:
    await scrape(shop)
    before = set((await scrape(shop)).samples)
    for number in range(30):
        await shop.send("GET", f"/drops/{900_000 + number}")
        await shop.visit("GET", f"/nothing/{number}")
        await shop.visit("DELETE", f"/api/v1/drops/{number}")
        await shop.reserve(900_000 + number, f"buyer {number}")
    once = set((await scrape(shop)).samples)
    for number in range(30, 300):
        await shop.send("GET", f"/drops/{900_000 + number}")
        await shop.visit("GET", f"/nothing/{number}")
        await shop.visit("DELETE", f"/api/v1/drops/{number}")
        await shop.reserve(900_000 + number, f"buyer {number}")

    assert set((await scrape(shop)).samples) == once
    assert len(once - before) < 120
    assert "900" not in str([labels for _, labels in once])


async def test_of_many_drops_those_that_changed_last_are_shown(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vitals, "DROPS_MAX", 2)
    first, *_ = drops = [await shop.open_drop(1) for _ in range(4)]
    await shop.reserve(first, "ann")

    now = await scrape(shop)

    shown = {d for d in drops if now.has("stock_units", drop=str(d), state="free")}
    assert shown == {first, drops[-1]}
    assert now.value("warm_drops") == 4
    assert DROPS_MAX == 50


async def test_a_crowd_of_readers_costs_one_look(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "FRESH_SECONDS", 60.0)
    looks, look = 0, vitals.look

    async def counted(*given: object) -> object:
        nonlocal looks
        looks += 1
        return await look(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(vitals, "look", counted)

    await asyncio.gather(*(scrape(shop) for _ in range(100)))

    assert looks == 1


async def test_labels_and_kinds_are_those_of_the_list(shop: Shop, settings: Settings) -> None:
    drop_id = await shop.open_drop(1)
    await shop.reserve(drop_id, "ann")

    async def complete() -> Scrape | None:
        now = await scrape(shop)
        return now if now.has("keeper_round_age_seconds", keeper="auditor") else None

    async with Keeping(settings):
        now = await wait_until(complete, "keepers have been round")

    assert now is not None
    assert list(now.families) == [f"velvetrope_{named.name}" for named in METRICS]
    for named in METRICS:
        family = now.families[f"velvetrope_{named.name}"]
        assert family.type == named.kind
        assert family.documentation == named.help
        found = {name for sample in family.samples for name in sample.labels} - {"le"}
        assert found <= set(named.labels)


# ── when a server is away ────────────────────────────────────────────────────────────────────────


async def test_without_redis_it_says_so_and_tells_the_rest(settings: Settings) -> None:
    async with Proxy.open(settings.redis_url) as proxy:
        through = msgspec.structs.replace(settings, redis_url=proxy.url)
        async with Shop.open(through) as shop:
            drop_id = await shop.open_drop(2)
            assert (await scrape(shop)).value("redis_up") == 1
            proxy.losing = True
            await proxy.cut()
            assert (await shop.reserve(drop_id, "ann")).status == 201

            now = await scrape(shop)

            assert now.value("redis_up") == 0
            assert now.value("postgres_up") == 1
            assert now.value("redis_away_processes") == 1
            assert now.value("direct_batches_total") > 0
            assert now.value("stock_units", drop=str(drop_id), state="held") == 1
            assert not now.has("drift_units", drop=str(drop_id)), "nobody knows"


async def test_without_postgres_it_says_so_and_tells_the_rest(settings: Settings) -> None:
    async with PgProxy.open(settings.database_url) as proxy:
        through = msgspec.structs.replace(settings, database_url=proxy.url)
        async with Shop.open(through) as shop:
            drop_id = await shop.open_drop(2)
            assert (await shop.reserve(drop_id, "ann")).status == 201
            proxy.refusing = True
            await proxy.cut()

            async def away() -> bool:
                return (await scrape(shop)).value("postgres_up") == 0

            await wait_until(away, "it is noticed")
            now = await scrape(shop)

            assert now.value("redis_up") == 1
            assert now.value("holds_total") > 0
            assert not now.has("warm_drops")


async def test_a_postgres_that_hangs_holds_nobody_up(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "LOOK_SECONDS", 0.05)
    looks, go_on = 0, asyncio.Event()

    async def hang(*_: object) -> dict[str, object]:
        nonlocal looks
        looks += 1
        await go_on.wait()
        return {}

    monkeypatch.setattr(vitals, "look", hang)

    readings = [await scrape(shop) for _ in range(3)]

    assert [each.value("postgres_up") for each in readings] == [0, 0, 0]
    assert all(each.has("redis_up") for each in readings)
    assert looks == 1, "one look hangs, not one a reading"
    go_on.set()
    await asyncio.sleep(0)
    assert (await scrape(shop)).value("postgres_up") == 1
