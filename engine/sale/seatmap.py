"""Seatmap: the bouncer's bitmap of a named drop's free units, loaded whole.

Every change is told with its version, and applied in that order (lua/settle.lua). Where the chain
of versions is broken, since Redis forgot or a worker died, the whole is read and told anew. Until
then nobody is refused by it: it only ever spares Postgres claims.
"""

from __future__ import annotations

import time
from contextlib import suppress

from engine.infra.combiner import Crew
from engine.infra.postgres import Postgres, Undone, Unknown, Unreachable
from engine.sale import store
from engine.sale.bouncer import Bouncer

RENEW_SECONDS = 0.1  # between two loads of a drop by one worker, however many requests ask for it


async def load(postgres: Postgres, bouncer: Bouncer, drop_id: int) -> bool:
    """Tell the bouncer which units are free, at one version; whether that was news to it."""
    found = await store.free_numbers(postgres, drop_id)
    return found is not None and await bouncer.seat(drop_id, *found)


class Seatmaps:
    """The loads that one worker's requests call for."""

    def __init__(self, postgres: Postgres, bouncer: Bouncer, crew: Crew) -> None:
        self._postgres, self._bouncer, self._crew = postgres, bouncer, crew
        self._begun: dict[int, float] = {}

    def renew(self, drop_id: int) -> None:
        """Load it soon: a request met a bouncer that knows nothing, or something untrue."""
        now = time.monotonic()
        if now < self._begun.get(drop_id, 0.0) + RENEW_SECONDS or self._crew.closing:
            return
        self._begun = {id: at for id, at in self._begun.items() if now < at + RENEW_SECONDS}
        self._begun[drop_id] = now
        self._crew.start(self._load(drop_id), "seatmap")

    async def _load(self, drop_id: int) -> None:
        with suppress(Unreachable, Undone, Unknown):  # the next request, or the reconciler
            await load(self._postgres, self._bouncer, drop_id)
