"""A shop's own server acts for its buyers with an API key, as far as the key's scopes go."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from engine.identity import apikeys
from engine.runtime import Ground
from tests.support.shop import Shop
from tests.walkthrough.conftest import Buyer, Operator, Person

Servers = Callable[..., Awaitable[Person]]


@pytest.fixture
def server(shop: Shop, ground: Ground) -> Servers:
    """`await server("sale:read")` is a shop's server with a key of these scopes."""

    async def with_key(*scopes: str) -> Person:
        key = await apikeys.create(ground.postgres, "a shop", list(scopes))
        return Person(shop, "server", {"x-api-key": key}, {})

    return with_key


async def test_a_shops_server_buys_for_the_buyers_it_names(
    operator: Operator, server: Servers
) -> None:
    drop, shops = await operator.opens(units=5), await server("sale:read", "sale:write")

    holds = [
        await shops.asks("POST", "/reservations", {"dropId": drop, "userId": name})
        for name in ("ann", "bob", "carl")
    ]
    bought = await shops.asks(
        "POST", "/purchases", {"reservationId": holds[0].json["id"], "userId": "ann"}
    )
    unnamed = await shops.asks("POST", "/purchases", {"reservationId": holds[1].json["id"]})
    returned = await shops.asks("DELETE", f"/reservations/{holds[2].json['id']}", userId="carl")

    assert [hold.json["userId"] for hold in holds] == ["ann", "bob", "carl"]
    assert (bought.status, bought.json["userId"]) == (201, "ann")
    assert (unnamed.status, unnamed.json["userId"]) == (201, "bob")  # the hold's owner
    assert returned.status == 204
    listed = await shops.asks("GET", "/purchases/mine", userId="ann")
    assert [purchase["id"] for purchase in listed.json["data"]] == [bought.json["id"]]
    assert await operator.counts(drop) == (3, 0, 2)


async def test_who_names_the_wrong_buyer_is_told_that_the_hold_is_not_hers(
    operator: Operator, server: Servers, buyer: Callable[[str], Buyer]
) -> None:
    drop, shops = await operator.opens(units=5), await server("sale:read", "sale:write")
    anns = await buyer("ann").reserves(drop)
    id = anns.json["id"]

    tries = [
        await shops.asks("POST", "/purchases", {"reservationId": id, "userId": "bob"}),
        await shops.asks("DELETE", f"/reservations/{id}", userId="bob"),
        await shops.asks("GET", f"/reservations/{id}", userId="bob"),
    ]

    assert {(reply.status, reply.error) for reply in tries} == {(403, "NOT_YOUR_RESERVATION")}
    assert await operator.counts(drop) == (4, 1, 0)


async def test_a_key_that_may_only_read_sells_nothing(
    operator: Operator, server: Servers, buyer: Callable[[str], Buyer]
) -> None:
    drop, reader = await operator.opens(units=5), await server("sale:read")
    anns = await buyer("ann").reserves(drop)

    seen = await reader.asks("GET", f"/reservations/{anns.json['id']}")
    refused = [
        await reader.asks("POST", "/reservations", {"dropId": drop, "userId": "bob"}),
        await reader.asks("POST", "/purchases", {"reservationId": anns.json["id"]}),
        await reader.asks("DELETE", f"/reservations/{anns.json['id']}"),
        await reader.asks("POST", "/drops", {"name": "Mine", "price": 1, "totalStock": 1}),
        await reader.asks("POST", f"/drops/{drop}/pause"),
    ]

    assert seen.status == 200
    assert {(reply.status, reply.error) for reply in refused} == {(403, "FORBIDDEN")}
    assert await operator.counts(drop) == (4, 1, 0)


async def test_a_key_with_the_admin_scope_runs_the_sale(server: Servers) -> None:
    admin = await server("admin")

    opened = await admin.asks("POST", "/drops", {"name": "Aurora", "price": 1, "totalStock": 1})
    paused = await admin.asks("POST", f"/drops/{opened.json['id']}/pause")

    assert (opened.status, paused.json["status"]) == (201, "paused")
