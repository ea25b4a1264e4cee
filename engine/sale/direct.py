"""Direct: sell without the bouncer while it is away. Postgres decides alone, as it always does.

What the bouncer spared Postgres the worker spares it now: few claims at once, and a refusal comes
from the stock row as it was a moment ago, not from a claim that fails. A claim that goes this way
leaves no intent, so a copy of it on another worker would be found by nobody. Therefore Postgres is
told beforehand, and while it remembers every keyed refusal stops copies (refuse.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec

from engine.infra import sql
from engine.infra.postgres import Postgres
from engine.sale import shelf
from engine.sale.bouncer import Admission
from engine.sale.models import Figures, Offer, Reserve

FRESH_SECONDS = 0.1  # how old the stock row behind a refusal may be
RENEW_SECONDS = 2.0
MARK_DEADLINES = 4  # a claim is sent within one deadline, and is over within two more
REMEMBERED_MAX = 4_096  # drops


class Direct:
    """The bouncer's stand-in of one worker."""

    def __init__(self, postgres: Postgres, deadline_seconds: float, turns: int) -> None:
        self._postgres = postgres
        self._mark_seconds = MARK_DEADLINES * deadline_seconds
        self._marked_until = 0.0
        self._turns = asyncio.Semaphore(turns)  # claims at once, of all drops together
        self._offers: dict[int, tuple[float, Offer]] = {}

    async def admit(self, drop_id: int, wishes: Sequence[Reserve]) -> Admission:
        """What the bouncer would say, off the stock row. Limits are left to the claim."""
        offer, age_ms = await self._offer(drop_id)
        if offer is None:
            return Admission("absent", 0, None, [], young=True)
        total = max(offer.figures.total, offer.promised)
        figures, named = msgspec.structs.replace(offer.figures, total=total), offer.is_named
        if shut := _shut(offer, offer.now_ms + age_ms):
            return Admission("shut", figures.free, figures, [shut], young=True)
        words, available = [], figures.free
        for wish in wishes:
            if wish.quantity > offer.max_per_order:
                words.append("too_many")
            elif wish.quantity > available:
                words.append("taken" if wish.picks else "sold_out")
            else:
                words.append("admitted")
                available -= wish.quantity
        return Admission("open", available, figures, words, True, age_ms / 1000, named=named)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Leave to claim, after Postgres was told that somebody does so without intents."""
        async with self._turns:
            began = time.monotonic()
            if began >= self._marked_until:
                queries = sql.load("engine")
                await self._postgres.call(queries["mark_direct"], seconds=self._mark_seconds)
                self._marked_until = began + RENEW_SECONDS
            yield

    def hear(self, drop_id: int, figures: Figures | None) -> None:
        """Take figures that a claim brought back, if they are news."""
        known = self._offers.get(drop_id)
        if known is None or figures is None:
            return
        read, offer = known
        if (figures.epoch, figures.version) > (offer.figures.epoch, offer.figures.version):
            self._offers[drop_id] = read, msgspec.structs.replace(offer, figures=figures)

    def forget(self, drop_id: int) -> None:
        """Ask again: the drop's terms have changed."""
        self._offers.pop(drop_id, None)

    async def _offer(self, drop_id: int) -> tuple[Offer | None, int]:
        """Terms and figures as they were so many milliseconds ago; None: no such drop."""
        known = self._offers.get(drop_id)
        if known is not None and time.monotonic() < known[0] + FRESH_SECONDS:
            return known[1], int((time.monotonic() - known[0]) * 1000)
        asked = time.monotonic()
        found = await shelf.offers(self._postgres, [drop_id])
        if not found:
            return None, 0
        if len(self._offers) >= REMEMBERED_MAX:
            self._offers.clear()
        self._offers[drop_id] = asked, found[0]
        return found[0], 0


def _shut(offer: Offer, now_ms: int) -> str:
    """Why nobody may reserve, if so: the rule of lua/admit.lua."""
    if offer.shut:
        return offer.shut
    if offer.ends_ms and max(now_ms, offer.starts_ms) >= offer.ends_ms:
        return "ended"
    return "not_started" if now_ms < offer.starts_ms else ""
