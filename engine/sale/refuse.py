"""Refuse: the other half of a reservation. Nobody is told "no" before what must be asked was asked.

The bouncer's "sold out" is final for requests without a key. One with a key is looked up first: it
may be a winner who lost his answer. The bouncer's "limit" is a suspicion, and Postgres decides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from engine.infra import sql
from engine.infra.combiner import Combiner, Seat
from engine.infra.errors import IdempotencyMismatch, OutcomeUnknown, Problem
from engine.infra.http import invalid, iso
from engine.infra.ids import new_id
from engine.infra.postgres import Postgres, Undone, Unknown, Unreachable
from engine.sale import store
from engine.sale.bouncer import Admission, Bouncer
from engine.sale.errors import (
    CoolingDown,
    Ended,
    LimitReached,
    NotOpen,
    NotStarted,
    Paused,
    Preparing,
    SoldOut,
)
from engine.sale.models import Allowance, Claim, Figures, Hold, Reserve

Chair = Seat[Reserve, Hold]
Queue = Combiner[Reserve, Hold]

COPY_WAIT_SECONDS = 0.05  # between two looks at a copy that runs elsewhere
COPY_LOCK_MS = 100  # that a tombstone waits for one; its neighbours wait as long
SHUT: dict[str, type[NotOpen]] = {
    "preparing": Preparing,
    "paused": Paused,
    "admin": Paused,
    "audit": Paused,
    "not_started": NotStarted,
    "ended": Ended,
}


class Refusing:
    """The refusals of one worker."""

    def __init__(self, postgres: Postgres, bouncer: Bouncer, queue: Callable[[int], Queue]) -> None:
        self._postgres, self._bouncer, self._queue = postgres, bouncer, queue

    async def refuse(
        self,
        drop_id: int,
        refused: list[tuple[Chair, str]],
        admission: Admission,
        looked_up: bool = False,
    ) -> None:
        """Say no, after looking up what must be. `looked_up`: Postgres said it itself."""
        # Postgres waits for a copy under way before it speaks of stock, not of a closed window.
        asked = [
            seat
            for seat, word in refused
            if word == "repeated" or (seat.wish.keyed and (word in SHUT or not looked_up))
        ]
        suspects = {seat.wish.buyer for seat, word in refused if word in ("limit", "cooling")}
        try:
            holds, allowances = await self._look_up(drop_id, asked, suspects, admission.young)
        except (Unreachable, Undone, Unknown) as fault:
            if isinstance(fault, Undone) and len(refused) > 1:
                # A copy in somebody's hands must not spoil its neighbours' answers.
                half = len(refused) // 2
                await self.refuse(drop_id, refused[:half], admission, looked_up)
                await self.refuse(drop_id, refused[half:], admission, looked_up)
                return
            if isinstance(fault, Undone) and fault.transient and asked:
                asked[0].copying = True  # a copy of it is running: wait for that one's outcome
                self._queue(drop_id).again(asked[0], COPY_WAIT_SECONDS)
                return
            for seat, word in refused:
                seat.copying = word == "repeated"
                seat.fail(seat.fault())
            return
        said: dict[str, Problem] = {}  # thousands may hear the same: its words are encoded once
        for seat, word in refused:
            wish = seat.wish
            if wish.request_id in holds:
                replay(seat, holds[wish.request_id])
            elif word == "repeated":
                seat.copying = True
                self._queue(drop_id).again(seat, COPY_WAIT_SECONDS)
            elif word == "limit":
                await self._refuse_limit(drop_id, seat, allowances.get(wish.buyer), looked_up)
            elif word == "cooling":
                await self._refuse_cooling(drop_id, seat, allowances.get(wish.buyer), looked_up)
            elif seat.over is not None:
                seat.fail(seat.over)
            elif word == "too_many":
                what = f"{wish.quantity} is more than one order of this drop may hold"
                seat.fail(invalid("quantity", what))
            else:
                assert admission.figures is not None
                if word not in said:
                    said[word] = _refusal(word, admission.figures, admission.available)
                seat.fail(said[word])

    async def _look_up(
        self, drop_id: int, asked: list[Chair], suspects: set[str], young: bool
    ) -> tuple[dict[str, Hold], dict[str, Allowance]]:
        """The holds that requests have, and what suspected buyers use, from Postgres."""
        holds: dict[str, Hold] = {}
        allowances: dict[str, Allowance] = {}
        if not asked and not suspects:
            return holds, allowances
        direct = False
        async with self._postgres.session() as session:
            if asked:
                requests = [seat.wish.request_id for seat in asked]
                holds, direct = await store.look_up_requests(session, requests)
            if suspects:
                allowances = await store.find_allowances(session, drop_id, sorted(suspects))
        if young or direct:
            left = [s for s in asked if s.wish.keyed and s.wish.request_id not in holds]
            holds |= await self._stop_copies(drop_id, left)
        return holds, allowances

    async def _stop_copies(self, drop_id: int, seats: list[Chair]) -> dict[str, Hold]:
        """Holds of copies that were under way. A bouncer that was filled or met a moment ago, or
        was away, does not know who is on the way: a tombstone waits for such a copy, or stops it.
        """
        claims = sorted(map(claim_of, seats), key=lambda claim: claim.request_id)
        if not claims:
            return {}
        async with self._postgres.transaction() as session:
            await session.call(sql.load("engine")["limit_waiting"], milliseconds=COPY_LOCK_MS)
            words, _ = await store.abort_requests(session, drop_id, claims)
            held = [c.request_id for c, word in zip(claims, words, strict=True) if word == "held"]
            return await store.find_holds_by_request(session, held) if held else {}

    async def _refuse_limit(
        self, drop_id: int, seat: Chair, allowance: Allowance | None, definite: bool
    ) -> None:
        """The bouncer's "limit" is a suspicion; the row in Postgres decides."""
        wish = seat.wish
        used = allowance.used if allowance is not None else 0
        limit = allowance.limit if allowance is not None else None
        if not definite and (limit is None or used + wish.quantity <= limit):
            await self._bouncer.settle(drop_id, uses=[(wish.buyer, used, True)])
            seat.trusted = True
            self._queue(drop_id).again(seat)
            return
        await self._bouncer.settle(drop_id, uses=[(wish.buyer, used, True)])
        details: dict[str, Any] = {}
        if limit is not None:
            details = {"limit": limit, "remaining": max(limit - used, 0)}
        if allowance is not None and allowance.reservation_id is not None:
            details["reservationId"] = allowance.reservation_id
        seat.fail(LimitReached(overdue=allowance is not None and allowance.overdue, **details))

    async def _refuse_cooling(
        self, drop_id: int, seat: Chair, allowance: Allowance | None, definite: bool
    ) -> None:
        """Likewise: the bouncer's "cooling" is a suspicion, and the row in Postgres decides."""
        buyer = seat.wish.buyer
        if allowance is None or allowance.cools_ms is None or allowance.cools_until is None:
            await self._bouncer.settle(drop_id, cools=[(buyer, 0)])
            seat.trusted = True
            self._queue(drop_id).again(seat)
            return
        if definite:  # it let him through: from now on it knows
            await self._bouncer.settle(drop_id, cools=[(buyer, allowance.cools_ms)])
        seat.fail(
            CoolingDown(
                seconds=-(-allowance.cools_ms // 1000),
                until=iso(allowance.cools_until),
                abandoned=allowance.abandoned,
            )
        )


def claim_of(seat: Chair) -> Claim:
    """The claim of a seat, under the id its hold would get."""
    wish = seat.wish
    return Claim(wish.request_id, seat.attempt, new_id(), wish.buyer, wish.quantity)


def again(hold: Hold) -> Hold:
    """The same hold, told another time."""
    return msgspec.structs.replace(hold, replayed=True)


def replay(seat: Chair, hold: Hold | None, first: bool = False) -> None:
    """Answer with the hold the request got before, if it is the same request."""
    if hold is None:
        seat.fail(OutcomeUnknown())
    elif not hold.answers(seat.wish):
        seat.fail(IdempotencyMismatch())
    else:
        seat.answer(hold if first else again(hold))


def sold_out(figures: Figures, available: int) -> SoldOut:
    """Not enough is left; final only if nothing can come back."""
    return SoldOut(
        final=figures.final,
        availableStock=max(min(available, figures.free), 0),
        heldStock=figures.held + max(figures.free - available, 0),  # and those on their way
    )


def _refusal(word: str, figures: Figures, available: int) -> Problem:
    if word == "sold_out":
        return sold_out(figures, available)
    return SHUT[word](**({"pausedReason": word} if word in ("admin", "audit") else {}))
