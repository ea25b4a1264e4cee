"""Expire: held → free, because time ran out. One path for polling, for bells and for operators.

The deadline itself needs nobody: a hold past it can be neither bought nor released. Expiring only
puts its units back on sale.
"""

from __future__ import annotations

import structlog

from engine.infra.log import Seldom
from engine.infra.meter import meter
from engine.infra.postgres import Postgres, Undone
from engine.sale import store
from engine.sale.bouncer import Bouncer
from engine.sale.release import publish_returned

log = structlog.get_logger()

BATCH = 1_000
_complaints = Seldom()


async def expire_due(postgres: Postgres, bouncer: Bouncer) -> int:
    """Free everything that is due, a batch at a time; how many holds ended.

    A drop that cannot be freed (its row is locked, its figures do not add up) must not keep the
    others: then the drops are taken one by one.
    """
    try:
        return await _expire(postgres, bouncer, None)
    except Undone:
        ended = 0
        for drop_id in await store.due_drops(postgres):
            try:
                ended += await expire_drop(postgres, bouncer, drop_id)
            except Undone as undone:
                # The sweeper comes by every quarter of a second.
                if _complaints.due(drop_id):
                    log.warning("expire.stuck", drop_id=drop_id, sqlstate=undone.sqlstate)
        return ended


async def expire_drop(postgres: Postgres, bouncer: Bouncer, drop_id: int) -> int:
    """Free what is due of one drop; how many holds ended."""
    return await _expire(postgres, bouncer, drop_id)


async def _expire(postgres: Postgres, bouncer: Bouncer, drop_id: int | None) -> int:
    ended = 0
    while True:
        returned = await store.expire_holds(postgres, drop_id, BATCH)
        await publish_returned(bouncer, returned)
        batch = sum(len(drop.reservations) for drop in returned)
        ended += batch
        meter.count("expiries", by=batch)
        if batch < BATCH:
            return ended


async def next_deadline_ms(postgres: Postgres) -> float | None:
    """Milliseconds until the next hold runs out; None when there is none."""
    return await store.next_deadline_ms(postgres)
