"""Whoever listens is handed to the process that is there for it, and none of them notices."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import psutil
import pytest
import websockets

from engine.infra.handover import POSSIBLE
from engine.infra.settings import Settings
from engine.ops.launch import free_port
from tests.support.live import Ear, lines
from tests.support.nursery import Child
from tests.support.service import Service
from tests.support.socketio import Client
from tests.support.wait import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not POSSIBLE, reason="it takes Linux to hand over"),
]


@asynccontextmanager
async def _ear(port: int) -> AsyncIterator[Ear]:
    async with websockets.connect(f"ws://127.0.0.1:{port}/ws") as socket:
        ear = Ear(socket)
        assert (await ear.next())["event"] == "connected"
        yield ear


def _clients(process: Child, port: int) -> int:
    """Connections to that port that the process has."""
    connections = psutil.Process(process.pid).net_connections("tcp")
    return sum(
        one.status == psutil.CONN_ESTABLISHED and one.laddr.port == port for one in connections
    )


async def test_listeners_move_to_their_process_and_hear_what_workers_sell(
    settings: Settings, tmp_path: Path
) -> None:
    async with Service.open(settings, tmp_path, 1, 0) as service:
        await service.start_listener()
        drop = await service.open_drop(5)
        async with AsyncExitStack() as ears:
            heard = [await ears.enter_async_context(_ear(service.port)) for _ in range(5)]
            for ear in heard:
                await ear.join(f"drop:{drop}")
            line, stream = await lines(service.port, f"/events?room=drop:{drop}")
            assert "200 OK" in await line()
            while "snapshot" not in await line():
                pass
            assert _clients(service.listeners[0], service.port) == 6
            assert (await service.reserve(drop, "ann")).status == 201
            for ear in heard:
                await ear.hears("stock_update", availableStock=4)
            while '"availableStock":4' not in await line():
                pass
            stream.close()


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/socket.iox", marks=pytest.mark.at_length),
        pytest.param("/socket.io/x?sid=listener.x", marks=pytest.mark.at_length),
        "/socket.io/",
    ],
)
async def test_a_connection_never_stays_with_the_listeners_for_what_they_do_not_answer(
    settings: Settings, tmp_path: Path, path: str
) -> None:
    """A proxy keeps its connections, and puts other people's requests on them."""
    async with Service.open(settings, tmp_path, 1, 0) as service:
        await service.start_listener()
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        request = "GET {} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
        writer.write(request.format(path).encode())
        async with asyncio.timeout(10):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            if "connection: close" not in head:
                await reader.readexactly(int(head.partition("content-length: ")[2].split("\r")[0]))
                writer.write(request.format("/api/v1/drops").encode())
                assert b" 200 OK" in await reader.readline()
        writer.close()


async def test_without_their_process_the_workers_serve_them_and_with_it_again_not(
    settings: Settings, tmp_path: Path
) -> None:
    async with Service.open(settings, tmp_path, 1, 0) as service:
        drop = await service.open_drop(5)
        async with _ear(service.port) as before:
            await before.join(f"drop:{drop}")
            first = await service.start_listener()
            async with _ear(service.port) as ear:
                await ear.join(f"drop:{drop}")
                assert _clients(first, service.port) == 1
                await service.kill(first)
                assert await ear.is_dropped() == 1006
            async with _ear(service.port) as ear:
                await ear.join(f"drop:{drop}")
                await service.start_listener()
                await service.reserve(drop, "ann")
                await ear.hears("stock_update", availableStock=4)
                await before.hears("stock_update", availableStock=4)
        async with _ear(service.port) as ear:
            await ear.join(f"drop:{drop}")
            assert _clients(service.listeners[1], service.port) == 1


async def test_a_process_that_leaves_tells_its_listeners_to_come_again(
    settings: Settings, tmp_path: Path
) -> None:
    async with Service.open(settings, tmp_path, 1, 0) as service:
        process = await service.start_listener()
        async with _ear(service.port) as ear:
            process.send_signal(signal.SIGTERM)
            assert await ear.is_dropped() == 1012
            async with _ear(service.port) as again:
                await again.join("drops")
        assert await asyncio.wait_for(process.wait(), 20) == 0


async def test_a_port_of_its_own(settings: Settings, tmp_path: Path) -> None:
    """For a proxy that leads /ws there, and asks whether it lives."""
    async with Service.open(settings, tmp_path, 1, 0) as service:
        port = free_port()
        service._environment["LISTENER_PORT"] = str(port)
        await service.start_listener()
        async with _ear(port) as ear:
            await ear.join("drops")
        line, asked = await lines(port, "/health/live")
        assert "200" in await line()
        asked.close()
        line, asked = await lines(port, "/api/v1/drops")
        assert "404" in await line()
        asked.close()


async def test_a_request_of_a_session_goes_to_the_worker_that_has_it(
    settings: Settings, tmp_path: Path
) -> None:
    """A kept connection goes on there, whatever it asks for next."""
    async with Service.open(settings, tmp_path, 2, 0) as service:
        folder = tmp_path / "data" / "hand"

        async def receptions() -> list[Path]:
            return sorted(folder.glob("*/p-*.sock"))

        names = [path.stem for path in await receptions()]
        assert len(names) == 2
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)

        async def ask(path: str) -> None:
            writer.write(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
            async with asyncio.timeout(10):
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
                await reader.readexactly(length)

        async def held() -> list[int]:
            here = [n for n, each in enumerate(service.workers) if _clients(each, service.port)]
            return here if len(here) == 1 else []

        async def owner() -> int:
            """Who has the connection; who gave it away holds on to it until he hears so."""
            return (await wait_until(held, "one worker has it"))[0]

        seen = []
        for name in (*names, *names):
            await ask(f"/socket.io/?EIO=4&transport=polling&sid={name}.abc")
            seen.append(await owner())
            await ask("/api/v1/health/live")
            assert await owner() == seen[-1]
        assert {*seen[:2]} == {0, 1}
        assert seen[:2] == seen[2:]
        await ask("/socket.io/?EIO=4&transport=polling&sid=..%2Flistener.abc")
        await ask("/socket.io/?EIO=4&transport=polling&sid=p-gone.abc")
        assert await owner() == seen[-1]
        writer.close()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("listeners", [0, 1])
async def test_socket_io_needs_no_sticky_sessions_here(
    settings: Settings, tmp_path: Path, listeners: int
) -> None:
    """Each poll is a connection of its own, which the kernel leads to either worker."""
    ways = [["polling"], ["polling", "websocket"], ["websocket"]]
    async with Service.open(settings, tmp_path, 2, 0) as service:
        for _ in range(listeners):
            await service.start_listener()
        drop = await service.open_drop(5)
        url = f"http://127.0.0.1:{service.port}"
        async with AsyncExitStack() as entered:
            clients = [await entered.enter_async_context(Client.open(url, *way)) for way in ways]
            for client in clients:
                await client.hear("connected")
            assert (await service.reserve(drop, "ann")).status == 201
            for client in clients:
                await client.hear("stockUpdate")
                assert client.all("on.connect_error") == client.all("on.disconnect") == []
