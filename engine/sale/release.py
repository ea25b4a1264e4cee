"""Release: held → free, because the buyer said so. On sale again at once; repeating it is fine."""

from __future__ import annotations

from engine.infra.combiner import Combiner, Crew, Seat
from engine.infra.errors import NotFound
from engine.infra.meter import meter
from engine.infra.postgres import Postgres, Session, Undone
from engine.sale import store
from engine.sale.bouncer import Bouncer
from engine.sale.errors import NotYourReservation
from engine.sale.insist import insist
from engine.sale.models import Hold, Release, Returned
from engine.sale.purchase import why_not

Chair = Seat[Release, None]


class Releasing:
    """The releases of one worker."""

    def __init__(
        self, postgres: Postgres, bouncer: Bouncer, crew: Crew, deadline_seconds: float = 5.0
    ) -> None:
        self._postgres = postgres
        self._bouncer = bouncer
        self._queue: Combiner[Release, None] = Combiner(
            crew, "release", self._give_back, deadline_seconds=deadline_seconds
        )

    async def release(self, wish: Release) -> None:
        """Give a hold back. Raises what `check` raises, `Retryable` and `OutcomeUnknown`."""
        await self._queue.put(wish)

    async def release_within(self, session: Session, wish: Release) -> list[Returned]:
        """The same inside a transaction; the caller publishes what came back, after its commit."""
        returned = await store.release_holds(session, [wish])
        if not returned:
            check(wish, await store.find_reservation(session, wish.reservation_id))
        return returned

    async def publish(self, returned: list[Returned]) -> None:
        """Tell the bouncer what came back, and that its buyers use less."""
        meter.count("releases", by=sum(len(drop.reservations) for drop in returned))
        await publish_returned(self._bouncer, returned)

    async def _give_back(self, seats: list[Chair]) -> None:
        try:
            returned = await insist(self._postgres, seats, _send)
        except Undone:
            if len(seats) > 1:
                await self._give_back(seats[: len(seats) // 2])
                await self._give_back(seats[len(seats) // 2 :])
            else:
                seats[0].fail(seats[0].fault())
            return
        done = {
            (id, named)
            for drop in returned
            for id, buyer in zip(drop.reservations, drop.buyers, strict=True)
            for named in (buyer, None)
        }
        others = [seat for seat in seats if not _is_in(done, seat)]
        if others:
            ids = [seat.wish.reservation_id for seat in others]
            holds = await store.find_reservations(self._postgres, ids)
            for seat in others:
                try:
                    check(seat.wish, holds.get(seat.wish.reservation_id))
                    seat.answer(None)
                except Exception as problem:
                    seat.fail(problem)
        for seat in seats:
            if _is_in(done, seat):
                seat.answer(None)
        await self.publish(returned)


def _is_in(done: set[tuple[str, str | None]], seat: Chair) -> bool:
    return (seat.wish.reservation_id, seat.wish.buyer) in done


async def _send(session: Session, seats: list[Chair]) -> list[Returned]:
    return await store.release_holds(session, [seat.wish for seat in seats])


def check(wish: Release, hold: Hold | None) -> None:
    """Why a release returned nothing; no error if the hold was given back before."""
    if hold is None:
        raise NotFound(f"There is no reservation {wish.reservation_id}")
    if wish.buyer is not None and wish.buyer != hold.buyer:
        raise NotYourReservation
    if hold.status != "released":
        raise why_not(hold)


async def publish_returned(bouncer: Bouncer, returned: list[Returned]) -> None:
    """Tell the bouncer of units that came back, drop by drop."""
    for drop in returned:
        uses = [
            (buyer, -units, False)
            for buyer, units in zip(drop.buyers, drop.quantities, strict=True)
        ]
        changes = None if drop.numbers is None else ((), drop.numbers)
        await bouncer.settle(drop.drop_id, drop.figures, changes=changes, uses=uses)
