"""A connection goes to another process, and the client does not notice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop

from engine.infra.handover import HEAD_BYTES_MAX, NOT_TAKEN, SLOW_SECONDS, Handover, Reception
from tests.support.reception import Repeating

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it takes Linux to give")

Scenario = Callable[[], Coroutine[Any, Any, None]]


@pytest.fixture(params=[uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Iterator[Callable[[Coroutine[Any, Any, None]], None]]:
    """Runs a scenario on the loop of workers, and on Python's own."""
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner.run


class There:
    """Another process, with a reception."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    @classmethod
    @contextmanager
    def open(cls, folder: Path, name: str = "listener") -> Iterator[There]:
        command = [sys.executable, "-m", "tests.support.reception", str(folder), name]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
            there = cls(process)
            try:
                assert there._line() == b"ready"
                yield there
            finally:
                there.kill()

    def ask(self, word: bytes) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(word + b"\n")
        self.process.stdin.flush()
        return int(self._line())

    def _line(self) -> bytes:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)


class Here:
    """This process: a server that gives each connection away as soon as it hears `give`, and
    serves those itself that nobody takes."""

    def __init__(self, folder: Path, name: str) -> None:
        self.kept: list[Repeating] = []
        self.handover = Handover(folder, self.repeating)
        self.name = name
        self.port = 0
        self.results: list[bool] = []
        self.lost = 0

    def repeating(self) -> Repeating:
        return Repeating(b"here", self.kept)

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: Path, name: str = "listener") -> AsyncIterator[Here]:
        here = cls(folder, name)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Door(here), "127.0.0.1", 0)
        here.port = server.sockets[0].getsockname()[1]
        try:
            yield here
        finally:
            here.handover.close()
            server.close()
            for each in here.kept:
                each.transport.abort()
            await asyncio.sleep(0.01)


class Door(asyncio.Protocol):
    """The first protocol of a connection."""

    def __init__(self, here: Here) -> None:
        self.here = here

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        given = self.here.handover.give(self.transport, data, self.here.name)
        self.here.results.append(given)
        if not given:
            own = self.here.repeating()
            own.connection_made(self.transport)
            self.transport.set_protocol(own)
            own.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.here.lost += 1


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    @asynccontextmanager
    async def of(cls, here: Here, many: int) -> AsyncIterator[list[Client]]:
        connect = asyncio.open_connection
        clients = [cls(*await connect("127.0.0.1", here.port)) for _ in range(many)]
        try:
            yield clients
        finally:
            for client in clients:
                client.writer.close()
            for client in clients:
                with contextlib.suppress(OSError):
                    await client.writer.wait_closed()

    async def ask(self, words: bytes) -> bytes:
        self.writer.write(words)
        return await self.hear(words)

    async def hear(self, words: bytes) -> bytes:
        """Who has answered these words; nothing else came."""
        async with asyncio.timeout(10):
            head = await self.reader.readuntil(b"<")
            said = await self.reader.readexactly(len(words) + 1)
        assert said == words + b">"
        return head[:-1]


def test_500_connections_go_on_with_another_process(run: Any, tmp_path: Path) -> None:
    async def scenario() -> None:
        with There.open(tmp_path / "hand") as there:
            async with Here.open(tmp_path / "hand") as here, Client.of(here, 500) as clients:
                for number, client in enumerate(clients):
                    head = b"give %d " % number + os.urandom(600).replace(b"<", b"+")
                    assert await client.ask(head) == b"listener"
                for number, client in enumerate(clients):
                    assert await client.ask(b"more %d" % number) == b"listener"
                assert here.results == [True] * 500
                assert there.ask(b"count") == 500
                there.kill()
                for client in clients:  # its end is the end: nobody else holds a descriptor
                    assert await client.reader.read() == b""

    run(scenario())


def test_all_at_once_each_is_answered_once_by_somebody(run: Any, tmp_path: Path) -> None:
    """More than fits: the rest is served here."""

    async def scenario() -> None:
        with There.open(tmp_path / "hand") as there:
            async with Here.open(tmp_path / "hand") as here, Client.of(here, 500) as clients:
                for client in clients:
                    client.writer.write(b"x" * 600)
                who = [await client.hear(b"x" * 600) for client in clients]
                assert who.count(b"listener") == there.ask(b"count") > 0
                assert who.count(b"listener") + who.count(b"here") == 500

    run(scenario())


@pytest.mark.parametrize("size", [0, 1, 16_000, HEAD_BYTES_MAX])
def test_every_byte_arrives(run: Any, tmp_path: Path, size: int) -> None:
    async def scenario() -> None:
        async with Here.open(tmp_path) as here, _reception(tmp_path) as (_, taken):
            raw = os.urandom(size)
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            transport = await _transport(theirs)
            assert here.handover.give(transport, raw, "listener")
            ours.send(b"behind")
            await _until(lambda: bool(taken) and taken[0].heard.endswith(b"behind"))
            assert taken[0].heard == raw + b"behind"
            ours.close()

    run(scenario())


def test_a_head_that_is_too_long_or_an_unsent_answer_stays_here(run: Any, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Here.open(tmp_path) as here, _reception(tmp_path) as (_, taken):
            ours, theirs = socket.socketpair()
            transport = await _transport(theirs)
            assert not here.handover.give(transport, b"x" * (HEAD_BYTES_MAX + 1), "listener")
            transport.write(b"y" * 5_000_000)
            assert not here.handover.give(transport, b"x", "listener")
            assert transport.is_reading()
            transport.abort()
            assert not here.handover.give(transport, b"x", "listener")
            assert taken == []
            ours.close()

    run(scenario())


def test_nobody_there_is_false_and_the_connection_goes_on_here(run: Any, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Here.open(tmp_path) as here, Client.of(here, 1) as [client]:
            assert await client.ask(b"give") == b"here"
            assert await client.ask(b"more") == b"here"
            assert here.results == [False]

    run(scenario())


def test_after_kill_9_it_is_false_and_its_successor_takes(run: Any, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Here.open(tmp_path) as here, Client.of(here, 3) as clients:
            with There.open(tmp_path) as there:
                assert await clients[0].ask(b"one") == b"listener"
                there.kill()
                assert await clients[1].ask(b"two") == b"here"
            with There.open(tmp_path):  # its file was left behind
                assert await clients[2].ask(b"three") == b"listener"
            assert here.results == [True, False, True]

    run(scenario())


def test_what_a_killed_process_had_not_taken_goes_on_here(run: Any, tmp_path: Path) -> None:
    async def scenario() -> None:
        with There.open(tmp_path) as there:
            async with Here.open(tmp_path) as here, Client.of(here, 20) as clients:
                assert await clients[0].ask(b"one") == b"listener"
                there.stop()
                for client in clients[1:]:
                    client.writer.write(b"two")
                await _until(lambda: len(here.results) == 20)
                assert all(here.results)
                there.kill()
                for client in clients[1:]:
                    assert await client.hear(b"two") == b"here"
                    assert await client.ask(b"three") == b"here"
                assert await clients[0].reader.read() == b""  # that one it had taken

    run(scenario())


def test_a_stopped_process_gets_no_more_than_it_can_hold(run: Any, tmp_path: Path) -> None:
    async def scenario() -> None:
        with There.open(tmp_path) as there:
            async with Here.open(tmp_path) as here, Client.of(here, 400) as clients:
                assert await clients[0].ask(b"one") == b"listener"
                there.stop()
                began = time.monotonic()
                for client in clients[1:]:
                    client.writer.write(b"two")
                await _until(lambda: len(here.results) == 400)
                waiting = here.results.count(True) - 1
                assert 0 < waiting < 300, "its queue has an end"
                assert time.monotonic() - began < 10, "somebody waited for it"
                there.go_on()
                who = [await client.hear(b"two") for client in clients[1:]]
                assert who.count(b"listener") == waiting
                assert who.count(b"here") == 399 - waiting

    run(scenario())


def test_who_has_not_taken_one_for_long_gets_no_other(run: Any, tmp_path: Path) -> None:
    async def scenario() -> None:
        with There.open(tmp_path) as there:
            async with Here.open(tmp_path) as here, Client.of(here, 3) as clients:
                assert await clients[0].ask(b"one") == b"listener"
                there.stop()
                clients[1].writer.write(b"two")
                await _until(lambda: len(here.results) == 2)
                here.handover._loop = cast(Any, Later(here.handover._loop, 2 * SLOW_SECONDS))
                assert await clients[2].ask(b"three") == b"here"
                there.go_on()
                assert await clients[1].hear(b"two") == b"listener"
                assert here.results == [True, True, False]

    run(scenario())


def test_who_does_not_want_one_is_not_asked_again_and_again(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process without files, or of another release: what comes back would be offered again."""

    async def scenario() -> None:
        loop, asked = asyncio.get_running_loop(), 0
        async with _reception(tmp_path) as (reception, taken):

            def take(line: socket.socket, _: bytes) -> bool:
                nonlocal asked
                asked += 1
                return Reception._take(reception, line, NOT_TAKEN)

            monkeypatch.setattr(reception, "_take", take)
            async with Here.open(tmp_path) as here:
                here.handover.home = lambda: Door(here)  # as of a worker: it gives again
                async with Client.of(here, 1) as (client,):
                    began = loop.time()
                    assert await client.ask(b"who?") == b"here"
                    assert loop.time() < began + 1
                    assert here.results == [True, False]
            assert not taken
        assert asked <= 3

    run(scenario())


def test_one_that_closes_its_reception_keeps_what_it_has_and_takes_no_more(
    run: Any, tmp_path: Path
) -> None:
    async def scenario() -> None:
        with There.open(tmp_path) as there:
            async with Here.open(tmp_path) as here, Client.of(here, 2) as clients:
                assert await clients[0].ask(b"one") == b"listener"
                assert there.ask(b"close") == 1
                assert await clients[1].ask(b"two") == b"here"
                assert await clients[0].ask(b"more") == b"listener"
                assert os.listdir(tmp_path) == []  # noqa: PTH208

    run(scenario())


def test_what_waits_when_a_reception_closes_goes_back(run: Any, tmp_path: Path) -> None:
    """It is given and closed in one turn of the loop: nobody has read it yet."""

    async def scenario() -> None:
        async with Here.open(tmp_path) as here, _reception(tmp_path) as (reception, taken):
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            transport = await _transport(theirs)
            assert here.handover.give(transport, b"head", "listener")
            reception.close()
            await _until(lambda: bool(here.kept) and here.kept[0].heard == b"head")
            assert taken == []
            ours.close()

    run(scenario())


def test_the_giver_may_go_before_it_is_taken(run: Any, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Here.open(tmp_path) as here, _reception(tmp_path) as (_, taken):
            ours, theirs = socket.socketpair()
            transport = await _transport(theirs)
            assert here.handover.give(transport, b"head", "listener")
            here.handover.close()
            await _until(lambda: bool(taken) and taken[0].heard == b"head")
            assert here.kept == []
            ours.close()

    run(scenario())


def test_the_newest_of_a_name_has_it(run: Any, tmp_path: Path) -> None:
    async def scenario() -> None:
        with There.open(tmp_path) as old:
            async with Here.open(tmp_path) as here, Client.of(here, 1) as [client]:
                with There.open(tmp_path) as young:
                    assert old.ask(b"close") == 0
                    assert (tmp_path / "listener.sock").exists(), "it is the young one's"
                    assert await client.ask(b"one") == b"listener"
                    assert young.ask(b"count") == 1

    run(scenario())


def test_files_of_the_dead_are_swept_and_those_of_the_living_stay(tmp_path: Path, run: Any) -> None:
    async def scenario() -> None:
        with There.open(tmp_path, "p-12") as there:
            there.kill()
        with There.open(tmp_path, "p-56"):
            assert (tmp_path / "p-12.sock").exists() is False
            async with _reception(tmp_path):
                assert (tmp_path / "p-56.sock").exists()
                mode = (tmp_path / "listener.sock").stat().st_mode
                assert mode & 0o777 == 0o600

    run(scenario())


@pytest.mark.parametrize("name", ["", "../listener", "a/b", "\0", "x" * 200, "Listener", "é"])
def test_a_name_that_is_none_leads_to_nobody(run: Any, tmp_path: Path, name: str) -> None:
    async def scenario() -> None:
        folder = tmp_path / "a"
        async with (
            _reception(tmp_path),
            Here.open(folder, name) as here,
            Client.of(here, 1) as [client],
        ):
            assert await client.ask(b"give") == b"here"

    run(scenario())


def test_a_folder_with_a_name_longer_than_an_address(run: Any, tmp_path: Path) -> None:
    async def scenario() -> None:
        folder = tmp_path / ("long" * 30)
        async with Here.open(folder) as here, _reception(folder) as (_, taken):
            ours, theirs = socket.socketpair()
            transport = await _transport(theirs)
            assert here.handover.give(transport, b"head", "listener")
            await _until(lambda: bool(taken) and taken[0].heard == b"head")
            assert (folder / "listener.sock").is_socket()
            ours.close()

    run(scenario())


class Later:
    """A loop whose clock is ahead."""

    def __init__(self, loop: asyncio.AbstractEventLoop, by: float) -> None:
        self._loop, self._by = loop, by

    def time(self) -> float:
        return self._loop.time() + self._by

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


@asynccontextmanager
async def _reception(folder: Path) -> AsyncIterator[tuple[Reception, list[Repeating]]]:
    taken: list[Repeating] = []
    reception = Reception(folder, "listener", lambda: Repeating(b"there", taken))
    reception.open()
    try:
        yield reception, taken
    finally:
        reception.close()
        for each in taken:
            each.transport.abort()
        await asyncio.sleep(0.01)


async def _transport(sock: socket.socket) -> asyncio.Transport:
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, sock)
    return transport


async def _until(look: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not look():
            await asyncio.sleep(0.005)
