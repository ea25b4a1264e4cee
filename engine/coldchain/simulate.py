"""Simulate: traffic and a failure for a demo, by real operations alone. So it breaks nothing: it
holds, books and releases as one more buyer, and touches nobody else's."""

from __future__ import annotations

import random

from engine.coldchain import store
from engine.coldchain.book import BookingDesk
from engine.coldchain.hold import Holding
from engine.coldchain.models import WARMEST, Book, Manifest, Reading, Slot
from engine.coldchain.readings import Recording
from engine.coldchain.release import release
from engine.infra.errors import NotFound, Refusal
from engine.infra.ids import Request, new_id, request_identity
from engine.infra.postgres import Postgres
from engine.sale import store as sale
from engine.sale.bouncer import Bouncer
from engine.sale.models import Release, unit_id
from engine.sale.release import publish_returned

BUYER = "simulation@cryovault.io"
SLOTS = (3, 5)  # that a call changes
FAILING = (8.0, 13.0)  # °C above what it should be: -62 to -57 where that is -70


class Simulation:
    """The demo's own buyer, sensor and operator."""

    def __init__(
        self,
        postgres: Postgres,
        bouncer: Bouncer,
        holding: Holding,
        desk: BookingDesk,
        recording: Recording,
    ) -> None:
        self._postgres, self._bouncer = postgres, bouncer
        self._holding, self._desk, self._recording = holding, desk, recording

    async def traffic(self) -> list[Slot]:
        """Change three to five slots at random, of those that are free or our own; them, as they
        are now. Who was quicker at one of them keeps it."""
        everything = await store.list_slots(self._postgres)
        ours = [slot for slot in everything if _is_free_for_us(slot)]
        chosen = random.sample(ours, min(random.randint(*SLOTS), len(ours)))
        moved = [slot.id for slot in chosen if await self._move(slot)]
        return await store.list_slots(self._postgres, moved) if moved else []

    async def _move(self, slot: Slot) -> bool:
        try:
            if slot.hold is not None:
                await (self._book if random.random() < 0.5 else self._let_go)(slot.hold.id)
            elif slot.booking is not None:
                await self._empty(slot.booking.id)
            else:
                hold = await self._holding.hold(slot.id, BUYER, _request("hold"))
                if random.random() < 0.5:
                    await self._book(hold.id)
        except Refusal:
            return False
        return True

    async def _book(self, reservation_id: str) -> None:
        manifest = Manifest(f"MAN-{random.randrange(10**6):06d}", quantity=random.randint(100, 599))
        await self._desk.book(
            Book(reservation_id, BUYER, manifest, _request("book").id, keyed=False)
        )

    async def _let_go(self, reservation_id: str) -> None:
        returned = await sale.release_holds(self._postgres, [Release(reservation_id, BUYER)])
        await publish_returned(self._bouncer, returned)

    async def _empty(self, booking_id: str) -> None:
        async with self._postgres.transaction() as session:
            _, returned = await release(session, booking_id)
        await publish_returned(self._bouncer, returned)

    async def failure(self) -> Slot:
        """Let a sensor measure the first slot that is not critical as far too warm; the slot.
        Raises `NotFound` when all are critical."""
        found = await store.find_cool_slot(self._postgres)
        if found is None:
            raise NotFound("Every slot is critical already, or there is none")
        drop_id, number, target = found
        measured = round(min(target + random.uniform(*FAILING), WARMEST), 1)
        await self._recording.record(
            Reading(drop_id, number, measured, None, _request("readings").id)
        )
        return (await store.list_slots(self._postgres, [unit_id(drop_id, number)]))[0]


def _is_free_for_us(slot: Slot) -> bool:
    if slot.hold is not None:
        return slot.hold.buyer == BUYER
    if slot.booking is not None:
        return slot.booking.buyer == BUYER
    return slot.status == "AVAILABLE"


def _request(operation: str) -> Request:
    return Request(request_identity(f"simulation:{BUYER}", operation, new_id()), keyed=False)
