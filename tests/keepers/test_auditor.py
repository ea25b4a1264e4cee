"""A row that was changed behind the engine's back: the drop is paused, and why is said in words."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from engine.infra.postgres import Undone
from engine.infra.settings import Settings
from engine.keepers import auditor
from engine.keepers.auditor import LEAD_SECONDS, Auditor
from engine.runtime import Ground
from engine.sale import expire
from engine.sale.models import Proof
from engine.sale.prove import prove
from tests.support.damage import ANNS, CATS_UNIT, DAMAGES, Damage, do, stage
from tests.support.keeping import Keeping, auditor_of, locks_of
from tests.support.rush import Rush
from tests.support.service import Service
from tests.support.shop import Shop
from tests.support.wait import wait_until


async def _reconcile(shop: Shop, drop_id: int, query: str = "") -> Any:
    reply = await shop.send("POST", f"/drops/{drop_id}/reconcile{query}")
    assert reply.status == 200, reply.body
    return reply.json


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.name)
async def test_a_damaged_drop_is_paused_named_and_let_go_on_when_it_was_mended(
    shop: Shop, ground: Ground, settings: Settings, damage: Damage
) -> None:
    drop_id, anns = await stage(shop)
    keeper = auditor_of(ground)
    await keeper.work()
    assert (await shop.show(drop_id))["status"] == "live", "nothing was wrong yet"

    await do(settings.database_url, damage.harm, drop_id)
    await keeper.work()

    audit = await shop.audit(drop_id)
    assert not audit["clean"]
    assert len(audit["problems"]) == len(damage.problems), audit["problems"]
    for said, wanted in zip(audit["problems"], damage.problems, strict=True):
        assert said.startswith(wanted)
    assert (audit["status"], audit["pausedReason"]) == ("paused", "audit")
    assert (await shop.show(drop_id))["pausedReason"] == "audit"
    refused = await shop.reserve(drop_id, "dan")
    assert (refused.error, refused.json["details"]) == ("PAUSED", {"pausedReason": "audit"})
    assert (await shop.reserve(drop_id, "ann", "anns key")).json["id"] == anns, "a lost answer"
    assert (await shop.confirm(anns, "ann")).status == 201, "a hold is a promise"

    assert (await _reconcile(shop, drop_id))["clean"] is False
    assert (await shop.show(drop_id))["status"] == "paused", "it is not mended yet"
    await do(settings.database_url, damage.mend, drop_id)
    planned = await _reconcile(shop, drop_id, "?dryRun=true")
    assert [(each["action"], each["done"]) for each in planned["found"]][-1] == ("resume", False)
    assert (await shop.show(drop_id))["status"] == "paused"
    mended = await _reconcile(shop, drop_id)

    assert (mended["clean"], mended["problems"]) == (True, [])
    assert [(each["action"], each["done"]) for each in mended["found"]][-1] == ("resume", True)
    assert (await shop.reserve(drop_id, "dan")).status == 201
    assert await shop.settled(drop_id)


@pytest.mark.slow
async def test_a_keeper_finds_a_damage_by_itself_within_60_s_and_says_so_in_the_log(
    settings: Settings, tmp_path: Path
) -> None:
    """Real processes, as they are set by default: the damage comes when a round was just over."""
    async with Service.open(settings, tmp_path, workers=1, keepers=0) as service:
        drop_id, anns = await stage(service)
        await service.start_keeper()
        database = await asyncpg.connect(settings.database_url)
        proven = "SELECT proven_at FROM proofs WHERE drop_id = $1"

        async def is_proven() -> bool:
            return await database.fetchval(proven, drop_id) is not None

        await wait_until(is_proven, "a round is over", seconds=20)
        await database.close()
        await do(settings.database_url, DAMAGES[0].harm, drop_id)
        harmed = time.monotonic()

        async def is_paused() -> bool:
            return bool((await service.show(drop_id))["pausedReason"] == "audit")

        await wait_until(is_paused, "it is found", seconds=60)
        print(f"found and paused {time.monotonic() - harmed:.1f} s after the damage")
        assert (await service.confirm(anns, "ann")).status == 201
        assert "auditor.paused" in service.log()
        assert "the stock row says 7 free, 6 units are" in service.log()


@pytest.mark.slow
async def test_a_sale_in_full_swing_is_never_taken_for_damaged(
    shop: Shop, ground: Ground, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted without a rest while buyers reserve, give back and buy."""
    monkeypatch.setattr(auditor, "REST_SECONDS", 0.0)
    drop_id = await shop.open_drop(2_000, maxPerBuyer=None)
    keeper = auditor_of(ground)
    rounds = ended = 0

    async def end_some(rush: Rush) -> None:
        nonlocal ended
        while ended < 200:
            while len(rush.replies) <= ended:
                await asyncio.sleep(0.001)
            reply = rush.replies[ended]
            ended += 1
            if reply.status == 201:
                hold = reply.json
                verb = shop.release if ended % 2 else shop.confirm
                assert (await verb(hold["id"], hold["userId"])).status in (201, 204, 503)

    async with Rush.of(shop, drop_id, settings.database_url, clients=8) as rush:
        ending = asyncio.create_task(end_some(rush))
        while rounds < 3 or not ending.done():
            await keeper.work()
            rounds += 1
        await ending

    assert (await shop.show(drop_id))["pausedReason"] is None
    assert "PAUSED" not in {reply.error for reply in rush.replies if reply.status != 201}
    await wait_until(lambda: shop.settled(drop_id), "all is settled")
    print(f"counted {rounds} times while {len(rush.replies)} asked and {ended} holds ended")


async def test_an_operators_pause_stays_the_operators(
    shop: Shop, ground: Ground, settings: Settings
) -> None:
    """Or mending the rows would put on sale what the operator had stopped."""
    drop_id, _ = await stage(shop)
    await shop.send("POST", f"/drops/{drop_id}/pause")
    await do(settings.database_url, DAMAGES[0].harm, drop_id)

    await auditor_of(ground).work()
    told = await _reconcile(shop, drop_id)

    assert (told["clean"], told["found"]) == (False, [])
    assert (await shop.show(drop_id))["pausedReason"] == "admin"
    assert (await shop.audit(drop_id))["clean"] is False
    await do(settings.database_url, DAMAGES[0].mend, drop_id)
    assert (await _reconcile(shop, drop_id))["found"] == []
    assert (await shop.reserve(drop_id, "dan")).json["details"] == {"pausedReason": "admin"}


async def test_resuming_what_does_not_add_up_lasts_until_the_next_count(
    shop: Shop, ground: Ground, settings: Settings
) -> None:
    drop_id, _ = await stage(shop)
    await do(settings.database_url, DAMAGES[0].harm, drop_id)
    keeper = auditor_of(ground)
    await keeper.work()

    assert (await shop.send("POST", f"/drops/{drop_id}/resume")).json["status"] == "live"
    await keeper.work()

    assert (await shop.show(drop_id))["pausedReason"] == "audit"


async def test_a_drop_that_cannot_be_counted_does_not_keep_the_others(
    shop: Shop, ground: Ground, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = await shop.open_drop(1)
    drop_id, _ = await stage(shop)
    await do(settings.database_url, DAMAGES[0].harm, drop_id)

    async def too_long(postgres: Any, drop: int) -> Proof | None:
        if drop == stuck:
            raise Undone("57014")
        return await prove(postgres, drop)

    monkeypatch.setattr(auditor, "prove", too_long)

    await auditor_of(ground).work()

    assert (await shop.show(drop_id))["pausedReason"] == "audit"
    assert (await shop.show(stuck))["pausedReason"] is None


# ── who counts ───────────────────────────────────────────────────────────────────────────────────


async def test_of_two_auditors_one_counts_until_its_lease_is_over(
    shop: Shop, ground: Ground, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage(shop)
    counted: list[int] = []

    async def noted(postgres: Any, drop_id: int) -> Proof | None:
        counted.append(drop_id)
        return await prove(postgres, drop_id)

    monkeypatch.setattr(auditor, "prove", noted)
    first, second = (auditor_of(ground) for _ in range(2))

    async def counts(keeper: Auditor) -> bool:
        counted.clear()
        await keeper.work()
        return bool(counted)

    assert [await counts(each) for each in (first, second, first, second)] == [
        *(True, False, True, False)
    ]
    lease = await _lease(settings)
    assert 0 < lease <= LEAD_SECONDS
    await _end_lease(settings)
    assert [await counts(each) for each in (second, first, second)] == [True, False, True]


async def test_when_the_leading_keeper_dies_another_one_counts(
    shop: Shop, ground: Ground, settings: Settings
) -> None:
    """One that is killed leaves the lock as it is; here its end is hastened."""
    drop_id, _ = await stage(shop)
    assert await locks_of(ground).leads("auditor", LEAD_SECONDS)
    dead = await _holder(settings)
    async with Keeping(settings, auditor_ms=50):
        await do(settings.database_url, DAMAGES[0].harm, drop_id)
        await asyncio.sleep(0.3)  # several rounds, in which it must not count
        assert await _holder(settings) == dead
        assert (await shop.show(drop_id))["pausedReason"] is None
        await _end_lease(settings)

        async def is_paused() -> bool:
            return bool((await shop.show(drop_id))["pausedReason"] == "audit")

        await wait_until(is_paused, "the other one has found it", seconds=5)
        assert await _holder(settings) not in (None, dead)


async def test_a_keeper_that_leaves_in_peace_is_followed_at_once(
    shop: Shop, settings: Settings
) -> None:
    drop_id, _ = await stage(shop)
    for _ in range(2):
        async with Keeping(settings, auditor_ms=50):
            await _is_proven_anew(settings, drop_id)
        assert await _holder(settings) is None


async def _look(settings: Settings, query: str, *words: object) -> Any:
    database = await asyncpg.connect(settings.database_url)
    try:
        return await database.fetchval(query, *words)
    finally:
        await database.close()


async def _lease(settings: Settings) -> float:
    query = "SELECT extract(epoch FROM expires_at - clock_timestamp())::float8 FROM locks"
    return float(await _look(settings, query))


async def _holder(settings: Settings) -> str | None:
    owner: str | None = await _look(settings, "SELECT owner FROM locks WHERE name = 'auditor'")
    return owner


async def _end_lease(settings: Settings) -> None:
    ended = "UPDATE locks SET expires_at = clock_timestamp() WHERE name = 'auditor' RETURNING name"
    assert await _look(settings, ended) == "auditor"


async def _is_proven_anew(settings: Settings, drop_id: int) -> None:
    now = await _look(settings, "SELECT clock_timestamp()")
    newer = "SELECT proven_at > $2 FROM proofs WHERE drop_id = $1"
    await wait_until(lambda: _look(settings, newer, drop_id, now), "it is proven anew")


async def test_a_unit_that_was_put_on_the_shelf_by_hand_keeps_no_other_from_coming_back(
    shop: Shop, ground: Ground, settings: Settings
) -> None:
    drop_id, _ = await stage(shop)
    harmed = next(damage for damage in DAMAGES if damage.name == "a held unit is on the shelf")
    await do(settings.database_url, harmed.harm, drop_id)
    overdue = "UPDATE reservations SET expires_at = now() WHERE drop_id = $1 AND state = 'active'"
    await do(settings.database_url, overdue, drop_id)

    assert await expire.expire_due(ground.postgres, ground.bouncer) == 2

    proof = await prove(ground.postgres, drop_id)
    assert proof is not None
    assert proof.problems == [], "Cat's unit lies on the shelf once, as it should now"
    assert (await shop.audit(drop_id))["free"] == 9


async def test_a_unit_in_two_hands_comes_back_once_and_keeps_no_other_from_coming_back(
    shop: Shop, ground: Ground, settings: Settings
) -> None:
    drop_id, _ = await stage(shop)
    await shop.reserve(drop_id, "innocent")
    twice = f"UPDATE reservations SET units = ARRAY[{CATS_UNIT}] WHERE drop_id = $1 AND id = {ANNS}"
    await do(settings.database_url, twice, drop_id)
    overdue = "UPDATE reservations SET expires_at = now() WHERE drop_id = $1 AND state = 'active'"
    await do(settings.database_url, overdue, drop_id)

    assert await expire.expire_due(ground.postgres, ground.bouncer) == 3

    proof = await prove(ground.postgres, drop_id)
    assert proof is not None
    assert proof.problems[0] == "INV-2: the stock row says 9 free, 8 units are"
