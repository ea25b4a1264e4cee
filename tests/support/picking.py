"""A hall of named units, workers that pick of it, and a bouncer that hears late or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from engine.infra.combiner import Crew
from engine.infra.ids import new_id
from engine.runtime import Ground
from engine.sale import drops
from engine.sale.bouncer import Bouncer, Changes
from engine.sale.models import Figures, Hold, NewDrop, Reserve
from engine.sale.reconcile import tell
from engine.sale.reserve import Reserving

UNITS = 20


async def open_hall(ground: Ground, **terms: Any) -> int:
    """A named drop of 20 units, as the bouncer is told of it."""
    words: dict[str, Any] = {
        "name": "Hall",
        "price_cents": 0,
        "currency": "EUR",
        "image_url": None,
        "starts_at": None,
        "ends_at": None,
        "hold_seconds": 600,
        "max_hold_seconds": 600,
        "pay_seconds": 60,
        "max_per_buyer": None,
        "max_per_order": 10,
        "total_stock": UNITS,
        "pick": "named",
        "names": tuple(f"A{n}" for n in range(1, UNITS + 1)),
    }
    async with ground.postgres.transaction() as session:
        drop_id = await drops.create(session, NewDrop(**(words | terms)))
    await tell(ground.postgres, ground.bouncer, [drop_id])
    return drop_id


class Worker(Reserving):
    """The reservations of one worker, with words for a test."""

    async def pick(self, drop_id: int, *picks: int, key: str | None = None) -> Hold:
        """These very units, for a buyer of their own."""
        request = key or new_id().replace("-", "")
        wish = Reserve(drop_id, f"b{request}", len(picks), request, key is not None, picks)
        return await self.reserve(wish)

    async def best(self, drop_id: int, quantity: int) -> Hold:
        """So many beside each other."""
        request = new_id().replace("-", "")
        return await self.reserve(Reserve(drop_id, f"b{request}", quantity, request, False))


@asynccontextmanager
async def at_work(ground: Ground, bouncer: Bouncer | None = None) -> AsyncIterator[Worker]:
    """One worker, in this process."""
    crew = Crew()
    yield Worker(ground.postgres, bouncer or ground.bouncer, crew)
    await crew.drain(2)


class Lossy(Bouncer):
    """Forgets to tell what the next batches took; or waits with it until it is let."""

    lost = 0
    let: asyncio.Event | None = None

    @classmethod
    def of(cls, ground: Ground) -> Lossy:
        """On the same Redis."""
        return cls(ground.redis, ground.postgres, ground.settings.intent_ttl_ms)

    async def settle(
        self,
        drop_id: int,
        figures: Figures | None = None,
        changes: Changes | None = None,
        **words: Any,
    ) -> bool:
        """Tell it, or not."""
        if changes is not None and self.lost > 0:
            self.lost -= 1
            return False
        if changes is not None and self.let is not None:
            await self.let.wait()
        return await super().settle(drop_id, figures, changes=changes, **words)
