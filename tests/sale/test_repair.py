"""POST /drops/{id}/reconcile: what the keepers would do in time, now; or only what it would be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import msgspec
import pytest
import redis.asyncio

from engine.infra.settings import Settings
from engine.runtime import Ground
from engine.sale import audit, repair
from loadtest.chaos.proxy import Proxy
from tests.support.damage import DAMAGES, do, stage
from tests.support.ghosts import admit, strand
from tests.support.keeping import auditor_of
from tests.support.shop import Shop
from tests.support.wait import wait_until


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[redis.asyncio.Redis]:
    """Touches keys behind the bouncer's back."""
    opened = redis.asyncio.Redis.from_url(settings.redis_url)
    yield opened
    await opened.aclose()


async def _reconcile(shop: Shop, drop_id: int, query: str = "") -> dict[str, Any]:
    reply = await shop.send("POST", f"/drops/{drop_id}/reconcile{query}")
    assert reply.status == 200, reply.body
    told: dict[str, Any] = reply.json
    assert told["dropId"] == drop_id
    assert told["dryRun"] == bool(query)
    return told


def _found(told: dict[str, Any]) -> dict[str, int]:
    return {each["action"]: each["count"] for each in told["found"]}


async def _stale(ground: Ground, drop_id: int, count: int) -> None:
    """So many intents of a worker that died, already past their deadline."""
    kept, ground.bouncer._intent_ttl_ms = ground.bouncer._intent_ttl_ms, 1
    await strand(ground, drop_id, count)
    ground.bouncer._intent_ttl_ms = kept

    async def stale() -> bool:
        return len(await ground.bouncer.stale_intents(drop_id, 100)) == count

    await wait_until(stale, "they are past their deadline")


async def _overdue(shop: Shop, drop_id: int, buyer: str) -> None:
    """A hold that ran out and that nobody swept."""
    await shop.change(drop_id, holdSeconds=1)
    hold = (await shop.reserve(drop_id, buyer)).json

    async def is_over() -> bool:
        shown = (await shop.send("GET", f"/reservations/{hold['id']}")).json
        return bool(shown["status"] == "expired")

    await wait_until(is_over, "its deadline has passed")


async def _everything(
    client: redis.asyncio.Redis, settings: Settings
) -> tuple[dict[bytes, object], dict[str, str]]:
    """Every key of Redis and every row of Postgres."""
    keys: dict[bytes, object] = {
        bytes(key): await client.dump(key) async for key in client.scan_iter()
    }
    database = await asyncpg.connect(settings.database_url)
    tables = await database.fetch(
        "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        " AND tablename <> 'audit_log'"  # that somebody asked is written down
    )
    rows = {}
    for (table,) in tables:
        digest = f"SELECT md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {table} AS t"
        rows[table] = str(await database.fetchval(digest))
    await database.close()
    return keys, rows


async def test_a_healthy_drop_needs_nothing(shop: Shop) -> None:
    drop_id, _ = await stage(shop)

    for query in ("?dryRun=true", "?dry_run=1", ""):
        told = await _reconcile(shop, drop_id, query)
        assert (told["clean"], told["problems"], told["found"]) == (True, [], [])


async def test_a_dry_run_says_all_that_would_be_done_and_does_nothing(
    shop: Shop, ground: Ground, settings: Settings, client: redis.asyncio.Redis
) -> None:
    """Everything that can be wrong with a drop is, at once."""
    drop_id, _ = await stage(shop)
    await _overdue(shop, drop_id, "otto")
    await _stale(ground, drop_id, 2)
    await client.hincrby(ground.bouncer._key(drop_id, "drop"), "open", 3)
    await client.hincrby(ground.bouncer._key(drop_id, "drop"), "version", -1)
    await do(settings.database_url, DAMAGES[-1].harm, drop_id)
    before = await _everything(client, settings)

    told = await _reconcile(shop, drop_id, "?dryRun=true")

    assert await _everything(client, settings) == before
    assert told["clean"] is False
    assert [problem[:5] for problem in told["problems"]] == ["INV-8"] * 2
    assert _found(told) == {"expire": 1, "reap": 2, "recount": 3, "tell": 1, "pause": 1}
    assert {each["done"] for each in told["found"]} == {False}
    assert (await shop.show(drop_id))["status"] == "live"
    assert (await shop.stock(drop_id))["heldStock"] == 3

    done = await _reconcile(shop, drop_id)

    # With the last intent closed the sum is right by itself, and what expired was told at once.
    assert {"expire": 1, "reap": 2, "pause": 1}.items() <= _found(done).items()
    assert {each["done"] for each in done["found"]} == {True}
    assert (await shop.show(drop_id))["pausedReason"] == "audit"
    await do(settings.database_url, DAMAGES[-1].mend, drop_id)
    assert _found(await _reconcile(shop, drop_id)) == {"resume": 1}
    assert await shop.settled(drop_id)
    assert (await _reconcile(shop, drop_id))["found"] == []


async def test_holds_that_ran_out_are_on_sale_again(shop: Shop) -> None:
    drop_id = await shop.open_drop(1)
    await _overdue(shop, drop_id, "otto")
    assert (await shop.reserve(drop_id, "ann")).error == "SOLD_OUT"

    told = await _reconcile(shop, drop_id)

    assert [(each["action"], each["done"]) for each in told["found"]] == [("expire", True)]
    assert (await shop.reserve(drop_id, "ann")).status == 201


async def test_intents_of_dead_workers_are_closed_and_those_of_living_ones_are_not(
    shop: Shop, ground: Ground
) -> None:
    drop_id = await shop.open_drop(10)
    await _stale(ground, drop_id, 3)
    await admit(ground, drop_id, [("f" * 32, 1, "somebody else")])

    told = await _reconcile(shop, drop_id)

    assert _found(told) == {"reap": 3}
    belief = await ground.bouncer.inspect(drop_id, deep=True)
    assert belief is not None
    assert (belief.intents, belief.available) == (1, 9)


@pytest.mark.parametrize("off", [-4, 5])
async def test_a_sum_that_was_miscounted_is_counted_anew(
    shop: Shop, ground: Ground, client: redis.asyncio.Redis, off: int
) -> None:
    drop_id = await shop.open_drop(10)
    await strand(ground, drop_id, 2)
    await client.hincrby(ground.bouncer._key(drop_id, "drop"), "open", off)
    assert (await shop.audit(drop_id))["bouncer"]["miscounted"] == off

    assert _found(await _reconcile(shop, drop_id)) == {"recount": off}

    told = (await shop.audit(drop_id))["bouncer"]
    assert (told["miscounted"], told["available"], told["openUnits"]) == (0, 8, 2)


async def test_a_bouncer_that_forgot_everything_is_told(
    shop: Shop, client: redis.asyncio.Redis
) -> None:
    drop_id, _ = await stage(shop)
    await client.flushall()
    assert (await shop.audit(drop_id))["bouncer"] is None

    [finding] = (await _reconcile(shop, drop_id))["found"]

    assert (finding["action"], finding["done"]) == ("tell", True)
    assert "knew nothing" in finding["detail"]
    assert await shop.settled(drop_id)


async def test_a_bouncer_that_is_behind_is_told(
    shop: Shop, ground: Ground, client: redis.asyncio.Redis
) -> None:
    drop_id, _ = await stage(shop)
    key = ground.bouncer._key(drop_id, "drop")
    await client.hset(key, mapping={"version": 1, "free": 0})

    [finding] = (await _reconcile(shop, drop_id))["found"]

    assert finding["detail"].startswith("the bouncer was at version 1, Postgres is at ")
    assert await shop.settled(drop_id)


async def test_a_bouncer_that_knows_more_than_postgres_begins_a_new_epoch(
    shop: Shop, ground: Ground, client: redis.asyncio.Redis
) -> None:
    drop_id, _ = await stage(shop)
    await client.hset(ground.bouncer._key(drop_id, "drop"), "version", 1_000)
    epoch = (await shop.audit(drop_id))["epoch"]

    [finding] = (await _reconcile(shop, drop_id))["found"]

    assert "lost history" in finding["detail"]
    assert finding["done"] is True
    assert (await shop.audit(drop_id))["epoch"] > epoch
    assert await shop.settled(drop_id)


async def test_without_a_bouncer_the_rest_is_done(settings: Settings) -> None:
    async with (
        Proxy.open(settings.redis_url) as proxy,
        Shop.open(msgspec.structs.replace(settings, redis_url=proxy.url)) as shop,
    ):
        drop_id = await shop.open_drop(3)
        await _overdue(shop, drop_id, "otto")
        proxy.losing = True
        await proxy.cut()

        told = await _reconcile(shop, drop_id)

        found = [(each["action"], each["done"]) for each in told["found"]]
        assert found == [("expire", True), ("wait", False)]
        assert told["clean"] is True
        assert (await shop.stock(drop_id))["availableStock"] == 3


async def test_a_large_drop_goes_on_when_the_auditor_has_counted_it_again(
    shop: Shop, ground: Ground, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counting it takes seconds: a request does not, and believes the auditor's last count."""
    monkeypatch.setattr(audit, "LARGE", 9)
    monkeypatch.setattr(repair, "LARGE", 9)
    drop_id, _ = await stage(shop)
    assert (await shop.audit(drop_id))["provenAt"] is None
    assert (await _reconcile(shop, drop_id))["found"] == []
    await do(settings.database_url, DAMAGES[0].harm, drop_id)
    assert (await _reconcile(shop, drop_id))["clean"] is True, "nobody has counted yet"

    found = await repair.repair(
        ground.postgres, ground.bouncer, drop_id, dry_run=False, thorough=True
    )

    assert [finding.action for finding in found.found] == ["pause"]
    assert (await shop.show(drop_id))["pausedReason"] == "audit"


async def test_an_old_count_of_a_large_drop_pauses_and_resumes_nothing(
    shop: Shop, ground: Ground, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person mended the rows, or harmed them, since they were counted last."""
    monkeypatch.setattr(audit, "LARGE", 9)
    monkeypatch.setattr(repair, "LARGE", 9)
    drop_id, _ = await stage(shop)
    keeper = auditor_of(ground)
    await do(settings.database_url, DAMAGES[0].harm, drop_id)
    await keeper.work()
    await do(settings.database_url, DAMAGES[0].mend, drop_id)
    assert (await shop.send("POST", f"/drops/{drop_id}/resume")).json["status"] == "live"

    broken = await _reconcile(shop, drop_id)

    assert (broken["clean"], broken["found"]) == (False, []), "as of the last count"
    assert (await shop.reserve(drop_id, "dan")).status == 201
    await keeper.work()
    await do(settings.database_url, DAMAGES[0].harm, drop_id)
    await repair.repair(ground.postgres, ground.bouncer, drop_id, dry_run=False, thorough=True)

    paused = await _reconcile(shop, drop_id)

    found = [(each["action"], each["done"]) for each in paused["found"]]
    assert (paused["clean"], found) == (True, [("resume", False)])
    assert paused["found"][0]["detail"].endswith(f"velvetrope reconcile {drop_id}")
    assert (await shop.show(drop_id))["pausedReason"] == "audit"


async def test_a_damaged_drop_whose_holds_cannot_be_swept_is_reported_and_paused(
    shop: Shop, settings: Settings
) -> None:
    """The very drop that an operator asks about: Postgres lets no figure sink below zero."""
    drop_id = await shop.open_drop(3)
    await _overdue(shop, drop_id, "otto")
    harm = "UPDATE stock SET held = 0, free = free + 1 WHERE drop_id = $1"
    await do(settings.database_url, harm, drop_id)

    for query in ("?dryRun=true", ""):
        told = await _reconcile(shop, drop_id, query)

        found = {each["action"]: each["done"] for each in told["found"]}
        assert (found["expire"], found["pause"]) == (False, not query)
        assert told["problems"][0] == "INV-2: the stock row says 3 free, 2 units are"
    assert "Postgres refuses (23514)" in told["found"][0]["detail"]
    assert (await shop.show(drop_id))["pausedReason"] == "audit"


async def test_repairing_twenty_times_at_once_does_each_thing_once(
    shop: Shop, ground: Ground
) -> None:
    drop_id = await shop.open_drop(10)
    await _stale(ground, drop_id, 3)
    await _overdue(shop, drop_id, "otto")

    await asyncio.gather(*(_reconcile(shop, drop_id) for _ in range(20)))

    assert await shop.settled(drop_id)
    assert (await shop.stock(drop_id))["availableStock"] == 10


async def test_a_worker_with_a_single_connection_can_repair(settings: Settings) -> None:
    async with Shop.open(msgspec.structs.replace(settings, pool_size=1)) as shop:
        drop_id, _ = await stage(shop)

        assert (await _reconcile(shop, drop_id))["clean"] is True


async def test_a_repeated_request_gets_the_first_answer_again(
    shop: Shop, client: redis.asyncio.Redis
) -> None:
    drop_id, _ = await stage(shop)
    await client.flushall()
    path, key = f"/drops/{drop_id}/reconcile", {"idempotency-key": "mend it"}

    first = await shop.send("POST", path, None, key)
    again = await shop.send("POST", path, None, key)

    assert again.body == first.body
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    other = await shop.open_drop(1)
    mismatch = await shop.send("POST", f"/drops/{other}/reconcile", None, key)
    assert (mismatch.status, mismatch.error) == (422, "IDEMPOTENCY_MISMATCH")


async def test_what_cannot_be_repaired_is_refused(shop: Shop) -> None:
    drop_id = await shop.open_drop(1)

    for path in ("999999/reconcile", "999999/reconcile?dryRun=true", "abc/reconcile"):
        assert (await shop.send("POST", f"/drops/{path}")).error == "NOT_FOUND"
    for query in ("dryRun=maybe", "dryRun=true&dry_run=true", "dryRun", "dryRun="):
        reply = await shop.send("POST", f"/drops/{drop_id}/reconcile?{query}")
        assert reply.error == "VALIDATION_ERROR", query
