"""Clients: they reserve, buy, release, pay, repeat themselves, hang up, and believe what they hear.

A buyer who hears nothing repeats with the same key; now and then he sends two copies to two workers
at once. What he heard, he tells the oracle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from types import coroutine
from typing import TYPE_CHECKING, Any

from engine.infra.ids import Request, request_identity
from engine.sale.models import Confirm, Hold, Notice, Release, Reserve
from engine.sale.payment import request_of

if TYPE_CHECKING:
    from .oracle import Copy
    from .staff import Worker
    from .world import World

PATIENCE_SECONDS = 7.0
PRICE_CENTS, CURRENCY = 500, "EUR"


class Counted:
    """A request's coroutine, its suspensions counted; hangs up at the `at`-th."""

    def __init__(self, at: int = 0) -> None:
        self.at, self.steps = at, 0
        self.task: asyncio.Task[Any] | None = None

    @coroutine
    def run(self, work: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        try:
            waits = work.send(None)
            while True:
                self.steps += 1
                if self.steps == self.at and self.task is not None:
                    asyncio.get_running_loop().call_soon(self.task.cancel)
                try:
                    yield waits
                except BaseException as error:
                    waits = work.throw(error)
                else:
                    waits = work.send(None)
        except StopIteration as stop:
            return stop.value


async def ask(
    world: World, worker: Worker, op: str, wish: Any, request: Request, work: Callable[[], Any]
) -> Copy:
    """Send one copy of a request and wait for its answer, which may never come."""
    copy = world.oracle.sent(op, wish, request.id, request.keyed, worker)
    counted = Counted(world.hang_up_at())
    answer: asyncio.Future[Any] = world.loop.create_future()

    async def handle() -> None:
        try:
            outcome = await counted.run(work())
        except asyncio.CancelledError:
            copy.word = "gone"
            raise
        except Exception as error:
            outcome = error
        world.oracle.answered(copy, outcome)
        world.note(f"told: {copy}")
        # Kept apart from this process: what it said travels on when it is killed.
        world.loop.outside(0.0, _hear, answer, copy)

    world.note(f"sent: {op} {request.id[:6]} to {worker.name}")
    counted.task = worker.start(handle(), f"request-{op}")
    world.requests.append((copy, counted))
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await answer
    except TimeoutError:
        pass
    return copy


def _hear(answer: asyncio.Future[Any], copy: Copy) -> None:
    if not answer.done():
        answer.set_result(copy)


class Buyer:
    """One customer's visit."""

    def __init__(self, world: World, number: int) -> None:
        self.world, self.random = world, world.random
        self.name = f"buyer-{number % world.buyers}"
        self.number, self.keys = number, 0

    def _request(self, operation: str) -> str:
        self.keys += 1
        return request_identity(self.name, operation, f"{self.number}.{self.keys}")

    def _worker(self) -> Worker:
        """Whom a balancer would ask: one that lives, or, if none does, one that does not."""
        return self.random.choice(self.world.workers or [self.world.first])

    async def visit(self) -> None:
        """Reserve, and do something with the hold."""
        hold = await self._reserve()
        if hold is None:
            return
        deed = self.random.random()
        if deed < 0.1:
            return  # it runs out
        await asyncio.sleep(self.random.choice((0.0, 0.05, 0.9, 2.0)))
        if deed < 0.2:
            await self._calm(hold, "extend")
        if deed < 0.35:
            await asyncio.gather(self._purchase(hold), self._calm(hold, "release"))
        elif deed < 0.6:
            await self._purchase(hold)
        elif deed < 0.8:
            await self._calm(hold, "release")
        else:
            await self._pay(hold)

    async def _reserve(self) -> Hold | None:
        random, world = self.random, self.world
        keyed = random.random() < 0.85
        quantity = random.choice((1, 1, 1, 2, 3))
        rid = self._request("reserve")
        drop_id = random.choice(world.drops)
        picks = self._picks(drop_id, quantity)
        wish = Reserve(drop_id, self.name, len(picks) or quantity, rid, keyed, picks)
        for _ in range(4):
            copies = 2 if keyed and random.random() < 0.2 else 1
            sent = [self._send_reserve(wish) for _ in range(copies)]
            heard = await asyncio.gather(*sent)
            for copy in heard:
                if copy.word == "yes":
                    hold: Hold = copy.value
                    return hold
            if not keyed:
                return None
            if all(copy.word == "no" for copy in heard) and random.random() < 0.5:
                return None
            await asyncio.sleep(random.choice((0.0, 0.01, 0.3, 1.0)))
        return None

    def _picks(self, drop_id: int, quantity: int) -> tuple[int, ...]:
        """These very units, or whichever are beside each other."""
        drop = self.world.tables.rows["drops"][drop_id]
        if drop["pick"] != "named" or self.random.random() < 0.4:
            return ()
        numbers = range(1, drop["total_stock"] + 1)
        return tuple(sorted(self.random.sample(numbers, min(quantity, len(numbers)))))

    def _send_reserve(self, wish: Reserve) -> Coroutine[Any, Any, Copy]:
        worker, request = self._worker(), Request(wish.request_id, wish.keyed)
        return ask(self.world, worker, "reserve", wish, request, lambda: worker.reserve(wish))

    async def _again(self, send: Callable[[], Coroutine[Any, Any, Copy]]) -> Copy:
        """Repeat until something definite is heard, or patience ends."""
        for _ in range(3):
            copy = await send()
            if copy.word in ("yes", "no"):
                break
            await asyncio.sleep(self.random.choice((0.0, 0.1, 1.0)))
        return copy

    async def _purchase(self, hold: Hold) -> None:
        reference = self.random.choice((None, None, f"pay-{self.number}"))
        rid = self._request("purchase")
        request = Request(rid, keyed=True)
        wish = Confirm(hold.id, self.name, reference, rid, keyed=True)

        def send() -> Coroutine[Any, Any, Copy]:
            worker = self._worker()
            return ask(self.world, worker, "purchase", wish, request, lambda: worker.purchase(wish))

        await self._again(send)

    async def _calm(self, hold: Hold, verb: str) -> None:
        """Release, extend or begin to pay: through the record of requests."""
        request = Request(self._request(verb), self.random.random() < 0.7)
        wish = Release(hold.id, self.name)

        def send() -> Coroutine[Any, Any, Copy]:
            worker = self._worker()

            def work() -> Coroutine[Any, Any, Any]:
                if verb == "release":
                    return worker.release(wish, request)
                return worker.prolong(verb, hold.id, self.name, request)

            return ask(self.world, worker, verb, wish, request, work)

        await self._again(send)

    async def _pay(self, hold: Hold) -> None:
        """The provider takes the money, and says so: twice, late, or out of order."""
        if self.random.random() < 0.7:
            await self._calm(hold, "pay")
        await asyncio.sleep(self.random.choice((0.0, 0.3, 2.5)))
        reference = f"pay-{self.number}"
        words = self.random.choice(
            (["succeeded"], ["pending", "succeeded"], ["succeeded", "failed"], ["succeeded"] * 2)
        )
        amount = hold.amount_cents + (self.random.random() < 0.1)
        for status in words:
            rid = request_of(reference)
            notice = Notice(reference, hold.id, status, amount, CURRENCY, rid)  # type: ignore[arg-type]

            def send(notice: Notice = notice) -> Coroutine[Any, Any, Copy]:
                worker = self._worker()
                request = Request(notice.request_id, keyed=True)
                return ask(
                    self.world, worker, "settle", notice, request, lambda: worker.settle(notice)
                )

            await self._again(send)
