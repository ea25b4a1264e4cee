"""Who does not read, what was passed over, a history that was lost, a worker that dies."""

from __future__ import annotations

import asyncio
import random
import socket
from pathlib import Path

import asyncpg
import pytest
import websockets

from engine.infra.settings import Settings
from engine.realtime import feed as feeding
from engine.realtime import listener
from engine.realtime.feed import Feed, Scope
from engine.realtime.models import Batch
from engine.runtime import Ground
from tests.support.live import Ear, Live, lines
from tests.support.service import Service
from tests.support.shop import Shop
from tests.support.wait import wait_until

UPGRADE = (
    "GET /ws HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
    "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


async def _sleeper(port: int, room: str) -> socket.socket:
    """A client that joins a room and then reads nothing."""
    asleep = await asyncio.to_thread(socket.create_connection, ("127.0.0.1", port))
    asleep.sendall(UPGRADE.format(port=port).encode())
    assert b" 101 " in await asyncio.to_thread(asleep.recv, 4_096)
    text = f'{{"action":"join","room":"{room}"}}'.encode()
    asleep.sendall(bytes((0x81, 0x80 | len(text))) + bytes(4) + text)
    return asleep


def _rest(asleep: socket.socket) -> bytes:
    return b"".join(iter(lambda: asleep.recv(65_536), b""))


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience in tenths of seconds."""
    monkeypatch.setattr(listener, "PING_SECONDS", 0.3)
    monkeypatch.setattr(listener, "SILENCE_SECONDS", 0.4)
    monkeypatch.setattr("engine.realtime.hub.SWEEP_SECONDS", 0.05)


async def test_who_answers_no_ping_is_dropped_and_who_does_is_not(
    settings: Settings, hasty: None
) -> None:
    async with Live.behind(settings) as live, live.listener() as awake:
        drop = await live.open_drop(100)
        await awake.join(f"drop:{drop}")
        with await _sleeper(live.port, f"drop:{drop}") as asleep:

            async def both_listen() -> bool:
                return len(live.hub.listeners) == 2

            async def one_is_gone() -> bool:
                return len(live.hub.listeners) == 1

            await wait_until(both_listen, "the sleeper has joined")
            reading = asyncio.create_task(awake.hears("stock_update", heldStock=5))
            await wait_until(one_is_gone, "the sleeper is dropped")
            for n in range(5):
                await live.reserve(drop, f"b{n}")
            await reading
            asleep.settimeout(5)
            heard = await asyncio.to_thread(_rest, asleep)
            assert heard.endswith((1013).to_bytes(2, "big") + b"silent")


async def test_who_falls_behind_is_kept_nothing_for_and_hears_at_last_how_things_stand(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "BEHIND_BYTES", 1)
    monkeypatch.setattr(listener, "PING_SECONDS", 1_000)
    async with Live.behind(settings) as live:
        drop = await live.open_drop(100)
        async with live.listener() as ear:
            await ear.join(f"drop:{drop}")
            (mine,) = live.hub.listeners
            mine.pause_writing()  # as the transport says it when nobody reads
            for n in range(3):
                assert (await live.reserve(drop, f"b{n}")).status == 201
            missed = (await live.stock(drop))["version"]

            async def has_missed() -> bool:
                return bool(mine.has_missed)

            await wait_until(has_missed, "news passed it by")
            mine.resume_writing()
            (shown,) = (await ear.hears("snapshot"))["drops"]
            assert (shown["version"], shown["heldStock"]) == (missed, 3)
            assert [f for f in ear.heard if f["event"] == "stock_update"] == []


class _Heard:
    """A feed that is looked with by hand."""

    def __init__(self, ground: Ground) -> None:
        self.feed = Feed(ground.postgres, b"salt", lambda: Scope(None, ()), self._hear)

    async def _hear(self, batch: Batch) -> float:
        return 0.0

    async def kinds(self) -> list[tuple[int, int]]:
        """(drop, units held) of each drop of which there is news."""
        batch = await self.feed.look()
        return [] if batch is None else [(each.drop.id, each.drop.held) for each in batch.drops]


async def test_a_fact_whose_number_was_passed_over_is_told_once_it_is_committed(
    ground: Ground, shop: Shop
) -> None:
    first, second = await shop.open_drop(5), await shop.open_drop(5)
    heard = _Heard(ground)
    await heard.feed.begin()
    database = await asyncpg.connect(ground.settings.database_url)
    try:
        transaction = database.transaction()
        await transaction.start()  # it has its number, and others overtake it
        await database.execute(
            "INSERT INTO outbox (drop_id, epoch, version, kind, subjects)"
            " VALUES ($1, 1, 99, 'reserved', '{}')",
            first,
        )
        await shop.reserve(second, "ann")
        assert await heard.kinds() == [(second, 1)]
        assert await heard.kinds() == []
        await transaction.commit()
        assert await heard.kinds() == [(first, 0)]
        assert await heard.kinds() == []
    finally:
        await database.close()


async def test_what_was_rolled_back_is_not_waited_for_for_ever(
    ground: Ground, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop = await shop.open_drop(5)
    heard = _Heard(ground)
    await heard.feed.begin()
    database = await asyncpg.connect(ground.settings.database_url)
    await database.execute("SELECT nextval(pg_get_serial_sequence('outbox', 'id'))")
    await database.close()
    await shop.reserve(drop, "ann")
    assert await heard.kinds() == [(drop, 1)]
    assert heard.feed.passed_over
    monkeypatch.setattr(feeding, "GAP_SECONDS", 0)
    await heard.kinds()
    assert not heard.feed.passed_over


async def test_when_history_was_lost_everybody_is_shown_the_present_again(live: Live) -> None:
    drop = await live.open_drop(5)
    async with live.listener() as ear:
        before = (await ear.join(f"drop:{drop}"))["drops"][0]["epoch"]
        database = await asyncpg.connect(live.settings.database_url)
        await database.execute("UPDATE engine_state SET epoch = epoch + 1")
        await database.close()
        (shown,) = (await ear.hears("snapshot"))["drops"]
        assert shown["epoch"] == before + 1
        assert (await live.reserve(drop, "ann")).status == 201
        assert (await ear.hears("stock_update", heldStock=1))["epoch"] == before + 1


@pytest.fixture
async def live(settings: Settings):
    async with Live.behind(settings) as opened:
        yield opened


async def test_a_stream_that_comes_back_is_told_nothing_it_knows(live: Live) -> None:
    drop = await live.open_drop(5)
    line, writer = await lines(live.port, f"/events?room=drop:{drop}")
    while await line() != "event: snapshot":
        pass
    place = (await line()).removeprefix("id: ")
    writer.close()

    line, writer = await lines(
        live.port, f"/events?room=drop:{drop}", f"last-event-id: {place}\r\n"
    )
    events: list[str] = []
    await wait_until(lambda: _has_joined(live), "it is in its room")
    await live.reserve(drop, "ann")
    while "event: stock_update" not in events:
        events.append(await line())
    assert "event: snapshot" not in events
    writer.close()


async def _has_joined(live: Live) -> bool:
    return any(each.rooms for each in live.hub.listeners)


@pytest.mark.slow
async def test_a_killed_worker_s_listeners_come_back_and_the_others_miss_nothing(
    settings: Settings, tmp_path: Path
) -> None:
    async with Service.open(settings, tmp_path, workers=2) as service:
        drop = await service.open_drop(200)
        cut, finals = [0], []

        async def listen() -> None:
            """As the page does it: again, with jitter, until the last state was seen."""
            while True:
                try:
                    async with websockets.connect(f"ws://127.0.0.1:{service.port}/ws") as opened:
                        ear = Ear(opened)
                        await ear.say(action="join", room=f"drop:{drop}")
                        while True:
                            data = (await ear.next())["data"]
                            shown = data.get("drops", [data])[0]
                            if shown.get("heldStock") == 60:
                                finals.append(shown["version"])
                                return
                except (websockets.WebSocketException, OSError, TimeoutError):
                    cut[0] += 1
                    await asyncio.sleep(random.uniform(0.05, 0.3))

        listeners = [asyncio.create_task(listen()) for _ in range(24)]
        await _reserves(service, drop, 0, 30)
        service.workers[0].kill()
        await _reserves(service, drop, 30, 60)
        async with asyncio.timeout(30):
            await asyncio.gather(*listeners)
        assert 0 < cut[0] < 24 * 20
        assert set(finals) == {(await service.stock(drop))["version"]}


async def _reserves(service: Service, drop: int, first: int, last: int) -> None:
    async def one(n: int) -> None:
        async def held() -> bool:
            try:
                reply = await service.reserve(drop, f"b{n}", key=f"k{n}")
            except (ConnectionError, EOFError, OSError):
                return False
            return reply.status == 201

        await wait_until(held, f"buyer {n} has a unit")

    await asyncio.gather(*(one(n) for n in range(first, last)))
