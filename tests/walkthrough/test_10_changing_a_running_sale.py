"""Nothing goes as planned: the operator changes a sale while it runs, and reads who bought."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable

from tests.walkthrough.conftest import Buyer, Operator


async def test_a_new_price_is_for_new_holds_and_a_promise_stays_a_promise(
    operator: Operator, buyer: Callable[[str], Buyer]
) -> None:
    drop, ann, bob = await operator.opens(units=5, price="120.00"), buyer("ann"), buyer("bob")
    anns = await ann.reserves(drop)

    shown = await operator.changes(drop, name="Aurora II", price="150.00")

    assert (shown["name"], shown["price"], shown["status"]) == ("Aurora II", "150.00", "live")
    bobs = await bob.reserves(drop)
    assert (anns.json["amount"], bobs.json["amount"]) == ("120.00", "150.00")
    assert (await ann.buys(anns)).json["amount"] == "120.00"
    assert (await bob.buys(bobs)).json["amount"] == "150.00"
    assert await operator.counts(drop) == (3, 0, 2)


async def test_more_pairs_arrive_after_the_last_was_sold_and_the_sale_goes_on(
    operator: Operator, buyer: Callable[[str], Buyer]
) -> None:
    drop, ann, bob = await operator.opens(units=1), buyer("ann"), buyer("bob")
    await ann.buys(await ann.reserves(drop))
    late = await bob.reserves(drop)
    assert (late.error, late.json["retryable"]) == ("SOLD_OUT", False)
    assert await operator.status_of(drop) == "sold_out"

    shown = await operator.changes(drop, addStock=2)

    assert (shown["status"], shown["totalStock"], shown["availableStock"]) == ("live", 3, 2)
    assert (await bob.reserves(drop)).status == 201
    assert await operator.counts(drop) == (1, 1, 1)


async def test_free_pairs_are_taken_off_sale_and_nobody_loses_hers(
    operator: Operator, buyer: Callable[[str], Buyer]
) -> None:
    drop, ann, bob = await operator.opens(units=5), buyer("ann"), buyer("bob")
    anns = await ann.reserves(drop)
    too_many = await operator.asks("PATCH", f"/drops/{drop}", {"withdrawStock": 5})
    assert (too_many.status, too_many.error) == (409, "SOLD_OUT")
    assert too_many.json["details"] == {"availableStock": 4, "heldStock": 1}

    shown = await operator.changes(drop, withdrawStock=3)
    assert (shown["availableStock"], shown["withdrawnStock"]) == (1, 3)
    shown = await operator.changes(drop, withdrawStock="all")

    assert (shown["availableStock"], shown["withdrawnStock"]) == (0, 4)
    assert (await bob.reserves(drop)).error == "SOLD_OUT"
    assert (await ann.buys(anns)).status == 201
    assert await operator.counts(drop) == (0, 0, 1)


async def test_a_sale_is_put_off_ended_and_taken_up_again(
    operator: Operator, buyer: Callable[[str], Buyer]
) -> None:
    drop, ann = await operator.opens(units=5), buyer("ann")

    await operator.changes(drop, startsAt="2190-01-01T00:00:00Z")
    assert (await ann.reserves(drop)).error == "NOT_STARTED"
    await operator.changes(drop, startsAt="2020-01-01T00:00:00Z", endsAt="2020-01-02T00:00:00Z")
    assert (await ann.reserves(drop)).error == "ENDED"
    await operator.changes(drop, endsAt=None)

    assert (await ann.reserves(drop)).status == 201


async def test_a_buyer_may_have_more_from_now_on(
    operator: Operator, buyer: Callable[[str], Buyer]
) -> None:
    drop, ann = await operator.opens(units=5, maxPerBuyer=1), buyer("ann")
    await ann.reserves(drop)
    assert (await ann.reserves(drop)).error == "LIMIT_REACHED"

    await operator.changes(drop, maxPerBuyer=2)

    assert (await ann.reserves(drop)).status == 201
    assert (await ann.reserves(drop)).error == "LIMIT_REACHED"


async def test_the_operator_reads_who_holds_who_bought_and_what_a_buyer_did(
    operator: Operator, buyer: Callable[[str], Buyer]
) -> None:
    drop, ann, bob = await operator.opens(units=5, maxPerBuyer=2), buyer("ann"), buyer("bob")
    bought, returned = await ann.reserves(drop), await ann.reserves(drop)
    await ann.gives_back(returned)
    purchase = await ann.buys(bought, paymentReference="pay-1")
    kept = await bob.reserves(drop)

    holds = (await operator.asks("GET", f"/drops/{drop}/reservations")).json["data"]
    assert [(hold["userId"], hold["status"]) for hold in holds] == [
        ("bob", "active"),
        ("ann", "released"),
        ("ann", "purchased"),
    ]
    assert holds[2]["purchaseId"] == purchase.json["id"]
    live = await operator.asks("GET", f"/drops/{drop}/reservations", status="active")
    assert [hold["id"] for hold in live.json["data"]] == [kept.json["id"]]

    sheet = await operator.asks("GET", f"/drops/{drop}/purchases", format="csv")
    assert f'filename="drop-{drop}-purchases.csv"' in sheet.headers["content-disposition"]
    [row] = csv.DictReader(io.StringIO(sheet.body.decode()))
    assert (row["userId"], row["amount"], row["paymentReference"]) == ("ann", "120.00", "pay-1")

    story = (await operator.asks("GET", "/buyers/ann/timeline")).json["data"]
    assert [[event["event"] for event in chapter["events"]] for chapter in story] == [
        ["reserved", "released"],
        ["reserved", "purchased"],
    ]
