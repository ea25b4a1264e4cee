"""Expire: held → free, because time ran out. One path for polling, for bells and for operators.

The deadline itself needs nobody: a hold past it can be neither bought nor released. Expiring only
puts its units back on sale.
"""

from __future__ import annotations

from engine.infra.postgres import Postgres
from engine.sale import store
from engine.sale.bouncer import Bouncer
from engine.sale.release import publish_returned

BATCH = 1_000


async def expire_due(postgres: Postgres, bouncer: Bouncer) -> int:
    """Free everything that is due, a batch at a time; how many holds ended."""
    ended = 0
    while True:
        returned = await store.expire_holds(postgres, BATCH)
        await publish_returned(bouncer, returned)
        batch = sum(len(drop.reservations) for drop in returned)
        ended += batch
        if batch < BATCH:
            return ended


async def next_deadline_ms(postgres: Postgres) -> float | None:
    """Milliseconds until the next hold runs out; None when there is none."""
    return await store.next_deadline_ms(postgres)
