"""Hold: a slot is held as any unit that is picked by name, for its freezer's 120 seconds."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from engine.coldchain import store
from engine.infra.errors import NotFound
from engine.infra.ids import Request
from engine.infra.postgres import Postgres
from engine.sale.models import Hold, Reserve

KNOWN_MAX = 100_000  # slots a worker remembers


class Reserves(Protocol):
    """`Reserving.reserve`."""

    def __call__(self, wish: Reserve, over: Exception | None = None) -> Awaitable[Hold]:
        """Hold units, or say why not."""


class Holding:
    """The holds of slots of one worker."""

    def __init__(self, postgres: Postgres, reserve: Reserves) -> None:
        self._postgres, self._reserve = postgres, reserve
        self._known: set[int] = set()  # a slot is one for ever

    async def hold(self, slot_id: int, buyer: str, request: Request) -> Hold:
        """Hold a slot. Raises `NotFound`, `SlotNotAvailable` and whatever a sale's no is."""
        drop_id, number = await self.place(slot_id)
        wish = Reserve(drop_id, buyer, 1, request.id, request.keyed, (number,))
        return await self._reserve(wish, request.over)

    async def place(self, slot_id: int) -> tuple[int, int]:
        """The freezer and the number of a slot. Raises `NotFound`."""
        drop_id, number = store.place(slot_id)
        if slot_id not in self._known:
            if not await store.is_slot(self._postgres, drop_id, number):
                raise NotFound(f"There is no slot {slot_id}")
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            self._known.add(slot_id)
        return drop_id, number
