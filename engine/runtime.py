"""The composition root: build every part by hand, start in order, stop in reverse."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from engine.coldchain.routes import ColdRoutes
from engine.identity.access import Door
from engine.identity.parts import Parts
from engine.identity.routes import IdentityRoutes
from engine.identity.watch import Watch
from engine.infra import tracing
from engine.infra.addresses import Addresses
from engine.infra.combiner import Crew
from engine.infra.errors import Misconfigured
from engine.infra.gate import Gate
from engine.infra.handover import Handover, name_of_ours
from engine.infra.health import Health
from engine.infra.limits import Limits
from engine.infra.locks import Locks
from engine.infra.meter import meter
from engine.infra.postgres import Postgres
from engine.infra.publisher import Publisher
from engine.infra.reads import Reads
from engine.infra.redis import Redis
from engine.infra.routing import Route
from engine.infra.settings import Settings, require_secrets
from engine.infra.turns import Turns
from engine.keepers.bell import Bell
from engine.keepers.keeper import Keeper
from engine.keepers.rounds import rounds
from engine.membership.routes import MembershipRoutes
from engine.pages.mailbox import Mailbox
from engine.pages.metrics import MetricsPage
from engine.realtime import routes as realtime
from engine.realtime.doorway import Doorway
from engine.realtime.elsewhere import LISTENER, Elsewhere
from engine.realtime.hub import Hub
from engine.realtime.socketio import SocketIo
from engine.record.activity import Activity
from engine.record.routes import LedgerRoutes
from engine.sale.bouncer import Bouncer
from engine.sale.operating import OperatorRoutes
from engine.sale.paying import PaymentRoutes
from engine.sale.routes import SaleRoutes

DRAIN_SECONDS = 6.0  # with the server's own grace less than a supervisor waits
LIVE_SHARE = 0.09  # of an API process; the rest is for those who buy
LISTENER_SHARE = 0.35  # more is told sooner, and on a small machine at the cost of those who buy
KEEPER_STATEMENT_MS = 20_000  # a slice of a large drop on a busy machine


class House(msgspec.Struct, frozen=True):
    """One process that answers: the routes of its API, and where listeners come in."""

    routes: list[Route]
    doorway: Elsewhere
    facade: SocketIo


class Ground(msgspec.Struct, frozen=True):
    """What every process of the engine stands on. `reads` is for lists and history alone: a
    replica's, if there is one."""

    settings: Settings
    postgres: Postgres
    redis: Redis
    bouncer: Bouncer
    reads: Postgres


@asynccontextmanager
async def ground(settings: Settings, statement_timeout_ms: int = 2_000) -> AsyncIterator[Ground]:
    """Open the pools; close them last."""
    if not settings.database_url or not settings.redis_url:
        raise Misconfigured(
            "DATABASE_URL and REDIS_URL are needed here, or a `make run` in this folder"
        )
    postgres = Postgres(settings, statement_timeout_ms)
    await postgres.open()
    redis, reads = Redis(settings.redis_url), postgres
    try:
        if settings.database_read_url:
            reads = Reads(settings, postgres, statement_timeout_ms)
            await reads.open()
        await postgres.refresh_epoch()
        bouncer = Bouncer(redis, postgres, settings.intent_ttl_ms)
        yield Ground(settings, postgres, redis, bouncer, reads)
    finally:
        await redis.close()
        if reads is not postgres:
            await reads.close()
        await postgres.close()


@asynccontextmanager
async def database(settings: Settings) -> AsyncIterator[Postgres]:
    """Postgres alone, for what Redis need not know."""
    if not settings.database_url:
        raise Misconfigured("DATABASE_URL is needed here, or a `make run` in this folder")
    postgres = Postgres(settings)
    await postgres.open()
    try:
        yield postgres
    finally:
        await postgres.close()


@asynccontextmanager
async def entrance(base: Ground) -> AsyncIterator[tuple[Crew, Door]]:
    """The crew and the door of a process that lets somebody in: it follows credentials."""
    crew = Crew()
    deadlines = crew.start(crew.watch(), "deadlines")
    watch = Watch(base.postgres, crew)
    await watch.begin()
    try:
        yield crew, Door(base.settings, base.postgres, crew, watch)
    finally:
        deadlines.cancel()
        await watch.close()


@asynccontextmanager
async def live(base: Ground, door: Door, share: float) -> AsyncIterator[Hub]:
    """Who listens in this process. `share` of its time may go into telling them."""
    hub = Hub(base.postgres, base.settings.redis_url, salt_of(base), door, share)
    try:
        yield hub
    finally:
        await hub.close()


def facade_of(base: Ground, hub: Hub, door: Door, limits: Limits, name: str) -> SocketIo:
    """Where Socket.IO's clients listen. The name is this process's, among the others."""
    settings = base.settings
    addresses = Addresses(settings.trusted_proxies)
    facade = SocketIo(
        settings.origins,
        door.caller,
        name,
        hub.begin,
        limits.arrive,
        subject=lambda scope: addresses.subject(scope, dict(scope["headers"])),
        sessions_of_one_max=settings.max_listeners_per_address,
    )
    hub.echo(facade)
    return facade


def doorway_of(base: Ground, hub: Hub, facade: SocketIo, limits: Limits) -> Elsewhere:
    """Where listeners come in, or are handed on: only among processes of the same database that
    let in the same callers."""
    same = f"{base.postgres.identity} {base.settings.auth}"
    mark = hashlib.sha256(same.encode()).hexdigest()[:8]
    handover = Handover(base.settings.data_dir / "hand" / mark)
    return Elsewhere(handover, facade.name, Doorway(base.settings, hub, facade, limits.arrive))


@asynccontextmanager
async def listener(settings: Settings) -> AsyncIterator[House]:
    """One process for listeners alone: workers hand theirs to it."""
    require_secrets(settings)
    async with (
        ground(settings) as base,
        entrance(base) as (crew, door),
        live(base, door, LISTENER_SHARE) as hub,
    ):
        publisher = Publisher("listener", meter, settings.metrics_dir, base.postgres, base.redis)
        publisher.start()
        limits = Limits(settings, base.postgres, base.redis, crew)
        facade = facade_of(base, hub, door, limits, LISTENER)
        try:
            health = Health(base.postgres, base.redis)
            yield House(health.routes(), doorway_of(base, hub, facade, limits), facade)
        finally:
            await facade.close()
            await crew.drain(DRAIN_SECONDS)
            await publisher.stop()


def salt_of(base: Ground) -> bytes:
    """What keeps public names from telling who it is."""
    secret = base.settings.hmac_secret.encode()
    return secret or hashlib.sha256(base.postgres.identity.encode()).digest()


@asynccontextmanager
async def worker(settings: Settings) -> AsyncIterator[House]:
    """One API process. On exit every batch is drained."""
    require_secrets(settings)
    async with (
        ground(settings) as base,
        entrance(base) as (crew, door),
        live(base, door, LIVE_SHARE) as hub,
    ):
        turns = Turns(settings, crew)
        limits = Limits(settings, base.postgres, base.redis, crew)
        activity = Activity(base.postgres, crew, Addresses(settings.trusted_proxies))
        parts = Parts(settings, base.postgres, crew, door, turns, limits, activity, base.reads)
        identity = IdentityRoutes(parts)
        sale = SaleRoutes(settings, base.postgres, base.bouncer, crew, door, turns, salt_of(base))
        operating = OperatorRoutes(settings, base.postgres, base.bouncer, door, turns, sale.forget)
        paying = PaymentRoutes(settings, base.postgres, base.bouncer, crew, door, turns)
        record = LedgerRoutes(settings, base.postgres, base.reads, crew, door, turns)
        cold = ColdRoutes(settings, base.postgres, base.bouncer, crew, door, turns, sale.hold)
        membership = MembershipRoutes(parts, base.bouncer)
        health = Health(base.postgres, base.redis)
        publisher = Publisher(
            "worker", meter, settings.metrics_dir, base.postgres, base.redis, crew.queued
        )
        metrics = MetricsPage(settings, publisher, base.postgres, base.redis, base.bouncer, door)
        facade = facade_of(base, hub, door, limits, name_of_ours())
        tracing.start(settings, "worker")
        publisher.start()
        routes = [
            *identity.routes(),
            *sale.routes(),
            *paying.routes(),
            *operating.routes(),
            *record.routes(),
            *cold.routes(),
            *membership.routes(),
            *health.routes(),
            *metrics.routes(),
            *Mailbox(settings, door).routes(),
            *realtime.routes(),
        ]
        try:
            gate = Gate(settings)
            guarded = [gate.guard(limits.guard(route)) for route in routes]
            yield House(guarded, doorway_of(base, hub, facade, limits), facade)
        finally:
            await facade.close()
            await crew.drain(DRAIN_SECONDS)
            identity.close()
            await metrics.stop()
            await publisher.stop()
            await tracing.stop()


async def keep(settings: Settings, stop: asyncio.Event, ready: asyncio.Event | None = None) -> None:
    """One keeper process: every keeper in its own task, until told to stop."""
    async with ground(settings, KEEPER_STATEMENT_MS) as base:
        locks = Locks(base.postgres, base.redis, settings.redis_url)
        keepers: dict[str, Keeper] = {
            keeper.name: keeper for keeper in rounds(settings, base.postgres, base.bouncer, locks)
        }
        bell = Bell(settings.redis_url, keepers["sweeper"]) if settings.bell == "on" else None
        tasks = [
            asyncio.create_task(keeper.run(), name=f"keeper-{name}")
            for name, keeper in keepers.items()
        ]
        if bell is not None:
            tasks.append(asyncio.create_task(bell.listen(), name="keeper-bell"))
        publisher = Publisher("keeper", meter, settings.metrics_dir, base.postgres, base.redis)
        publisher.start()
        if ready is not None:
            ready.set()
        waiting = asyncio.create_task(stop.wait(), name="keeper-stop")
        # A keeper never ends by itself: if one does, the process ends and is started anew.
        await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for keeper in keepers.values():
            keeper.leave()
        for task in (waiting, *tasks):
            task.cancel()
        await asyncio.gather(waiting, *tasks, return_exceptions=True)
        await locks.close()
        await publisher.stop()
