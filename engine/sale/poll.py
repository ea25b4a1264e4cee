"""Poll: a drop's stock, read for all who ask at once.

A crowd that watches a drop asks for nothing else, and must not cost the sale its connections. One
look answers everybody who came before it began, so the figures are never older than the question:
two workers, asked one after the other, tell no story that goes back.
"""

from __future__ import annotations

from engine.infra.combiner import Combiner, Crew, Seat
from engine.infra.errors import NotFound
from engine.infra.postgres import Postgres
from engine.sale import shelf
from engine.sale.models import Stock


class Polling:
    """The polls of one worker."""

    def __init__(self, postgres: Postgres, crew: Crew, deadline_seconds: float = 5.0) -> None:
        self._postgres = postgres
        self._queue: Combiner[int, Stock] = Combiner(
            crew, "stock", self._look, deadline_seconds=deadline_seconds
        )

    async def stock(self, drop_id: int) -> Stock:
        """What Postgres says of a drop. Raises `NotFound`, `Retryable`."""
        return await self._queue.put(drop_id)

    async def _look(self, seats: list[Seat[int, Stock]]) -> None:
        found = await shelf.stocks(self._postgres, sorted({seat.wish for seat in seats}))
        for seat in seats:
            stock = found.get(seat.wish)
            if stock is None:
                seat.fail(NotFound(f"There is no drop {seat.wish}"))
            else:
                seat.answer(stock)
