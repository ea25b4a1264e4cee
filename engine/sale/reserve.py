"""Reserve: hold units of a drop for a buyer, or refuse. The hot path.

    reserve ─▶ combiner of the drop ─▶ bouncer.admit ─┬─ admitted ─▶ store.claim_units ─▶ Hold
                (a batch in flight)                   │                   │ bouncer.settle
                                                      └─ a refusal ─▶ look-up ─▶ no, or the
                                                                       Hold it got before
The bouncer refuses quickly; Postgres alone says yes. While the bouncer is away the stock row stands
in for it (direct.py). A request with a key is looked up before it is refused, so a winner who lost
his answer gets it again. A claim whose reply was lost is made definite with a tombstone. All of it
runs in the combiner's task, which no client can cancel.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial

import structlog

from engine.infra.combiner import Combiner, Crew
from engine.infra.errors import IdempotencyMismatch, NotFound, OutcomeUnknown, Retryable
from engine.infra.meter import meter
from engine.infra.postgres import Postgres, Session, Undone, Unknown, Unreachable
from engine.infra.redis import Away
from engine.sale import shelf, store
from engine.sale.bouncer import ATTEMPTS_PER_EPOCH, Admission, Bouncer
from engine.sale.direct import Direct
from engine.sale.memory import Memory
from engine.sale.models import Claim, Claimed, Figures, Hold, Reserve
from engine.sale.refuse import (
    CONTENDED_SECONDS,
    Chair,
    Refusing,
    again,
    claim_of,
    hold_of,
    replay,
)
from engine.sale.seatmap import Seatmaps
from engine.sale.way import Way

log = structlog.get_logger()

BATCH_MAX = 256  # requests; more save nothing, and all who wait would be in one batch
AT_ONCE = 2  # batches of a drop: one is committed while the other is admitted
TRIES = 3  # of a batch that met a deadlock or a lock time-out
SETTLE_SECONDS = 0.02  # that answers wait for the bouncer
PATIENCE_SECONDS = 0.5  # with a unit that is on another's way to Postgres; then Postgres is asked
QUEUES_MAX = 4_096  # drops a worker keeps a queue for
NOTHING_ASKED = Admission("open", 0, None, [], young=False)


class Reserving:
    """The reservations of one worker: a queue for each drop."""

    def __init__(
        self,
        postgres: Postgres,
        bouncer: Bouncer,
        crew: Crew,
        deadline_seconds: float = 5.0,
        way: Way | None = None,
    ) -> None:
        self._way = way or Way()
        self._postgres = postgres
        self._bouncer = bouncer
        self._crew = crew
        self._deadline_seconds = deadline_seconds
        self._queues: dict[int, Combiner[Reserve, Hold]] = {}
        self._running: dict[str, Chair] = {}
        self._direct = Direct(postgres, deadline_seconds, max(postgres.size // 2, 1))
        self._seatmaps = Seatmaps(postgres, bouncer, crew)
        self._refusing = Refusing(postgres, bouncer, self._queue, self._seatmaps.renew)
        self._memory = Memory(postgres, bouncer, crew)
        self.refuse_from_memory = self._memory.refuse  # for requests without a key

    async def reserve(self, wish: Reserve, over: Exception | None = None) -> Hold:
        """Hold units. Raises what errors.py lists, `Retryable` and `OutcomeUnknown`. With `over`
        only an earlier copy's hold is looked for; `over` is raised if there is none."""
        self._refusing.check(wish.drop_id)
        if not wish.keyed:
            return await self._queue(wish.drop_id).put(wish)
        twin = self._running.get(wish.request_id)
        if twin is None:
            seat = self._queue(wish.drop_id).put(wish, keyed=True, over=over)
            self._running[wish.request_id] = seat
            seat.then(partial(self._running.pop, wish.request_id, None))
            return await seat
        if twin.wish != wish:
            raise IdempotencyMismatch
        return again(await twin)

    def forget(self, drop_id: int) -> None:
        """Forget that a drop was sold out: its terms have changed."""
        self._memory.forget(drop_id)
        self._direct.forget(drop_id)

    def _queue(self, drop_id: int) -> Combiner[Reserve, Hold]:
        queue = self._queues.get(drop_id)
        if queue is None:
            if len(self._queues) >= QUEUES_MAX:
                for idle in [id for id, queue in self._queues.items() if not queue.busy]:
                    self._crew.dismiss(self._queues.pop(idle))
                    self._memory.forget(idle)

            async def work(seats: list[Chair]) -> None:
                await self._sell(drop_id, seats)

            queue = Combiner(
                self._crew,
                f"{self._way.name}-{drop_id}",
                work,
                batch_max=BATCH_MAX,
                deadline_seconds=self._deadline_seconds,
                at_once=AT_ONCE,
            )
            self._queues[drop_id] = queue
        return queue

    async def _sell(self, drop_id: int, seats: list[Chair]) -> None:
        """One batch; who asked too much is only looked up, after those who did not."""
        spent = [(seat, "over") for seat in seats if seat.over is not None]
        if len(spent) < len(seats):
            await self._admit(drop_id, [seat for seat in seats if seat.over is None])
        if spent:
            await self._refusing.refuse(drop_id, spent, NOTHING_ASKED)

    async def _admit(self, drop_id: int, seats: list[Chair]) -> None:
        """Ask the bouncer, claim for the admitted, refuse the others."""
        asked = time.monotonic()
        told, epoch = await self._ask(drop_id, seats)
        if told is None:
            meter.count("direct_batches")
        admission = told or await self._direct.admit(drop_id, [seat.wish for seat in seats])
        if admission.word == "absent":
            for seat in seats:
                seat.fail(NotFound(f"There is no drop {drop_id}"))
            return
        words = admission.words if admission.word == "open" else admission.words * len(seats)
        if admission.named or any(seat.wish.picks for seat in seats):
            self._set_aside(drop_id, seats, words, admission)
        admitted = [seat for seat, word in zip(seats, words, strict=True) if word == "admitted"]
        refused = [
            (seat, word)
            for seat, word in zip(seats, words, strict=True)
            if word not in ("admitted", "contended")
        ]
        if admission.figures is not None and any(word == "sold_out" for _, word in refused):
            at = asked - admission.age_seconds
            self._memory.remember(drop_id, admission.figures, admission.available, at)
        if admitted:
            async with nullcontext() if told else self._direct.turn():
                await self._claim(drop_id, epoch, admitted)
        if refused:
            await self._refusing.refuse(drop_id, refused, admission)

    def _set_aside(
        self, drop_id: int, seats: list[Chair], words: list[str], admission: Admission
    ) -> None:
        """What was chosen for each. Who wants a unit that is on another's way to Postgres waits for
        that one's outcome, for a while."""
        if admission.blind:
            self._seatmaps.renew(drop_id)
        late = time.monotonic() + self._deadline_seconds - PATIENCE_SECONDS
        firsts = admission.firsts or [0] * len(seats)
        for seat, word, first in zip(seats, words, firsts, strict=True):
            seat.given = tuple(range(first, first + seat.wish.quantity)) if first else ()
            if word == "contended":
                seat.trusted = seat.trusted or seat.deadline < late
                self._queue(drop_id).again(seat, CONTENDED_SECONDS)

    def _number(self, seats: list[Chair]) -> int:
        """Give every seat an attempt of the present epoch; that epoch, which fences the claim."""
        epoch = self._postgres.epoch
        for seat in seats:
            seat.attempt = max(seat.attempt, epoch * ATTEMPTS_PER_EPOCH + 1)
        return epoch

    async def _ask(self, drop_id: int, seats: list[Chair]) -> tuple[Admission | None, int]:
        """The bouncer's words, and the epoch they were asked in. No words if it is away, or keeps
        talking of another epoch."""
        for _ in range(TRIES):
            epoch = self._number(seats)
            batch = [
                (wish.request_id, seat.attempt, wish.quantity, wish.buyer, seat.trusted)
                for seat in seats
                for wish in (seat.wish,)
            ]
            picks = [seat.wish.picks for seat in seats]
            picks = picks if any(picks) else []
            try:
                admission = await self._bouncer.admit(drop_id, epoch, batch, picks)
            except Away:
                break
            if admission.word in ("open", "shut"):
                return admission, epoch
            # It knows nothing of this drop, or of another epoch: tell it what Postgres says. Of a
            # later one it heard from somebody, who may have found a newer primary than ours.
            if admission.figures is not None and admission.figures.epoch > epoch:
                await self._postgres.look()
            await self._postgres.refresh_epoch()
            offers = await shelf.offers(self._postgres, [drop_id])
            if not offers:
                return Admission("absent", 0, None, [], False), epoch
            if not await self._bouncer.tell(offers[0]):
                break
        return None, self._number(seats)

    # ── yes ──────────────────────────────────────────────────────────────────────────────────

    async def _claim(self, drop_id: int, epoch: int, seats: list[Chair]) -> None:
        """Claim units for a batch; halve it when Postgres refuses it for a reason of its own."""
        seats = sorted(seats, key=lambda seat: seat.wish.request_id)
        claims = [claim_of(seat) for seat in seats]
        try:
            async with self._postgres.session() as session:
                # It may have taken long to get here, and who was told "nothing was taken" in the
                # meantime must not be sent: from this line to the send nothing is awaited.
                if any(seat.told for seat in seats):
                    late = [c for s, c in zip(seats, claims, strict=True) if s.told]
                    seats = [seat for seat in seats if not seat.told]
                    claims = [claim_of(seat) for seat in seats]
                    self._crew.start(self._give_back(drop_id, late), "give-back")
                claimed = (
                    await self._send(session, drop_id, epoch, seats, claims) if seats else None
                )
        except Unknown:
            await self._resolve(drop_id, seats, claims)
        except Undone as undone:
            if len(seats) > 1:  # one poisoned request must not fail its neighbours
                await self._claim(drop_id, epoch, seats[: len(seats) // 2])
                await self._claim(drop_id, epoch, seats[len(seats) // 2 :])
                return
            meter.count("claims_undone")
            log.warning("claim.undone", drop_id=drop_id, sqlstate=undone.sqlstate)
            await self._give_back(drop_id, claims)
            seats[0].fail(seats[0].fault())
        except Unreachable:
            await self._give_back(drop_id, claims)
            for seat in seats:
                seat.fail(seat.fault())
        else:
            if claimed is not None:
                await self._answer(drop_id, epoch, seats, claims, claimed)

    async def _send(
        self, session: Session, drop_id: int, epoch: int, seats: list[Chair], claims: list[Claim]
    ) -> Claimed:
        """The claim itself, again after a deadlock. What Postgres undid is not at risk afterwards;
        what it did stays so until it is told: to put the connection back takes a while."""
        for tries_left in reversed(range(TRIES)):
            for seat in seats:
                seat.at_risk = True
            try:
                return await self._way.take(session, drop_id, epoch, claims)
            except Undone as undone:
                for seat in seats:
                    seat.at_risk = False
                if not undone.transient or not tries_left:
                    raise
        raise AssertionError("the last try returns or raises")

    async def _answer(
        self,
        drop_id: int,
        epoch: int,
        seats: list[Chair],
        claims: list[Claim],
        claimed: Claimed,
    ) -> None:
        """Tell the bouncer what Postgres said, then every seat. To tell a hundred seats takes
        milliseconds, in which another worker's news would count these units twice: as taken, and as
        on their way. But nobody waits long for a bouncer that does not answer."""
        told_at = time.monotonic()
        words = claimed.words or ["held"] * len(seats)
        lives = claimed.expires_at - claimed.created_at if "held" in words else None
        figures, changes = claimed.figures, None
        if claims[0].picks is not None:
            # Of a batch that took nothing the version is another's: that one tells what it changed.
            figures, changes = (figures, (claimed.numbers, ())) if claimed.numbers else (None, None)
        settle = self._bouncer.settle(
            drop_id,
            figures,
            changes=changes,
            closed=[
                (c.request_id, c.attempt, w == "held") for c, w in zip(claims, words, strict=True)
            ],
            ring_ms=int(lives.total_seconds() * 1000) if lives else 0,  # 0: sold, nothing runs out
            bell_ms=int(claimed.expires_at.timestamp() * 1000) if lives else 0,
        )
        settling = self._crew.start(settle, f"combiner-{self._way.name}-{drop_id}")
        await asyncio.wait([settling], timeout=SETTLE_SECONDS)
        taken, refused = 0, []
        for i, (seat, claim, word) in enumerate(zip(seats, claims, words, strict=True)):
            if word == "held":
                units = claimed.numbers[taken : taken + claim.quantity]
                taken += claim.quantity
                assert len(units) == claim.quantity, "INV-2: a hold without its units"
                names = claimed.names and claimed.names[taken - claim.quantity : taken]
                seat.answer(hold_of(drop_id, claim, units, names, claimed))
            else:
                assert claimed.stored_attempts is not None
                seat.at_risk = False
                seat.attempt = max(seat.attempt, claimed.stored_attempts[i] + 1)
                refused.append((seat, word))
        self._way.count(len(seats) - len(refused), taken)
        await settling
        self._direct.hear(drop_id, claimed.figures)
        if refused:
            await self._hear(drop_id, epoch, refused, claimed.figures, told_at)

    async def _hear(
        self,
        drop_id: int,
        epoch: int,
        refused: list[tuple[Chair, str]],
        figures: Figures | None,
        told_at: float,
    ) -> None:
        """Postgres's own words for those who got no units: some may simply try again."""
        queue = self._queue(drop_id)
        final: list[tuple[Chair, str]] = []
        unmarked = figures is None and any(word == "repeated" for _, word in refused)
        if unmarked or any(word == "fenced" for _, word in refused):
            # An epoch below ours means that Postgres was set back: then a new one begins.
            await self._postgres.refresh_epoch(seen=epoch)
        for seat, word in refused:
            match word:
                case "blocked" | "fenced":  # a tombstone, another epoch: the next attempt may pass
                    queue.again(seat)
                case "repeated" if unmarked:  # its hold is safe; this timeline had no epoch yet
                    queue.again(seat)
                case "contended":  # others have the last free units in their hands
                    queue.again(seat, CONTENDED_SECONDS)
                case "not_found":
                    seat.fail(NotFound(f"There is no drop {drop_id}"))
                case "given_up":  # its receipt, meanwhile: nothing can be taken for it
                    seat.fail(Retryable())
                case _:
                    final.append((seat, word))
        if final:
            assert figures is not None
            if any(word == "sold_out" for _, word in final):
                self._memory.remember(drop_id, figures, figures.free, told_at)
            told = Admission("open", figures.free, figures, [], young=False)
            await self._refusing.refuse(drop_id, final, told, looked_up=True)

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
            for seat in seats:  # the watch may not have come by yet, and nobody would tell them
                seat.fail(OutcomeUnknown())
            return
        meter.count("claims_resolved", "held", by=len(held))
        meter.count("claims_resolved", "aborted", by=len(claims) - len(held))
        self._way.count(len(held), sum(hold.quantity for hold in holds.values()))
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
        if held and claims[0].picks is not None:
            self._seatmaps.renew(drop_id)  # that version's changes were lost with the reply
        for seat, claim, word in zip(seats, claims, words, strict=True):
            seat.at_risk = False
            if word == "held":
                replay(seat, holds.get(claim.request_id), first=True)
            else:
                seat.attempt = claim.attempt + 1
                self._queue(drop_id).again(seat)
