"""Money and mischief: what is owed is what was paid, once, and answers stay true."""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from typing import Any

import asyncpg
import pytest

from engine.infra.postgres import Unknown
from engine.infra.settings import Settings
from engine.sale import store, till
from tests.support.http import Reply
from tests.support.provider import Provider
from tests.support.shop import Shop


async def _send(shop: Shop, path: str, body: Any = None, key: str | None = None) -> Reply:
    return await shop.send("POST", path, body, {"idempotency-key": key} if key else None)


COOL = "UPDATE allowances SET cools_until = now() + interval '1 hour', abandoned = 3"


async def _due(shop: Shop) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = (await shop.send("GET", "/refunds?status=due")).json["data"]
    return rows


async def test_money_that_the_provider_gave_back_is_not_owed_again_when_the_purchase_is_undone(
    shop: Shop, provider: Provider
) -> None:
    drop_id = await shop.open_drop(1)
    hold = (await shop.reserve(drop_id, "ann")).json
    told = (await provider.says("succeeded", hold, "pay_1")).json
    await provider.says("refunded", hold, "pay_1")  # charged back: `payment.reversed` in the log

    undone = await _send(shop, f"/purchases/{told['purchaseId']}/refund", {"restock": True})

    assert undone.status == 200, undone.body
    assert await _due(shop) == []


async def test_a_purchase_is_replayed_to_its_key_after_a_payment_was_found_to_be_its_own(
    shop: Shop, provider: Provider
) -> None:
    drop_id = await shop.open_drop(1)
    hold = (await shop.reserve(drop_id, "ann")).json
    first = await shop.confirm(hold["id"], "ann", "k")
    assert first.status == 201
    assert (await provider.says("succeeded", hold, "pay_1")).json["outcome"] == "purchased"

    again = await shop.confirm(hold["id"], "ann", "k")

    assert (again.status, again.error if again.status >= 400 else None) == (201, None)


async def test_a_reference_that_only_a_client_named_is_no_verified_payment_when_it_is_refunded(
    shop: Shop, provider: Provider
) -> None:
    drop_id = await shop.open_drop(2)
    hers = (await shop.reserve(drop_id, "ann")).json
    assert (await provider.says("succeeded", hers, "pay_ann")).json["outcome"] == "purchased"
    his = (await shop.reserve(drop_id, "mallory")).json
    bought = (await shop.confirm(his["id"], "mallory", paymentReference="pay_ann")).json

    await _send(shop, f"/purchases/{bought['id']}/refund", {"restock": True})

    rows = await _due(shop)
    assert [row for row in rows if row["reference"] == "pay_ann" and row["verified"]] == []


async def test_a_payment_given_back_settles_only_its_own_debt(
    shop: Shop, provider: Provider
) -> None:
    """ann's payment is given back by the provider; mallory's debt under the same name is 'done'."""
    drop_id = await shop.open_drop(2)
    his = (await shop.reserve(drop_id, "mallory")).json
    bought = (await shop.confirm(his["id"], "mallory")).json
    odd = await provider.says("succeeded", his, "pay_odd", amount="1.00")
    assert odd.json["reason"] == "wrong_amount"
    await _send(shop, f"/purchases/{bought['id']}/refund", {"restock": True})
    before = await _due(shop)
    assert len(before) == 2, before
    await provider.says("refunded", his, "pay_odd", amount="1.00")
    after = await _due(shop)
    assert [row["amount"] for row in after] == ["120.00"]


async def test_what_a_buyer_said_before_the_provider_leaves_no_debt_for_what_was_bought(
    shop: Shop, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop_id = await shop.open_drop(1)
    hold = (await shop.reserve(drop_id, "ann")).json
    assert (await shop.confirm(hold["id"], "ann")).status == 201
    owe = till.owe_refunds

    async def late(*args: Any) -> Any:
        await provider.says("succeeded", hold, "pay_1")  # between the look and the debt
        return await owe(*args)

    monkeypatch.setattr(till, "owe_refunds", late)
    await shop.confirm(hold["id"], "ann", paymentReference="pay_1")

    assert await _due(shop) == []


async def test_a_payment_pending_for_one_hold_and_come_for_another_buys_no_wrong_hold(
    shop: Shop, provider: Provider
) -> None:
    drop_id = await shop.open_drop(2)
    a = (await shop.reserve(drop_id, "ann")).json
    b = (await shop.reserve(drop_id, "bob")).json
    await provider.says("pending", a, "pay_1")
    told = (await provider.says("succeeded", b, "pay_1")).json
    assert (told["outcome"], told["reservationId"]) == ("purchased", b["id"])
    assert (await shop.send("GET", f"/reservations/{a['id']}")).json["status"] == "active"


async def test_a_free_drop_owes_nothing(shop: Shop, provider: Provider) -> None:
    drop_id = await shop.open_drop(1, price="0")
    hold = (await shop.reserve(drop_id, "ann")).json
    await shop.confirm(hold["id"], "ann", paymentReference="x")
    await provider.says("succeeded", hold, "pay_1")
    assert await _due(shop) == []


async def test_arithmetic_of_a_provider_is_understood_as_a_shops_is(
    shop: Shop, provider: Provider
) -> None:
    drop_id = await shop.open_drop(1, price="0.30")
    hold = (await shop.reserve(drop_id, "ann")).json
    told = await provider.says("succeeded", hold, "pay_1", amount=0.1 + 0.2)
    assert told.status == 200, told.body


async def test_who_just_bought_hears_201_though_his_payment_is_adopted_in_that_moment(
    shop: Shop, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unkeyed: the purchase is committed and its reply is lost, a payment adopts it, and only then
    does the second run find that it was bought."""
    drop_id = await shop.open_drop(1)
    hold = (await shop.reserve(drop_id, "ann")).json
    buy, runs = store.purchase_units, []

    async def lost(*args: Any) -> Any:
        runs.append(await buy(*args))
        if len(runs) == 1:
            await provider.says("succeeded", hold, "pay_1")
            raise Unknown
        return runs[-1]

    monkeypatch.setattr(store, "purchase_units", lost)
    reply = await shop.confirm(hold["id"], "ann")

    assert reply.status == 201, reply.body
    assert reply.json["paymentReference"] == "pay_1"
    assert [len(each) for each in runs] == [1, 0]


async def test_a_new_purchase_is_told_as_it_is_shown_later_and_needs_no_second_query(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several of each of two drops, in one batch: each hears of its own units."""
    drops = [await shop.open_drop(9, price=price, maxPerBuyer=3) for price in ("1.50", "20")]
    holds = [
        (await shop.reserve(drops[n % 2], f"b{n}", quantity=quantity)).json
        for n, quantity in enumerate((1, 3, 2, 1, 3))
    ]

    async def never(*args: Any) -> Any:
        raise AssertionError("looked up")

    monkeypatch.setattr(store, "find_purchases_by_reservation", never)
    replies = await asyncio.gather(
        *(
            shop.confirm(hold["id"], hold["userId"], paymentReference=f"pay-{n}")
            for n, hold in enumerate(holds)
        )
    )

    assert [reply.status for reply in replies] == [201] * 5
    for reply, hold in zip(replies, holds, strict=True):
        assert reply.json["units"] == hold["units"]
        shown = (await shop.send("GET", f"/purchases/{reply.json['id']}")).json
        del shown["drop"]
        assert shown == reply.json


async def test_who_paid_one_dollar_is_owed_one_dollar_whatever_he_claimed_before(
    shop: Shop, provider: Provider
) -> None:
    drop_id = await shop.open_drop(1)
    hold = (await shop.reserve(drop_id, "mallory")).json
    assert (await shop.confirm(hold["id"], "mallory", paymentReference="real")).status == 201
    await shop.confirm(hold["id"], "mallory", paymentReference="cheap")  # "I paid twice"
    told = (await provider.says("succeeded", hold, "cheap", amount="1.00")).json
    assert (told["outcome"], told["amount"]) == ("refund_due", "1.00")

    rows = [(row["reference"], row["amount"], row["verified"]) for row in await _due(shop)]
    assert rows == [("cheap", "1.00", True)]


async def test_after_a_refund_too_what_is_owed_is_what_was_paid(
    shop: Shop, provider: Provider
) -> None:
    drop_id = await shop.open_drop(1)
    hold = (await shop.reserve(drop_id, "mallory")).json
    bought = (await shop.confirm(hold["id"], "mallory", paymentReference="cheap")).json
    await shop.send("POST", f"/purchases/{bought['id']}/refund", {"restock": True})
    await provider.says("succeeded", hold, "cheap", amount="1.00")

    rows = [(row["reference"], row["amount"], row["verified"]) for row in await _due(shop)]
    assert rows == [("cheap", "1.00", True)]


async def test_batches_of_payments_never_wait_for_each_other_in_a_circle(
    shop: Shop, settings: Settings
) -> None:
    drop_id = await shop.open_drop(600, maxPerBuyer=None, holdSeconds=600)
    dice = random.Random(3)
    buyers = [f"b{n:02}" for n in range(12)]
    late: list[dict[str, Any]] = []
    live: list[dict[str, Any]] = []
    for round in range(20):
        made = await asyncio.gather(*(shop.reserve(drop_id, buyer) for buyer in buyers))
        holds = [reply.json for reply in made]
        if round % 2:
            await asyncio.gather(*(shop.release(h["id"], h["userId"]) for h in holds))
        (late if round % 2 else live).extend(holds)
    assert (await shop.change(drop_id, cooldownFactor=1)).status == 200
    link = await asyncpg.connect(settings.database_url)
    await link.execute(COOL)
    dice.shuffle(late)
    dice.shuffle(live)
    pool = await asyncpg.create_pool(settings.database_url, min_size=0, max_size=6)
    outcomes: list[str] = []

    async def one(n: int) -> None:
        batch = late[n * 4 : n * 4 + 4] + live[n * 4 : n * 4 + 4]
        refs = [f"p{n}-{i}" for i in range(len(batch))]
        async with pool.acquire() as c:
            try:
                await c.fetch(
                    "SELECT * FROM settle_payments($1, $2, $3, $4, $5, $6, $7)",
                    refs,
                    ["succeeded"] * len(batch),
                    [hold["id"] for hold in batch],
                    [12_000] * len(batch),
                    ["USD"] * len(batch),
                    [uuid.uuid4() for _ in batch],
                    [uuid.uuid4() for _ in batch],
                )
                outcomes.append("ok")
            except asyncpg.PostgresError as error:
                outcomes.append(type(error).__name__)

    stop = False

    async def cooling() -> None:
        c = await asyncpg.connect(settings.database_url)
        while not stop:
            for buyer in buyers:
                with contextlib.suppress(asyncpg.PostgresError):
                    await c.execute(f"{COOL} WHERE drop_id = $1 AND buyer = $2", drop_id, buyer)
        await c.close()

    task = asyncio.create_task(cooling())
    await asyncio.gather(*(one(n) for n in range(len(late) // 4)))
    stop = True
    await task
    await pool.close()
    await link.close()
    assert set(outcomes) == {"ok"}
