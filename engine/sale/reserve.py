"""Reserve: hold units of a drop for a buyer, or refuse. The hot path.

    reserve ─▶ combiner of the drop ─▶ bouncer.admit ─┬─ admitted ─▶ store.claim_units ─▶ Hold
                (one batch in flight)                 │                   │ bouncer.settle
                                                      └─ a refusal ─▶ look-up ─▶ no, or the
                                                                       Hold it got before
The bouncer refuses quickly; Postgres alone says yes. A request with a key is looked up before it
is refused, so a winner who lost his answer gets it again. A claim whose reply was lost is made
definite with a tombstone. All of it runs in the combiner's task, which no client can cancel.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import structlog

from engine.infra.combiner import Combiner, Crew, Seat
from engine.infra.errors import (
    IdempotencyMismatch,
    NotFound,
    OutcomeUnknown,
    Problem,
)
from engine.infra.http import invalid
from engine.infra.ids import new_id
from engine.infra.postgres import Postgres, Undone, Unknown, Unreachable
from engine.infra.redis import Away
from engine.sale import store
from engine.sale.bouncer import Admission, Bouncer
from engine.sale.errors import Ended, LimitReached, NotOpen, NotStarted, Paused, Preparing, SoldOut
from engine.sale.models import Figures, Hold, Reserve
from engine.sale.store import Claim, Claimed

log = structlog.get_logger()

MEMORY_SECONDS = 0.1  # how long "nothing is left" is believed without asking again
TRIES = 3  # of a batch that met a deadlock or a lock time-out
COPY_WAIT_SECONDS = 0.05  # between two looks at a copy that runs elsewhere
QUEUES_MAX = 4_096  # drops a worker keeps a queue for

Chair = Seat[Reserve, Hold]
SHUT: dict[str, type[NotOpen]] = {
    "preparing": Preparing,
    "paused": Paused,
    "admin": Paused,
    "audit": Paused,
    "not_started": NotStarted,
    "ended": Ended,
}


class Reserving:
    """The reservations of one worker: a queue for each drop."""

    def __init__(
        self, postgres: Postgres, bouncer: Bouncer, crew: Crew, deadline_seconds: float = 5.0
    ) -> None:
        self._postgres = postgres
        self._bouncer = bouncer
        self._crew = crew
        self._deadline_seconds = deadline_seconds
        self._queues: dict[int, Combiner[Reserve, Hold]] = {}
        self._running: dict[str, Chair] = {}
        self._memory: dict[int, tuple[float, int, Figures]] = {}

    async def reserve(self, wish: Reserve) -> Hold:
        """Hold units. Raises what errors.py lists, `Retryable` and `OutcomeUnknown`."""
        if not wish.keyed:
            self._refuse_from_memory(wish)
            return await self._queue(wish.drop_id).put(wish).future
        twin = self._running.get(wish.request_id)
        if twin is None:
            seat = self._queue(wish.drop_id).put(wish, keyed=True)
            self._running[wish.request_id] = seat
            seat.future.add_done_callback(lambda _: self._running.pop(wish.request_id, None))
            return await asyncio.shield(seat.future)
        if twin.wish != wish:
            raise IdempotencyMismatch
        return _again(await asyncio.shield(twin.future))

    def _refuse_from_memory(self, wish: Reserve) -> None:
        """In a real sale nearly every request ends here, and costs no round trip at all."""
        known = self._memory.get(wish.drop_id)
        if known is not None and time.monotonic() < known[0] and wish.quantity > known[1]:
            raise _sold_out(known[2], known[1])

    def _queue(self, drop_id: int) -> Combiner[Reserve, Hold]:
        queue = self._queues.get(drop_id)
        if queue is None:
            if len(self._queues) >= QUEUES_MAX:
                for idle in [id for id, queue in self._queues.items() if not queue.busy]:
                    self._crew.dismiss(self._queues.pop(idle))
                    self._memory.pop(idle, None)

            async def work(seats: list[Chair]) -> None:
                await self._sell(drop_id, seats)

            queue = Combiner(
                self._crew, f"reserve-{drop_id}", work, deadline_seconds=self._deadline_seconds
            )
            self._queues[drop_id] = queue
        return queue

    async def _sell(self, drop_id: int, seats: list[Chair]) -> None:
        """One batch: ask the bouncer, claim for the admitted, refuse the others."""
        admission = await self._ask(drop_id, seats)
        if admission is None:  # the bouncer is away: Postgres decides alone
            await self._claim(drop_id, seats)
            return
        if admission.word == "absent":
            for seat in seats:
                seat.fail(NotFound(f"There is no drop {drop_id}"))
            return
        words = admission.words if admission.word == "open" else admission.words * len(seats)
        admitted = [seat for seat, word in zip(seats, words, strict=True) if word == "admitted"]
        refused = [
            (seat, word) for seat, word in zip(seats, words, strict=True) if word != "admitted"
        ]
        if admitted:
            await self._claim(drop_id, admitted)
        if refused:
            assert admission.figures is not None
            if any(word == "sold_out" for _, word in refused):
                self._remember(drop_id, admission.figures, admission.available)
            await self._refuse(drop_id, refused, admission.figures, admission.available)

    def _remember(self, drop_id: int, figures: Figures, available: int) -> None:
        self._memory[drop_id] = time.monotonic() + MEMORY_SECONDS, max(available, 0), figures

    async def _ask(self, drop_id: int, seats: list[Chair]) -> Admission | None:
        """The bouncer's words; None if it is away or keeps talking of another epoch."""
        for _ in range(TRIES):
            first = self._bouncer.first_attempt()
            for seat in seats:
                seat.attempt = max(seat.attempt, first)
            batch = [
                (
                    seat.wish.request_id,
                    seat.attempt,
                    seat.wish.quantity,
                    seat.wish.buyer,
                    seat.trusted,
                )
                for seat in seats
            ]
            try:
                admission = await self._bouncer.admit(drop_id, batch)
            except Away:
                return None
            if admission.word in ("open", "shut"):
                return admission
            # It knows nothing of this drop, or of another epoch: tell it what Postgres says.
            await self._postgres.refresh_epoch()
            offers = await store.offers(self._postgres, [drop_id])
            if not offers:
                return Admission("absent", 0, None, [])
            if not await self._bouncer.tell(offers[0]):
                return None
        return None

    # ── yes ──────────────────────────────────────────────────────────────────────────────────

    async def _claim(self, drop_id: int, seats: list[Chair]) -> None:
        """Claim units for a batch; halve it when Postgres refuses it for a reason of its own."""
        seats = sorted(seats, key=lambda seat: seat.wish.request_id)
        first = self._bouncer.first_attempt()
        claims = []
        for seat in seats:
            seat.attempt = max(seat.attempt, first)
            wish = seat.wish
            claims.append(Claim(wish.request_id, seat.attempt, new_id(), wish.buyer, wish.quantity))
        try:
            claimed = await self._send(drop_id, seats, claims)
        except Unknown:
            await self._resolve(drop_id, seats, claims)
        except Undone as undone:
            if len(seats) > 1:  # one poisoned request must not fail its neighbours
                await self._claim(drop_id, seats[: len(seats) // 2])
                await self._claim(drop_id, seats[len(seats) // 2 :])
                return
            log.warning("claim.undone", drop_id=drop_id, sqlstate=undone.sqlstate)
            await self._give_back(drop_id, claims)
            seats[0].fail(seats[0].fault())
        except Unreachable:
            await self._give_back(drop_id, claims)
            for seat in seats:
                seat.fail(seat.fault())
        else:
            await self._answer(drop_id, seats, claims, claimed)

    async def _send(self, drop_id: int, seats: list[Chair], claims: list[Claim]) -> Claimed:
        """The claim itself, again after a deadlock. Afterwards nothing is at risk but `Unknown`."""
        async with self._postgres.session() as session:
            for tries_left in reversed(range(TRIES)):
                for seat in seats:
                    seat.at_risk = True
                try:
                    claimed = await store.claim_units(
                        session, drop_id, self._postgres.epoch, claims
                    )
                except Undone as undone:
                    for seat in seats:
                        seat.at_risk = False
                    if not undone.transient or not tries_left:
                        raise
                else:
                    for seat in seats:
                        seat.at_risk = False
                    return claimed
        raise AssertionError("unreachable")

    async def _answer(
        self, drop_id: int, seats: list[Chair], claims: list[Claim], claimed: Claimed
    ) -> None:
        """Tell every seat what Postgres said, then the bouncer."""
        words = claimed.words or ["held"] * len(seats)
        taken, refused = 0, []
        for i, (seat, claim, word) in enumerate(zip(seats, claims, words, strict=True)):
            if word == "held":
                units = claimed.numbers[taken : taken + claim.quantity]
                taken += claim.quantity
                assert len(units) == claim.quantity, "INV-2: a hold without its units"
                seat.answer(_hold(drop_id, claim, units, claimed))
            else:
                assert claimed.stored_attempts is not None
                seat.attempt = max(seat.attempt, claimed.stored_attempts[i] + 1)
                refused.append((seat, word))
        hold_ms = (
            int((claimed.expires_at - claimed.created_at).total_seconds() * 1000) if taken else 0
        )
        await self._bouncer.settle(
            drop_id,
            claimed.figures,
            closed=[
                (c.request_id, c.attempt, w == "held") for c, w in zip(claims, words, strict=True)
            ],
            ring_ms=hold_ms,
            bell_ms=int(claimed.expires_at.timestamp() * 1000) if taken else 0,
        )
        if refused:
            await self._hear(drop_id, refused, claimed.figures)

    async def _hear(
        self, drop_id: int, refused: list[tuple[Chair, str]], figures: Figures | None
    ) -> None:
        """Postgres's own words for those who got no units: some may simply try again."""
        queue = self._queue(drop_id)
        final: list[tuple[Chair, str]] = []
        if any(word == "fenced" for _, word in refused):
            await self._postgres.refresh_epoch()
        for seat, word in refused:
            match word:
                case "blocked" | "fenced":  # a tombstone, another epoch: the next attempt may pass
                    queue.again(seat)
                case "contended":  # others have the last free units in their hands
                    queue.again(seat, 0.005)
                case "not_found":
                    seat.fail(NotFound(f"There is no drop {drop_id}"))
                case _:
                    final.append((seat, word))
        if final:
            assert figures is not None
            if any(word == "sold_out" for _, word in final):
                self._remember(drop_id, figures, figures.free)
            await self._refuse(drop_id, final, figures, figures.free, looked_up=True)

    async def _give_back(self, drop_id: int, claims: Sequence[Claim]) -> None:
        """Compensate: these claims took nothing, so their intents return their units."""
        await self._bouncer.settle(
            drop_id, closed=[(c.request_id, c.attempt, False) for c in claims]
        )

    async def _resolve(self, drop_id: int, seats: list[Chair], claims: list[Claim]) -> None:
        """The reply was lost: leave tombstones, after which every outcome is definite.

        Until Postgres can be asked the seats stay at risk; those whose deadline passes are told
        OUTCOME_UNKNOWN, and the reaper finishes what we could not.
        """
        until = max(seat.deadline for seat in seats)
        while time.monotonic() < until:
            try:
                words, figures = await store.abort_requests(self._postgres, drop_id, claims)
                held = [
                    c.request_id for c, word in zip(claims, words, strict=True) if word == "held"
                ]
                holds = await store.find_holds_by_request(self._postgres, held) if held else {}
                break
            except (Unreachable, Undone, Unknown):
                await asyncio.sleep(0.05)
        else:
            return
        log.warning(
            "claim.resolved", drop_id=drop_id, held=len(held), aborted=len(claims) - len(held)
        )
        await self._bouncer.settle(
            drop_id,
            figures,
            closed=[
                (c.request_id, c.attempt, w == "held") for c, w in zip(claims, words, strict=True)
            ],
        )
        for seat, claim, word in zip(seats, claims, words, strict=True):
            seat.at_risk = False
            if word == "held":
                _replay(seat, holds.get(claim.request_id), first=True)
            else:
                seat.attempt = claim.attempt + 1
                self._queue(drop_id).again(seat)

    # ── no ───────────────────────────────────────────────────────────────────────────────────

    async def _refuse(
        self,
        drop_id: int,
        refused: list[tuple[Chair, str]],
        figures: Figures,
        available: int,
        looked_up: bool = False,
    ) -> None:
        """Say no, after looking up what must be. `looked_up`: Postgres said it itself."""
        asked = [
            seat
            for seat, word in refused
            if word == "repeated" or (seat.wish.keyed and not looked_up)
        ]
        suspects = {seat.wish.buyer for seat, word in refused if word == "limit"}
        try:
            holds, allowances = await self._look_up(drop_id, asked, suspects)
        except (Unreachable, Undone, Unknown):
            for seat, word in refused:
                seat.copying = word == "repeated"
                seat.fail(seat.fault())
            return
        for seat, word in refused:
            wish = seat.wish
            if wish.request_id in holds:
                _replay(seat, holds[wish.request_id])
            elif word == "repeated":
                seat.copying = True
                self._queue(drop_id).again(seat, COPY_WAIT_SECONDS)
            elif word == "limit":
                await self._refuse_limit(drop_id, seat, allowances.get(wish.buyer), looked_up)
            else:
                seat.fail(_refusal(word, wish, figures, available))

    async def _look_up(
        self, drop_id: int, asked: list[Chair], suspects: set[str]
    ) -> tuple[dict[str, Hold], dict[str, store.Allowance]]:
        if not asked and not suspects:
            return {}, {}
        async with self._postgres.session() as session:
            holds = (
                await store.find_holds_by_request(session, [seat.wish.request_id for seat in asked])
                if asked
                else {}
            )
            allowances = (
                await store.find_allowances(session, drop_id, sorted(suspects)) if suspects else {}
            )
        return holds, allowances

    async def _refuse_limit(
        self, drop_id: int, seat: Chair, allowance: store.Allowance | None, definite: bool
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
        seat.fail(LimitReached(**details))


def _hold(drop_id: int, claim: Claim, units: list[int], claimed: Claimed) -> Hold:
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
    )


def _again(hold: Hold) -> Hold:
    return msgspec.structs.replace(hold, replayed=True)


def _replay(seat: Chair, hold: Hold | None, first: bool = False) -> None:
    """Answer with the hold the request got before, if it is the same request."""
    if hold is None:
        seat.fail(OutcomeUnknown())
    elif not hold.answers(seat.wish):
        seat.fail(IdempotencyMismatch())
    else:
        seat.answer(hold if first else _again(hold))


def _sold_out(figures: Figures, available: int) -> SoldOut:
    return SoldOut(
        final=figures.final,
        availableStock=max(min(available, figures.free), 0),
        heldStock=figures.held,
    )


def _refusal(word: str, wish: Reserve, figures: Figures, available: int) -> Problem:
    if word == "sold_out":
        return _sold_out(figures, available)
    if word == "too_many":
        return invalid("quantity", f"{wish.quantity} is more than one order of this drop may hold")
    return SHUT[word](**({"pausedReason": word} if word in ("admin", "audit") else {}))
