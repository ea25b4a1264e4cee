"""Paying takes time: a hold waits for it, and money that comes is never met with silence."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.http import Reply
from tests.support.provider import Provider
from tests.support.wait import wait_until
from tests.walkthrough.conftest import Buyer, Operator


async def test_a_hold_is_extended_once(operator: Operator, buyer: Callable[[str], Buyer]) -> None:
    drop, ann = await operator.opens(units=1, holdSeconds=60), buyer("ann")
    hold = await ann.reserves(drop)

    longer = await ann.asks("POST", f"/reservations/{hold.json['id']}/extend")
    again = await ann.asks("POST", f"/reservations/{hold.json['id']}/extend")

    assert longer.status == 200, longer.body
    assert longer.json["expiresAt"] > hold.json["expiresAt"]
    assert (again.status, again.error) == (409, "EXTENSION_USED")
    assert (await ann.buys(hold)).status == 201


async def test_a_buyer_pays_and_the_providers_word_makes_the_purchase(
    operator: Operator, buyer: Callable[[str], Buyer], provider: Provider
) -> None:
    drop, ann = await operator.opens(units=1, holdSeconds=60, paySeconds=600), buyer("ann")
    hold = await ann.reserves(drop)

    paying = await ann.asks("POST", f"/reservations/{hold.json['id']}/pay")
    told = await provider.says("succeeded", hold.json)
    twice = await provider.says("succeeded", hold.json)

    assert (paying.status, paying.json["status"]) == (200, "paying")
    assert told.status == 200, told.body
    assert told.json["outcome"] == "purchased"
    assert twice.json == told.json
    bought = await ann.looks_at(f"/purchases/{told.json['purchaseId']}")
    assert bought["paymentReference"] == "pay_1"
    shown = await ann.looks_at(f"/reservations/{hold.json['id']}")
    assert (shown["status"], shown["payments"]) == ("purchased", [told.json])
    assert await operator.counts(drop) == (0, 0, 1)


async def test_a_declined_card_leaves_time_for_another(
    operator: Operator, buyer: Callable[[str], Buyer], provider: Provider
) -> None:
    drop, ann = await operator.opens(units=1), buyer("ann")
    hold = await ann.reserves(drop)
    await ann.asks("POST", f"/reservations/{hold.json['id']}/pay")

    declined = await provider.says("failed", hold.json, "pay_1")
    paid = await provider.says("succeeded", hold.json, "pay_2")

    assert (declined.json["status"], declined.json["outcome"]) == ("failed", None)
    assert paid.json["outcome"] == "purchased"


@pytest.mark.usefixtures("keeping")
async def test_who_pays_too_late_for_the_last_pair_gets_the_money_back(
    operator: Operator, buyer: Callable[[str], Buyer], provider: Provider
) -> None:
    drop = await operator.opens(units=1, holdSeconds=1, paySeconds=1)
    ann, bob = buyer("ann"), buyer("bob")
    anns = await ann.reserves(drop)
    await ann.asks("POST", f"/reservations/{anns.json['id']}/pay")

    async def bob_gets_it() -> Reply | None:
        reply = await bob.reserves(drop)
        return reply if reply.status == 201 else None

    bobs = await wait_until(bob_gets_it, "the pair is on sale again", pause=0.1)
    assert bobs is not None
    assert (await bob.buys(bobs)).status == 201
    late = await provider.says("succeeded", anns.json)

    assert (late.json.get("outcome"), late.json["reason"]) == ("refund_due", "sold_out")
    owed = (await operator.asks("GET", "/refunds", status="due")).json["data"]
    assert [(each["reference"], each["userId"], each["amount"]) for each in owed] == [
        ("pay_1", "ann", "120.00")
    ]
    await provider.says("refunded", anns.json)
    assert (await operator.asks("GET", "/refunds", status="due")).json["data"] == []
    assert await operator.counts(drop) == (0, 0, 1)


@pytest.mark.usefixtures("keeping")
async def test_who_pays_too_late_gets_another_pair_if_there_is_one(
    operator: Operator, buyer: Callable[[str], Buyer], provider: Provider
) -> None:
    drop, ann = await operator.opens(units=2, holdSeconds=1, paySeconds=1), buyer("ann")
    hold = await ann.reserves(drop)
    await ann.asks("POST", f"/reservations/{hold.json['id']}/pay")

    async def is_gone() -> bool:
        shown = await ann.looks_at(f"/drops/{drop}")
        return bool(shown["availableStock"] == 2)

    await wait_until(is_gone, "the hold was swept", pause=0.1)
    late = await provider.says("succeeded", hold.json)

    assert late.json["outcome"] == "purchased", late.body
    bought = await ann.looks_at(f"/purchases/{late.json['purchaseId']}")
    shown = await ann.looks_at(f"/reservations/{hold.json['id']}")
    assert bought["units"] == shown["units"]
    assert await operator.counts(drop) == (1, 0, 1)


@pytest.mark.parametrize(("restock", "counts"), [(True, (1, 0, 0)), (False, (0, 0, 0))])
async def test_a_refund_puts_the_pair_back_on_sale_or_takes_it_off(
    operator: Operator,
    buyer: Callable[[str], Buyer],
    provider: Provider,
    restock: bool,
    counts: tuple[int, int, int],
) -> None:
    drop, ann = await operator.opens(units=1), buyer("ann")
    hold = await ann.reserves(drop)
    told = await provider.says("succeeded", hold.json)
    path = f"/purchases/{told.json['purchaseId']}/refund"

    refunded = await operator.asks("POST", path, {"restock": restock, "reason": "wrong size"})
    again = await operator.asks("POST", path, {"restock": restock})

    assert (refunded.status, refunded.json["status"]) == (200, "refunded"), refunded.body
    assert (refunded.json["restocked"], refunded.json["refundReason"]) == (restock, "wrong size")
    assert (again.error, again.json["details"]) == ("ALREADY_RESOLVED", {"status": "refunded"})
    assert await operator.counts(drop) == counts
    owed = (await operator.asks("GET", "/refunds")).json["data"]
    assert [(each["reference"], each["reason"]) for each in owed] == [("pay_1", "refunded")]
    assert (await ann.reserves(drop)).status == (201 if restock else 409)
