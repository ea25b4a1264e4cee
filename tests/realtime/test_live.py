"""What one hears at /ws: how things stand, then every change, of whoever made it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import msgspec
import pytest

from engine.identity import tokens
from engine.infra.settings import Settings
from tests.support.live import Ear, Live, lines
from tests.support.shop import Shop
from tests.support.wait import wait_until

STOCK_KEYS = {
    *("dropId", "availableStock", "heldStock", "soldStock", "withdrawnStock", "totalStock"),
    *("version", "epoch"),
}


@pytest.fixture
async def live(settings: Settings) -> AsyncIterator[Live]:
    async with Live.behind(settings) as opened:
        yield opened


async def buys(shop: Shop, drop: int, buyer: str) -> str:
    hold = (await shop.reserve(drop, buyer)).json["id"]
    assert (await shop.confirm(hold, buyer)).status == 201
    return str(hold)


async def test_who_joins_a_drop_hears_how_it_stands_and_then_each_change(live: Live) -> None:
    drop = await live.open_drop(5)
    async with live.listener() as ear:
        (shown,) = (await ear.join(f"drop:{drop}"))["drops"]
        assert shown == (await live.show(drop)) | {
            "epoch": shown["epoch"],
            "serverTime": shown["serverTime"],
        }
        hold = (await live.reserve(drop, "ann")).json["id"]
        told = await ear.hears("stock_update", availableStock=4, heldStock=1)
        assert told.keys() == STOCK_KEYS
        await live.confirm(hold, "ann")
        await ear.hears("stock_update", soldStock=1, heldStock=0, version=told["version"] + 1)
        bought = await ear.hears("new_purchase", dropId=drop)
        assert bought.keys() == {"dropId", "username", "purchasedAt"}
        assert "ann" not in bought["username"]
        recent = (await live.show(drop))["recentPurchases"]
        assert recent == [{key: bought[key] for key in ("username", "purchasedAt")}]


async def test_what_another_worker_does_is_heard_too_with_and_without_redis(
    settings: Settings,
) -> None:
    nobody = msgspec.structs.replace(settings, redis_url="redis://127.0.0.1:1/0")
    for listening in (settings, nobody):
        async with Live.behind(listening) as live, Shop.open(settings) as other:
            drop = await other.open_drop(5)
            async with live.listener() as ear:
                await ear.join(f"drop:{drop}")
                await other.reserve(drop, "bob")
                await ear.hears("stock_update", heldStock=1)


async def test_a_hint_brings_news_sooner_than_the_next_poll(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.realtime.feed.POLL_SECONDS", 60)
    async with Live.behind(settings) as live, Shop.open(settings) as other:
        drop = await live.open_drop(5)
        async with live.listener() as ear:
            await ear.join("drops")
            await other.reserve(drop, "bob")
            await ear.hears("stock_update", dropId=drop, heldStock=1)


async def test_a_drop_s_life_is_told_to_whoever_looks_at_all(live: Live) -> None:
    async with live.listener() as ear:
        assert (await ear.join("drops"))["drops"] == []
        drop = await live.open_drop(1, name="Borealis")
        new = await ear.hears("new_drop", id=drop)
        shown = await live.show(drop)
        assert new.keys() - {"epoch"} == shown.keys()
        assert (new["name"], new["availableStock"]) == ("Borealis", 1)
        await live.send("POST", f"/drops/{drop}/pause")
        await ear.hears("drop_update", id=drop, status="paused", pausedReason="admin")
        await live.send("POST", f"/drops/{drop}/resume")
        await ear.hears("drop_update", id=drop, status="live")
        await live.change(drop, name="Boreas")
        await ear.hears("drop_update", id=drop, name="Boreas")
        await buys(live, drop, "ann")
        await ear.hears("drop_update", id=drop, status="sold_out")
        await live.send("POST", f"/drops/{drop}/close")
        await ear.hears("drop_update", id=drop, status="ended")


async def test_one_s_own_holds_are_told_with_ids_and_to_nobody_else(live: Live) -> None:
    drop = await live.open_drop(5)
    before = (await live.reserve(drop, "ann")).json["id"]
    async with live.listener() as ann, live.listener() as bob:
        mine = await ann.join("me", userId="ann")
        assert [hold["id"] for hold in mine["reservations"]] == [before]
        await bob.join("me", userId="bob")
        await bob.join(f"drop:{drop}")
        await live.release(before, "ann")
        told = await ann.hears("reservation_update", reservationId=before, status="released")
        assert told["userId"] == "ann"
        told = await bob.hears("reservation_update", dropId=drop, count=1)
        assert told["reservationId"] is told["userId"] is None
        assert before not in json.dumps(bob.heard)


async def test_a_hold_that_runs_out_is_told(live: Live, keeping: None) -> None:
    drop = await live.open_drop(1, holdSeconds=1)
    async with live.listener() as ann, live.listener() as all_see:
        await ann.join("me", userId="ann")
        await all_see.join(f"drop:{drop}")
        hold = (await live.reserve(drop, "ann")).json["id"]
        assert (await ann.hears("reservation_expired"))["reservationId"] == hold
        told = await all_see.hears("reservation_expired", dropId=drop)
        assert told == {
            "dropId": drop, "availableStock": 1, "count": 1, "reservationId": None, "userId": None
        }  # fmt: skip


async def test_in_a_rush_many_changes_are_one_and_the_last_is_always_told(live: Live) -> None:
    drop = await live.open_drop(300)
    async with live.listener() as ear:
        await ear.join(f"drop:{drop}")
        await asyncio.gather(*(live.reserve(drop, f"b{n}") for n in range(300)))
        await ear.hears("stock_update", availableStock=0, heldStock=300)
        updates = [frame["data"] for frame in ear.heard if frame["event"] == "stock_update"]
        versions = [each["version"] for each in updates]
        assert versions == sorted(set(versions))
        assert (await live.stock(drop))["version"] == versions[-1]


async def test_who_leaves_a_room_hears_no_more_of_it(live: Live) -> None:
    drop, other = await live.open_drop(5), await live.open_drop(5)
    async with live.listener() as ear:
        await ear.join(f"drop:{drop}")
        await ear.join(f"drop:{other}")
        await ear.say(action="leave", room=f"drop:{drop}")
        await ear.hears("left", room=f"drop:{drop}")
        await live.reserve(drop, "ann")
        await live.reserve(other, "ann")
        await ear.hears("stock_update", dropId=other)
        told = {f["data"]["dropId"] for f in ear.heard if f["event"] == "stock_update"}
        assert told == {other}


NONSENSE: list[tuple[str | bytes, str]] = [
    ("nonsense", "VALIDATION_ERROR"),
    ('{"action": 5}', "VALIDATION_ERROR"),
    ("[]", "VALIDATION_ERROR"),
    ('{"action": "dance"}', "VALIDATION_ERROR"),
    ('{"action": "join"}', "VALIDATION_ERROR"),
    ('{"action": "join", "room": "drop:0"}', "VALIDATION_ERROR"),
    ('{"action": "join", "room": "drop:99999999999999"}', "VALIDATION_ERROR"),
    ('{"action": "join", "room": "drop:404"}', "NOT_FOUND"),
    ('{"action": "join", "room": "me"}', "UNAUTHORIZED"),
    ('{"action": "join", "room": "me:ann"}', "VALIDATION_ERROR"),
    ('{"action": "auth"}', "UNAUTHORIZED"),
    ('{"action": "auth", "token": "x.y.z"}', "UNAUTHORIZED"),
    ('{"action": "auth", "userId": ""}', "VALIDATION_ERROR"),
    ('{"action": "join", "room": "' + "x" * 100 + '"}', "VALIDATION_ERROR"),
    (b"\x00\x01", "VALIDATION_ERROR"),
]


async def test_nonsense_is_answered_in_the_one_shape_and_costs_nothing(live: Live) -> None:
    drop = await live.open_drop(1)
    async with live.listener() as ear:
        for frame, code in NONSENSE:
            await ear.socket.send(frame)
            told = await ear.hears("error")
            assert told["error"] == code, frame
            assert told.keys() == {
                *("success", "error", "message", "retryable", "details", "requestId")
            }
        await ear.join(f"drop:{drop}")
        await ear.say(action="ping")
        assert (await ear.hears("pong"))["serverTime"].endswith("Z")


async def test_who_floods_is_told_and_then_cut(live: Live) -> None:
    async with live.listener() as ear:
        for _ in range(200):
            await ear.say(action="ping")
        assert (await ear.hears("error"))["error"] == "RATE_LIMITED"
        assert await ear.is_dropped() == 1008


async def test_a_frame_larger_than_any_word_of_ours_ends_the_connection(live: Live) -> None:
    async with live.listener() as ear:
        await ear.socket.send("x" * 5_000)
        assert await ear.is_dropped() == 1009


async def test_with_auth_required_a_token_names_the_buyer_and_a_name_does_not(
    settings: Settings,
) -> None:
    secret = "s" * 40
    closed = msgspec.structs.replace(
        settings, auth="required", jwt_secret=secret, hmac_secret="h" * 40
    )
    async with Live.behind(closed) as live, live.listener() as ear:
        await ear.say(action="auth", userId="ann")
        assert (await ear.hears("error"))["error"] == "UNAUTHORIZED"
        await ear.join("me", token=tokens.create(secret, "ann", 60))
        for _ in range(3):
            await ear.say(action="auth", token="a.b.c")
        assert await ear.is_dropped() == 1008


async def test_pages_of_strangers_may_not_listen(live: Live) -> None:
    for origin in ("https://evil.example", "null", "http://["):
        with pytest.raises(Exception, match="403"):
            async with live.listener(additional_headers={"Origin": origin}):
                pass
    async with live.listener(
        "/api/v1/ws", additional_headers={"Origin": f"http://127.0.0.1:{live.port}"}
    ):
        pass


async def test_an_origin_that_is_no_address_is_refused_with_auth_required(
    settings: Settings,
) -> None:
    closed = msgspec.structs.replace(
        settings, auth="required", jwt_secret="k" * 32, hmac_secret="k" * 32
    )
    async with Live.behind(closed) as live:
        with pytest.raises(Exception, match="403"):
            async with live.listener(additional_headers={"Origin": "http://["}):
                pass


async def test_no_more_than_so_many_listen(settings: Settings) -> None:
    few = msgspec.structs.replace(settings, max_listeners=1)
    async with Live.behind(few) as live, live.listener():
        with pytest.raises(Exception, match="503"):
            async with live.listener():
                pass
    few = msgspec.structs.replace(
        settings, max_listeners_per_address=1, trusted_proxies="127.0.0.1"
    )
    there = {"X-Forwarded-For": "198.51.100.7"}
    async with Live.behind(few) as live:
        async with live.listener(additional_headers=there):
            with pytest.raises(Exception, match="429"):
                async with live.listener(additional_headers=there):
                    pass
            async with live.listener(additional_headers={"X-Forwarded-For": "198.51.100.8"}):
                pass

        async def has_left() -> bool:
            return not live.hub.clients

        await wait_until(has_left, "nobody is counted any more")


async def test_the_same_as_events_of_a_stream(live: Live) -> None:
    drop = await live.open_drop(5)
    line, writer = await lines(live.port, f"/events?room=drop:{drop},me&userId=ann")
    seen: list[str] = []

    async def until(word: str) -> str:
        while not (seen and word in seen[-1]):
            seen.append(await line())
        return seen[-1]

    assert await line() == "HTTP/1.1 200 OK"
    await until("event: connected")
    await until('"room":"me"')
    await live.reserve(drop, "ann")
    await until("event: stock_update")
    assert (await line()).startswith("id: ")
    data = json.loads((await line()).removeprefix("data: "))
    assert data.keys() == STOCK_KEYS
    await until("event: reservation_update")
    writer.close()


async def test_a_stream_of_nothing_is_refused(live: Live) -> None:
    for path, status in (
        ("/events", 400),
        ("/events?room=nix", 400),
        ("/events?room=me", 401),
        ("/api/v1/events?room=drop:0", 400),
    ):
        line, writer = await lines(live.port, path)
        assert (await line()).split()[1] == str(status), path
        writer.close()


async def test_the_feed_rests_while_nobody_listens(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.realtime.hub.SWEEP_SECONDS", 0.05)
    before = live.hub.is_following
    async with live.listener() as ear:
        await ear.join("drops")
        assert (before, live.hub.is_following) == (False, True)

    async def rests() -> bool:
        return not live.hub.is_following

    await wait_until(rests, "the feed has ended")
    async with live.listener() as again:
        await again.join("drops")
        drop = await live.open_drop(1)
        await again.hears("new_drop", id=drop)
    assert isinstance(again, Ear)
