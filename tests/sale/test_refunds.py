"""A refund undoes a purchase once, and owes its money once."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import msgspec
import pytest

from engine.identity import tokens
from engine.infra.settings import Settings
from tests.support.http import Reply
from tests.support.provider import Provider
from tests.support.shop import Shop

SECRET = "a secret of the refunds' tests, for tokens"


async def _bought(shop: Shop, drop_id: int, quantity: int = 1) -> dict[str, Any]:
    hold = (await shop.reserve(drop_id, "ann", quantity=quantity)).json
    reply = await shop.confirm(hold["id"], "ann", paymentReference="pay_1")
    assert reply.status == 201, reply.body
    bought: dict[str, Any] = reply.json
    return bought


async def _refund(shop: Shop, id: str, key: str | None = None, **body: Any) -> Reply:
    headers = {"idempotency-key": key} if key else None
    return await shop.send("POST", f"/purchases/{id}/refund", body, headers)


async def test_50_refunds_at_once_are_one_refund(shop: Shop) -> None:
    drop_id = await shop.open_drop(3, maxPerBuyer=3)
    bought = await _bought(shop, drop_id, quantity=2)

    replies = await asyncio.gather(
        *(_refund(shop, bought["id"], f"k{n}", restock=True) for n in range(50))
    )

    assert Counter(reply.status for reply in replies) == {200: 1, 409: 49}
    assert (await shop.stock(drop_id))["availableStock"] == 3
    assert await shop.settled(drop_id)
    owed = (await shop.send("GET", "/refunds")).json["data"]
    assert [(each["reference"], each["amount"]) for each in owed] == [("pay_1", "240.00")]


async def test_a_refund_is_answered_to_its_key_again(shop: Shop) -> None:
    bought = await _bought(shop, await shop.open_drop(1))

    first = await _refund(shop, bought["id"], "k", restock=False, reason="torn")
    again = await _refund(shop, bought["id"], "k", restock=False, reason="torn")
    mistaken = await _refund(shop, bought["id"], "k", restock=True)

    assert (again.status, again.body) == (200, first.body)
    assert mistaken.error == "IDEMPOTENCY_MISMATCH"


@pytest.mark.parametrize(
    ("body", "field"),
    [({}, "restock"), ({"restock": "yes"}, "restock"), ({"restock": True, "reason": ""}, "reason")],
)
async def test_a_refund_says_what_becomes_of_the_units(
    shop: Shop, body: dict[str, Any], field: str
) -> None:
    bought = await _bought(shop, await shop.open_drop(1))

    reply = await _refund(shop, bought["id"], **body)

    assert reply.status == 400
    assert reply.json["details"]["fields"][0]["field"] == field


async def test_a_refunded_purchase_stays_in_the_lists_as_what_it_is(shop: Shop) -> None:
    drop_id = await shop.open_drop(2, maxPerBuyer=2)
    kept, undone = await _bought(shop, drop_id), await _bought(shop, drop_id)
    await _refund(shop, undone["id"], restock=False, reason="torn")

    listed = (await shop.send("GET", f"/drops/{drop_id}/purchases")).json["data"]
    refunded = (await shop.send("GET", f"/drops/{drop_id}/purchases?status=refunded")).json["data"]
    bought = (await shop.send("GET", f"/drops/{drop_id}/purchases?status=purchased")).json["data"]
    mine = (await shop.send("GET", "/purchases/mine?userId=ann")).json["data"]
    timeline = (await shop.send("GET", "/buyers/ann/timeline")).json["data"]
    holds = (await shop.send("GET", f"/drops/{drop_id}/reservations?status=refunded")).json["data"]

    assert {each["id"]: each["status"] for each in listed} == {
        kept["id"]: "purchased",
        undone["id"]: "refunded",
    }
    assert [each["id"] for each in refunded] == [undone["id"]]
    assert [each["id"] for each in bought] == [kept["id"]]
    assert [each["status"] for each in mine] == ["refunded", "purchased"]
    assert [event["event"] for event in timeline[0]["events"]] == [
        "reserved",
        "purchased",
        "refunded",
    ]
    assert [each["id"] for each in holds] == [undone["reservationId"]]
    assert len((await shop.show(drop_id))["recentPurchases"]) == 1


async def test_nothing_is_bought_or_given_back_of_what_was_refunded(shop: Shop) -> None:
    bought = await _bought(shop, await shop.open_drop(1))
    await _refund(shop, bought["id"], restock=True)

    again = await shop.confirm(bought["reservationId"], "ann", paymentReference="pay_1")
    released = await shop.release(bought["reservationId"], "ann")

    for reply in (again, released):
        assert (reply.error, reply.json["details"]) == ("ALREADY_RESOLVED", {"status": "refunded"})


async def test_money_that_comes_after_the_refund_is_owed_back_once(
    shop: Shop, provider: Provider
) -> None:
    drop_id = await shop.open_drop(1)
    hold = (await shop.reserve(drop_id, "ann")).json
    bought = (await shop.confirm(hold["id"], "ann", paymentReference="pay_1")).json
    await _refund(shop, bought["id"], restock=True)

    told = [(await provider.says("succeeded", hold, "pay_1")).json for _ in range(2)]

    assert [(each["outcome"], each["reason"]) for each in told] == [("refund_due", "refunded")] * 2
    assert len((await shop.send("GET", "/refunds")).json["data"]) == 1
    assert (await shop.stock(drop_id))["availableStock"] == 1


async def test_a_payment_nobody_named_is_owed_once_though_it_comes_after_the_refund(
    shop: Shop, provider: Provider
) -> None:
    drop_id = await shop.open_drop(1)
    hold = (await shop.reserve(drop_id, "ann")).json
    bought = (await shop.confirm(hold["id"], "ann")).json
    await _refund(shop, bought["id"], restock=True)

    for _ in range(2):
        await provider.says("succeeded", hold, "pay_1")

    owed = (await shop.send("GET", "/refunds")).json["data"]
    assert [(each["reference"], each["reason"]) for each in owed] == [("pay_1", "refunded")]


async def test_a_refund_gives_the_buyer_the_right_to_buy_again(shop: Shop) -> None:
    drop_id = await shop.open_drop(2, maxPerBuyer=1)
    bought = await _bought(shop, drop_id)
    assert (await shop.reserve(drop_id, "ann")).error == "LIMIT_REACHED"

    await _refund(shop, bought["id"], restock=False)

    assert (await shop.reserve(drop_id, "ann")).status == 201


async def test_a_purchase_that_names_no_payment_is_owed_all_the_same(shop: Shop) -> None:
    hold = (await shop.reserve(await shop.open_drop(1), "ann")).json
    bought = (await shop.confirm(hold["id"], "ann")).json
    await _refund(shop, bought["id"], restock=True)

    [owed] = (await shop.send("GET", "/refunds?status=due")).json["data"]
    assert (owed["reference"], owed["reservationId"]) == (None, hold["id"])


async def test_refunds_are_for_shops_and_operators(settings: Settings) -> None:
    closed = msgspec.structs.replace(
        settings, auth="required", jwt_secret=SECRET, hmac_secret=SECRET
    )
    async with Shop.open(closed) as shop:
        ann = {"authorization": f"Bearer {tokens.create(SECRET, 'ann', 60)}"}
        path = "/purchases/0190a000-0000-7000-8000-000000000000/refund"

        own = await shop.send("POST", path, {"restock": True}, ann)
        nobody = await shop.send("POST", path, {"restock": True})
        listed = await shop.send("GET", "/refunds", None, ann)

    assert [own.status, nobody.status, listed.status] == [403, 401, 403]


async def test_refunds_are_listed_page_by_page(shop: Shop, provider: Provider) -> None:
    hold = (await shop.reserve(await shop.open_drop(1), "ann")).json
    for n in range(5):
        await provider.says("succeeded", hold, f"pay_{n}", amount="1.00")

    first = (await shop.send("GET", "/refunds?limit=3")).json
    rest = (await shop.send("GET", f"/refunds?limit=3&cursor={first['nextCursor']}")).json
    paged = (await shop.send("GET", "/refunds?limit=3&page=2")).json

    names = [each["reference"] for each in first["data"] + rest["data"]]
    assert names == ["pay_4", "pay_3", "pay_2", "pay_1", "pay_0"]
    assert paged["data"] == rest["data"]
    assert paged["meta"]["totalItems"] == 5
    assert (await shop.send("GET", "/refunds?cursor=x")).status == 400
    assert (await shop.send("GET", "/refunds?status=paid")).status == 400


async def test_a_debt_without_a_name_ends_when_the_provider_gives_the_money_back(
    shop: Shop, provider: Provider
) -> None:
    hold = (await shop.reserve(await shop.open_drop(1), "ann")).json
    bought = (await shop.confirm(hold["id"], "ann")).json
    await _refund(shop, bought["id"], restock=True)

    await provider.says("refunded", hold, "pay_1")

    assert (await shop.send("GET", "/refunds?status=due")).json["data"] == []
    assert (await provider.says("succeeded", hold, "pay_1")).json["status"] == "refunded"
    assert len((await shop.send("GET", "/refunds")).json["data"]) == 1
