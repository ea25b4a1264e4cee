"""Money, times, ids and the cheap poll look the way the contract says."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest

from tests.walkthrough.conftest import Buyer, Operator

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.mark.parametrize(
    ("given", "shown", "for_three"),
    [
        (120, "120.00", "360.00"),
        ("99.9", "99.90", "299.70"),
        (0.1, "0.10", "0.30"),
        ("0", "0.00", "0.00"),
        (100_000_000, "100000000.00", "300000000.00"),
    ],
)
async def test_money_is_a_string_with_two_decimals_and_a_currency(
    operator: Operator,
    buyer: Callable[[str], Buyer],
    given: str | float,
    shown: str,
    for_three: str,
) -> None:
    drop = await operator.opens(units=9, price=given, currency="eur", maxPerBuyer=None)
    ann = buyer("ann")

    hold = await ann.reserves(drop, quantity=3)
    bought = await ann.buys(hold)

    page = await ann.looks_at(f"/drops/{drop}")
    assert (page["price"], page["currency"]) == (shown, "EUR")
    for each in (hold, bought):
        assert (each.json["amount"], each.json["currency"]) == (for_three, "EUR")


async def test_times_are_utc_with_milliseconds_and_a_hold_tells_how_long_it_lasts(
    operator: Operator, buyer: Callable[[str], Buyer]
) -> None:
    drop = await operator.opens(
        units=9, holdSeconds=90, startsAt="2020-02-29T12:00:00+02:00", endsAt="2190-01-01T00:00:00"
    )
    ann = buyer("ann")

    hold = (await ann.reserves(drop)).json
    bought = (await ann.buys(await ann.reserves(await operator.opens(units=1)))).json

    page = await ann.looks_at(f"/drops/{drop}")
    assert page["startsAt"] == "2020-02-29T10:00:00.000Z"
    assert page["endsAt"] == "2190-01-01T00:00:00.000Z"
    for moment in (hold["expiresAt"], hold["serverTime"], bought["purchasedAt"]):
        assert MOMENT.fullmatch(moment), moment
    life = datetime.fromisoformat(hold["expiresAt"]) - datetime.fromisoformat(hold["serverTime"])
    assert life.total_seconds() == pytest.approx(90, abs=0.002)


async def test_a_unit_names_its_drop_and_everything_else_has_a_uuid_of_version_7(
    operator: Operator, buyer: Callable[[str], Buyer]
) -> None:
    drop, ann = await operator.opens(units=9, maxPerBuyer=3), buyer("ann")

    hold = await ann.reserves(drop, quantity=3)
    bought = await ann.buys(hold)

    for unit in hold.json["units"]:
        assert 1 <= unit["number"] <= 9
        assert unit["id"] == drop * 2**20 + unit["number"]
    assert {UUID(each.json["id"]).version for each in (hold, bought)} == {7}


async def test_the_cheap_poll_is_five_figures_with_a_tag(
    operator: Operator, buyer: Callable[[str], Buyer], shop: Any
) -> None:
    drop, ann = await operator.opens(units=9), buyer("ann")

    first = await shop.send("GET", f"/drops/{drop}/stock")
    same = await shop.send(
        "GET", f"/drops/{drop}/stock", headers={"if-none-match": first.headers["etag"]}
    )
    await ann.reserves(drop)
    changed = await shop.send(
        "GET", f"/drops/{drop}/stock", headers={"if-none-match": first.headers["etag"]}
    )

    assert first.headers["cache-control"] == "max-age=1"
    assert (same.status, same.body) == (304, b"")
    assert changed.status == 200
    figures = changed.json
    assert figures.pop("version") > first.json["version"]
    assert figures == {
        "dropId": drop,
        "availableStock": 8,
        "heldStock": 1,
        "soldStock": 0,
        "withdrawnStock": 0,
        "totalStock": 9,
    }


async def test_both_spellings_of_a_request_are_understood_and_answers_are_camel_case(
    operator: Operator, buyer: Callable[[str], Buyer]
) -> None:
    opened = await operator.asks(
        "POST", "/drops", {"name": "Aurora", "price": 1, "total_stock": 5, "max_per_buyer": 2}
    )
    ann = buyer("ann")

    hold = await ann.asks("POST", "/reservations", {"drop_id": str(opened.json["id"])})
    bought = await ann.asks("POST", "/purchases", {"reservation_id": hold.json["id"]})

    assert (opened.json["maxPerBuyer"], hold.status, bought.status) == (2, 201, 201)
    for answer in (opened.json, hold.json, bought.json):
        assert not [name for name in answer if "_" in name]


async def test_a_request_keeps_its_name(buyer: Callable[[str], Buyer], shop: Any) -> None:
    named = await shop.send("GET", "/drops", headers={"x-request-id": "trace-me"})
    refused = await shop.send("GET", "/nowhere", headers={"x-request-id": "trace-me"})
    unnamed = await shop.send("GET", "/nowhere")

    assert named.headers["x-request-id"] == refused.json["requestId"] == "trace-me"
    assert unnamed.headers["x-request-id"] == unnamed.json["requestId"] != ""
