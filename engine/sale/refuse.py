"""Refuse: the other half of a reservation. Nobody is told "no" before what must be asked was asked.

The bouncer's "sold out" is final for requests without a key. One with a key is looked up first: it
may be a winner who lost his answer. The bouncer's "limit" is a suspicion, and Postgres decides; so
are its "taken" and "scattered" of named units.
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
    MintedOnly,
    NotOpen,
    NotStarted,
    Paused,
    Preparing,
    SlotNotAvailable,
    SoldOut,
)
from engine.sale.models import Allowance, Claim, Claimed, Figures, Hold, Reserve

Chair = Seat[Reserve, Hold]
Queue = Combiner[Reserve, Hold]

COPY_WAIT_SECONDS = 0.05  # between two looks at a copy that runs elsewhere
CONTENDED_SECONDS = 0.005  # before units are tried again that others have in their hands
COPY_LOCK_MS = 100  # that a tombstone waits for one; its neighbours wait as long
CHOSEN = ("taken", "scattered")  # what is said of named units
SHUT: dict[str, type[NotOpen]] = {
    "preparing": Preparing,
    "paused": Paused,
    "admin": Paused,
    "audit": Paused,
    "not_started": NotStarted,
    "ended": Ended,
    "minted": MintedOnly,
}


class Found(msgspec.Struct):
    """What Postgres says of those who may have to hear "no"."""

    holds: dict[str, Hold]  # by request
    allowances: dict[str, Allowance]  # by buyer
    taken: dict[int, str]  # names of units that somebody has
    longest: int = 0  # free units beside each other


class Refusing:
    """The refusals of one worker. `renew` has a bitmap of free units loaded that was untrue."""

    def __init__(
        self,
        postgres: Postgres,
        bouncer: Bouncer,
        queue: Callable[[int], Queue],
        renew: Callable[[int], None],
    ) -> None:
        self._postgres, self._bouncer = postgres, bouncer
        self._queue, self._renew = queue, renew
        self._minted: set[int] = set()  # drops that never held anything, and never will

    def check(self, drop_id: int) -> None:
        """Raises `MintedOnly` for a drop that was heard to be of members: whoever asks for it all
        the same would be in the way of those who mint, at the bouncer and at the stock row."""
        if drop_id in self._minted:
            raise MintedOnly

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
        # But who has named units is asked later than that.
        later = [s for s, word in refused if looked_up and s.wish.keyed and word in CHOSEN]
        try:
            found = await self._look_up(drop_id, asked, later, refused, admission.young)
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
            if wish.request_id in found.holds:
                replay(seat, found.holds[wish.request_id])
            elif word == "repeated":
                seat.copying = True
                self._queue(drop_id).again(seat, COPY_WAIT_SECONDS)
            elif word == "limit":
                allowance = found.allowances.get(wish.buyer)
                await self._refuse_limit(drop_id, seat, allowance, looked_up)
            elif word == "cooling":
                allowance = found.allowances.get(wish.buyer)
                await self._refuse_cooling(drop_id, seat, allowance, looked_up)
            elif seat.over is not None:
                seat.fail(seat.over)
            elif word == "too_many":
                seat.fail(_too_many(wish))
            elif word in CHOSEN:
                self._refuse_units(drop_id, seat, word, found, admission)
            else:
                assert admission.figures is not None
                self._minted |= {drop_id} if word == "minted" else set()
                if word not in said:
                    said[word] = _refusal(word, admission.figures, admission.available)
                seat.fail(said[word])

    async def _look_up(
        self,
        drop_id: int,
        asked: list[Chair],
        later: list[Chair],
        refused: list[tuple[Chair, str]],
        young: bool,
    ) -> Found:
        """The holds that requests have, what suspected buyers use, and who has what they picked,
        from Postgres. Of those who are asked `later` no copy needs to be stopped."""
        found = Found({}, {}, {})
        words = {word for _, word in refused}
        suspects = {seat.wish.buyer for seat, word in refused if word in ("limit", "cooling")}
        picked = {n for seat, word in refused if word == "taken" for n in seat.wish.picks}
        if not asked and not suspects and not picked and "scattered" not in words:
            return found
        direct = False
        async with self._postgres.session() as session:
            # Holds last: a copy that gets these very units meanwhile must not be why this one does
            # not, and be overlooked.
            if suspects:
                found.allowances = await store.find_allowances(session, drop_id, sorted(suspects))
            if picked:
                found.taken = await store.find_taken(session, drop_id, sorted(picked))
            if "scattered" in words:
                found.longest = await store.longest_run(session, drop_id)
            if asked or later:
                requests = [seat.wish.request_id for seat in asked + later]
                found.holds, direct = await store.look_up_requests(session, requests)
        if young or direct:
            left = [s for s in asked if s.wish.keyed and s.wish.request_id not in found.holds]
            found.holds |= await self._stop_copies(drop_id, left)
        return found

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

    def _refuse_units(
        self, drop_id: int, seat: Chair, word: str, found: Found, admission: Admission
    ) -> None:
        """No, if Postgres agrees. If it does not, the bouncer's bitmap is untrue, or its units came
        back a moment ago: then Postgres is asked for them."""
        wish, figures = seat.wish, admission.figures
        assert figures is not None
        names = [found.taken[number] for number in wish.picks if number in found.taken]
        if names:
            seat.fail(SlotNotAvailable(final=figures.final, units=names))
        elif word == "scattered" and found.longest < wish.quantity:
            left = max(min(admission.available, figures.free), 0)
            seat.fail(
                SoldOut(
                    f"No {wish.quantity} units beside each other are left",
                    final=figures.final,
                    availableStock=left,
                    heldStock=figures.held + figures.free - left,  # and those on their way
                    longestRun=found.longest,
                )
            )
        else:
            seat.trusted = True
            self._renew(drop_id)
            self._queue(drop_id).again(seat, CONTENDED_SECONDS)


def claim_of(seat: Chair) -> Claim:
    """The claim of a seat, under the id its hold would get."""
    wish = seat.wish
    picks = wish.picks or seat.given
    return Claim(wish.request_id, seat.attempt, new_id(), wish.buyer, wish.quantity, picks)


def hold_of(
    drop_id: int, claim: Claim, units: list[int], names: list[str] | None, claimed: Claimed
) -> Hold:
    """The hold that a claim got."""
    return Hold(
        claim.id,
        drop_id,
        claim.buyer,
        claim.quantity,
        units,
        "active",
        claimed.price_cents * claim.quantity,
        claimed.currency,
        claimed.expires_at,
        claimed.created_at,
        claimed.available,
        names=names,
    )


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


def _too_many(wish: Reserve) -> Problem:
    """The order is too large; named by the field that said how large."""
    more = f"{wish.quantity} is more than one order of this drop may hold"
    return invalid("units" if wish.picks else "quantity", f"{more}: see its maxPerOrder")
