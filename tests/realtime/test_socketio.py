"""Socket.IO with the real client: other systems' names, their keys, and who hears which ids."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from engine.identity import tokens
from engine.identity.names import public_name
from engine.infra.errors import Retryable
from engine.realtime.models import Batch, Bought, Moved, Slot, SlotMoved
from engine.record.views import EntryView
from engine.sale.models import Drop, Hold
from tests.realtime.conftest import SALT, SECRET, Served
from tests.support.socketio import Client
from tests.support.wait import wait_until

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
WAYS = [("websocket",), ("polling",), ("polling", "websocket")]
DROP = Drop(
    id=7,
    name="Daybreak",
    price_cents=20_050,
    currency="EUR",
    image_url=None,
    starts_at=NOW,
    ends_at=None,
    status="live",
    paused_reason=None,
    hold_seconds=60,
    max_hold_seconds=600,
    pay_seconds=0,
    max_per_buyer=None,
    max_per_order=1,
    total_stock=10,
    version=3,
    free=6,
    held=2,
    sold=2,
    withdrawn=0,
    created_at=NOW,
    server_time=NOW,
    cooldown_factor=0,
    pick="any",
    listed=True,
)


def bought_by(buyer: str, seconds: int = 0) -> Bought:
    return Bought(DROP.id, public_name(SALT, buyer), NOW + timedelta(seconds=seconds), buyer)


def hold_of(buyer: str, status: str) -> Hold:
    return Hold(f"{status}-{buyer}", 7, buyer, 1, [1], status, 20_050, "EUR", NOW, NOW)


def batch(*holds: Hold, is_fresh: bool = False, **moved: Any) -> Batch:
    """News of one drop; all that is not named did not happen."""
    nothing: dict[str, Any] = {
        "is_new": False,
        "has_changed": False,
        "has_moved": False,
        "bought": [],
        "recent": [],
        "expired": 0,
        "released": 0,
    }
    return Batch(9, 1, 0.0, [Moved(drop=DROP, epoch=1, **nothing | moved)], [*holds], is_fresh)


ALL = batch(
    is_new=True,
    has_moved=True,
    bought=[bought_by("ann"), bought_by("bob", 1)],
    recent=[bought_by("bob", 1), bought_by("ann")],
    expired=1,
    released=1,
)


def token(buyer: str) -> dict[str, str]:
    return {"token": tokens.create(SECRET, buyer, 60)}


@pytest.mark.parametrize("way", WAYS, ids="-then-".join)
async def test_the_real_client_hears_every_event_under_its_name_and_keys(
    served: Served, way: tuple[str, ...]
) -> None:
    async with Client.open(served.url, *way) as client:
        assert await client.hear("connected") == [[{"message": "Connected to inventory system"}]]
        if way == ("polling", "websocket"):
            assert await client.hear("on.upgrade") == [["websocket"]]
        assert client.all("on.open") == [[way[0]]]
        served.facade.hear(ALL)
        ann, bob = bought_by("ann").username, bought_by("bob").username
        await client.hear("reservation_expired")
        heard = [each for each in client.heard if not each[0].startswith("on.")]
    shown = heard[1][1][0]
    assert heard[1][0] == "new_drop"
    assert (shown["id"], shown["price"], shown["availableStock"]) == (7, "200.50", 6)
    assert [one["username"] for one in shown["recentPurchases"]] == [bob, ann]
    stock = {"dropId": 7, "availableStock": 6}
    at = ["2026-11-21T12:00:00.000Z", "2026-11-21T12:00:01.000Z"]
    assert heard[2:] == [
        ("stockUpdate", [stock]),
        ("inventory_update", [stock]),
        ("newPurchase", [{"dropId": 7, "userId": None, "username": ann, "timestamp": at[0]}]),
        ("purchase_update", [{"dropId": 7, "username": ann, "purchasedAt": at[0]}]),
        ("newPurchase", [{"dropId": 7, "userId": None, "username": bob, "timestamp": at[1]}]),
        ("purchase_update", [{"dropId": 7, "username": bob, "purchasedAt": at[1]}]),
        (
            "reservation_update",
            [{"reservationId": None, "dropId": 7, "userId": None, "availableStock": 6}],
        ),
        (
            "reservation_expired",
            [{"reservationId": None, "dropId": 7, "slotId": None, "slotName": None}],
        ),
    ]


@pytest.mark.parametrize("way", WAYS[:2], ids="-then-".join)
async def test_ids_are_told_to_their_owner_alone(served: Served, way: tuple[str, ...]) -> None:
    async with (
        Client.open(served.url, *way, auth=token("ann")) as ann,
        Client.open(served.url, *way, auth=token("bob")) as bob,
        Client.open(served.url, *way, auth={"userId": "ann"}) as liar,
    ):
        everybody = (ann, bob, liar)
        for client in everybody:
            await client.hear("connected")
        assert served.facade.buyers == {"ann", "bob"}
        served.facade.hear(batch(hold_of("ann", "expired"), expired=1, bought=[bought_by("bob")]))
        served.facade.hear(batch(hold_of("ann", "purchased"), bought=[bought_by("ann")]))
        served.facade.hear(batch(hold_of("ann", "active"), has_moved=True))
        for client in everybody:
            await client.hear("stockUpdate")
        await ann.hear("newPurchase", 2)
        own = {"dropId": 7, "userId": "ann", "availableStock": 6}
        assert ann.all("reservation_update")[1:] == [[{"reservationId": "expired-ann", **own}]]
        assert [one["reservationId"] for (one,) in ann.all("reservation_expired")] == [
            None,
            "expired-ann",
        ]
        assert [one["userId"] for (one,) in ann.all("newPurchase")] == [None, "ann"]
        for client in (bob, liar):
            assert len(client.all("newPurchase")) == 2
            assert len(client.all("reservation_update")) == 1
            for event in ("newPurchase", "reservation_update", "reservation_expired"):
                assert "expired-ann" not in str(client.all(event))
                assert "'ann'" not in str(client.all(event))


async def test_slots_and_the_ledger_are_told_as_cryovault_s_client_expects(
    served: Served,
) -> None:
    slot_id = (7 << 20) + 1
    held = Slot(7, 1, "F1-A", "RESERVED", "NORMAL", -70.0, -70.0, NOW, NOW, "hold-1", "ann")
    free = msgspec.structs.replace(
        held, status="AVAILABLE", expires_at=None, reservation_id=None, buyer=None
    )
    entry = EntryView(9, "BOOKING_CONFIRMED", "5a", "00" * 32, "ab" * 32, 364, "then")
    async with (
        Client.open(served.url, "websocket", auth=token("ann")) as ann,
        Client.open(served.url, "websocket") as bob,
    ):
        for client in (ann, bob):
            await client.hear("connected")
        occupied = msgspec.structs.replace(held, status="OCCUPIED")
        moves = [SlotMoved(held), SlotMoved(free, ("hold-1", "ann")), SlotMoved(occupied)]
        for times, moved in enumerate(moves, 1):
            served.facade.hear(msgspec.structs.replace(batch(), slots=[moved]))
            await bob.hear("slot_update", times)
        served.facade.hear(msgspec.structs.replace(batch(), entries=[entry]))
        for client, ids in ((ann, ("hold-1", "ann")), (bob, (None, None))):
            assert (await client.hear("ledger_update"))[0][0]["entry"]["dataHash"] == "ab" * 32
            updates = [told for (told,) in client.all("slot_update")]
            assert [told["status"] for told in updates] == ["RESERVED", "AVAILABLE", "OCCUPIED"]
            assert {told["slotId"] for told in updates} == {slot_id}
            assert updates[0]["reservation"] == {
                "id": ids[0],
                "slotId": slot_id,
                "userId": ids[1],
                "status": "PENDING",
                "expiresAt": "2026-11-21T12:00:00.000Z",
            }
            assert updates[1]["reservation"] is None
            assert updates[2]["booking"]["userId"] == ids[1]
            assert client.all("reservation_expired") == [
                [{"reservationId": ids[0], "dropId": 7, "slotId": slot_id, "slotName": "F1-A"}]
            ]


@pytest.mark.parametrize("way", WAYS[:2], ids="-then-".join)
async def test_a_bad_token_is_refused_with_its_code(served: Served, way: tuple[str, ...]) -> None:
    async with Client.open(served.url, *way, auth={"token": "nonsense"}) as client:
        [[message, data]] = await client.hear("on.connect_error")
    assert (message, data["code"]) == ("The token is not valid", "UNAUTHORIZED")
    assert served.facade.count == 0


async def test_with_auth_open_a_client_says_who_it_is() -> None:
    async with (
        Served.open(auth="open") as served,
        Client.open(served.url, "websocket", auth={"userId": 42}) as client,
    ):
        await client.hear("connected")
        served.facade.hear(batch(hold_of("42", "expired"), has_moved=True))
        [[told]] = await client.hear("reservation_update")
    assert (told["userId"], told["reservationId"]) == ("42", "expired-42")


@pytest.mark.parametrize("way", WAYS[:2], ids="-then-".join)
async def test_any_room_may_be_joined_without_a_reply(served: Served, way: tuple[str, ...]) -> None:
    async with Client.open(served.url, *way) as client:
        await client.hear("connected")
        for room in ("cryovault", "drop:1", "no room at all", {"room": 1}):
            await client.say("join", room)
        await client.say("getStock", 7)
        await client.say("join", "cryovault", acknowledged=True)
        assert await client.hear("on.reply") == [[]]
        served.facade.hear(ALL)
        await client.hear("stockUpdate")
        assert not client.all("on.disconnect")


async def test_stock_is_told_anew_when_the_past_is_not_known(served: Served) -> None:
    async with Client.open(served.url, "websocket") as client:
        await client.hear("connected")
        served.facade.hear(batch(is_fresh=True))
        assert await client.hear("stockUpdate") == [[{"dropId": 7, "availableStock": 6}]]


async def test_a_client_comes_back_by_itself_when_its_process_leaves(served: Served) -> None:
    async with Client.open(served.url, "websocket", reconnectionDelay=50) as client:
        await client.hear("connected")
        await served.facade.close()
        await client.hear("connected", 2)
        assert client.all("on.disconnect") == [["transport close"]]
        assert served.facade.count == 1


async def test_dropids_are_numbers_as_everywhere(served: Served) -> None:
    async with Client.open(served.url, "polling") as client:
        await client.hear("connected")
        served.facade.hear(ALL)
        await client.hear("reservation_expired")
        told = [data[0] for _, data in client.heard if data and "dropId" in str(data[0])]
    assert len(told) == 8
    assert all(type(one["dropId"]) is int for one in told)
    assert msgspec.json.encode(told)


async def test_who_comes_while_there_are_no_news_to_be_had_hears_them_later() -> None:
    tries: list[int] = []

    async def begin() -> None:
        tries.append(served.facade.count)
        if len(tries) < 2:
            raise Retryable

    async with Served.open(begin=begin) as served, Client.open(served.url, "websocket") as client:
        await client.hear("connected")

        async def begun() -> bool:
            return len(tries) == 2

        await wait_until(begun, "it was tried again")
    assert tries == [1, 1], "the feed is begun for who listens already"
