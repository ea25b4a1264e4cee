"""Payment: what a provider says becomes a purchase, or a refund that is due. Never silence.

    notice ─▶ combiner ─▶ settle_payments ─┬─ the hold is there: sold, past its deadline too
                                           ├─ it is gone, and its drop has free units: sold
                                           └─ else: a refund is due
A provider repeats itself, is late, and mixes up the order. A payment's later status counts
(pending, failed, succeeded, refunded) and each is decided once, in the transaction that writes it
down, so the statement may be run any number of times. Money of which nothing could be made yet,
because others had the free units in their hands, is decided by a keeper (`settle_undecided`).
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from engine.infra.combiner import Combiner, Crew, Seat
from engine.infra.ids import new_id, request_identity
from engine.infra.log import Seldom
from engine.infra.meter import meter
from engine.infra.postgres import Postgres, Session, Undone
from engine.sale import till
from engine.sale.bouncer import Bouncer
from engine.sale.insist import insist
from engine.sale.models import Notice, Payment, Taken

log = structlog.get_logger()
_complaints = Seldom()

RANK = {"pending": 0, "failed": 1, "succeeded": 2, "refunded": 3}
TRIES = 5  # for units that others have in their hands
TRY_AGAIN_SECONDS = 0.02
UNDECIDED_SECONDS = 1.0  # then the worker that heard of it is taken for dead
UNDECIDED_MAX = 200  # at once

Chair = Seat[Notice, Payment]


def request_of(reference: str) -> str:
    """The request of the purchase that a payment may become: one payment, one purchase."""
    return request_identity("provider", "payment", reference)


class Paying:
    """The payments of one worker."""

    def __init__(
        self, postgres: Postgres, bouncer: Bouncer, crew: Crew, deadline_seconds: float = 5.0
    ) -> None:
        self._postgres = postgres
        self._bouncer = bouncer
        self._queue: Combiner[Notice, Payment] = Combiner(
            crew, "payment", self._settle, batch_max=128, deadline_seconds=deadline_seconds
        )

    async def settle(self, notice: Notice) -> Payment:
        """The payment after what was said of it; without an outcome where none is due, or none
        could be found yet. Raises `OutcomeUnknown`."""
        # Whatever we say, the provider may say it again: so it is keyed, by its reference.
        return await self._queue.put(notice, keyed=True)

    async def _settle(self, seats: list[Chair]) -> None:
        """One batch; halved when Postgres refuses it for a reason of its own."""
        try:
            taken = await insist(self._postgres, seats, _send)
        except Undone as undone:
            if len(seats) > 1:
                await self._settle(seats[: len(seats) // 2])
                await self._settle(seats[len(seats) // 2 :])
            else:
                log.warning("payment.undone", sqlstate=undone.sqlstate)
                seats[0].fail(seats[0].fault())
            return
        await publish_taken(self._bouncer, taken)
        meter.count("purchases", by=sum(len(drop.bought) for drop in taken))
        payments = await till.find_payments(self._postgres, [seat.wish.reference for seat in seats])
        for seat in seats:
            payment = payments.get(seat.wish.reference)
            if payment is None:  # who was told before it could be sent was not sent
                seat.fail(seat.fault())
                continue
            if undecided(payment) and seat.attempt < TRIES:
                seat.attempt += 1
                self._queue.again(seat, TRY_AGAIN_SECONDS)
                continue
            tell(seat.wish, payment)
            meter.count("payments", seat.wish.status, payment.outcome or "none")
            seat.answer(payment)


async def _send(session: Session, seats: list[Chair]) -> list[Taken]:
    return await till.settle_payments(session, _newest([seat.wish for seat in seats]))


def _newest(notices: Sequence[Notice]) -> list[tuple[Notice, str]]:
    """One notice a payment, the one with the latest status, sorted by reference."""
    newest: dict[str, Notice] = {}
    for notice in notices:
        known = newest.get(notice.reference)
        if known is None or RANK[known.status] < RANK[notice.status]:
            newest[notice.reference] = notice
    return [(newest[reference], new_id()) for reference in sorted(newest)]


def undecided(payment: Payment) -> bool:
    """Whether money came of which nothing was made yet."""
    return payment.status == "succeeded" and payment.outcome is None


def tell(notice: Notice, payment: Payment) -> None:
    """Write down what an operator should see."""
    words = {"reference": payment.reference, "reservation_id": payment.reservation_id}
    if notice.status == "succeeded" and payment.outcome == "refund_due":
        log.warning("payment.refund_due", **words, reason=payment.reason)
    elif notice.status == "refunded" and payment.outcome == "purchased" and not payment.undone:
        # The provider took the money back without us: the units are still the buyer's.
        log.warning("payment.reversed", **words, purchase_id=payment.purchase_id)
    elif undecided(payment):
        log.warning("payment.undecided", **words)


async def settle_undecided(postgres: Postgres, bouncer: Bouncer) -> int:
    """Decide what workers left undecided; how many payments were looked at.

    A payment whose drop is stuck must not keep the others: then they are taken one by one.
    """
    waiting = await till.undecided_payments(postgres, UNDECIDED_SECONDS, UNDECIDED_MAX)
    try:
        await _decide(postgres, bouncer, waiting)
    except Undone:
        for payment in waiting:
            try:
                await _decide(postgres, bouncer, [payment])
            except Undone as undone:
                if _complaints.due(payment.reference):
                    words = {"reference": payment.reference, "sqlstate": undone.sqlstate}
                    log.warning("payment.stuck", **words)
    return len(waiting)


async def _decide(postgres: Postgres, bouncer: Bouncer, waiting: Sequence[Payment]) -> None:
    if not waiting:
        return
    notices = [
        Notice(
            each.reference,
            each.reservation_id,
            each.status,
            each.amount_cents,
            each.currency,
            request_of(each.reference),
        )
        for each in waiting
    ]
    async with postgres.session() as session:
        taken = await till.settle_payments(session, _newest(notices))
        after = await till.find_payments(session, [each.reference for each in waiting])
    await publish_taken(bouncer, taken)
    meter.count("purchases", by=sum(len(drop.bought) for drop in taken))
    for notice in notices:
        if (payment := after[notice.reference]).outcome is not None:
            tell(notice, payment)


async def publish_taken(bouncer: Bouncer, taken: Sequence[Taken]) -> None:
    """Tell the bouncer what was sold, and whose units were taken anew."""
    for drop in taken:
        uses = [
            (buyer, units, False) for buyer, units in zip(drop.buyers, drop.quantities, strict=True)
        ]
        # Which units were taken anew is not told: the reconciler loads a named drop's bitmap then.
        changes = None if drop.buyers else ((), ())
        await bouncer.settle(drop.drop_id, drop.figures, changes=changes, uses=uses)
