"""Seats, slots, numbered memberships: buyers pick units by name, and get these or none."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from engine.infra.settings import Settings
from engine.runtime import Ground
from engine.sale import drops, expire, store
from engine.sale.models import Claim
from tests.support.damage import do
from tests.support.http import Reply
from tests.support.provider import Provider
from tests.support.shop import Shop
from tests.support.wait import wait_until

ROW = ["A1", "A2", "A3", "A4", "A5", "A6"]


async def _open(shop: Shop, names: list[str] | None = None, **terms: Any) -> int:
    """A drop of named units that is on sale now."""
    body = {"name": "Aurora", "price": "120.00", "pick": "named", "units": names or ROW}
    reply = await shop.send(
        "POST", "/drops", body | {"maxPerBuyer": None, "holdSeconds": 600} | terms
    )
    assert reply.status == 201, reply.body
    assert reply.json["totalStock"] == len(body["units"])
    return int(reply.json["id"])


async def _pick(shop: Shop, drop: int, buyer: str, *units: str | int, key: str = "") -> Reply:
    """Ask for these very units."""
    body = {"dropId": drop, "userId": buyer, "units": list(units)}
    return await shop.send("POST", "/reservations", body, {"idempotency-key": key} if key else None)


async def _best(shop: Shop, drop: int, buyer: str, quantity: int) -> Reply:
    """Ask for so many beside each other."""
    return await shop.reserve(drop, buyer, quantity=quantity)


async def _map(shop: Shop, drop: int) -> dict[str, str]:
    """Who has what now, by name: a page is shared for a moment."""

    async def newest() -> dict[str, str] | None:
        reply = await shop.send("GET", f"/drops/{drop}/units?limit=1000")
        is_newest = reply.json["version"] == (await shop.stock(drop))["version"]
        return {u["name"]: u["status"] for u in reply.json["data"]} if is_newest else None

    seen = await wait_until(newest, "the map shows the newest version", pause=0.05)
    assert seen is not None
    return seen


def _names(reply: Reply) -> list[str]:
    assert reply.status in (200, 201), reply.body
    return [unit["name"] for unit in reply.json["units"]]


async def test_who_picks_units_gets_these_and_sees_their_names_wherever_they_are_shown(
    shop: Shop,
) -> None:
    drop = await _open(shop)

    hold = await _pick(shop, drop, "ann", "A4", "A2")
    bought = await shop.confirm(hold.json["id"], "ann")

    assert _names(hold) == _names(bought) == ["A2", "A4"]
    assert [unit["number"] for unit in hold.json["units"]] == [2, 4]
    assert (await shop.show(drop))["pick"] == "named"
    for path in (f"/reservations/{hold.json['id']}", f"/purchases/{bought.json['id']}"):
        assert _names(await shop.send("GET", path)) == ["A2", "A4"], path
    lists = [
        f"/drops/{drop}/reservations",
        f"/drops/{drop}/purchases",
        "/purchases/mine?userId=ann",
    ]
    for path in [*lists, "/buyers/ann/timeline"]:
        rows = (await shop.send("GET", path)).json["data"]
        assert [[unit["name"] for unit in row["units"]] for row in rows] == [["A2", "A4"]], path
    assert await _map(shop, drop) == dict.fromkeys(ROW, "free") | {"A2": "sold", "A4": "sold"}
    assert await shop.settled(drop)


async def test_of_picks_that_somebody_has_nothing_is_held_and_the_taken_ones_are_named(
    shop: Shop,
) -> None:
    drop = await _open(shop)
    await _pick(shop, drop, "ann", "A2", "A3")

    refused = await _pick(shop, drop, "bob", "A1", "A2", "A3")

    assert (refused.status, refused.error) == (409, "SLOT_NOT_AVAILABLE")
    assert refused.json["details"] == {"units": ["A2", "A3"]}
    assert (refused.json["retryable"], refused.headers["retry-after"]) == (True, "1")
    assert (await _map(shop, drop))["A1"] == "free"
    assert _names(await _pick(shop, drop, "bob", "A1")) == ["A1"]
    assert await shop.settled(drop)


async def test_what_is_gone_for_good_is_refused_for_good(shop: Shop) -> None:
    drop = await _open(shop, ["one"])
    await shop.confirm((await _pick(shop, drop, "ann", "one")).json["id"], "ann")

    refused = await _pick(shop, drop, "bob", "one", key="a key, so that Postgres is asked")

    assert refused.error == "SLOT_NOT_AVAILABLE"
    assert refused.json["retryable"] is False
    assert "retry-after" not in refused.headers


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"units": ["B1"]}, "B1 is not a unit of drop"),
    ({"units": ["A1", "A1"]}, "A1 is there twice"),
    ({"units": ["A1"], "quantity": 2}, "1 are named, and quantity says 2"),
    ({"units": []}, "want 1 to 100 units"),
    ({"units": [7]}, "7 is not a unit of drop"),
    ({"units": [""]}, "want names of 1 to 64 printable characters"),
    ({"units": ["A1\n", "A\x00"]}, "want names of 1 to 64 printable characters"),
]


async def test_units_that_there_are_not_are_a_mistake_of_the_request(shop: Shop) -> None:
    drop = await _open(shop)

    for more, problem in MISTAKES:
        reply = await shop.send("POST", "/reservations", {"dropId": drop, "userId": "ann"} | more)

        assert reply.status == 400, reply.body
        (field,) = reply.json["details"]["fields"]
        assert field["field"] == "units"
        assert problem in field["problem"]


async def test_where_units_have_no_names_none_can_be_picked_or_listed(shop: Shop) -> None:
    drop = await shop.open_drop(2)

    picked = await _pick(shop, drop, "ann", "1")
    listed = await shop.send("GET", f"/drops/{drop}/units")

    assert (picked.status, picked.json["details"]["fields"][0]["field"]) == (400, "units")
    assert listed.status == 404
    assert (await _pick(shop, 999_999, "ann", "1")).status == 404
    assert "name" not in (await shop.reserve(drop, "ann")).json["units"][0]


async def test_names_and_ids_mean_the_same_units_in_any_order_and_any_writing(shop: Shop) -> None:
    names = ["Loge é", "席 12", "🪑", "Nr. 4"]
    drop = await _open(shop, names)
    sheet = (await shop.send("GET", f"/drops/{drop}/units")).json["data"]

    decomposed = await _pick(shop, drop, "ann", "Loge e\u0301", sheet[2]["id"])
    snake = {"drop_id": drop, "user_id": "bob", "units": ["席 12"]}
    other = await shop.send("POST", "/reservations", snake)

    assert [unit["name"] for unit in sheet] == names
    assert _names(decomposed) == ["Loge é", "🪑"]
    assert _names(other) == ["席 12"]


async def test_the_best_there_are_stand_beside_each_other_or_nothing_is_held(shop: Shop) -> None:
    drop = await _open(shop)
    await _pick(shop, drop, "ann", "A2")
    await _pick(shop, drop, "ann", "A6")

    first = await _best(shop, drop, "bob", 3)
    refused = await _best(shop, drop, "cat", 2)
    single = await _best(shop, drop, "cat", 1)

    assert _names(first) == ["A3", "A4", "A5"]
    assert (refused.status, refused.error) == (409, "SOLD_OUT")
    assert _names(single) == ["A1"]
    assert await shop.settled(drop)


async def test_enough_that_are_scattered_are_not_sold_as_if_they_were_neighbours(
    shop: Shop,
) -> None:
    drop = await _open(shop)
    await _pick(shop, drop, "ann", "A2", "A4")

    refused = await _best(shop, drop, "bob", 3)

    assert (refused.status, refused.error) == (409, "SOLD_OUT")
    assert (refused.json["details"]["availableStock"], refused.json["retryable"]) == (4, True)
    assert refused.json["details"]["longestRun"] == 2
    assert _names(await _best(shop, drop, "bob", 2)) == ["A5", "A6"]


async def test_the_very_units_come_back_when_a_hold_ends_or_a_purchase_is_undone(
    shop: Shop, ground: Ground, settings: Settings
) -> None:
    drop = await _open(shop)
    released = await _pick(shop, drop, "ann", "A1")
    expired = await _pick(shop, drop, "bob", "A3")
    bought = await shop.confirm((await _pick(shop, drop, "cat", "A5")).json["id"], "cat")
    gone = await shop.confirm((await _pick(shop, drop, "dan", "A6")).json["id"], "dan")
    due = "UPDATE reservations SET expires_at = now() - interval '1 s' WHERE id = $1"

    assert (await shop.release(released.json["id"], "ann")).status == 204
    await do(settings.database_url, due, expired.json["id"])
    assert await expire.expire_drop(ground.postgres, ground.bouncer, drop) == 1
    for purchase, restock in ((bought, True), (gone, False)):
        path = f"/purchases/{purchase.json['id']}/refund"
        assert (await shop.send("POST", path, {"restock": restock})).status == 200

    assert await _map(shop, drop) == dict.fromkeys(ROW, "free") | {"A6": "withdrawn"}
    assert await shop.settled(drop)
    assert _names(await _pick(shop, drop, "eve", "A1", "A3", "A5")) == ["A1", "A3", "A5"]
    assert (await _pick(shop, drop, "eve", "A6")).error == "SLOT_NOT_AVAILABLE"
    assert await shop.settled(drop)


@pytest.mark.parametrize("is_gone", [False, True])
async def test_who_pays_too_late_gets_his_own_units_or_his_money_back(
    shop: Shop, provider: Provider, is_gone: bool
) -> None:
    drop = await _open(shop)
    hold = await _pick(shop, drop, "ann", "A2", "A3")
    await shop.release(hold.json["id"], "ann")
    if is_gone:
        await _pick(shop, drop, "bob", "A3")

    told = await provider.says("succeeded", hold.json)

    if is_gone:
        assert (told.json["outcome"], told.json["reason"]) == ("refund_due", "sold_out")
        assert (await _map(shop, drop))["A2"] == "free"
    else:
        bought = await shop.send("GET", f"/purchases/{told.json['purchaseId']}")
        assert _names(bought) == ["A2", "A3"]
        assert (await _map(shop, drop))["A3"] == "sold"
    assert await shop.settled(drop)


async def test_a_named_drop_grows_by_names_and_shrinks_from_its_end(shop: Shop) -> None:
    drop = await _open(shop)
    await _pick(shop, drop, "ann", "A6")

    nameless = await shop.change(drop, addStock=2)
    twice = await shop.change(drop, units=["A1", "B1"])
    grown = await shop.change(drop, units=["B1", "B2"])
    shrunk = await shop.change(drop, withdrawStock=3)

    assert (nameless.status, twice.status) == (400, 400)
    assert "A1 is the name of a unit already" in twice.json["message"]
    assert (grown.status, grown.json["totalStock"]) == (200, 8), grown.body
    assert shrunk.json["withdrawnStock"] == 3
    seen = await _map(shop, drop)
    assert [name for name, status in seen.items() if status == "withdrawn"] == ["A5", "B1", "B2"]
    assert (await _pick(shop, drop, "bob", "B1")).error == "SLOT_NOT_AVAILABLE"
    assert await shop.settled(drop)


async def test_units_that_were_given_no_names_are_called_by_their_numbers(shop: Shop) -> None:
    drop = await shop.open_drop(3, pick="named", maxPerBuyer=None)

    grown = await shop.change(drop, addStock=1)
    hold = await _pick(shop, drop, "ann", "4", "2")

    assert grown.status == 200, grown.body
    assert _names(hold) == ["2", "4"]
    assert (await shop.change(drop, units=["2"])).status == 400


async def test_no_name_is_given_that_a_unit_is_to_have_which_is_still_to_come(
    shop: Shop, ground: Ground
) -> None:
    """Else that unit could never be put on the shelf, and the drop would never open."""
    units = drops.SLICE + 2
    drop = await shop.open_drop(units, pick="named", maxPerBuyer=None)

    early = await shop.change(drop, units=[str(units)])
    while await drops.fill(ground.postgres):
        pass
    late = await shop.change(drop, units=[str(units), "B1"])
    grown = await shop.change(drop, units=["B1"])

    assert early.error == "PREPARING", early.body
    assert f"{units} is the name of a unit already" in late.json["message"]
    assert grown.json["totalStock"] == units + 1
    assert (await shop.show(drop))["status"] == "live"
    assert (await shop.audit(drop))["clean"]


NONSENSE: list[tuple[dict[str, Any], str]] = [
    ({"pick": "named", "units": ["A", "A"]}, "units"),
    ({"pick": "named", "units": ["A"], "totalStock": 2}, "totalStock"),
    ({"pick": "any", "units": ["A"]}, "pick"),
    ({"units": ["A"]}, "pick"),
    ({"pick": "seats", "totalStock": 2}, "pick"),
    ({"pick": "named", "units": []}, "units"),
    ({"pick": "named"}, "totalStock"),
]


async def test_a_drop_whose_names_make_no_sense_is_not_made(shop: Shop) -> None:
    for body, field in NONSENSE:
        reply = await shop.send("POST", "/drops", {"name": "Aurora", "price": "1.00"} | body)

        assert reply.status == 400, reply.body
        assert reply.json["details"]["fields"][0]["field"] == field


async def test_a_key_stands_for_its_picks_and_a_replay_tells_their_names(shop: Shop) -> None:
    drop = await _open(shop)
    first = await _pick(shop, drop, "ann", "A1", "A2", key="anns")
    await _pick(shop, drop, "bob", "A3", "A4", "A5", "A6")

    again = await _pick(shop, drop, "ann", "A2", "A1", key="anns")
    other = await _pick(shop, drop, "ann", "A1", "A3", key="anns")

    assert (again.status, again.headers["idempotent-replayed"]) == (201, "true")
    assert again.json["units"] == first.json["units"]
    assert (other.status, other.error) == (422, "IDEMPOTENCY_MISMATCH")


async def test_a_seat_map_comes_in_pages_at_a_version_and_says_when_nothing_changed(
    shop: Shop,
) -> None:
    drop = await _open(shop)

    page = await shop.send("GET", f"/drops/{drop}/units?limit=4")
    rest = await shop.send("GET", f"/drops/{drop}/units?limit=4&cursor={page.json['nextCursor']}")
    numbered = await shop.send("GET", f"/drops/{drop}/units?page=2&pageSize=5")
    tag = page.headers["etag"]
    same = await shop.send("GET", f"/drops/{drop}/units?limit=4", None, {"if-none-match": tag})
    await _pick(shop, drop, "ann", "A1")

    async def changed() -> Reply | None:
        path = f"/drops/{drop}/units?limit=4"
        reply = await shop.send("GET", path, None, {"if-none-match": tag})
        return None if reply.status == 304 else reply

    other = await wait_until(changed, "the page is another", pause=0.05)

    assert [unit["name"] for unit in page.json["data"] + rest.json["data"]] == ROW
    assert rest.json["nextCursor"] is None
    assert [unit["name"] for unit in numbered.json["data"]] == ["A6"]
    assert numbered.json["meta"]["totalItems"] == 6
    assert (same.status, same.body) == (304, b"")
    assert other is not None
    assert (other.status, other.json["data"][0]["status"]) == (200, "held")
    assert other.json["version"] > page.json["version"]
    assert (await shop.send("GET", f"/drops/{drop}/units?limit=1001")).status == 400


def _claims(*wishes: tuple[str, int, tuple[int, ...]], epoch: int) -> list[Claim]:
    """Claims of a batch, in the order of their requests."""
    return [
        Claim(f"{n:032x}", epoch << 32, f"{n:032x}", buyer, quantity, picks)
        for n, (buyer, quantity, picks) in enumerate(wishes, 1)
    ]


async def test_units_in_others_hands_are_tried_again_and_never_called_taken_scattered_or_sold_out(
    shop: Shop, ground: Ground, settings: Settings
) -> None:
    drop, epoch = await _open(shop), ground.postgres.epoch
    await _pick(shop, drop, "ann", "A4")
    rival = await asyncpg.connect(settings.database_url)
    begun = rival.transaction()
    await begun.start()
    await rival.execute("DELETE FROM units WHERE drop_id = $1 AND number IN (1, 2)", drop)

    claims = _claims(
        ("bob", 2, (1, 3)), ("cat", 3, ()), ("dan", 2, (3, 4)), ("eve", 4, ()), epoch=epoch
    )
    async with ground.postgres.session() as session:
        claimed = await store.claim_units(session, drop, epoch, claims)
    await begun.rollback()
    await rival.close()

    assert claimed.words == ["contended", "contended", "taken", "scattered"]
    async with ground.postgres.session() as session:
        again = await store.claim_units(session, drop, epoch, claims[1:3])
    assert again.words == ["held", "taken"]
    assert (again.numbers, again.names) == ([1, 2, 3], ["A1", "A2", "A3"])
    assert (await shop.audit(drop))["clean"]


async def test_a_batch_that_picks_a_unit_twice_gives_it_once(shop: Shop, ground: Ground) -> None:
    drop, epoch = await _open(shop), ground.postgres.epoch

    claims = _claims(("bob", 2, (1, 2)), ("cat", 2, (2, 3)), ("dan", 1, (3,)), epoch=epoch)
    async with ground.postgres.session() as session:
        claimed = await store.claim_units(session, drop, epoch, claims)

    assert claimed.words == ["held", "taken", "held"]
    assert (claimed.numbers, claimed.names) == ([1, 2, 3], ["A1", "A2", "A3"])
    assert (await shop.audit(drop))["clean"]


HARMS = [
    "UPDATE picks SET reservation_id = gen_random_uuid() WHERE drop_id = $1",
    "UPDATE picks SET number = 1 WHERE drop_id = $1",
    "INSERT INTO picks SELECT drop_id, 2, reservation_id FROM picks WHERE drop_id = $1",
    "DELETE FROM picks WHERE drop_id = $1",
    "DELETE FROM unit_names WHERE drop_id = $1 AND number = 6",
]


async def test_a_recount_finds_what_is_wrong_with_a_pick(shop: Shop, settings: Settings) -> None:
    for harm in HARMS:
        drop = await _open(shop)
        await _pick(shop, drop, "ann", "A3")
        assert (await shop.audit(drop))["clean"]

        await do(settings.database_url, harm, drop)

        audit = await shop.audit(drop)
        assert not audit["clean"], harm
        assert any("have no name, or are not with whom" in said for said in audit["problems"])
        assert any("unit" in said for said in audit["offenders"])


async def test_every_sale_and_refund_leaves_a_record_for_the_ledger(
    shop: Shop, settings: Settings
) -> None:
    drop = await _open(shop)
    bought = await shop.confirm((await _pick(shop, drop, "ann", "A1", "A2")).json["id"], "ann")
    await shop.send("POST", f"/purchases/{bought.json['id']}/refund", {"restock": True})

    connection = await asyncpg.connect(settings.database_url)
    rows = await connection.fetch("SELECT * FROM records WHERE drop_id = $1 ORDER BY id", drop)
    await connection.close()

    assert [(row["action"], [str(id) for id in row["subjects"]]) for row in rows] == [
        ("PURCHASED", [bought.json["id"]]),
        ("REFUNDED", [bought.json["id"]]),
    ]
