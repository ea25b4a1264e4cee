"""Engine.IO's bounds: what a client may not do ends its own session, and nobody else hears less."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from http.client import HTTPConnection
from typing import Any

import pytest
from starlette.types import Scope
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from engine.infra.errors import RateLimited
from engine.infra.http import Call
from engine.realtime import sessions, socketio
from engine.realtime.sessions import owner_of
from tests.realtime.conftest import FRIEND, Served
from tests.realtime.test_socketio import ALL, batch
from tests.support.socketio import Client
from tests.support.wait import wait_until

QUERY = "EIO=4&transport="


async def ask(
    served: Served, query: str = "polling", body: str | None = None, **headers: str
) -> tuple[int, str]:
    """One request of a polling client: status and body."""

    def asked() -> tuple[int, str]:
        with closing(HTTPConnection("127.0.0.1", served.port, timeout=20)) as connection:
            sent = None if body is None else body.encode()
            method = "GET" if body is None else "POST"
            connection.request(method, f"/socket.io/?{QUERY}{query}", sent, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    return await asyncio.to_thread(asked)


async def open_session(served: Served) -> str:
    """The id of a new polling session."""
    status, body = await ask(served)
    assert status == 200
    return str(json.loads(body[1:])["sid"])


@asynccontextmanager
async def listening(served: Served) -> AsyncIterator[ClientConnection]:
    """A WebSocket that has introduced itself, and was welcomed."""
    url = f"ws://127.0.0.1:{served.port}/socket.io/?{QUERY}websocket"
    async with connect(url, compression=None, ping_interval=None) as opened:
        assert str(await opened.recv()).startswith("0{")
        await opened.send("40")
        assert str(await opened.recv()).startswith("40{")
        assert "connected" in str(await opened.recv())
        yield opened


async def hears(opened: ClientConnection) -> str:
    """The next event's frame; pings are answered."""
    while (frame := str(await opened.recv())) == "2":
        await opened.send("3")
    return frame


async def ends(opened: ClientConnection) -> int | None:
    """Wait for the end; its close code."""
    async with asyncio.timeout(12):
        with pytest.raises(ConnectionClosed) as end:
            while True:
                await opened.recv()
    return None if end.value.rcvd is None else int(end.value.rcvd.code)


async def until(condition: Callable[[], bool], description: str, seconds: float = 10.0) -> None:
    async def look() -> bool:
        return condition()

    await wait_until(look, description, seconds=seconds)


# ── whose session it is ──────────────────────────────────────────────────────────────────────────


async def test_a_session_is_polled_at_the_process_that_its_id_names() -> None:
    async with Served.open(name="w1") as first, Served.open(name="w2") as second:
        sid = await open_session(first)
        assert owner_of(sid) == "w1"
        assert owner_of(await open_session(second)) == "w2"
        status, body = await ask(second, f"polling&sid={sid}")
        assert (status, "Invalid session" in body) == (400, True)
        assert await ask(first, f"polling&sid={sid}", "40") == (200, "OK")
        status, body = await ask(first, f"polling&sid={sid}")
        assert (status, body[:3]) == (200, "40{")


@pytest.mark.parametrize("sid", ["", "w1", ".", "w1.", ".abc", "abcdef-_"])
def test_an_id_that_is_not_ours_has_no_owner(sid: str) -> None:
    assert owner_of(sid) is None


# ── who does not read ────────────────────────────────────────────────────────────────────────────


async def test_who_stops_reading_is_cut_off_and_others_hear_all(
    served: Served, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(socketio, "FRAMES_A_SECOND", 10**9)  # else there is too little to read
    mute = socket.socket()
    request.addfinalizer(mute.close)
    mute.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    mute.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(mute, ("127.0.0.1", served.port))
    handshake = (
        f"GET /socket.io/?{QUERY}websocket HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n"
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    await loop.sock_sendall(mute, handshake.encode())
    assert b" 101 " in await loop.sock_recv(mute, 1_024)
    await loop.sock_sendall(mute, b"\x81\x82\0\0\0\x0040")
    async with listening(served) as reader:
        await until(lambda: served.facade.count == 2, "both are there")
        rounds = 0
        while served.facade.count == 2:
            served.facade.hear(ALL)
            rounds += 1
            while "reservation_expired" not in await hears(reader):
                pass
        assert served.facade.dropped == 1
        await until(lambda: len(_connections(served)) == 1, "its connection is cut")
        served.facade.hear(batch(has_moved=True))
        assert "stockUpdate" in await hears(reader)
    assert rounds * 9 > sessions.QUEUE_MAX


def _connections(served: Served) -> list[Any]:
    return list(served.server.server_state.connections)


@pytest.mark.at_length
@pytest.mark.slow
async def test_who_answers_no_ping_is_gone_within_ten_seconds(served: Served) -> None:
    sid = await open_session(served)
    await ask(served, f"polling&sid={sid}", "40")
    async with listening(served) as silent:
        await until(lambda: served.facade.count == 2, "both are there")
        assert await ends(silent) == 1000
        await until(lambda: served.facade.count == 0, "the one that polls is gone", seconds=5)
    assert (await ask(served, f"polling&sid={sid}"))[0] == 400


# ── nonsense ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "frame",
    [
        "x", "", "9", "0", "4", "43[]", "44{}", '451-["join",{"_placeholder":true,"num":0}]',
        b"\x04binary", "4[[[[[[", "4" + "[" * 4_000, "2probe ", "bAAAA", "\udfff"[:0] + "½",
    ],
)  # fmt: skip
async def test_nonsense_ends_its_own_session_alone(served: Served, frame: str | bytes) -> None:
    async with listening(served) as other:
        async with listening(served) as odd:
            await odd.send(frame)
            assert await ends(odd) == sessions.NONSENSE
        await until(lambda: served.facade.count == 1, "it is gone")
        served.facade.hear(batch(has_moved=True))
        assert "stockUpdate" in str(await other.recv())


@pytest.mark.parametrize(
    "frame",
    [
        "42", "42{}", "42[]", "42[1]", "42not json", "42" + "[" * 3_000, "42[[]]", '42["join"]',
        '42["nobody hears this", 1]', '42["connect", {}, {"token": "x"}]', '42["disconnect", 1]',
        "40", "40/admin,", "40[1]", '421' + "9" * 200 + '["join"]', "42/nowhere,[]", "3", "6",
    ],
)  # fmt: skip
async def test_odd_messages_harm_nobody(served: Served, frame: str) -> None:
    async with listening(served) as odd, listening(served) as other:
        await odd.send(frame)
        await odd.send('427["join", "cryovault"]')
        while not str(told := await odd.recv()).startswith("43"):
            pass
        assert told == "437[]"
        assert served.facade.count == 2
        served.facade.hear(batch(has_moved=True))
        for each in (odd, other):
            assert "stockUpdate" in str(await each.recv())


@pytest.mark.parametrize("body", ["x", "\x1e", "40\x1e" * 40, "bAAAA", "4" + "[" * 4_000, "½"])
async def test_nonsense_over_polling_is_answered(served: Served, body: str) -> None:
    sid = await open_session(served)
    status, _ = await ask(served, f"polling&sid={sid}", body)
    assert status in (200, 400)
    async with Client.open(served.url, "polling") as client:
        await client.hear("connected")


async def test_a_message_over_4_kib_is_not_taken(served: Served) -> None:
    large = json.dumps(["join", "x" * 4_096])
    async with listening(served) as opened:
        await opened.send(f"42{large}")
        assert await ends(opened) == 1009
    sid = await open_session(served)
    assert (await ask(served, f"polling&sid={sid}", f"42{large}"))[0] == 400


async def test_who_speaks_without_a_pause_is_cut_off(served: Served) -> None:
    async with listening(served) as other:
        async with listening(served) as loud:
            for _ in range(200):
                await loud.send('42["join", "cryovault"]')
            assert await ends(loud) == sessions.NONSENSE
        sid = await open_session(served)
        answers = set()
        for _ in range(5):
            status, _ = await ask(served, f"polling&sid={sid}", "\x1e".join(['42["join"]'] * 16))
            answers.add(status)
        assert answers == {200, 400}
        served.facade.hear(batch(has_moved=True))
        assert "stockUpdate" in str(await other.recv())


# ── who may come in ──────────────────────────────────────────────────────────────────────────────


async def test_pages_elsewhere_connect_only_if_they_are_named(served: Served) -> None:
    for origin in ("https://evil.example", "null", "http://127.0.0.1", f"http://x:{served.port}"):
        status, body = await ask(served, Origin=origin)
        assert (status, json.loads(body)["error"]) == (403, "FORBIDDEN"), origin
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
        key = {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
        assert (await ask(served, "websocket", Origin=origin, **upgrade, **key))[0] == 403
    for origin in (FRIEND.decode(), f"http://127.0.0.1:{served.port}"):
        assert (await ask(served, Origin=origin))[0] == 200


async def test_no_more_come_in_than_there_is_room_for() -> None:
    async with Served.open(sessions_max=2) as served:
        sid = await open_session(served)
        await open_session(served)
        status, body = await ask(served)
        assert (status, json.loads(body)["retryable"]) == (503, True)
        assert (await ask(served, f"polling&sid={sid}", "40"))[0] == 200


async def test_what_only_looks_like_a_session_s_request_is_counted_as_a_new_one() -> None:
    async with Served.open(sessions_max=1) as served:
        await open_session(served)
        for query in ("polling&nosid=1", "polling&x=sid=1", "polling&sid="):
            assert (await ask(served, query))[0] == 503, query


async def test_of_one_address_come_so_many_sessions_and_no_more() -> None:
    def subject(scope: Scope) -> str:
        return str(dict(scope["headers"]).get(b"x-who", b"").decode())

    async with Served.open(subject=subject, sessions_of_one_max=1) as served:
        sid = json.loads((await ask(served, **{"X-Who": "a"}))[1][1:])["sid"]
        status, body = await ask(served, **{"X-Who": "a"})
        assert (status, json.loads(body)["error"]) == (429, "RATE_LIMITED")
        assert (await ask(served, **{"X-Who": "b"}))[0] == 200
        assert (await ask(served, f"polling&sid={sid}", "1"))[0] == 200  # it leaves
        await until(lambda: not served.facade._sessions.clients["a"], "its place is free")
        assert (await ask(served, **{"X-Who": "a"}))[0] == 200


async def test_an_address_pays_for_a_session_before_there_is_one() -> None:
    def arrive(_: Call) -> None:
        raise RateLimited("Enough", seconds=1)

    async with Served.open(arrive=arrive) as served:
        status, body = await ask(served)
        assert (status, json.loads(body)["error"]) == (429, "RATE_LIMITED")
        assert not served.facade._sessions.sockets


async def test_who_polls_twice_at_once_has_lost_his_session(served: Served) -> None:
    """Else one session keeps as many connections busy as its client likes."""
    sid = await open_session(served)
    async with asyncio.timeout(3):  # a poll is answered after 4 s, if there is nothing to tell
        asked = [ask(served, f"polling&sid={sid}") for _ in range(5)]
        assert sorted(status for status, _ in await asyncio.gather(*asked)) == [200, *[400] * 4]
    assert (await ask(served, f"polling&sid={sid}"))[0] == 400


@pytest.mark.parametrize(
    ("method", "query", "upgrade", "expected"),
    [
        ("PUT", "polling", "", (405, "METHOD_NOT_ALLOWED")),
        ("GET", "pigeon", "", (400, "VALIDATION_ERROR")),
        ("GET", "polling&sid=w1.abc", "", (400, "VALIDATION_ERROR")),
        ("POST", "polling", "", (400, "VALIDATION_ERROR")),
        ("GET", "websocket", "websocket", (400, "VALIDATION_ERROR")),  # no `Connection: Upgrade`
    ],
)
async def test_refusals_have_the_one_shape(
    served: Served, method: str, query: str, upgrade: str, expected: tuple[int, str]
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    headers = f"host: here\r\nconnection: close\r\nupgrade: {upgrade}\r\ncontent-length: 0"
    writer.write(f"{method} /socket.io/?{QUERY}{query} HTTP/1.1\r\n{headers}\r\n\r\n".encode())
    async with asyncio.timeout(5):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    told = json.loads(body)
    assert (int(head.split()[1]), told["error"]) == expected
    assert (told["success"], told["requestId"] != "") == (False, True)


# ── more to tell than there is time for ──────────────────────────────────────────────────────────


async def test_what_comes_while_there_is_no_time_is_told_as_one(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socketio, "FRAMES_A_SECOND", 4)
    async with listening(served) as opened:
        served.facade.hear(batch(has_moved=True))
        for _ in range(50):
            served.facade.hear(batch(has_moved=True, expired=1))
        told = [json.loads(str(await opened.recv())[2:])[0] for _ in range(6)]
    assert told == [
        *("stockUpdate", "inventory_update", "stockUpdate", "inventory_update"),
        *("reservation_update", "reservation_expired"),
    ]
