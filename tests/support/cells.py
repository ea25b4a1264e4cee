"""One cell of the crash point sweep: a drop, a process armed to end at one point, and who asked it.

A story (stories.py) is staged by a healthy worker, acted out by the armed process, and checked when
all has healed. The healthy worker and keepers of a world run in the test's own process.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import msgspec
import redis.asyncio

from engine import runtime
from engine.infra.settings import Settings
from engine.runtime import Ground
from tests.support.http import Crowd, Reply
from tests.support.keeping import Keeping
from tests.support.shop import Shop
from tests.support.wait import wait_until

UNSURE = {"RETRYABLE", "OUTCOME_UNKNOWN", "IN_PROGRESS", "INTERNAL"}
DEFINITE_SECONDS = 10.0  # a copy elsewhere has a definite answer by then, whatever became of ours
HEALED_SECONDS = 8.0  # INV-7


class World:
    """A database, a healthy worker, and keepers as soon as they are wanted."""

    def __init__(self, settings: Settings, shop: Shop, ground: Ground) -> None:
        self.settings, self.shop, self.ground = settings, shop, ground
        self._stack = AsyncExitStack()
        self._keeping = asyncio.Lock()
        self.kept = False

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncIterator[World]:
        """Until the end of the block."""
        async with Shop.open(settings) as shop, runtime.ground(settings) as ground:
            world = cls(settings, shop, ground)
            async with world._stack:
                yield world

    async def keep(self) -> None:
        """Start the keepers, once."""
        async with self._keeping:
            if not self.kept:
                self.kept = True
                await self._stack.enter_async_context(Keeping(self.settings))

    async def rows(self, query: str, *values: Any) -> list[asyncpg.Record]:
        """What Postgres says."""
        connection = await asyncpg.connect(self.settings.database_url)
        try:
            return list(await connection.fetch(query, *values))
        finally:
            await connection.close()

    async def forget(self, drop_id: int) -> None:
        """Let Redis forget a drop."""
        client = redis.asyncio.Redis.from_url(self.settings.redis_url)
        await client.delete(self.ground.bouncer._key(drop_id, "drop"))
        await client.aclose()


class Told(msgspec.Struct, frozen=True):
    """An answer, and when it was asked for and given."""

    asked: float
    told: float
    reply: Reply

    @property
    def done(self) -> bool:
        """Whether it says that it was done."""
        return self.reply.status < 300

    @property
    def id(self) -> str | None:
        """What was made, if it tells."""
        told = self.reply.json if self.reply.body else {}
        made: str | None = told.get("membership", told).get("id")
        return made

    @property
    def sure(self) -> bool:
        """Whether it says what became of the request."""
        return self.done or (self.reply.status < 500 and self.reply.error not in UNSURE)


class Ask(msgspec.Struct):
    """A request, and what its copies were told."""

    method: str
    path: str
    body: Any
    headers: dict[str, str]
    again: bool  # whether it may be repeated
    buyer: str  # if it reserves
    told: list[Told] = []
    cut: int = 0  # copies that had no answer


class Cell:
    """A story under way."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.shop, self.name = world, world.shop, name
        self.drop_id = 0
        self.is_tier = False  # its units are only for receipts
        self.asks: list[Ask] = []
        # Bound until the end, so that nobody else gets this port: two workers would share it.
        self._place = socket.socket()
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._place.bind(("127.0.0.1", 0))
        port = self._place.getsockname()[1]
        self.crowd = Crowd(f"http://127.0.0.1:{port}/api/v1")
        settings = world.settings
        self.environment = os.environ | {
            "DATABASE_URL": settings.database_url,
            "REDIS_URL": settings.redis_url,
            "PORT": str(port),
            "AUTH": "open",
            "PAYMENT_SECRET": settings.payment_secret,
            "LOG_FORMAT": "json",
            "RECOUNT_SECONDS": "0",
            "RATE_WRITES_PER_BUYER": settings.rate_writes_per_buyer,
            "RATE_ADMIN_PER_CALLER": settings.rate_admin_per_caller,
        }

    async def close(self) -> None:
        """Hang up, and give the port back."""
        await self.crowd.close()
        self._place.close()

    # ── staging ──────────────────────────────────────────────────────────────────────────────

    async def open(self, units: int, **terms: Any) -> int:
        """The drop of this cell."""
        lives = {"holdSeconds": 600, "maxHoldSeconds": 1_800}
        allowed = {"maxPerBuyer": 2, "maxPerOrder": 2}
        self.drop_id = await self.shop.open_drop(units, **{**lives, **allowed, **terms})
        return self.drop_id

    async def open_tier(self, numbers: int) -> int:
        """The same, for receipts."""
        body = {"tier": self.name, "year": "2025", "capacity": numbers}
        reply = await self.shop.send("POST", "/memberships/drops", body)
        assert reply.status == 201, reply.body
        self.drop_id, self.is_tier = reply.json["dropId"], True
        return self.drop_id

    async def hold(self, buyer: str = "holder", quantity: int = 1) -> dict[str, Any]:
        """A hold that is there before."""
        reply = await self.shop.reserve(self.drop_id, f"{self.name}-{buyer}", quantity=quantity)
        assert reply.status == 201, reply.body
        hold: dict[str, Any] = reply.json
        return hold

    # ── asking the armed process ─────────────────────────────────────────────────────────────

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        key: str | None = None,
        again: bool = True,
        buyer: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        """One request to the armed process, which may never answer."""
        named = dict(headers or {}) | ({"idempotency-key": f"{self.name}-{key}"} if key else {})
        ask = Ask(method, path, body, named, again, buyer)
        self.asks.append(ask)
        await self._send(ask, self.crowd.send)

    async def reserve(
        self,
        buyer: str,
        key: str | None = None,
        quantity: int = 1,
        units: Sequence[str] | None = None,
    ) -> None:
        """The request that this is about."""
        named = f"{self.name}-{buyer}"
        wanted = {"quantity": quantity} if units is None else {"units": units}
        body = {"dropId": self.drop_id, "userId": named} | wanted
        await self.ask("POST", "/reservations", body, key, again=key is not None, buyer=named)

    async def mint(self, user: str, receipt: str) -> None:
        """The same with a receipt."""
        named, text = f"{self.name}-{user}", f"{self.name}-{receipt}"
        body = {"dropId": self.drop_id, "userId": named, "receiptData": text}
        await self.ask("POST", "/mint", body, buyer=named)

    async def _send(self, ask: Ask, send: Callable[..., Awaitable[Reply]]) -> None:
        asked = time.monotonic()
        try:
            reply = await send(ask.method, ask.path, ask.body, ask.headers)
        except (ConnectionError, EOFError):
            ask.cut += 1
            return
        ask.told.append(Told(asked, time.monotonic(), reply))

    async def copies(self) -> None:
        """Whoever has no sure answer asks again, elsewhere, until he has one."""
        asks = [ask for ask in self.asks if ask.again and not any(t.sure for t in ask.told)]
        await asyncio.gather(*(self._copy(ask) for ask in asks))

    async def _copy(self, ask: Ask) -> None:
        async def sure() -> bool:
            await self._send(ask, self.shop.send)
            return ask.told[-1].sure

        what = f"{self.name}: {ask.method} {ask.path} has a sure answer"
        await wait_until(sure, what, DEFINITE_SECONDS, pause=0.1)

    # ── when all has healed ──────────────────────────────────────────────────────────────────

    async def settle(self) -> None:
        """Wait until nothing is stranded."""
        await wait_until(self._settled, f"{self.name} is settled", HEALED_SECONDS, pause=0.25)

    async def check(self) -> None:
        """Nothing was done twice, and every answer is true. Raises AssertionError."""
        for ask in self.asks:
            self._check_answers(ask)
            if ask.buyer:
                await self._check_rows(ask)
        await self._sell_the_rest()

    async def _settled(self) -> bool:
        try:
            return await self.shop.settled(self.drop_id)
        except KeyError:  # a 503, which has no figures
            return False

    def _check_answers(self, ask: Ask) -> None:
        done = [told for told in ask.told if told.done]
        if not done:
            return
        bodies = {told.id for told in done if told.reply.body}
        assert len(bodies) <= 1, f"{self.name}: {ask.path} was done more than once: {bodies}"
        first = min(told.told for told in done)
        later = [told for told in ask.told if told.sure and told.asked > first and not told.done]
        assert not later, f"{self.name}: {ask.path} was done, and then told {later[0].reply.body!r}"

    async def _check_rows(self, ask: Ask) -> None:
        query = (
            "SELECT id::text FROM reservations"
            " WHERE drop_id = $1 AND buyer = $2 AND state <> 'aborted'"
        )
        held = {row["id"] for row in await self.world.rows(query, self.drop_id, ask.buyer)}
        promised = {told.id for told in ask.told if told.done}
        assert promised <= held, f"{self.name}: promised {promised}, there is {held}"
        assert len(held) <= 1, f"{self.name}: {ask.buyer} asked once and has {held}"
        unknown = ask.cut or any(
            told.reply.status >= 300 and told.reply.error in ("OUTCOME_UNKNOWN", "IN_PROGRESS")
            for told in ask.told
        )
        if not promised and not unknown:
            assert not held, f"{self.name}: refused, and has {held}: {ask}"

    async def _sell_the_rest(self) -> None:
        stock = await self.shop.stock(self.drop_id)
        free = min(stock["availableStock"], 20)
        some = [self._take(f"rest-{self.name}-{n}") for n in range(free)]
        told = [reply.status for reply in await asyncio.gather(*some)]
        assert told == [201] * free, f"{self.name}: of {free} free units sold: {told}"
        if free == stock["availableStock"]:
            last = await self._take(f"last-{self.name}")
            assert last.error == "SOLD_OUT", f"{self.name}: more was sold than there was"

    async def _take(self, buyer: str) -> Reply:
        if not self.is_tier:
            return await self.shop.reserve(self.drop_id, buyer)
        body = {"dropId": self.drop_id, "userId": buyer, "receiptData": buyer}
        return await self.shop.send("POST", "/mint", body)
