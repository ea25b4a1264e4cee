"""Carries out the plan: begins faults when their time has come, ends them, writes them down."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from contextlib import AsyncExitStack, suppress

from loadtest.chaos.history import Fault, Writer, now
from loadtest.chaos.nemesis import ALL, Deed, Nemesis, Planned, Skip
from loadtest.chaos.plan import Round, targets
from loadtest.chaos.stage import Stage

WAIT_SECONDS = 4.0  # for a target that is still busy with the fault before


class Mischief:
    """The faults of one run."""

    def __init__(self, stage: Stage, writer: Writer, stop: asyncio.Event) -> None:
        self.done: Counter[str] = Counter()  # by nemesis
        self.skipped: Counter[str] = Counter()  # by nemesis and reason
        self.under_way: dict[str, str] = {}  # by target
        self._stage, self._writer, self._stop = stage, writer, stop
        self._over = asyncio.Event()
        self._targets: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def perform(self, plan: Round) -> None:
        """One round. Every fault has ended when this returns, or is cancelled."""
        self._over.clear()
        began = time.monotonic()
        tasks: set[asyncio.Task[None]] = set()
        try:
            for planned in plan.faults:
                if await self._stopped(began + planned.at):
                    break
                tasks.add(asyncio.create_task(self._do(planned), name=planned.nemesis))
            await self._stopped(began + plan.seconds)
        finally:
            self._over.set()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException):
                raise end

    async def _stopped(self, until: float) -> bool:
        """Wait for a moment; True if the run is to stop before it."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), max(until - time.monotonic(), 0.0))
        return self._stop.is_set()

    async def _do(self, planned: Planned) -> None:
        kind, deed, at = ALL[planned.nemesis], Deed(planned), now()
        staff = self._stage.staff
        count = {"worker": len(staff.workers), "keeper": len(staff.keepers)}
        whom = sorted(targets(kind, planned.index, count))
        deed.target = ", ".join(whom)
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    for each in whom:
                        await stack.enter_async_context(self._targets[each])
            except TimeoutError:
                busy = {self.under_way[each] for each in whom if each in self.under_way}
                self._skip(now(), deed, f"{deed.target} is busy with: {', '.join(sorted(busy))}")
                return
            self.under_way |= dict.fromkeys(whom, planned.nemesis)
            try:
                at = now()
                await self._act(kind, deed)
            finally:
                for each in whom:
                    del self.under_way[each]
        if deed.nothing:
            self._skip(at, deed, deed.nothing)
        else:
            self.done[planned.nemesis] += 1
            self._write(at, deed)

    async def _act(self, kind: Nemesis, deed: Deed) -> None:
        begun = False
        try:
            async with kind.act(self._stage, deed):
                begun = True
                await self._last(deed.planned.seconds)
        except Skip as skip:
            if begun:
                deed.words["afterwards"] = str(skip)
            else:
                deed.nothing = str(skip)

    async def _last(self, seconds: float) -> None:
        if seconds:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), seconds)

    def _skip(self, at: int, deed: Deed, reason: str) -> None:
        self.skipped[f"{deed.planned.nemesis}: {reason}"] += 1
        self._write(at, deed, reason)

    def _write(self, at: int, deed: Deed, skipped: str = "") -> None:
        name = deed.planned.nemesis
        line = Fault(at, now(), name, deed.target, deed.words, skipped, ALL[name].forgets)
        self._writer.write(line)
