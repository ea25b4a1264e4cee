"""Purchase: held → sold, once, before the deadline.

Confirms are combined like reservations: one statement buys a batch of holds. The statement may be
run twice with the effect of once, so a lost reply is answered by running it again; a hold past
its deadline by Postgres's clock is not bought, whether or not anybody swept.
"""

from __future__ import annotations

import msgspec

from engine.infra.combiner import Combiner, Crew, Seat
from engine.infra.errors import IdempotencyMismatch, NotFound, Problem, Retryable
from engine.infra.ids import new_id
from engine.infra.meter import meter
from engine.infra.postgres import Postgres, Session, Undone
from engine.sale import store, till
from engine.sale.bouncer import Bouncer
from engine.sale.errors import AlreadyResolved, HoldExpired, NotYourReservation
from engine.sale.insist import insist
from engine.sale.models import Confirm, Figures, Hold, Purchase


class Bought(msgspec.Struct, frozen=True):
    """A purchase, and what kind of answer it is.

    new       this request made it                         201
    replayed  this request made it, an earlier time        201, Idempotent-Replayed
    repeated  another request of the same buyer made it    200
    """

    purchase: Purchase
    word: str


Chair = Seat[Confirm, Bought]


class Purchasing:
    """The purchases of one worker."""

    def __init__(
        self, postgres: Postgres, bouncer: Bouncer, crew: Crew, deadline_seconds: float = 5.0
    ) -> None:
        self._postgres = postgres
        self._bouncer = bouncer
        self._queue: Combiner[Confirm, Bought] = Combiner(
            crew, "purchase", self._buy, deadline_seconds=deadline_seconds
        )

    async def purchase(self, wish: Confirm, over: Exception | None = None) -> Bought:
        """Buy a hold. Raises what errors.py lists, `NotFound`, `Retryable`, `OutcomeUnknown`. With
        `over` only an earlier copy's purchase is looked for; `over` is raised if there is none."""
        return await self._queue.put(wish, wish.keyed, over)

    async def _buy(self, seats: list[Chair]) -> None:
        """One batch; halved when Postgres refuses it for a reason of its own."""
        buying = [seat for seat in seats if seat.over is None]
        try:
            drops = await insist(self._postgres, buying, _send) if buying else []
        except Undone:
            if len(seats) > 1:
                await self._buy(seats[: len(seats) // 2])
                await self._buy(seats[len(seats) // 2 :])
            else:
                seats[0].fail(seats[0].fault())
            return
        bought = {made.reservation_id: made for _, _, purchases in drops for made in purchases}
        meter.count("purchases", by=len(bought))
        others: list[Chair] = []
        for seat in seats:
            purchase = bought.get(seat.wish.reservation_id)
            if purchase is None or _is_not_mine(purchase, seat):
                others.append(seat)
            else:
                _tell_mine(seat, purchase, "new")
        if others:  # hardly ever: nearly everybody buys what he holds
            await self._answer(others)
        for drop_id, figures, _ in drops:
            await self._bouncer.settle(drop_id, figures, changes=((), ()))

    async def _answer(self, seats: list[Chair]) -> None:
        """Tell seats that bought nothing now what became of their holds."""
        reservations = [seat.wish.reservation_id for seat in seats]
        async with self._postgres.session() as session:
            purchases = await store.find_purchases_by_reservation(session, reservations)
            others = [
                seat
                for seat in seats
                if _is_not_mine(purchases.get(seat.wish.reservation_id), seat)
            ]
            made: dict[str, Purchase] = {}
            holds: dict[str, Hold] = {}
            if others:
                made, holds = await self._look_up(session, others, purchases)
        for seat in seats:
            wish = seat.wish
            purchase = purchases.get(wish.reservation_id)
            if purchase is not None and purchase.request_id == wish.request_id:
                _tell_mine(seat, purchase, "replayed")
            elif wish.request_id in made:
                seat.fail(IdempotencyMismatch())
            elif seat.over is not None:
                seat.fail(seat.over)
            else:
                _tell_other(seat, purchase, holds.get(wish.reservation_id))

    async def _look_up(
        self, session: Session, others: list[Chair], purchases: dict[str, Purchase]
    ) -> tuple[dict[str, Purchase], dict[str, Hold]]:
        """What requests that bought nothing now made before, and the holds they name."""
        made = await store.find_purchases_by_request(
            session, [seat.wish.request_id for seat in others if seat.wish.keyed]
        )
        holds = await store.find_reservations(
            session, [seat.wish.reservation_id for seat in others]
        )
        twice = [
            (wish.reservation_id, wish.reference)
            for wish in (seat.wish for seat in others)
            if wish.reference is not None
            and wish.request_id not in made
            and _is_paid_twice(wish, purchases.get(wish.reservation_id))
        ]
        if twice:  # who paid again is owed it, whatever becomes of our answer
            await till.owe_refunds(session, twice)
        return made, holds


async def _send(session: Session, seats: list[Chair]) -> list[tuple[int, Figures, list[Purchase]]]:
    return await store.purchase_units(session, [(seat.wish, new_id()) for seat in seats])


def _is_not_mine(purchase: Purchase | None, seat: Chair) -> bool:
    return purchase is None or purchase.request_id != seat.wish.request_id


def _is_paid_twice(wish: Confirm, purchase: Purchase | None) -> bool:
    """Whether a buyer names another payment for what is bought already."""
    return (
        purchase is not None
        and wish.reference != purchase.reference
        and wish.buyer in (None, purchase.buyer)
    )


def _tell_mine(seat: Chair, purchase: Purchase, word: str) -> None:
    wish = seat.wish
    if purchase.named != wish.reference or (wish.buyer or purchase.buyer) != purchase.buyer:
        seat.fail(IdempotencyMismatch())
    else:
        seat.answer(Bought(purchase, word))


def _tell_other(seat: Chair, purchase: Purchase | None, hold: Hold | None) -> None:
    """Another request was first, or the hold cannot be bought."""
    wish = seat.wish
    if hold is None:
        seat.fail(NotFound(f"There is no reservation {wish.reservation_id}"))
    elif wish.buyer is not None and wish.buyer != hold.buyer:
        seat.fail(NotYourReservation())
    elif purchase is not None and purchase.status == "refunded":
        seat.fail(AlreadyResolved(status="refunded"))
    elif purchase is not None and wish.reference in (None, purchase.reference):
        seat.answer(Bought(purchase, "repeated"))
    else:
        seat.fail(why_not(hold))


def why_not(hold: Hold) -> Problem:
    """Why a hold can be neither bought nor released."""
    if hold.status == "expired":
        return HoldExpired(status="expired")
    if hold.status in ("active", "paying"):
        return Retryable()  # it was in somebody's hands just now
    return AlreadyResolved(status=hold.status)
