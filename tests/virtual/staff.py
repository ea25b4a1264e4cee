"""Workers and keepers, built by hand as engine/runtime.py builds them, each a process of its own.

A worker's handlers are what is left of the routes without HTTP: who calls, and what a body says, is
decided before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from typing import TYPE_CHECKING, Any

from engine.infra.combiner import Crew
from engine.infra.errors import Fault, OutcomeUnknown
from engine.infra.http import Answer
from engine.infra.ids import Request
from engine.infra.locks import Locks
from engine.infra.postgres import Postgres, Session
from engine.infra.redis import Redis
from engine.infra.settings import Settings
from engine.keepers.rounds import rounds
from engine.record import idempotency
from engine.runtime import KEEPER_STATEMENT_MS
from engine.sale.bouncer import Bouncer
from engine.sale.extend import extend, pay, ring_later
from engine.sale.models import Confirm, Hold, Longer, Notice, Payment, Release, Reserve, Returned
from engine.sale.payment import Paying
from engine.sale.purchase import Bought, Purchasing
from engine.sale.release import Releasing
from engine.sale.reserve import Reserving

from .driver import Connection, Pool
from .loop import PROCESS, Process
from .valkey import Client

if TYPE_CHECKING:
    from .world import World

KEEPERS: tuple[str, ...] = ("sweeper", "settler", "ringer", "reaper", "reconciler")
DEADLINE_SECONDS = 5.0


def settings() -> Settings:
    return Settings(
        database_url="postgresql://virtual/virtual",
        redis_url="redis://virtual",
        pool_size=4,
        auditor_ms=0,
    )


class Staff(Process):
    """A process of the engine with its own pools."""

    def __init__(self, world: World, name: str, statement_ms: int) -> None:
        super().__init__(name)
        self.world = world
        self.tasks: list[asyncio.Task[Any]] = []
        self.context = Context()
        self.context.run(PROCESS.set, self)
        self.connections: list[Connection] = []
        self.settings = settings()
        self.postgres = Postgres(self.settings, statement_ms)
        self.postgres._pool = self.pool = Pool(
            self.settings.pool_size,
            lambda: self._connect(statement_ms),
            self.postgres._meet,
        )
        self.redis = Redis(self.settings.redis_url)
        self.client = Client(world.valkey, self.redis, self._fate, world.lag)
        self.bouncer = Bouncer(self.redis, self.postgres, self.settings.intent_ttl_ms)

    def _fate(self, kind: str, name: str = "") -> str:
        return self.world.fate(kind, name, self, isinstance(self, Worker))

    def _connect(self, statement_ms: int) -> Connection:
        world = self.world
        connection = Connection(world.server, self, statement_ms, self._fate, world.lag)
        self.connections.append(connection)
        return connection

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """A task of this process."""
        task: asyncio.Task[Any] = self.world.loop.create_task(work, name=name, context=self.context)
        self.tasks.append(task)
        return task

    async def _open(self) -> None:
        """What `ground` does, with the patience of a supervisor."""
        while True:
            try:
                await self.postgres.refresh_epoch()
                return
            except Fault:
                await asyncio.sleep(0.2)

    def die(self) -> None:
        """kill -9: nothing of it runs again, and the kernel closes its connections."""
        self.world.loop.kill(self)
        for connection in self.connections:
            if not connection.closed:
                connection.closed = True
                self.world.loop.outside(self.world.lag(), connection.backend.hang_up)


class Worker(Staff):
    """An API process."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name, 2_000)
        self.crew = crew = Crew()
        base = (self.postgres, self.bouncer, crew, DEADLINE_SECONDS)
        self.reserving, self.purchasing = Reserving(*base), Purchasing(*base)
        self.releasing, self.paying = Releasing(*base), Paying(*base)
        self.calm = asyncio.Semaphore(max(self.settings.pool_size // 2, 1))
        self.ready = False
        self.start(self._run(), "worker")

    async def _run(self) -> None:
        self.crew.start(self.crew.watch(), "deadlines")
        await self._open()
        self.ready = True

    async def reserve(self, wish: Reserve) -> Hold:
        if not wish.keyed and not wish.picks:  # whoever picks hears of his picks
            self.reserving.refuse_from_memory(wish.drop_id, wish.quantity)
        return await self.reserving.reserve(wish)

    async def purchase(self, wish: Confirm) -> Bought:
        return await self.purchasing.purchase(wish)

    async def settle(self, notice: Notice) -> Payment:
        return await self.paying.settle(notice)

    async def release(self, wish: Release, request: Request) -> Any:
        if not request.keyed:
            await self._in_time(lambda: self.releasing.release(wish))
            return Answer(status=204)
        returned: list[Returned] = []

        async def effect(session: Session) -> Answer:
            returned[:] = await self.releasing.release_within(session, wish)
            return Answer(status=204)

        async def publish() -> None:
            await self.releasing.publish(returned)

        meaning = f"release {wish.reservation_id} {wish.buyer}"
        return await self._in_time(
            lambda: idempotency.once(self.postgres, request, meaning, effect, publish)
        )

    async def prolong(self, verb: str, id: str, buyer: str, request: Request) -> Any:
        """POST …/extend and …/pay."""
        begun: list[Longer] = []

        async def effect(session: Session) -> Answer:
            hold, longer = await (extend if verb == "extend" else pay)(session, id, buyer)
            begun[:] = [longer] if longer is not None else []
            return Answer({"expiresAt": hold.expires_at.timestamp()})

        async def publish() -> None:
            for longer in begun:
                await ring_later(self.bouncer, longer)

        meaning = f"{verb} {id} {buyer}"
        return await self._in_time(
            lambda: idempotency.once(self.postgres, request, meaning, effect, publish)
        )

    async def _in_time(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """engine/infra/turns.py without HTTP."""

        async def in_turn() -> Any:
            async with self.calm:
                return await work()

        return await self.crew.within(in_turn(), DEADLINE_SECONDS, OutcomeUnknown)

    def idle(self) -> list[str]:
        """What is still under way, in words: nothing, after a while."""
        left = [f"{kind} queue" for kind, waiting in self.crew.queued().items() if waiting]
        left += [f"combiner {c._name}" for c in self.crew._combiners if c.busy]
        left += [f"task {t.get_name()}" for t in self.crew._tasks if t.get_name() != "deadlines"]
        left += [f"{self.postgres._sessions} sessions"] * bool(self.postgres._sessions)
        left += [f"{self.pool.used} connections"] * bool(self.pool.used)
        left += [f"{self.client.in_use} Redis connections"] * bool(self.client.in_use)
        left += [f"running {key}" for key in self.reserving._running]
        return left


class Keeping(Staff):
    """A keeper process: the rounds that a sale needs."""

    def __init__(self, world: World, name: str, names: tuple[str, ...]) -> None:
        super().__init__(world, name, KEEPER_STATEMENT_MS)
        locks = Locks(self.postgres, self.redis, self.settings.redis_url)
        every = rounds(self.settings, self.postgres, self.bouncer, locks)
        self.keepers = [keeper for keeper in every if keeper.name in names]
        sweeper = self.keepers[0]
        assert sweeper.name == "sweeper"
        self.ring: Callable[[], None] = lambda: self.context.run(sweeper.nudge)
        world.valkey.bells.append(self._rung)
        self.start(self._run(), "keeper")

    def _rung(self) -> None:
        if not self.dead and self.frozen_until <= self.world.loop.now:
            self.ring()

    async def _run(self) -> None:
        await self._open()
        for keeper in self.keepers:
            self.start(keeper.run(), f"keeper-{keeper.name}")

    def die(self) -> None:
        super().die()
        self.world.valkey.bells.remove(self._rung)
