"""Serve: one API worker, a process for listeners, a keeper or the mock provider. Each says that it
is ready, and drains when told to go.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from collections.abc import Callable
from functools import partial

import msgspec
import structlog
import uvicorn
from starlette.types import ASGIApp

from engine import app, runtime
from engine.infra import points
from engine.infra.errors import Misconfigured
from engine.infra.handover import Reception
from engine.infra.lobby import Lobby
from engine.infra.settings import Settings, require_secrets, too_short
from engine.infra.wire import Protocol
from engine.ops import doorstep, preflight
from engine.ops.checkout import Checkout
from engine.ops.provider import MockProvider
from engine.realtime.elsewhere import Elsewhere, Once

log = structlog.get_logger()

BACKLOG = 2_048
CHECKOUT_SEATS = 1_000  # connections to the mock provider
HSTS_SECONDS = 86_400  # that HTTPS_ONLY implies
GRACE_SECONDS = 5  # for requests under way at the end


def bound(settings: Settings) -> socket.socket:
    """The listening socket. Workers share the port; the kernel spreads the connections."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "SO_REUSEPORT"):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind((settings.host, settings.port))
    except OSError as error:
        sock.close()
        raise Misconfigured(
            f"port {settings.port} on {settings.host} cannot be had ({error.strerror}): "
            f"stop what uses it, or choose another with PORT={settings.port + 1}"
        ) from None
    sock.listen(BACKLOG)
    sock.set_inheritable(True)
    return sock


def spare_the_collector() -> None:
    """Requests make garbage, but hardly ever in circles: look for circles a hundredth as often.

    With the defaults the collector walks all that was ever loaded, and takes an eighth of a worker.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def constant_headers(settings: Settings) -> list[tuple[str, str]]:
    """What stands in every answer, whoever makes it; the server joins it once a second."""
    headers = [("x-content-type-options", "nosniff"), ("referrer-policy", "no-referrer")]
    # A day, unless more is asked for: one that was set by mistake is gone tomorrow.
    if seconds := settings.hsts_seconds or (HSTS_SECONDS if settings.https_only else 0):
        headers.append(("strict-transport-security", f"max-age={seconds}"))
    return headers


def counting_with_the_others(settings: Settings) -> Settings:
    """The settings of a process that shares its counts with those of the same DATA_DIR."""
    folder = settings.metrics_dir or str(settings.data_dir / "metrics")
    return msgspec.structs.replace(settings, metrics_dir=folder)


def say_ready() -> None:
    """Tell a supervisor, if there is one."""
    if (number := os.environ.get("VELVETROPE_READY_FD")) is not None:
        os.write(int(number), b"ready\n")


async def serve(settings: Settings) -> None:
    """Run one worker until SIGTERM or SIGINT; returns when everything is drained."""
    doorstep.access(settings)
    points.arm(settings.auth, "request")
    await preflight.at_start(settings, secrets=True)
    files = doorstep.raise_files_max()
    sock = bound(settings)
    settings = counting_with_the_others(settings)
    async with runtime.worker(settings) as house:
        lobby = Lobby(settings, doorstep.seats(settings, files))

        def say_worker_ready() -> None:
            spare_the_collector()
            say_ready()
            log.info(
                "worker.ready",
                host=settings.host,
                port=settings.port,
                connections_max=lobby.seats,
                files_max=files,
            )

        asgi = app.build(house.routes, settings, house.facade)
        await answer(asgi, [sock], settings, lobby, say_worker_ready, house.doorway)
    log.info("worker.left")


async def listen(settings: Settings) -> None:
    """Run one process for listeners until SIGTERM or SIGINT."""
    doorstep.access(settings)
    await preflight.at_start(settings, secrets=True)
    files = doorstep.raise_files_max()
    ours = msgspec.structs.replace(settings, port=settings.listener_port)
    socks = [bound(ours)] if settings.listener_port else []
    settings = counting_with_the_others(settings)
    async with runtime.listener(settings) as house:
        lobby = Lobby(settings, doorstep.seats(settings, files))

        def say_listener_ready() -> None:
            spare_the_collector()
            say_ready()
            log.info("listener.ready", port=settings.listener_port, files_max=files)

        asgi = Once(app.build(house.routes, settings, house.facade))
        await answer(asgi, socks, settings, lobby, say_listener_ready, house.doorway)
    log.info("listener.left")


async def answer(
    asgi: ASGIApp,
    socks: list[socket.socket],
    settings: Settings,
    lobby: Lobby,
    ready: Callable[[], None],
    doorway: Elsewhere | None = None,
) -> None:
    """Answer what comes to the sockets until SIGTERM or SIGINT, then drain. Through the doorway
    listeners leave, and those come in that other processes hand over.
    """
    config = uvicorn.Config(
        asgi,
        loop="none",
        http=partial(Protocol, lobby, taker=doorway),  # type: ignore[arg-type]  # it is called like a class
        headers=constant_headers(settings),
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        backlog=BACKLOG,
    )
    server = uvicorn.Server(config)
    reception = None
    if doorway is not None:
        home = partial(Protocol, lobby, config, server.server_state, {}, taker=doorway)
        reception = Reception(doorway.handover.folder, doorway.name, home)
        doorway.handover.home = home
    # uvicorn's own handlers raise the signal again afterwards, which would end us undrained.
    loop = asyncio.get_running_loop()
    serving = asyncio.create_task(server._serve(socks), name="uvicorn")
    sweeping = asyncio.create_task(lobby.keep_sweeping(), name="lobby")
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _leave, server, lobby, doorway, reception)
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    if reception is not None:
        _open(reception)
    ready()
    await serving
    sweeping.cancel()
    if doorway is not None and reception is not None:
        reception.close()
        doorway.handover.close()


def _open(reception: Reception) -> None:
    """Without a folder for it every process serves what comes to it."""
    try:
        reception.open()
    except OSError as wrong:
        mend = "set DATA_DIR to a folder that all processes of this machine may write"
        log.warning("reception.closed", why=str(wrong), mend=mend)


def _leave(
    server: uvicorn.Server, lobby: Lobby, doorway: Elsewhere | None, reception: Reception | None
) -> None:
    server.should_exit = True
    lobby.go()
    if doorway is not None:
        doorway.leave()
    if reception is not None:
        reception.close()


async def provide(settings: Settings, shop: str) -> None:
    """Run the mock provider of the shop at that address, on loopback, until SIGTERM or SIGINT."""
    if not doorstep.is_loopback(settings.host):
        raise Misconfigured(f"the mock provider is for this machine alone: HOST={settings.host}")
    if not settings.payment_secret:
        raise Misconfigured(too_short("payment_secret"))
    require_secrets(msgspec.structs.replace(settings, auth="open"))  # it has but the one
    port = settings.provider_port or settings.port + 1
    try:
        sock = bound(msgspec.structs.replace(settings, port=port))
    except Misconfigured:
        raise Misconfigured(
            f"port {port} on {settings.host} is taken: stop what uses it, or choose another with "
            f"PROVIDER_PORT={port + 1}"
        ) from None
    async with MockProvider(shop, settings.payment_secret) as provider:
        page = Checkout(provider, shop, port, settings.host).build()
        await answer(page, [sock], settings, Lobby(settings, CHECKOUT_SEATS), say_ready)
        log.info("provider.left", charges=len(provider.charges))


async def keep(settings: Settings) -> None:
    """Run one keeper process until SIGTERM or SIGINT."""
    points.arm(settings.auth, "round")
    await preflight.at_start(settings, secrets=False)
    settings = counting_with_the_others(settings)
    stop, ready = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    keeping = asyncio.create_task(runtime.keep(settings, stop, ready), name="keep")
    readying = asyncio.create_task(ready.wait(), name="keep-ready")
    await asyncio.wait([keeping, readying], return_when=asyncio.FIRST_COMPLETED)
    readying.cancel()
    if ready.is_set():
        say_ready()
        log.info("keeper.ready")
    await keeping
    log.info("keeper.left")
