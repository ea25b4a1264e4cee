"""Who is slow, silent or greedy at the door costs the others nothing, and hears why.

Real workers over real sockets, with short patience; nothing here sleeps for a time-out, it waits
for what must happen.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import psutil
import pytest

from engine.infra.settings import Settings
from tests.app.attack import HEADERS, TIMEOUT, VALIDATION, chunked
from tests.support.http import Reply
from tests.support.locks import stock_locked, waiting_claims
from tests.support.service import Service
from tests.support.wait import wait_until

LIVE = b"GET /api/v1/health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
HEAD = b"POST /api/v1/reservations HTTP/1.1\r\nHost: 127.0.0.1\r\n"
PATIENT = {"HEADER_TIMEOUT_MS": "60000", "BODY_TIMEOUT_MS": "60000", "KEEP_ALIVE_MS": "60000"}


class Client:
    """One connection, written to and read from by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    @asynccontextmanager
    async def of(cls, service: Service) -> AsyncIterator[Client]:
        """Connect; hang up at the end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        try:
            yield cls(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def say(self, raw: bytes) -> None:
        """Send bytes."""
        self.writer.write(raw)
        await self.writer.drain()

    async def hear(self) -> Reply:
        """The next answer."""
        async with asyncio.timeout(10):
            head = await self.reader.readuntil(b"\r\n\r\n")
            first, *rest = head.decode("latin-1").split("\r\n")
            pairs = (line.partition(": ") for line in rest if line)
            headers = {name: value for name, _, value in pairs}
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Reply(int(first.split()[1]), headers, body)

    async def ask(self, raw: bytes) -> Reply:
        """Say and hear."""
        await self.say(raw)
        return await self.hear()

    async def is_hung_up_on(self) -> bool:
        """Whether the other side ends it, without another byte. Waits for that."""
        async with asyncio.timeout(10):
            try:
                return await self.reader.read() == b""
            except ConnectionResetError:
                return True


@asynccontextmanager
async def _worker(settings: Settings, folder: Path, **short: str) -> AsyncIterator[Service]:
    environment = PATIENT | {"LOG_LEVEL": "info"} | short
    async with Service.open(settings, folder, 1, 0, **environment) as service:
        yield service


def _reserve(drop: int, buyer: str) -> bytes:
    body = json.dumps({"dropId": drop, "userId": buyer}).encode()
    return HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


async def _trickle(client: Client, byte: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        while True:
            await client.say(byte)
            await asyncio.sleep(0.02)


@asynccontextmanager
async def _trickling(client: Client, byte: bytes) -> AsyncIterator[None]:
    task = asyncio.create_task(_trickle(client, byte))
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


# ── slow senders ─────────────────────────────────────────────────────────────────────────────────


async def test_a_head_that_trickles_is_a_408_all_the_same(
    settings: Settings, tmp_path: Path
) -> None:
    async with (
        _worker(settings, tmp_path, HEADER_TIMEOUT_MS="300") as service,
        Client.of(service) as first,
        Client.of(service) as later,
    ):
        assert (await later.ask(LIVE)).status == 200
        for client in (first, later):  # a new connection, and one that was asked before
            await client.say(b"GET / HTTP/1.1\r\nX: ")
            async with _trickling(client, b"x"):
                reply = await client.hear()

            assert (reply.status, reply.error) == TIMEOUT
            assert reply.headers["connection"] == "close"
            assert reply.headers["x-content-type-options"] == "nosniff"
            assert reply.json["retryable"] is True
            assert await client.is_hung_up_on()


async def test_a_body_that_trickles_is_a_408_and_takes_nothing(
    settings: Settings, tmp_path: Path
) -> None:
    async with _worker(settings, tmp_path, BODY_TIMEOUT_MS="300") as service:
        drop = await service.open_drop(1)
        body = b'{"dropId":%d,"userId":"ann"}' % drop
        lengths = (b"Content-Length: 50000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\nc350\r\n")
        for length in lengths:
            async with Client.of(service) as client:
                await client.say(HEAD + length + body)
                async with _trickling(client, b" "):
                    reply = await client.hear()

                assert (reply.status, reply.error) == TIMEOUT
                assert reply.headers["connection"] == "close"
        assert (await service.stock(drop))["availableStock"] == 1
        assert "http.crashed" not in service.log()


async def test_who_is_answered_before_his_body_ends_is_not_answered_again(
    settings: Settings, tmp_path: Path
) -> None:
    async with (
        _worker(settings, tmp_path, BODY_TIMEOUT_MS="300") as service,
        Client.of(service) as client,
    ):
        reply = await client.ask(LIVE[:-2] + b"Content-Length: 10\r\n\r\nabc")

        assert reply.status == 200
        assert await client.is_hung_up_on()


async def test_a_body_may_take_its_time_as_long_as_it_has_some(
    settings: Settings, tmp_path: Path
) -> None:
    async with _worker(settings, tmp_path) as service, Client.of(service) as client:
        drop = await service.open_drop(1)
        for byte in _reserve(drop, "ann"):
            await client.say(bytes([byte]))

        assert (await client.hear()).status == 201
        assert (await client.ask(LIVE)).status == 200


# ── the silent ───────────────────────────────────────────────────────────────────────────────────


async def test_the_silent_are_sent_away_without_a_word(settings: Settings, tmp_path: Path) -> None:
    """Browsers connect ahead of time; an answer to no question would confuse them."""
    async with (
        _worker(settings, tmp_path, HEADER_TIMEOUT_MS="300") as service,
        Client.of(service) as silent,
        Client.of(service) as breathing,
        _trickling(breathing, b"\r\n"),
    ):
        assert await silent.is_hung_up_on()
        assert await breathing.is_hung_up_on()


async def test_the_idle_are_sent_away_without_a_word(settings: Settings, tmp_path: Path) -> None:
    async with (
        _worker(settings, tmp_path, KEEP_ALIVE_MS="300") as service,
        Client.of(service) as client,
    ):
        assert (await client.ask(LIVE)).status == 200
        async with _trickling(client, b"\r\n"):
            assert await client.is_hung_up_on()


async def test_who_is_refused_at_once_over_and_over_is_not_idle(
    settings: Settings, tmp_path: Path
) -> None:
    async with (
        _worker(settings, tmp_path, KEEP_ALIVE_MS="300") as service,
        Client.of(service) as busy,
        Client.of(service) as idle,
    ):
        assert (await busy.ask(_reserve(0, "ann"))).status == 400
        assert (await idle.ask(LIVE)).status == 200
        left = asyncio.create_task(idle.is_hung_up_on(), name="idle")
        while not left.done():  # so much time has passed, since the first and since the last
            assert (await busy.ask(_reserve(0, "ann"))).status == 400
            await asyncio.sleep(0.02)
        assert left.result()
        assert (await busy.ask(_reserve(0, "ann"))).status == 400


async def test_who_waits_for_an_answer_is_neither_silent_nor_idle(
    settings: Settings, tmp_path: Path
) -> None:
    short = {"HEADER_TIMEOUT_MS": "200", "BODY_TIMEOUT_MS": "200", "KEEP_ALIVE_MS": "200"}
    async with _worker(settings, tmp_path, **short) as service:
        drop = await service.open_drop(1)
        async with Client.of(service) as client, Client.of(service) as idle:
            async with stock_locked(settings.database_url, drop):
                await client.say(_reserve(drop, "ann"))
                assert (await idle.ask(LIVE)).status == 200
                assert await idle.is_hung_up_on()  # so much time has passed
            assert (await client.hear()).status == 201


# ── who does not read ────────────────────────────────────────────────────────────────────────────


async def test_who_never_reads_gets_no_more_than_fits_and_is_cut(
    settings: Settings, tmp_path: Path
) -> None:
    async with (
        _worker(settings, tmp_path, SLOW_READER_MS="400") as service,
        Client.of(service) as other,
    ):
        worker = psutil.Process(service.workers[0].pid)
        script = b"GET /assets/shop.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        with socket.socket() as greedy:
            greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            greedy.connect(("127.0.0.1", service.port))
            greedy.setblocking(False)
            before, sent, rest = worker.memory_info().rss, 0, b""

            async def is_cut() -> bool:
                nonlocal sent, rest
                # Answered by the same loop, so what was sent before has been read.
                assert (await other.ask(LIVE)).status == 200
                rest = rest or script
                try:
                    count = greedy.send(rest)
                except BlockingIOError:
                    return False
                except ConnectionError:
                    return True
                sent, rest = sent + count, rest[count:]
                return False

            await wait_until(is_cut, "the one who never reads is cut", pause=0.001)
        assert sent > 20 * len(script)
        assert worker.memory_info().rss - before < 16 << 20
        assert '"why": "unread"' in service.log()


# ── the seats ────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def _clients(service: Service, count: int) -> AsyncIterator[list[Client]]:
    async with contextlib.AsyncExitStack() as all_of_them:
        yield [await all_of_them.enter_async_context(Client.of(service)) for _ in range(count)]


async def test_the_longest_idle_gives_way_and_the_busy_do_not(
    settings: Settings, tmp_path: Path
) -> None:
    async with _worker(settings, tmp_path, MAX_CONNECTIONS="4") as service:
        drop = await service.open_drop(1)
        await service.crowd.close()
        async with _clients(service, 4) as (busy, idle, silent, fresh):
            async with stock_locked(settings.database_url, drop):
                await busy.say(_reserve(drop, "ann"))
                for client in (idle, fresh):
                    assert (await client.ask(LIVE)).status == 200

                async with _clients(service, 2) as others:
                    for client in others:
                        assert (await client.ask(LIVE)).status == 200
                    assert await silent.is_hung_up_on()
                    assert await idle.is_hung_up_on()
                    assert (await fresh.ask(LIVE)).status == 200
            assert (await busy.hear()).status == 201


async def test_who_comes_when_all_are_busy_hears_that_nothing_was_taken(
    settings: Settings, tmp_path: Path
) -> None:
    async with _worker(settings, tmp_path, MAX_CONNECTIONS="2") as service:
        drop = await service.open_drop(5)
        await service.crowd.close()
        async with _clients(service, 2) as busy:
            async with stock_locked(settings.database_url, drop):
                for number, client in enumerate(busy):
                    await client.say(_reserve(drop, f"b{number}"))
                await _is_busy(settings, 1)
                async with Client.of(service) as late:
                    reply = await late.ask(_reserve(drop, "late"))

                    assert (reply.status, reply.error) == (503, "RETRYABLE")
                    assert reply.json["retryable"] is True
                    assert int(reply.headers["retry-after"]) >= 1
                    assert reply.headers["connection"] == "close"
                    assert await late.is_hung_up_on()
            assert {(await client.hear()).status for client in busy} == {201}
        assert (await service.stock(drop))["heldStock"] == 2


async def test_slow_senders_cannot_fill_the_house(settings: Settings, tmp_path: Path) -> None:
    async with _worker(settings, tmp_path, MAX_CONNECTIONS="6") as service:
        drop = await service.open_drop(9)
        await service.crowd.close()
        async with _clients(service, 6) as slow:
            for number, client in enumerate(slow):
                await client.say(
                    b"GET / HTT" if number % 2 else HEAD + b"Content-Length: 9\r\n\r\n"
                )

            async def gets_in() -> bool:
                async with Client.of(service) as honest:
                    return (await honest.ask(LIVE)).status == 200

            for _ in range(6):
                await wait_until(gets_in, "an honest client gets a seat")
            assert (await slow[1].hear()).error == "RETRYABLE"
        assert (await service.stock(drop))["availableStock"] == 9


async def test_a_thousand_idle_ones_come_and_go_and_nobody_waits(
    settings: Settings, tmp_path: Path
) -> None:
    async with _worker(settings, tmp_path, MAX_CONNECTIONS="50") as service:
        drop = await service.open_drop(100)
        worker = psutil.Process(service.workers[0].pid)
        async with _clients(service, 1_000):
            for number in range(20):
                async with Client.of(service) as client:
                    assert (await client.ask(_reserve(drop, f"b{number}"))).status == 201
            assert worker.num_fds() < 50 + 256 + 64


async def _is_busy(settings: Settings, claims: int) -> None:
    database = await asyncpg.connect(settings.database_url)

    async def waits() -> bool:
        return await waiting_claims(database) >= claims

    await wait_until(waits, "a claim is under way", pause=0.002)
    await database.close()


@pytest.mark.slow
async def test_a_worker_out_of_files_neither_spins_nor_forgets_its_clients(
    settings: Settings, tmp_path: Path
) -> None:
    async with _worker(settings, tmp_path) as service:
        drop = await service.open_drop(5)
        worker = psutil.Process(service.workers[0].pid)
        resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (worker.num_fds() + 20,) * 2)
        async with _clients(service, 60):
            assert (await service.reserve(drop, "ann")).status == 201  # on the old connection
            before = sum(worker.cpu_times()[:2])
            for _ in range(20):
                assert (await service.send("GET", "/health/live")).status == 200
                await asyncio.sleep(0.05)
            assert sum(worker.cpu_times()[:2]) - before < 0.5

        async def gets_in() -> bool:
            try:
                async with Client.of(service) as client:
                    return (await client.ask(LIVE)).status == 200
            except (OSError, asyncio.IncompleteReadError):
                return False

        await wait_until(gets_in, "new clients get in again")


# ── one after the other ──────────────────────────────────────────────────────────────────────────


async def test_a_refusal_waits_for_the_answers_before_it(
    settings: Settings, tmp_path: Path
) -> None:
    """Else a client would take it for the answer to its reservation."""
    async with _worker(settings, tmp_path) as service:
        drop = await service.open_drop(5)
        rests = {
            b"no HTTP\r\n\r\n": VALIDATION,
            HEAD + b"X: " + b"x" * 40_000: HEADERS,
            HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n": VALIDATION,
        }
        for number, (rest, refusal) in enumerate(rests.items()):
            async with Client.of(service) as client:
                async with stock_locked(settings.database_url, drop):
                    await client.say(_reserve(drop, f"b{number}") + LIVE + rest)
                    await _is_busy(settings, 1)

                assert (await client.hear()).status == 201
                assert (await client.hear()).status == 200
                reply = await client.hear()
                assert (reply.status, reply.error) == refusal
                assert await client.is_hung_up_on()


async def test_requests_sent_far_ahead_are_answered_up_to_a_bound(
    settings: Settings, tmp_path: Path
) -> None:
    async with _worker(settings, tmp_path) as service, Client.of(service) as client:
        drop = await service.open_drop(5)
        async with stock_locked(settings.database_url, drop):
            await client.say(_reserve(drop, "ann") + LIVE * 1_000)
            await _is_busy(settings, 1)

        assert (await client.hear()).status == 201
        assert [(await client.hear()).status for _ in range(32)] == [200] * 32
        assert (await client.hear()).error == "RETRYABLE"
        assert await client.is_hung_up_on()


async def test_pipelined_requests_with_bodies_get_their_answers_in_order(
    settings: Settings, tmp_path: Path
) -> None:
    async with _worker(settings, tmp_path) as service, Client.of(service) as client:
        drop = await service.open_drop(9)
        await client.say(b"".join(_reserve(drop, f"b{n}") + LIVE for n in range(9)))

        assert [(await client.hear()).status for _ in range(18)] == [201, 200] * 9


# ── odd, but HTTP ────────────────────────────────────────────────────────────────────────────────


async def test_an_upgrade_is_ignored_and_its_body_is_still_a_body(
    settings: Settings, tmp_path: Path
) -> None:
    """Java's client offers h2c with every request. A body taken for a request would smuggle one."""
    async with _worker(settings, tmp_path) as service, Client.of(service) as client:
        drop = await service.open_drop(5)
        offer = (
            b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
        )
        whole = _reserve(drop, "ann").replace(HEAD, HEAD + offer)
        head, gap, body = whole.partition(b"\r\n\r\n")

        assert (await client.ask(whole)).status == 201
        await client.say(head.replace(b"ann", b"bob") + gap)
        assert (await client.ask(body.replace(b"ann", b"bob"))).status == 201
        assert (await client.ask(LIVE)).status == 200
        smuggled = b"GET /api/v1/nowhere HTTP/1.1\r\nHost: x\r\n\r\n"
        await client.say(HEAD + offer + b"Content-Length: %d\r\n\r\n" % len(smuggled))
        assert (await client.ask(smuggled)).error == "VALIDATION_ERROR"
        assert (await client.ask(LIVE)).status == 200


async def test_what_comes_behind_a_body_is_no_header(settings: Settings, tmp_path: Path) -> None:
    async with _worker(settings, tmp_path) as service, Client.of(service) as client:
        drop = await service.open_drop(5)
        body = chunked(b'{"dropId":%d,"userId":"ann"}' % drop)[:-2] + b"Idempotency-Key: k\r\n\r\n"

        reply = await client.ask(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body)

        assert reply.status == 201
        assert reply.headers["idempotency-key"] != "k"


async def test_who_expects_a_100_gets_one(settings: Settings, tmp_path: Path) -> None:
    async with _worker(settings, tmp_path) as service, Client.of(service) as client:
        drop = await service.open_drop(5)
        head, _, body = _reserve(drop, "ann").partition(b"\r\n\r\n")
        await client.say(head + b"\r\nExpect: 100-continue\r\n\r\n")

        assert (await client.hear()).status == 100
        assert (await client.ask(body)).status == 201


@pytest.mark.parametrize("path", [b"/api/v1/health/live", b"/"])
async def test_http_1_0_is_answered_and_closed(
    settings: Settings, tmp_path: Path, path: bytes
) -> None:
    async with _worker(settings, tmp_path) as service, Client.of(service) as client:
        reply = await client.ask(b"GET %b HTTP/1.0\r\n\r\n" % path)

        assert reply.status == 200
        assert reply.body
        assert reply.headers["connection"] == "close"
        assert await client.is_hung_up_on()


# ── leaving ──────────────────────────────────────────────────────────────────────────────────────


async def test_who_leaves_ends_the_idle_at_once_and_waits_for_no_slow_sender(
    settings: Settings, tmp_path: Path
) -> None:
    async with _worker(settings, tmp_path) as service:
        drop = await service.open_drop(5)
        async with _clients(service, 5) as (idle, silent, head, body, busy):
            assert (await idle.ask(LIVE)).status == 200
            await head.say(b"GET / HT")
            await body.say(HEAD + b"Content-Length: 50000\r\n\r\n{")
            async with stock_locked(settings.database_url, drop):
                await busy.say(_reserve(drop, "ann"))
                await _is_busy(settings, 1)
                service.workers[0].send_signal(signal.SIGTERM)
                for client in (idle, silent, head):
                    assert await client.is_hung_up_on()
            reply = await busy.hear()
            assert (reply.status, reply.headers["connection"]) == (201, "close")
            async with _trickling(body, b" "):
                assert (await body.hear()).error == "RETRYABLE"
        assert await asyncio.wait_for(service.workers[0].wait(), 5) == 0
        assert "http.crashed" not in service.log()


# ── what stands in every answer ──────────────────────────────────────────────────────────────────

KINDS = {
    "a hold": (201, None),
    "a refusal": (404, b"GET /api/v1/drops/999 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
    "an unknown path": (404, b"GET /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
    "a wrong method": (405, b"PUT /api/v1/drops HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
    "no HTTP": (400, b"nonsense\r\n\r\n"),
    "health": (200, LIVE),
    "an export": (
        200,
        b"HEAD /api/v1/drops/$drop/purchases?format=csv HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    ),
    "the page": (200, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
    "a script": (200, b"GET /assets/shop.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
    "a picture": (200, b"GET /pictures/00-a.svg HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
}


async def test_every_answer_carries_what_protects_its_reader(
    settings: Settings, tmp_path: Path
) -> None:
    async with _worker(settings, tmp_path, HSTS_SECONDS="31536000") as service:
        drop = await service.open_drop(5)
        for name, (status, given) in KINDS.items():
            raw = given or _reserve(drop, "ann")
            async with Client.of(service) as client:
                await client.say(raw.replace(b"$drop", b"%d" % drop))
                head = (await client.reader.readuntil(b"\r\n\r\n")).decode()
            names = [line.partition(":")[0] for line in head.split("\r\n")[1:-2]]
            pairs = (line.partition(": ") for line in head.split("\r\n")[1:-2])
            told = {header: value for header, _, value in pairs}

            assert head.startswith(f"HTTP/1.1 {status} "), (name, head)
            assert len(names) == len(set(names)), (name, names)
            assert told["x-content-type-options"] == "nosniff"
            assert told["referrer-policy"] == "no-referrer"
            assert told["strict-transport-security"] == "max-age=31536000"
            assert told["content-security-policy"].startswith("default-src '")
            is_page = name in ("the page", "a script", "a picture")
            assert (told["cache-control"] == "no-store") is not is_page
            assert ("cross-origin-resource-policy" in told) is is_page


async def test_stock_keeps_its_own_second_in_a_cache(settings: Settings, tmp_path: Path) -> None:
    async with _worker(settings, tmp_path) as service:
        drop = await service.open_drop(5)
        reply = await service.send("GET", f"/drops/{drop}/stock")

        assert reply.headers["cache-control"] == "max-age=1"
        assert "strict-transport-security" not in reply.headers
        assert "vary" not in reply.headers
        again = await service.send(
            "GET", f"/drops/{drop}/stock", headers={"if-none-match": reply.headers["etag"]}
        )
        assert again.status == 304
