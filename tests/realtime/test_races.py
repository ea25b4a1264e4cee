"""What happens at the wrong moment: between a snapshot and the news, or while Postgres is away."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import msgspec
import pytest

from engine.infra.postgres import Unreachable
from engine.infra.settings import Settings
from engine.realtime import feed as feeding
from engine.realtime import frames, shows, store
from engine.sale import shelf
from tests.support.live import Live, lines


@pytest.fixture
async def live(settings: Settings) -> AsyncIterator[Live]:
    async with Live.behind(settings) as opened:
        yield opened


def fails_once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: Exception) -> None:
    """The next call of a function fails, the others do not."""
    real, left = getattr(owner, name), [error]

    def once(*words: Any, **options: Any) -> Any:
        if left:
            raise left.pop()
        return real(*words, **options)

    monkeypatch.setattr(owner, name, once)


def waits(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> tuple[asyncio.Event, asyncio.Event]:
    """The next result of a function is held back: (it is there, it may go)."""
    real: Callable[..., Awaitable[Any]] = getattr(owner, name)
    there, may_go = asyncio.Event(), asyncio.Event()

    async def late(*words: Any, **options: Any) -> Any:
        found = await real(*words, **options)
        if not there.is_set():
            there.set()
            await may_go.wait()
        return found

    monkeypatch.setattr(owner, name, late)
    return there, may_go


async def test_what_was_read_before_postgres_went_away_is_told_when_it_is_back(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop = await live.open_drop(5)
    async with live.listener() as ear:
        await ear.join(f"drop:{drop}")
        fails_once(monkeypatch, shelf, "list_drops", Unreachable())
        await live.reserve(drop, "ann")
        await ear.hears("stock_update", heldStock=1)


@pytest.mark.parametrize("error", [ZeroDivisionError(), TypeError("a mistake of ours")])
async def test_a_mistake_of_ours_ends_no_feed(
    live: Live, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    drop = await live.open_drop(5)
    async with live.listener() as ear:
        await ear.join(f"drop:{drop}")
        fails_once(monkeypatch, frames, "of_drop", error)
        await live.reserve(drop, "ann")
        (shown,) = (await ear.hears("snapshot"))["drops"]
        assert shown["heldStock"] == 1
        await live.reserve(drop, "bob")
        await ear.hears("stock_update", heldStock=2)


async def test_who_comes_into_an_empty_room_is_not_shown_what_an_earlier_visitor_saw(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shows, "FRESH_SECONDS", 60)
    drop = await live.open_drop(5)
    async with live.listener() as other:
        await other.join("me", userId="zoe")  # somebody keeps the feed going
        async with live.listener() as first:
            await first.join(f"drop:{drop}")
        await live.reserve(drop, "ann")
        await asyncio.sleep(0.6)  # the feed has read it: nobody was there to hear it
        async with live.listener() as second:
            (shown,) = (await second.join(f"drop:{drop}"))["drops"]
            assert shown["heldStock"] == 1


async def test_news_that_are_read_while_somebody_comes_in_reach_him(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop = await live.open_drop(5)
    async with live.listener() as other, live.listener() as ear:
        await other.join("me", userId="zoe")
        shown, may_be_told = waits(monkeypatch, shelf, "list_drops")
        await ear.say(action="join", room=f"drop:{drop}")
        await shown.wait()  # his snapshot is made, and on its way
        read, may_be_heard = waits(monkeypatch, store, "read_facts")
        await read.wait()
        may_be_heard.set()
        read, may_be_heard = waits(monkeypatch, store, "read_facts")
        await live.reserve(drop, "ann")
        await read.wait()
        may_be_told.set()
        await asyncio.sleep(0.1)
        may_be_heard.set()
        while ear.heard[-1]["data"].get("heldStock") != 1:
            frame = await ear.next()
            for each in frame["data"].get("drops", ()):
                frame["data"]["heldStock"] = each["heldStock"]


async def test_two_who_come_first_begin_one_feed(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, real = [], store.newest_fact

    async def counted(*words: Any) -> Any:
        asked.append(1)
        found = await real(*words)
        await asyncio.sleep(0.05)
        return found

    monkeypatch.setattr(store, "newest_fact", counted)
    await asyncio.gather(*(live.hub.begin() for _ in range(20)))
    assert len(asked) == 1


async def test_who_leaves_a_room_on_the_way_into_it_is_not_in_it(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop = await live.open_drop(5)
    async with live.listener() as ear:
        shown, may_go = waits(monkeypatch, shelf, "list_drops")
        await ear.say(action="join", room=f"drop:{drop}")
        await shown.wait()
        await ear.say(action="leave", room=f"drop:{drop}")
        await ear.hears("left")
        may_go.set()
        await ear.join("me", userId="zoe")
        assert [f for f in ear.heard if f["event"] == "snapshot" and "drops" in f["data"]] == []
        (mine,) = live.hub.listeners
        assert list(mine.rooms) == ["me:zoe"]


async def test_who_becomes_somebody_else_is_not_told_the_former_one_s_holds(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop = await live.open_drop(5)
    await live.reserve(drop, "ann")
    async with live.listener() as ear:
        await ear.say(action="auth", userId="ann")
        shown, may_go = waits(monkeypatch, shows, "list_reservations")
        await ear.say(action="join", room="me")
        await shown.wait()
        await ear.say(action="auth", userId="bob")
        await ear.hears("authenticated", userId="bob")
        may_go.set()
        await ear.join("drops")
        assert [f for f in ear.heard if "reservations" in f["data"]] == []


async def test_a_stream_that_came_while_postgres_was_away_is_shown_its_room_at_last(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop = await live.open_drop(5)
    fails_once(monkeypatch, shelf, "list_drops", Unreachable())
    line, writer = await lines(live.port, f"/events?room=drop:{drop}")
    while await line() != "event: snapshot":
        pass
    writer.close()


async def test_after_a_lost_history_who_could_not_be_shown_the_present_is_shown_it_later(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop = await live.open_drop(5)
    async with live.listener() as ear:
        await ear.join(f"drop:{drop}")
        fails_once(monkeypatch, shelf, "list_drops", Unreachable())
        real = store.read_facts

        async def another(*words: Any) -> Any:
            epoch, now, facts = await real(*words)
            monkeypatch.setattr(store, "read_facts", real)
            return epoch + 1, now, facts

        monkeypatch.setattr(store, "read_facts", another)
        await ear.hears("snapshot")


async def test_a_stream_that_was_cut_before_it_was_shown_anything_is_shown_it(live: Live) -> None:
    drop = await live.open_drop(5)
    line, writer = await lines(live.port, f"/events?room=drop:{drop}")
    while await line() != "event: connected":
        pass
    last = await line()  # a browser says so when it comes again
    writer.close()
    place = f"last-event-id: {last[4:]}\r\n" if last.startswith("id: ") else ""
    line, writer = await lines(live.port, f"/events?room=drop:{drop}", place)
    while await line() != "event: snapshot":
        pass
    writer.close()


async def test_a_stream_asks_for_no_more_rooms_than_a_socket_may(live: Live) -> None:
    rooms = ",".join(f"drop:{n}" for n in range(1, 40))
    line, writer = await lines(live.port, f"/events?room={rooms}")
    assert (await line()).split()[1] == "400"
    writer.close()


async def test_snapshots_that_nobody_asks_for_are_not_kept(live: Live) -> None:
    keep = shows.Shows(live.hub._feed._postgres, live.hub._feed)
    await live.hub.begin()
    for n in range(3 * shows.DROPS_MAX):
        await keep.of(f"me:b{n}", 0)
        for key, (rounds, _, making) in list(keep._made.items()):
            keep._made[key] = rounds, 0.0, making  # long ago
    assert len(keep._made) <= shows.DROPS_MAX + 2


@pytest.mark.parametrize("head", [b"\x82\x80", b"\x01\x80", b"\x89\x80"])
async def test_who_floods_with_frames_of_any_kind_is_cut(live: Live, head: bytes) -> None:
    async with live.listener() as ear:
        async with asyncio.timeout(5):
            for _ in range(200):
                ear.socket.transport.write(head + bytes(4))
            assert await ear.is_dropped() in (1008, 1002)
        told = [f for f in ear.heard if f["event"] == "error"]
        assert len(told) < 50


@pytest.mark.parametrize(
    "frame",
    [
        b'{"action": "join", "room": "\xff\xfe"}',
        b'{"action": "ping", "x": ' + b"[" * 1_900 + b"]" * 1_900 + b"}",
    ],
)
async def test_odd_json_is_nonsense_like_other_nonsense(live: Live, frame: bytes) -> None:
    async with live.listener() as ear:
        await ear.socket.send(frame, text=True)
        assert (await ear.hears("error"))["error"] == "VALIDATION_ERROR"
        await ear.say(action="ping")
        await ear.hears("pong")


async def test_an_origin_that_is_no_address_is_a_stranger_s(settings: Settings) -> None:
    closed = msgspec.structs.replace(
        settings, auth="required", jwt_secret="s" * 40, hmac_secret="h" * 40
    )
    async with Live.behind(closed) as live:
        line, writer = await lines(live.port, "/events?room=drops", "origin: http://[\r\n")
        assert (await line()).split()[1:2] == ["403"]
        writer.close()


async def test_a_drop_s_first_change_is_told_though_somebody_was_shown_it_meanwhile(
    live: Live,
) -> None:
    drop = await live.open_drop(5)
    feed = feeding.Feed(
        live.hub._feed._postgres, b"salt", lambda: feeding.Scope(None, ()), live.hub._hear
    )
    await feed.begin()
    await live.reserve(drop, "ann")
    await feed.standing([drop], 1)
    batch = await feed.look()
    assert batch is not None
    assert [each.has_moved for each in batch.drops] == [True]


async def test_a_fact_on_its_way_when_the_feed_began_is_told_once_it_is_committed(
    live: Live,
) -> None:
    first, second = await live.open_drop(5), await live.open_drop(5)
    feed = feeding.Feed(
        live.hub._feed._postgres, b"salt", lambda: feeding.Scope(None, ()), live.hub._hear
    )
    database = await asyncpg.connect(live.settings.database_url)
    try:
        transaction = database.transaction()
        await transaction.start()
        await database.execute(
            "INSERT INTO outbox (drop_id, epoch, version, kind, subjects)"
            " VALUES ($1, 1, 99, 'reserved', '{}')",
            first,
        )
        await live.reserve(second, "ann")  # it overtakes the other
        await feed.begin()
        assert await feed.look() is None
        await transaction.commit()
        batch = await feed.look()
        assert batch is not None
        assert [each.drop.id for each in batch.drops] == [first]
    finally:
        await database.close()


async def test_who_asks_again_and_again_while_postgres_is_away_is_one_that_waits(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop = await live.open_drop(5)
    async with live.listener() as ear:
        shown, may_go = waits(monkeypatch, shelf, "list_drops")
        for _ in range(10):
            await ear.say(action="join", room=f"drop:{drop}")
        await shown.wait()
        await ear.say(action="ping")
        await ear.hears("pong")
        assert len([task for task in live.hub._joining if not task.done()]) == 1
        may_go.set()
        await ear.hears("snapshot")


async def test_who_vanishes_from_a_stream_is_noticed_by_the_kernel(live: Live) -> None:
    line, writer = await lines(live.port, "/events?room=drops")
    await line()
    (mine,) = live.hub.listeners
    sock = mine._transport.get_extra_info("socket")
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 5_000
    writer.close()


async def test_who_hears_all_drops_and_one_of_them_is_told_of_it_once(
    live: Live, keeping: None
) -> None:
    drop = await live.open_drop(5, holdSeconds=1)
    async with live.listener() as ear:
        await ear.join("drops")
        await ear.join(f"drop:{drop}")
        hold = (await live.reserve(drop, "ann")).json["id"]
        await live.confirm(hold, "ann")
        await ear.hears("stock_update", soldStock=1)
        await live.reserve(drop, "bob")
        await ear.hears("reservation_expired", dropId=drop)  # told in the drop's room alone
        await ear.hears("reservation_update", dropId=drop)
        versions = [f["data"]["version"] for f in ear.heard if f["event"] == "stock_update"]
        assert versions == sorted(set(versions))
        assert len([f for f in ear.heard if f["event"] == "new_purchase"]) == 1
