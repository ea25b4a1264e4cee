"""Memory: "sold out" as a worker remembers it, for requests without a key.

In a real sale nearly every request ends here, costs no round trip, and hears the same words. What
is remembered is at most `MEMORY_SECONDS` old. While somebody asks, one look renews it before that:
else a crowd would find it too old ten times a second, and all of it would wait for the bouncer.
"""

from __future__ import annotations

import time

import msgspec

from engine.infra.combiner import Crew
from engine.infra.meter import meter
from engine.infra.postgres import Postgres
from engine.infra.redis import Away
from engine.sale.bouncer import Bouncer
from engine.sale.errors import SoldOut
from engine.sale.models import Figures
from engine.sale.refuse import sold_out

MEMORY_SECONDS = 0.1  # how long "nothing is left" is believed without asking again
RENEWED_AT_SECONDS = 0.05  # of that age it is asked again


class _Known(msgspec.Struct):
    """No request for more than `left` can be served, said at `at` (monotonic)."""

    at: float
    left: int
    words: SoldOut
    renewing: bool = False


class Memory:
    """The sold-out drops of one worker."""

    def __init__(self, postgres: Postgres, bouncer: Bouncer, crew: Crew) -> None:
        self._postgres, self._bouncer, self._crew = postgres, bouncer, crew
        self._known: dict[int, _Known] = {}

    def remember(self, drop_id: int, figures: Figures, available: int, at: float) -> None:
        """So many were to be had at that moment, as the bouncer or Postgres said: not before it.
        Of two such words the later one counts, in whatever order they arrive."""
        known = self._known.get(drop_id)
        if known is not None and known.at > at:
            return
        left = max(available, 0)
        self._known[drop_id] = _Known(at, left, sold_out(figures, left))

    def forget(self, drop_id: int) -> None:
        """The drop's terms have changed."""
        self._known.pop(drop_id, None)

    def refuse(self, drop_id: int, quantity: int) -> None:
        """Raises `SoldOut` if it is known that there is not so much."""
        known = self._known.get(drop_id)
        if known is None or quantity <= known.left:
            return
        age = time.monotonic() - known.at
        if age >= MEMORY_SECONDS:
            return
        if age >= RENEWED_AT_SECONDS and not known.renewing and not self._crew.closing:
            known.renewing = True
            self._crew.start(self._renew(drop_id, known), "memory")
        meter.memory_refusals += 1
        raise known.words.with_traceback(None)  # or it would grow with every raise

    async def _renew(self, drop_id: int, known: _Known) -> None:
        """Ask what is left; what was told or forgotten meanwhile counts for more."""
        asked = time.monotonic()
        try:
            told = await self._bouncer.admit(drop_id, self._postgres.epoch, [])
        except Away:
            return
        if self._known.get(drop_id) is known and told.word == "open" and told.figures is not None:
            self.remember(drop_id, told.figures, told.available, asked)
