"""Book: held → occupied, once, before the deadline, with what is stored there.

A booking is a purchase with a manifest, and is made as `engine.sale.purchase` makes one: a batch in
one statement, which may be run twice with the effect of once, so that a lost reply is answered by
running it again. The purchase, the booking and the record of it are one transaction.
"""

from __future__ import annotations

import msgspec

from engine.coldchain import store
from engine.coldchain.models import Book, Booking
from engine.infra.combiner import Combiner, Crew, Seat
from engine.infra.errors import IdempotencyMismatch, NotFound
from engine.infra.ids import new_id
from engine.infra.meter import meter
from engine.infra.postgres import Postgres, Session, Undone
from engine.sale import store as sale
from engine.sale.bouncer import Bouncer
from engine.sale.errors import AlreadyResolved, NotYourReservation
from engine.sale.insist import insist
from engine.sale.models import Figures, Hold, Purchase
from engine.sale.purchase import why_not


class Booked(msgspec.Struct, frozen=True):
    """A booking, and what kind of answer it is.

    new       this request made it                         201
    replayed  this request made it, an earlier time        201, Idempotent-Replayed
    repeated  another request of the same buyer made it    200
    """

    booking: Booking
    word: str


Chair = Seat[Book, Booked]


class BookingDesk:
    """The bookings of one worker."""

    def __init__(
        self, postgres: Postgres, bouncer: Bouncer, crew: Crew, deadline_seconds: float = 5.0
    ) -> None:
        self._postgres = postgres
        self._bouncer = bouncer
        self._queue: Combiner[Book, Booked] = Combiner(
            crew, "book", self._book, deadline_seconds=deadline_seconds
        )

    async def book(self, wish: Book, over: Exception | None = None) -> Booked:
        """Book a held slot. Raises `NotFound`, `NotYourReservation`, `HoldExpired`,
        `AlreadyResolved`, `IdempotencyMismatch`, `Retryable`, `OutcomeUnknown`. With `over` only an
        earlier copy's booking is looked for; `over` is raised if there is none."""
        return await self._queue.put(wish, wish.keyed, over)

    async def _book(self, seats: list[Chair]) -> None:
        """One batch; halved when Postgres refuses it for a reason of its own."""
        booking = [seat for seat in seats if seat.over is None]
        try:
            freezers = await insist(self._postgres, booking, _send) if booking else []
        except Undone:
            if len(seats) > 1:
                await self._book(seats[: len(seats) // 2])
                await self._book(seats[len(seats) // 2 :])
            else:
                seats[0].fail(seats[0].fault())
            return
        booked = {made.reservation_id: made for _, _, bookings in freezers for made in bookings}
        meter.count("purchases", by=len(booked))
        others: list[Chair] = []
        for seat in seats:
            made = booked.get(seat.wish.reservation_id)
            if made is None or made.request_id != seat.wish.request_id:
                others.append(seat)
            else:
                _tell_mine(seat, made, "new")
        if others:
            await self._answer(others)
        for drop_id, figures, _ in freezers:
            await self._bouncer.settle(drop_id, figures, ((), ()))  # nothing came, nothing went

    async def _answer(self, seats: list[Chair]) -> None:
        """Tell seats that booked nothing now what became of their holds."""
        reservations = [seat.wish.reservation_id for seat in seats]
        async with self._postgres.session() as session:
            bookings = await store.find_bookings(session, reservations)
            made = await sale.find_purchases_by_request(
                session, [seat.wish.request_id for seat in seats if seat.wish.keyed]
            )
            holds = await sale.find_reservations(session, reservations)
            bought = await sale.find_purchases_by_reservation(session, reservations)
            strangers = {id for id, hold in holds.items() if not await _is_of_a_slot(session, hold)}
        for seat in seats:
            wish = seat.wish
            booking = bookings.get(wish.reservation_id)
            if booking is not None and booking.request_id == wish.request_id:
                _tell_mine(seat, booking, "replayed")
            elif wish.request_id in made:
                seat.fail(IdempotencyMismatch())
            elif seat.over is not None:
                seat.fail(seat.over)
            elif wish.reservation_id in strangers:
                seat.fail(NotFound(f"Reservation {wish.reservation_id} is not of a slot"))
            else:
                hold = holds.get(wish.reservation_id)
                _tell_other(seat, booking, hold, bought.get(wish.reservation_id))


async def _send(session: Session, seats: list[Chair]) -> list[tuple[int, Figures, list[Booking]]]:
    return await store.book_slots(session, [(seat.wish, new_id(), new_id()) for seat in seats])


async def _is_of_a_slot(session: Session, hold: Hold) -> bool:
    return hold.quantity == 1 and await store.is_slot(session, hold.drop_id, hold.units[0])


def _tell_mine(seat: Chair, booking: Booking, word: str) -> None:
    wish = seat.wish
    if booking.manifest != wish.manifest or (wish.buyer or booking.buyer) != booking.buyer:
        seat.fail(IdempotencyMismatch())
    else:
        seat.answer(Booked(booking, word))


def _tell_other(
    seat: Chair, booking: Booking | None, hold: Hold | None, bought: Purchase | None
) -> None:
    """Another request was first, or the hold cannot be booked."""
    wish = seat.wish
    if hold is None:
        seat.fail(NotFound(f"There is no reservation {wish.reservation_id}"))
    elif wish.buyer is not None and wish.buyer != hold.buyer:
        seat.fail(NotYourReservation())
    elif bought is not None and bought.status == "refunded":
        seat.fail(AlreadyResolved(status="refunded"))
    elif booking is not None and booking.manifest == wish.manifest:
        seat.answer(Booked(booking, "repeated"))
    elif booking is not None:
        seat.fail(AlreadyResolved("The slot is booked with another manifest", status="purchased"))
    else:
        seat.fail(why_not(hold))
