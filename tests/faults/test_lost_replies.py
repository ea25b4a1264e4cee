"""INV-3, INV-4, INV-7: a reply is lost, a statement never arrives, or arrives seconds too late."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from engine.infra.settings import Settings
from engine.ops import devstack
from engine.ops.migrate import migrate
from engine.record import idempotency
from engine.runtime import Ground
from loadtest.chaos.pgproxy import PgProxy
from loadtest.chaos.redisproxy import RedisProxy
from tests.support import ghosts
from tests.support.locks import stock_locked
from tests.support.pause import paused
from tests.support.shop import Shop
from tests.support.wait import wait_until

CLAIM, PURCHASE, RELEASE = "FROM claim_units(", "FROM purchase_units(", "FROM release_holds("


@pytest.fixture
async def line(settings: Settings) -> AsyncIterator[PgProxy]:
    """The line between the worker and Postgres."""
    async with PgProxy.open(settings.database_url) as proxy:
        yield proxy


@pytest.fixture
async def far(settings: Settings, line: PgProxy) -> AsyncIterator[Shop]:
    """A worker at the other end of that line. The keepers have one of their own."""
    async with Shop.open(msgspec.structs.replace(settings, database_url=line.url)) as shop:
        yield shop


async def _settles(shop: Shop, drop_id: int) -> None:
    await wait_until(lambda: shop.settled(drop_id), "all is settled", seconds=8)


@pytest.mark.parametrize("key", [None, "ann-1"])
async def test_a_claim_whose_reply_is_lost_is_answered_201_and_made_once(
    far: Shop, line: PgProxy, keeping: None, key: str | None
) -> None:
    drop_id = await far.open_drop(10, maxPerBuyer=5)
    trap = line.arm(CLAIM, "lose")

    reply = await far.reserve(drop_id, "ann", key, quantity=2)

    assert trap.caught.is_set()
    assert b"held" not in await trap.reply, "the claim ran by the fast path"
    assert reply.status == 201, reply.body
    assert (await far.stock(drop_id))["heldStock"] == 2
    if key is not None:
        again = await far.reserve(drop_id, "ann", key, quantity=2)
        assert (again.status, again.body) == (201, reply.body)
    await _settles(far, drop_id)
    assert (await far.stock(drop_id))["heldStock"] == 2


async def test_a_whole_batch_whose_reply_is_lost_is_answered_and_nothing_leaks(
    far: Shop, line: PgProxy, keeping: None
) -> None:
    drop_id = await far.open_drop(40)
    trap = line.arm(CLAIM, "lose")

    replies = await asyncio.gather(*(far.reserve(drop_id, f"b{n}") for n in range(60)))

    assert trap.caught.is_set()
    assert Counter(reply.status for reply in replies) == {201: 40, 409: 20}
    assert len({u["id"] for r in replies if r.status == 201 for u in r.json["units"]}) == 40
    await _settles(far, drop_id)


async def test_a_claim_that_never_arrives_is_tried_again_and_takes_nothing_twice(
    far: Shop, line: PgProxy, keeping: None
) -> None:
    drop_id = await far.open_drop(10)
    traps = line.arm(CLAIM, "drop", times=2)

    replies = await asyncio.gather(*(far.reserve(drop_id, f"b{n}") for n in range(4)))

    assert traps.caught.is_set()
    assert {reply.status for reply in replies} == {201}
    assert (await far.stock(drop_id))["heldStock"] == 4
    await _settles(far, drop_id)


async def test_a_zombie_claim_delivered_after_the_tombstone_takes_nothing(
    far: Shop, line: PgProxy, keeping: None
) -> None:
    """The first attempt is given up; its second gets the unit; then the first one arrives."""
    drop_id = await far.open_drop(10, maxPerBuyer=5)
    zombie = line.arm(CLAIM, "hold")

    reply = await far.reserve(drop_id, "ann", "ann-1")
    assert reply.status == 201, reply.body
    zombie.let_go.set()

    assert b"repeated" in await zombie.reply
    assert (await far.stock(drop_id))["heldStock"] == 1
    await _settles(far, drop_id)


async def test_a_zombie_claim_of_a_request_that_was_given_up_is_blocked(
    settings: Settings, ground: Ground, keeping: None
) -> None:
    """Its worker is gone; the reaper left the tombstone; the client was told nothing and left."""
    async with PgProxy.open(settings.database_url) as line:
        drop_id = await _open_drop(settings, 10)
        zombie = line.arm(CLAIM, "hold")
        far = Shop.open(msgspec.structs.replace(settings, database_url=line.url))
        shop = await far.__aenter__()
        asking = asyncio.create_task(shop.reserve(drop_id, "ann", "ann-1"))
        await zombie.caught.wait()
        line.refusing = True  # nobody of this worker reaches Postgres any more
        await line.cut()

        reply = await asking
        assert reply.error == "OUTCOME_UNKNOWN"

        async def reaped() -> bool:
            belief = await ground.bouncer.inspect(drop_id, deep=True)
            return belief is not None and belief.intents == 0

        await wait_until(reaped, "the intent is closed", seconds=8)
        zombie.let_go.set()
        assert b"blocked" in await zombie.reply
        line.refusing = False
        assert (await shop.stock(drop_id))["heldStock"] == 0
        assert (await shop.reserve(drop_id, "ann", "ann-1")).status == 201
        await _settles(shop, drop_id)
        await far.__aexit__(None, None, None)


async def _open_drop(settings: Settings, units: int) -> int:
    async with Shop.open(settings) as shop:
        return await shop.open_drop(units)


@pytest.mark.parametrize("key", [None, "buy-1"])
@pytest.mark.parametrize("fate", ["lose", "drop"])
async def test_a_purchase_whose_statement_or_reply_is_lost_is_answered_201_and_made_once(
    far: Shop, line: PgProxy, keeping: None, key: str | None, fate: str
) -> None:
    drop_id = await far.open_drop(10)
    hold = (await far.reserve(drop_id, "ann")).json
    trap = line.arm(PURCHASE, "lose" if fate == "lose" else "drop")

    bought = await far.confirm(hold["id"], "ann", key)

    assert trap.caught.is_set()
    assert bought.status == 201, bought.body
    assert (await far.confirm(hold["id"], "ann")).json["id"] == bought.json["id"]
    assert (await far.stock(drop_id))["soldStock"] == 1
    await _settles(far, drop_id)


async def test_a_zombie_purchase_buys_nothing_after_the_same_request_was_answered(
    far: Shop, line: PgProxy, keeping: None
) -> None:
    drop_id = await far.open_drop(10)
    hold = (await far.reserve(drop_id, "ann")).json
    zombie = line.arm(PURCHASE, "hold")

    assert (await far.confirm(hold["id"], "ann", "buy-1")).status == 201
    zombie.let_go.set()
    await zombie.reply

    assert (await far.stock(drop_id))["soldStock"] == 1
    await _settles(far, drop_id)


@pytest.mark.parametrize("fate", ["lose", "drop"])
async def test_a_release_whose_statement_or_reply_is_lost_is_answered_204_and_done_once(
    far: Shop, line: PgProxy, keeping: None, fate: str
) -> None:
    drop_id = await far.open_drop(10)
    hold = (await far.reserve(drop_id, "ann")).json
    trap = line.arm(RELEASE, "lose" if fate == "lose" else "drop")

    assert (await far.release(hold["id"], "ann")).status == 204

    assert trap.caught.is_set()
    assert (await far.stock(drop_id))["availableStock"] == 10
    await _settles(far, drop_id)


async def test_a_keyed_release_whose_commit_is_lost_is_unknown_and_then_204(
    far: Shop, line: PgProxy, keeping: None
) -> None:
    drop_id = await far.open_drop(10)
    hold = (await far.reserve(drop_id, "ann")).json
    trap = line.arm("COMMIT;", "lose")

    first = await far.release(hold["id"], "ann", "let-go")
    assert trap.caught.is_set()
    assert first.error == "OUTCOME_UNKNOWN"

    assert (await far.release(hold["id"], "ann", "let-go")).status == 204
    assert (await far.stock(drop_id))["availableStock"] == 10
    await _settles(far, drop_id)


async def test_creating_a_drop_whose_commit_is_lost_is_unknown_and_the_same_key_gives_the_one_drop(
    far: Shop, line: PgProxy
) -> None:
    body, key = {"name": "Aurora", "price": "1", "totalStock": 5}, {"idempotency-key": "make-1"}
    trap = line.arm("COMMIT;", "lose")

    first = await far.send("POST", "/drops", body, key)
    assert trap.caught.is_set()
    assert first.error == "OUTCOME_UNKNOWN"
    second = await far.send("POST", "/drops", body, key)

    assert second.status == 201
    assert [drop["id"] for drop in (await far.send("GET", "/drops")).json["data"]] == [
        second.json["id"]
    ]


async def test_a_zombie_commit_of_a_drop_makes_no_second_one(
    far: Shop, line: PgProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "COPY_WAIT_SECONDS", 0.5)  # the zombie is not ended before
    body, key = {"name": "Aurora", "price": "1", "totalStock": 5}, {"idempotency-key": "make-1"}
    zombie = line.arm("COMMIT;", "hold")

    assert (await far.send("POST", "/drops", body, key)).error == "OUTCOME_UNKNOWN"
    assert (await far.send("POST", "/drops", body, key)).error == "IN_PROGRESS"
    zombie.let_go.set()
    await zombie.reply

    assert (await far.send("POST", "/drops", body, key)).status == 201
    assert len((await far.send("GET", "/drops")).json["data"]) == 1


async def test_a_drop_that_was_created_is_answered_201_even_if_the_bouncer_cannot_be_told(
    far: Shop, line: PgProxy
) -> None:
    """The effect has committed: what fails after it must not turn the answer into a failure."""
    trap = line.arm("SELECT e.epoch, s.drop_id", "drop")

    reply = await far.send("POST", "/drops", {"name": "Aurora", "price": "1", "totalStock": 5})

    assert trap.caught.is_set()
    assert reply.status == 201, reply.body
    assert (await far.reserve(reply.json["id"], "ann")).status == 201


# ── Postgres stands still ────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def _own_postgres(folder: Path) -> AsyncIterator[devstack.Server]:
    server = devstack.start_postgres(folder / "postgres", durable=False)
    try:
        await migrate(Settings(database_url=server.url))
        yield server
    finally:
        server.stop()


@pytest.mark.slow
async def test_while_postgres_stands_still_claims_are_unknown_and_definite_soon_afterwards(
    settings: Settings, tmp_path: Path
) -> None:
    async with _own_postgres(tmp_path) as server:
        settings = msgspec.structs.replace(settings, database_url=server.url)
        async with Shop.open(settings) as shop, _keepers(settings):
            drop_id = await shop.open_drop(10)
            with paused(server):
                begun = time.monotonic()
                replies = await asyncio.gather(
                    shop.reserve(drop_id, "ann", "ann-1"), shop.reserve(drop_id, "bob")
                )
                took = time.monotonic() - begun
            awake = time.monotonic()

            assert {reply.error for reply in replies} == {"OUTCOME_UNKNOWN"}
            assert took < 6
            assert (await shop.reserve(drop_id, "ann", "ann-1")).status == 201
            await _settles(shop, drop_id)
            print(f"unknown after {took:.2f} s; settled {time.monotonic() - awake:.2f} s after")
            # bob's claim landed, or the reaper's tombstone was there first: nobody had told him.
            assert (await shop.stock(drop_id))["heldStock"] in {1, 2}


@asynccontextmanager
async def _keepers(settings: Settings) -> AsyncIterator[None]:
    from engine import runtime

    stop, ready = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(runtime.keep(settings, stop, ready))
    await ready.wait()
    try:
        yield
    finally:
        stop.set()
        await task


@pytest.mark.slow
async def test_a_copy_of_an_unknown_claim_is_not_told_that_nothing_was_taken(
    settings: Settings, tmp_path: Path
) -> None:
    """The first copy stands in Postgres and will be done; the second waits behind it."""
    async with _own_postgres(tmp_path) as server:
        settings = msgspec.structs.replace(
            settings, database_url=server.url, request_deadline_ms=1_000
        )
        async with Shop.open(settings) as shop:
            drop_id = await shop.open_drop(10)
            with paused(server):
                first = await shop.reserve(drop_id, "ann", "ann-1")
                second = await shop.reserve(drop_id, "ann", "ann-1")
            assert first.error == "OUTCOME_UNKNOWN"

            async def held() -> bool:
                return (await shop.stock(drop_id))["heldStock"] == 1

            await wait_until(held, "the first copy has its unit")
            assert second.error == "OUTCOME_UNKNOWN", "it was told that nothing was taken"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/drops/1/stock"), ("GET", "/drops"), ("POST", "/drops")]
)
async def test_nothing_holds_a_calm_request_longer_than_its_deadline(
    settings: Settings, tmp_path: Path, method: str, path: str
) -> None:
    async with _own_postgres(tmp_path) as server:
        settings = msgspec.structs.replace(
            settings, database_url=server.url, request_deadline_ms=1_000
        )
        async with Shop.open(settings) as shop:
            await shop.open_drop(10)
            body = {"name": "x", "price": "1", "totalStock": 1} if method == "POST" else None
            with paused(server):
                asking = asyncio.create_task(shop.send(method, path, body))
                done, _ = await asyncio.wait([asking], timeout=3)
            reply = await asking

    assert done, "no answer while Postgres stood still"
    assert reply.status == 503


# ── told in time ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
async def test_who_is_told_that_nothing_was_taken_gets_nothing_later(
    shop: Shop, settings: Settings
) -> None:
    """A batch meets a lock for longer than its deadline, is halved, and the halves go on."""
    drop_id = await shop.open_drop(10)
    async with stock_locked(settings.database_url, drop_id):
        replies = await asyncio.gather(*(shop.reserve(drop_id, f"b{n}") for n in range(4)))
    errors = [reply.error for reply in replies]

    # The next one is served when that batch is through.
    assert (await shop.reserve(drop_id, "next")).status == 201

    database = await asyncpg.connect(settings.database_url)
    owners = {r["buyer"] for r in await database.fetch("SELECT buyer FROM reservations")}
    await database.close()
    told_nothing = {f"b{n}" for n, error in enumerate(errors) if error == "RETRYABLE"}
    assert not owners & told_nothing, f"{errors}: told RETRYABLE, and hold units now: {owners}"


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["reserve", "confirm", "release"])
async def test_who_waits_for_a_connection_past_his_deadline_is_not_told_that_nothing_was_taken(
    settings: Settings, verb: str
) -> None:
    """The whole pool is busy; the request's batch has begun and will go on when one is free."""
    settings = msgspec.structs.replace(settings, pool_size=1, request_deadline_ms=500)
    async with Shop.open(settings) as shop:
        busy, wanted = await shop.open_drop(10), await shop.open_drop(10)
        hold = (await shop.reserve(wanted, "ann")).json["id"]
        verbs = {
            "reserve": lambda: shop.reserve(wanted, "cat"),
            "confirm": lambda: shop.confirm(hold, "ann"),
            "release": lambda: shop.release(hold, "ann"),
        }
        before = await shop.stock(wanted)
        async with stock_locked(settings.database_url, busy):
            blocker = asyncio.create_task(shop.reserve(busy, "bob"))
            await asyncio.sleep(0)
            reply = await verbs[verb]()
            await blocker
        async with stock_locked(settings.database_url, wanted) as database:
            pass  # nobody's claim is under way now
        after = await shop.stock(wanted)
        assert database.is_closed()

    assert reply.status < 300 or reply.error == "OUTCOME_UNKNOWN" or before == after, reply.body


async def test_who_has_a_unit_is_not_told_that_nothing_was_taken_while_its_connection_is_put_back(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim committed, its reply was read, and the process stood still before it could say so
    (found by stopping a worker at reserve/claim_units.after)."""
    settings = msgspec.structs.replace(settings, request_deadline_ms=300)
    async with Shop.open(settings) as shop:
        drop_id = await shop.open_drop(10)
        put_back = asyncpg.pool.Pool.release

        async def slowly(self: asyncpg.pool.Pool, *words: Any, **more: Any) -> None:
            await asyncio.sleep(0.6)
            await put_back(self, *words, **more)

        monkeypatch.setattr(asyncpg.pool.Pool, "release", slowly)
        reply = await shop.reserve(drop_id, "ann")
        monkeypatch.undo()

        assert reply.error == "OUTCOME_UNKNOWN"
        assert (await shop.stock(drop_id))["heldStock"] == 1


# ── Redis ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["admit", "settle"])
async def test_a_script_whose_reply_is_lost_admits_nobody_twice_and_strands_nothing(
    settings: Settings, keeping: None, name: str
) -> None:
    async with (
        RedisProxy.open(settings.redis_url) as line,
        Shop.open(msgspec.structs.replace(settings, redis_url=line.url)) as shop,
    ):
        drop_id = await shop.open_drop(10, maxPerBuyer=10)
        assert (await shop.reserve(drop_id, "warm")).status == 201
        trap = line.arm(name, "lose")

        reply = await shop.reserve(drop_id, "ann", "ann-1", quantity=2)

        assert trap.caught.is_set()
        assert reply.status == 201
        begun = time.monotonic()
        assert (await shop.stock(drop_id))["heldStock"] == 3
        await _settles(shop, drop_id)
        print(f"{name}: bouncer exact {time.monotonic() - begun:.2f} s after its reply was lost")


async def test_an_admission_that_runs_late_is_closed_by_the_reaper(
    shop: Shop, ground: Ground, keeping: None
) -> None:
    """A paused Redis runs the script after the worker had given up and claimed without it."""
    drop_id = await shop.open_drop(10, maxPerBuyer=5)
    assert (await shop.reserve(drop_id, "ann", "ann-1")).status == 201
    database = ground.postgres
    async with database.session() as session:
        rid = (await session._connection.fetchval("SELECT request_id FROM reservations")).hex

    assert (await ghosts.admit(ground, drop_id, [(rid, 1, "ann")])).words == ["admitted"]

    await _settles(shop, drop_id)
    assert (await shop.stock(drop_id))["heldStock"] == 1
