"""Knowing an id is not owning it: what Ann holds and bought is Ann's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from engine import runtime
from engine.app import CANONICAL
from engine.infra.settings import Settings
from engine.runtime import Ground
from tests.coldchain.conftest import freezer_of
from tests.identity.conftest import Caller
from tests.support.shop import Shop

Buyers = Callable[[str], Caller]
NOT_HERS = 403, "NOT_YOUR_RESERVATION"


@pytest.fixture
async def anns(buyer: Buyers, drop: int) -> dict[str, str]:
    """A hold and a purchase of Ann's."""
    ann = buyer("ann")
    hold, other = [(await ann.asks("POST", "/reservations", {"dropId": drop})) for _ in range(2)]
    bought = await ann.asks("POST", "/purchases", {"reservationId": other.json["id"]})
    return {"$hold": hold.json["id"], "$sold": other.json["id"], "$bought": bought.json["id"]}


FOREIGN = [
    ("GET", "/reservations/$hold", None),
    ("GET", "/reservations/$sold", None),
    ("DELETE", "/reservations/$hold", None),
    ("DELETE", "/reservations/$sold", None),
    ("POST", "/purchases", "$hold"),
    ("POST", "/purchases", "$sold"),
    ("POST", "/purchase/$hold", None),
    ("POST", "/purchase/$sold", None),
    ("GET", "/purchases/$bought", None),
    ("POST", "/reservations/$hold/extend", None),
    ("POST", "/reservations/$sold/extend", None),
    ("POST", "/reservations/$hold/pay", None),
    ("POST", "/reservations/$sold/pay", None),
]


@pytest.mark.parametrize(("method", "path", "reservation"), FOREIGN)
async def test_bob_cannot_touch_what_is_anns(
    buyer: Buyers,
    admin: Caller,
    drop: int,
    anns: dict[str, str],
    method: str,
    path: str,
    reservation: str | None,
) -> None:
    for word, id in anns.items():
        path = path.replace(word, id)
    body = {"reservationId": anns[reservation]} if reservation else None

    told = await buyer("bob").is_told(method, path, body)

    assert told in (NOT_HERS, (404, "NOT_FOUND"))
    stock = (await admin.asks("GET", f"/drops/{drop}/stock")).json
    assert (stock["heldStock"], stock["soldStock"]) == (1, 1)


@pytest.mark.parametrize(("method", "path", "reservation"), FOREIGN)
async def test_bob_cannot_call_himself_ann(
    buyer: Buyers, anns: dict[str, str], method: str, path: str, reservation: str | None
) -> None:
    for word, id in anns.items():
        path = path.replace(word, id)
    bob = buyer("bob")

    if method == "POST":
        body = {"userId": "ann"} | ({"reservationId": anns[reservation]} if reservation else {})
        told = await bob.is_told(method, path, body)
    else:
        told = await bob.is_told(method, f"{path}?userId=ann")

    assert told == (403, "FORBIDDEN")


async def test_bobs_lists_show_nothing_of_anns(buyer: Buyers, anns: dict[str, str]) -> None:
    bob = buyer("bob")

    for path in ("/reservations", "/purchases/mine"):
        assert (await bob.asks("GET", path)).json["data"] == []
        assert await bob.is_told("GET", f"{path}?userId=ann") == (403, "FORBIDDEN")
        assert await bob.is_told("GET", f"{path}?user_id=ann") == (403, "FORBIDDEN")


async def test_bob_cannot_have_anns_answer_with_anns_key(
    buyer: Buyers, shop: Shop, drop: int
) -> None:
    body, key = {"dropId": drop}, {"idempotency-key": "k"}
    ann, bob = buyer("ann")._headers, buyer("bob")._headers
    first = await shop.send("POST", "/reservations", body, ann | key)

    second = await shop.send("POST", "/reservations", body, bob | key)

    assert second.json["userId"] == "bob"
    assert first.json["id"] != second.json["id"]
    assert "idempotent-replayed" not in second.headers


async def test_bob_cannot_reserve_in_anns_name(buyer: Buyers, drop: int) -> None:
    bob = buyer("bob")

    for name in ("userId", "user_id"):
        told = await bob.is_told("POST", "/reservations", {"dropId": drop, name: "ann"})
        assert told == (403, "FORBIDDEN")


async def test_a_name_is_compared_to_the_letter(buyer: Buyers, anns: dict[str, str]) -> None:
    for name in ("Ann", "ann ", " ann", "ａnn", "ann%", "_nn"):
        told = await buyer(name).is_told("GET", f"/reservations/{anns['$hold']}")
        assert told == NOT_HERS


async def test_an_admin_sees_every_hold_and_may_give_it_back_but_does_not_buy_it(
    admin: Caller, anns: dict[str, str]
) -> None:
    assert (await admin.asks("GET", f"/reservations/{anns['$hold']}")).json["userId"] == "ann"
    told = await admin.is_told("POST", "/purchases", {"reservationId": anns["$hold"]})
    assert told == NOT_HERS
    assert await admin.is_told("DELETE", f"/reservations/{anns['$hold']}") == (204, "")


PUBLIC = {"list_drops", "show_drop", "stock", "audit", "health", "live", "ready"}
PUBLIC |= {"units", "list_slots", "show_slot"}
PUBLIC |= {"ledger", "verify", "ledger_key", "ledger_head", "proof"}
PUBLIC |= {"list_tiers"}
PUBLIC |= {"verify_key", "check_key"}  # who has a key has no account yet
PUBLIC |= {"pass_keys", "changed_passes"}
# Who comes here has no credential yet: these read the body before they refuse.
WAYS_IN = {"register", "login", "refresh", "forgot_password", "reset_password", "wallet_log"}
PRINTED = {"confirm_reforge"}  # the same, and what cannot be understood is a 422 as its README says
PAGES = {"page", "asset", "picture"}


async def test_without_a_credential_one_may_look_at_what_is_public_and_at_nothing_else(
    settings: Settings, nobody: Caller, drop: int, anns: dict[str, str]
) -> None:
    """Walks the table of routes, so that a route added later must be public on purpose."""
    async with runtime.worker(settings) as house:
        table = [r for r in house.routes if r.operation not in PAGES and not r.root]

    for route in table:
        id = str(drop) if "drops" in route.path or route.operation == "reserve" else anns["$hold"]
        path = route.path.replace("{id}", id)
        body = {"dropId": drop, "userId": "ann", "referralKey": "none", "userEmail": "a@b.cd"}
        told = await nobody.is_told(route.method, path, None if route.method == "GET" else body)

        wanted = [(401, "UNAUTHORIZED")]
        if route.operation in PUBLIC:  # whether or not there is one
            wanted = [(200, ""), (404, "NOT_FOUND")]
        if route.operation in WAYS_IN:
            wanted = [(400, "VALIDATION_ERROR")]
        if route.operation in PRINTED:
            wanted = [(422, "VALIDATION_ERROR")]
        assert told in wanted, f"{route.method} {CANONICAL}{route.path}"


ADMINS = {
    *("create_drop", "change_drop", "pause", "resume", "close", "reconcile"),
    *("list_holds", "list_sales", "timeline", "list_refunds"),
}


@pytest.mark.parametrize("who", ["bob", "ann", "a shop"])
async def test_what_operators_do_nobody_else_may(
    settings: Settings,
    buyer: Buyers,
    server: Callable[..., Awaitable[Caller]],
    admin: Caller,
    drop: int,
    anns: dict[str, str],
    who: str,
) -> None:
    """Not even Ann sees her own timeline: it is written for operators."""
    async with runtime.worker(settings) as house:
        table = [route for route in house.routes if route.operation in ADMINS]
    assert {route.operation for route in table} == ADMINS
    scopes = "sale:read", "sale:write", "identity", "membership", "metrics"
    caller = await server(*scopes) if who == "a shop" else buyer(who)
    before = (await admin.asks("GET", f"/drops/{drop}")).json

    for route in table:
        path = route.path.replace("{id}", "ann" if "buyers" in route.path else str(drop))
        for query in ("", "?userId=ann", "?format=csv", "?dryRun=true"):
            body = {"name": "x", "price": 1, "totalStock": 1} if route.method != "GET" else None
            told = await caller.is_told(route.method, path + query, body)
            assert told == (403, "FORBIDDEN"), f"{route.method} {path}{query}"

    after = (await admin.asks("GET", f"/drops/{drop}")).json
    assert {**after, "serverTime": ""} == {**before, "serverTime": ""}


async def test_what_operators_do_an_admin_and_a_shop_with_that_scope_may(
    admin: Caller, server: Callable[..., Awaitable[Caller]], drop: int, anns: dict[str, str]
) -> None:
    for caller in (admin, await server("admin")):
        assert (await caller.asks("PATCH", f"/drops/{drop}", {"name": "New"})).status == 200
        assert (await caller.asks("POST", f"/drops/{drop}/reconcile")).status == 200
        holds = (await caller.asks("GET", f"/drops/{drop}/reservations?userId=ann")).json["data"]
        assert {hold["id"] for hold in holds} == {anns["$hold"], anns["$sold"]}
        sold = (await caller.asks("GET", f"/drops/{drop}/purchases")).json["data"]
        assert [purchase["id"] for purchase in sold] == [anns["$bought"]]
        story = (await caller.asks("GET", "/buyers/ann/timeline")).json["data"]
        assert {chapter["reservationId"] for chapter in story} == {hold["id"] for hold in holds}


async def test_what_is_public_names_no_buyer(
    nobody: Caller, drop: int, anns: dict[str, str]
) -> None:
    for path in ("/drops", f"/drops/{drop}", f"/drops/{drop}/stock", f"/drops/{drop}/audit"):
        shown = (await nobody.asks("GET", path)).body

        assert b'"ann"' not in shown
        for id in anns.values():
            assert id.encode() not in shown


async def test_a_key_that_may_not_read_the_sale_sees_of_a_slot_what_anybody_sees(
    server: Callable[..., Awaitable[Caller]], shop: Shop, ground: Ground
) -> None:
    [slot] = await freezer_of(ground, 1)
    seller, reader = await server("sale:write"), await server("sale:read")
    body = {"slotId": slot, "userId": "ann"}
    hold = (await seller.asks("POST", "/hold", body)).json["reservation"]["id"]
    booked = await seller.asks("POST", "/book", {"reservationId": hold, "manifestId": "MAN-7"})
    assert booked.status == 201, booked.body

    for path in ("/slots", f"/slots/{slot}", "/slots?userId=ann", f"/slots/{slot}?userId=ann"):
        for nosy in (Caller(shop, {}), seller, await server("metrics")):
            assert b"MAN-7" not in (await nosy.asks("GET", path)).body
        assert b"MAN-7" in (await reader.asks("GET", path)).body
