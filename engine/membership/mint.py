"""Mint: a receipt becomes a numbered membership, once. The sale's own hot path, with another end.

    receipt ─▶ present: pending ─▶ Reserving (bouncer, combiner) ─▶ mint_units ─▶ fulfilled
                 │ fulfilled: that one again                          │ one transaction: unit, sale,
                 │ somebody else's: RECEIPT_USED                      │ membership, receipt
                 └──────◀── no, or unknown: fail_receipts ◀───────────┘
                            failed: nothing was taken, and nothing can be till it is presented again

The receipt's row decides what became of it: a mint claims only for a receipt that is pending, and
has its row while it does. So `failed` is definite, whatever is still on its way; "sold out" is said
by the statement that gives the receipt up, and only if no number is left.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from engine.infra.combiner import Combiner, Crew, Seat
from engine.infra.errors import (
    Fault,
    IdempotencyMismatch,
    InProgress,
    NotFound,
    OutcomeUnknown,
    Problem,
)
from engine.infra.ids import new_id
from engine.infra.meter import meter
from engine.infra.postgres import Postgres, Session, Undone
from engine.membership import store
from engine.membership.errors import InvalidReceipt, MintFailed, ReceiptUsed, SoldOut
from engine.membership.models import GivenUp, Membership, Mint, Presented, Tier
from engine.sale import errors as sale
from engine.sale.bouncer import Bouncer
from engine.sale.insist import insist
from engine.sale.models import Hold, Reserve
from engine.sale.reserve import Reserving
from engine.sale.way import Way

LEFT_SECONDS = 0.02  # before a number is tried again that is on another's way
SPARE_SECONDS = 0.5  # of the deadline, to make an outcome definite
STUCK_SECONDS = 30.0  # after which nobody is at work on a pending receipt: several deadlines

Attempt = tuple[str, int, str]  # receipt, which attempt, the code it is answered with
Chair = TypeVar("Chair", bound=Seat[Any, Any])


class Minted(msgspec.Struct, frozen=True):
    """A membership, and whether this request made it: 201, else 200."""

    membership: Membership
    is_new: bool


class Minting:
    """The mints of one worker."""

    def __init__(
        self, postgres: Postgres, bouncer: Bouncer, crew: Crew, deadline_seconds: float = 5.0
    ) -> None:
        self._postgres = postgres
        self._deadline_seconds = deadline_seconds
        way = Way("mint", store.mint_units, _count)
        self._reserving = Reserving(
            postgres, bouncer, crew, max(deadline_seconds - SPARE_SECONDS, 0.1), way
        )
        self._presenting: Combiner[Mint, Presented] = Combiner(
            crew, "present", self._present_all, deadline_seconds=deadline_seconds
        )
        self._giving_up: Combiner[Attempt, GivenUp] = Combiner(
            crew, "give_up", self._give_up_all, deadline_seconds=deadline_seconds
        )
        self._tiers: dict[int, Tier] = {}  # tier and year of a drop never change
        self._named: dict[tuple[str, str], int] = {}

    async def drop_of(self, tier: str, year: str) -> int:
        """The drop of a tier and year. Raises `NotFound`."""
        if (tier, year) not in self._named:
            found = await store.find_tiers(self._postgres, named=(tier, year))
            if not found:
                raise NotFound(f"There is no membership drop {tier} {year}")
            self._named[tier, year] = found[0].drop_id
            self._tiers[found[0].drop_id] = found[0]
        return self._named[tier, year]

    async def check(self, drop_id: int) -> None:
        """Raise `NotFound` for a drop whose numbers are no members'."""
        if drop_id not in self._tiers:
            found = await store.find_tiers(self._postgres, drop_id=drop_id)
            if not found:
                raise NotFound(f"There is no membership drop {drop_id}")
            self._tiers[drop_id] = found[0]

    async def known(self, wish: Mint) -> Minted | None:
        """What this receipt has become before, for the user who had it."""
        found = await store.find_receipt(self._postgres, wish)
        if found is None or found.membership_id is None:
            return None
        if found.word == "used":
            raise ReceiptUsed
        return await self._again(found.membership_id)

    async def mint(self, wish: Mint, over: Exception | None = None) -> Minted:
        """Mint a verified receipt. Raises `ReceiptUsed`, `InvalidReceipt`, `SoldOut`, `MintFailed`,
        `OutcomeUnknown` and what the sale refuses with. With `over` only an earlier outcome is
        looked for; `over` is raised if there is none."""
        await self.check(wish.drop_id)
        until = time.monotonic() + self._deadline_seconds - SPARE_SECONDS
        while True:
            known = await self._present(wish, over)
            if known.word == "used":
                raise ReceiptUsed
            if known.word == "other_transaction":
                raise InvalidReceipt("Invalid receipt: it is of another transaction")
            if known.membership_id is not None:
                return await self._again(known.membership_id)
            await self.check(known.drop_id)
            minted = await self._try(known, wish.buyer, until)
            if minted is not None:
                return minted
            await asyncio.sleep(LEFT_SECONDS)

    async def _present(self, wish: Mint, over: Exception | None) -> Presented:
        if over is None:
            return await self._presenting.put(wish, keyed=True)
        known = await store.find_receipt(self._postgres, wish)
        if known is None or known.word in ("pending", "failed"):
            raise over
        return known

    async def _try(self, known: Presented, buyer: str, until: float) -> Minted | None:
        """One attempt; None: present it again. In the end its receipt is fulfilled, or given up."""
        try:
            hold = await self._reserving.reserve(
                Reserve(known.drop_id, buyer, 1, known.id, keyed=True)
            )
        except Problem as problem:
            return await self._settle(known, problem, until)
        if hold.replayed:
            return await self._again(hold.id)
        return Minted(self._membership(hold), is_new=True)

    async def _settle(self, known: Presented, problem: Problem, until: float) -> Minted | None:
        """Make definite that nothing was taken, and say why; or find that it was."""
        # A copy that is under way elsewhere, or was begun for another drop, is our matter as well.
        is_ours = isinstance(problem, Fault | InProgress | IdempotencyMismatch)
        code = MintFailed.code if is_ours else problem.code
        told = await self._give_up(known, code)
        if told.word == "failed" and told.error == code:
            if is_ours:
                raise MintFailed from problem
            raise SoldOut(**problem.details) if isinstance(problem, sale.SoldOut) else problem
        if told.word == "left" and time.monotonic() >= until:  # always in others' hands: no "no"
            told = await self._give_up(known, MintFailed.code)
        if told.membership_id is not None:
            return await self._again(told.membership_id)
        if time.monotonic() < until:
            return None
        raise MintFailed if told.word == "failed" else OutcomeUnknown

    async def _give_up(self, known: Presented, code: str) -> GivenUp:
        try:
            return await self._giving_up.put((known.id, known.attempt, code), keyed=True)
        except Fault:  # it stays pending: a keeper gives it up
            raise OutcomeUnknown from None

    async def _again(self, id: str) -> Minted:
        found = await store.find_membership(self._postgres, id)
        if found is None:
            raise OutcomeUnknown  # its hold is there, so it must be
        return Minted(found, is_new=False)

    def _membership(self, hold: Hold) -> Membership:
        tier = self._tiers[hold.drop_id]
        return Membership(
            hold.id,
            hold.drop_id,
            tier.tier,
            tier.year,
            hold.units[0],
            hold.buyer,
            hold.server_time,
            hold.server_time,
        )

    # ── batches ──────────────────────────────────────────────────────────────────────────────

    async def _present_all(self, seats: list[Seat[Mint, Presented]]) -> None:
        """One batch; halved when Postgres refuses it for a reason of its own."""
        try:
            for seat, presented in await insist(self._postgres, seats, _send_presented):
                seat.answer(presented)
        except Undone:
            await _halve(self._present_all, seats)

    async def _give_up_all(self, seats: list[Seat[Attempt, GivenUp]]) -> None:
        """The same of what is given up."""
        try:
            for seat, told in await insist(self._postgres, seats, _send_given_up):
                seat.answer(told)
        except Undone:
            await _halve(self._give_up_all, seats)


async def _send_presented(
    session: Session, seats: list[Seat[Mint, Presented]]
) -> list[tuple[Seat[Mint, Presented], Presented]]:
    wishes = [(new_id(), seat.wish) for seat in seats]
    return list(zip(seats, await store.present_receipts(session, wishes), strict=True))


async def _send_given_up(
    session: Session, seats: list[Seat[Attempt, GivenUp]]
) -> list[tuple[Seat[Attempt, GivenUp], GivenUp]]:
    told = await store.fail_receipts(session, [seat.wish for seat in seats])
    return list(zip(seats, told, strict=True))


async def _halve(work: Callable[[list[Chair]], Awaitable[None]], seats: list[Chair]) -> None:
    if len(seats) == 1:
        seats[0].fail(seats[0].fault())
        return
    await work(seats[: len(seats) // 2])
    await work(seats[len(seats) // 2 :])


def _count(memberships: int, units: int) -> None:
    if memberships:
        meter.count("mints", by=memberships)
        meter.count("purchases", by=memberships)


async def give_up_stuck(postgres: Postgres, count: int = 1_000) -> int:
    """Give up receipts that dead workers left pending; how many. They may be presented again."""
    return await store.give_up_receipts(postgres, STUCK_SECONDS, count)
