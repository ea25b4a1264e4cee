"""What one caller, one drop or one connection does must not be felt by the others."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from engine import runtime
from engine.infra.errors import Misconfigured
from engine.infra.log import Seldom
from engine.infra.settings import Settings
from engine.keepers.rounds import sweeping
from engine.runtime import Ground
from engine.sale import expire
from tests.support.damage import do
from tests.support.shop import Shop
from tests.support.wait import wait_until


async def test_strangers_in_the_same_batch_cannot_keep_an_owner_from_buying(shop: Shop) -> None:
    drop_id = await shop.open_drop(20, maxPerBuyer=None)
    for _ in range(20):
        hold = (await shop.reserve(drop_id, "owner")).json["id"]

        buyers = ("evil", "evil", "owner", "evil-2")
        replies = await asyncio.gather(*(shop.confirm(hold, buyer) for buyer in buyers))

        assert [reply.status for reply in replies] == [403, 403, 201, 403]


async def test_a_stranger_who_releases_together_with_the_owner_is_refused(shop: Shop) -> None:
    drop_id = await shop.open_drop(20, maxPerBuyer=None)
    for _ in range(20):
        hold = (await shop.reserve(drop_id, "owner")).json["id"]

        buyers = ("evil", "owner", "evil-2")
        replies = await asyncio.gather(*(shop.release(hold, buyer) for buyer in buyers))

        assert [reply.status for reply in replies] == [403, 204, 403]


async def test_a_drop_that_cannot_be_freed_does_not_keep_the_others(
    shop: Shop, ground: Ground, settings: Settings
) -> None:
    broken, sound = await shop.open_drop(1, holdSeconds=1), await shop.open_drop(1, holdSeconds=1)
    for drop_id in (broken, sound):
        assert (await shop.reserve(drop_id, "ann")).status == 201
    connection = await asyncpg.connect(settings.database_url)
    await connection.execute("UPDATE allowances SET used = 0 WHERE drop_id = $1", broken)
    await connection.close()

    async def sound_is_free() -> bool:
        await expire.expire_due(ground.postgres, ground.bouncer)
        return (await shop.stock(sound))["availableStock"] == 1

    await wait_until(sound_is_free, "the sound drop was freed")
    assert (await shop.stock(broken))["heldStock"] == 1


async def test_a_drop_that_cannot_be_freed_is_complained_of_now_and_then(
    shop: Shop, ground: Ground, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweeper comes back soon for what is overdue, but no faster, and not to say it again."""
    monkeypatch.setattr(expire, "_complaints", Seldom())
    drop_id = await shop.open_drop(1, holdSeconds=1)
    assert (await shop.reserve(drop_id, "ann")).status == 201
    harm = "UPDATE stock SET held = 0, free = free + 1 WHERE drop_id = $1"
    await do(settings.database_url, harm, drop_id)
    sweep = sweeping(ground.postgres, ground.bouncer, polling=True)

    async def complaints() -> list[Any]:
        with capture_logs() as lines:
            await expire.expire_due(ground.postgres, ground.bouncer)
        return [line for line in lines if line["event"] == "expire.stuck"]

    [said] = await wait_until(complaints, "its hold is overdue and cannot be freed")

    assert (said["drop_id"], said["sqlstate"]) == (drop_id, "23514")
    assert [await complaints() for _ in range(5)] == [[]] * 5
    assert (await sweep() or 0) >= 0.05
    monkeypatch.setattr(expire, "_complaints", Seldom(0.0))
    assert len(await complaints()) == 1


async def test_a_backend_that_dies_in_a_transaction_is_a_503_and_never_a_500(
    shop: Shop, settings: Settings
) -> None:
    connection = await asyncpg.connect(settings.database_url)
    creating = True

    async def kill_others() -> None:
        while creating:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            await asyncio.sleep(0.01)

    async def create(n: int) -> tuple[int, str]:
        body = {"name": f"drop {n}", "price": "1", "totalStock": 3}
        reply = await shop.send("POST", "/drops", body, {"idempotency-key": f"make-{n}"})
        return reply.status, "" if reply.status == 201 else reply.error

    killer = asyncio.create_task(kill_others())
    seen = [await create(n) for n in range(60)]
    creating = False
    await killer
    await connection.close()

    assert set(seen) <= {(201, ""), (503, "OUTCOME_UNKNOWN")}, set(seen)
    assert (503, "OUTCOME_UNKNOWN") in seen, "no backend was killed in time"
    for n in range(60):
        assert (await create(n))[0] == 201
    drops = (await shop.send("GET", "/drops?limit=100&page=1")).json
    assert drops["meta"]["totalItems"] == 60


@pytest.mark.slow
async def test_a_crowd_of_readers_cannot_stop_a_sale(shop: Shop) -> None:
    large, small = await shop.open_drop(10_000), await shop.open_drop(100)
    readers = [asyncio.create_task(shop.audit(large), name="reader") for _ in range(300)]
    await asyncio.sleep(0)

    replies = await asyncio.gather(*(shop.reserve(small, f"b{n}") for n in range(50)))

    assert {reply.status for reply in replies} == {201}
    assert not all(reader.done() for reader in readers), "the readers were gone before the buyers"
    await asyncio.gather(*readers)


async def test_a_worker_on_an_empty_database_says_what_to_do(settings: Settings) -> None:
    admin = await asyncpg.connect(settings.database_url)
    await admin.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await admin.close()

    with pytest.raises(Misconfigured, match="velvetrope migrate"):
        async with runtime.worker(settings):
            pass


async def test_a_drop_closed_before_it_opened_has_ended(shop: Shop) -> None:
    drop_id = await shop.open_drop(1, startsAt="2100-01-01T00:00:00Z")

    closed = await shop.send("POST", f"/drops/{drop_id}/close")

    assert closed.json["status"] == "ended"
    assert (await shop.reserve(drop_id, "ann")).error == "ENDED"
