"""A short sale in good weather, played again and again with one thing gone wrong: the k-th await of
a request at which its client hangs up, the k-th step at which a worker dies, the k-th message lost.

Anna reserves and buys, Ben reserves and gives back, Cleo reserves and pays past her deadline; two
copies of Dora's request meet on two workers. Whoever hears nothing definite asks again with the
same key, as clients do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from engine.infra.ids import Request, request_identity
from engine.sale.models import Confirm, Hold, Notice, Release, Reserve
from engine.sale.payment import request_of

from .buyers import CURRENCY, ask
from .oracle import Copy
from .staff import Worker
from .world import Patch, World

DROP = 1
ROUNDS = ("sweeper", "settler", "reaper", "reconciler")


class Scene(World):
    """One play. `hang_up` is (which request, at which await), `die` and `freeze` (which worker,
    at which of its steps), `fates` what becomes of which message."""

    def __init__(
        self,
        *,
        hang_up: tuple[int, int] | None = None,
        die: tuple[int, int] | None = None,
        freeze: tuple[int, int] | None = None,
        fates: dict[tuple[str, int], str] | None = None,
        rounds: tuple[str, ...] = ROUNDS,
        patch: Patch | None = None,
        story: bool = False,
    ) -> None:
        super().__init__(1, patch=patch, fates=fates, calm=True, story=story)
        self._hang_up, self._die, self._freeze = hang_up, die, freeze
        self.rounds = rounds
        self.hang_up_plan = self._plan
        self._number = 0
        self.seconds = 0.0

    def _plan(self) -> int:
        self._number += 1
        return self._hang_up[1] if self._hang_up and self._hang_up[0] == self._number else 0

    def open(self) -> None:
        super().open()
        rows = self.tables.rows
        for drop_id in self.drops[1:]:
            del rows["drops"][drop_id], rows["stock"][drop_id]
        rows["units"].clear()
        for number in (1, 2, 3):
            rows["units"][DROP, number] = {"state": "free", "position": number}
        terms = {"total_stock": 3, "max_per_buyer": 2, "hold_seconds": 2}
        rows["drops"][DROP] = rows["drops"][DROP] | terms
        rows["stock"][DROP] = rows["stock"][DROP] | {"free": 3, "total": 3}
        self.drops[:] = [DROP]
        for spare in self.workers[2:]:
            spare.die()
        del self.workers[2:]
        if self._die is not None:
            worker = self.workers[self._die[0]]
            worker.at_step = (self._die[1], lambda: self._kill(worker))
        if self._freeze is not None:
            worker = self.workers[self._freeze[0]]
            worker.at_step = (self._freeze[1], lambda: self.loop.freeze(worker, 6.5))

    def _kill(self, worker: Worker) -> None:
        self.note(f"{worker.name} is killed")
        self.workers.remove(worker)
        worker.die()
        self.oracle.died(worker)
        self.loop.outside(0.3, self.hire)

    async def _play(self) -> None:
        self.open()
        await asyncio.sleep(0.02)
        for play in (self.anna, self.ben, self.cleo, self.dora):
            self.visits.append(self.loop.create_task(play(), name=play.__name__))
        await asyncio.wait(self.visits)
        self._heal()
        await self._settle_down()
        await self._audit()

    # ── who does what ────────────────────────────────────────────────────────────────────────

    async def _insist(
        self, op: str, wish: Any, rid: str, work: Callable[[Worker], Any], first: int = 0
    ) -> Copy:
        """Ask until something definite is heard, each time another worker."""
        for turn in range(8):
            worker = self.workers[(first + turn) % len(self.workers)]
            request = Request(rid, keyed=True)
            copy = await ask(self, worker, op, wish, request, lambda w=worker: work(w))  # type: ignore[misc]
            if copy.word in ("yes", "no"):
                break
            await asyncio.sleep(0.1)
        return copy

    async def _reserve(self, buyer: str, first: int) -> Hold | None:
        rid = request_identity(buyer, "reserve", "1")
        wish = Reserve(DROP, buyer, 1, rid, keyed=True)
        copy = await self._insist("reserve", wish, rid, lambda w: w.reserve(wish), first)
        return copy.value if copy.word == "yes" else None

    async def anna(self) -> None:
        hold = await self._reserve("anna", 0)
        if hold is not None:
            rid = request_identity("anna", "purchase", "1")
            wish = Confirm(hold.id, "anna", None, rid, keyed=True)
            await self._insist("purchase", wish, rid, lambda w: w.purchase(wish), 1)

    async def ben(self) -> None:
        hold = await self._reserve("ben", 0)
        if hold is not None:
            request = Request(request_identity("ben", "release", "1"), keyed=True)
            wish = Release(hold.id, "ben")
            await self._insist("release", wish, request.id, lambda w: w.release(wish, request))

    async def cleo(self) -> None:
        await asyncio.sleep(0.05)
        hold = await self._reserve("cleo", 1)
        if hold is None:
            return
        await asyncio.sleep(2.5)
        rid = request_of("pay-cleo")
        notice = Notice("pay-cleo", hold.id, "succeeded", hold.amount_cents, CURRENCY, rid)
        await self._insist("settle", notice, rid, lambda w: w.settle(notice))

    async def dora(self) -> None:
        await asyncio.sleep(0.045)
        copies: list[Coroutine[Any, Any, Hold | None]] = [
            self._reserve("dora", 0),
            self._reserve("dora", 1),
        ]
        await asyncio.gather(*copies)


class LateClaim(Scene):
    """One unit. Anna's claim is cut off, and read by Postgres only after she was refused, because
    Ben was first, and Ben gave his unit back."""

    def __init__(self, patch: Patch | None = None, story: bool = False) -> None:
        super().__init__(fates={("claim_units", 1): "zombie"}, patch=patch, story=story)
        self.server.late_seconds = (1.8,)

    def open(self) -> None:
        super().open()
        rows = self.tables.rows
        del rows["units"][DROP, 2], rows["units"][DROP, 3]
        rows["drops"][DROP] = rows["drops"][DROP] | {"total_stock": 1, "hold_seconds": 4}
        rows["stock"][DROP] = rows["stock"][DROP] | {"free": 1, "total": 1}

    async def _play(self) -> None:
        self.open()
        await asyncio.sleep(0.05)
        await self._grow_old()
        anna = asyncio.ensure_future(self._reserve("anna", 0))
        await asyncio.sleep(0.000_4)
        hold = await self._reserve("ben", 0)
        assert await anna is None, "Anna was to be refused"
        assert hold is not None, "Ben was to be first"
        request = Request(request_identity("ben", "release", "1"), keyed=True)
        wish = Release(hold.id, "ben")
        await self._insist("release", wish, request.id, lambda w: w.release(wish, request))
        self._heal()
        await asyncio.sleep(2.0)
        await self._settle_down()
        await self._audit()


class DarkReply(Scene):
    """Anna has no key, and the reply to her claim is lost without a word: TCP notices after her
    deadline."""

    def __init__(self, patch: Patch | None = None, story: bool = False) -> None:
        super().__init__(fates={("claim_units", 1): "dark reply"}, patch=patch, story=story)

    async def _play(self) -> None:
        self.open()
        await asyncio.sleep(0.05)
        rid = request_identity("anna", "reserve", "1")
        wish, request = Reserve(DROP, "anna", 1, rid, keyed=False), Request(rid, keyed=False)
        worker = self.workers[0]
        await ask(self, worker, "reserve", wish, request, lambda: worker.reserve(wish))
        self._heal()
        await self._settle_down()
        await self._audit()
