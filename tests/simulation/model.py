"""The reservation protocol: who asks whom, in which order, and what may be said to the buyer.

    buyer ─▶ worker ─ admit ─▶ Bouncer (Redis)   says no for free; may lose or forget everything
               │                  ▲
               │                  └ settle: this intent is over, here is (epoch, version, free)
               ├──── claim ────▶ Postgres        decides; its rows and its clock are the truth
               ├── tombstone ──▶ Postgres        turns "did it commit?" into yes or never
               └─── look up ───▶ Postgres        before any "no" is repeated to the buyer
    provider ▶ worker ─ settle ─▶ Postgres       a purchase or a debt; then its word is acknowledged

Every `yield call, (arguments)` below is one message to a server. Whoever drives the generators
(`schedule.py`) may deliver it late, or never; may lose the reply (the worker then reads the word
"lost"); may let the worker die right there. What must hold all the same: `invariants.py`.
`variant` names one deliberate mistake (`mutants.py`), to show which line defends what.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import NamedTuple

from .mutants import Variant
from .postgres import LIMIT, Postgres
from .seats import BLIND, Seats, first_run, mask
from .words import DONE, NEVER, UNKNOWN, Answer, Attempt, Call, Course, Notice, Post, Reply, Wish

TRIES = 4  # admissions, and how often an unknown commit is asked again
REFUSED = ("sold_out", "limit", "taken", "scattered")


class Intent(NamedTuple):
    """Leave to try Postgres, and what is kept back for it."""

    attempt: Attempt
    quantity: int
    own: tuple[int, ...] = ()  # units that it covers


class Bouncer(Seats):
    """avail = free at some version - open intents. Each method is one script: atomic."""

    def __init__(self, variant: Variant = "", is_named: bool = False) -> None:
        super().__init__()
        self.variant, self.is_named, self.ready = variant, is_named, False
        self.epoch, self.version, self.base = 0, 0, 0
        self.intents: dict[int, Intent] = {}  # by rid
        self.suspected: dict[int, int] = {}  # buyer -> units, as somebody once heard

    @property
    def avail(self) -> int:
        return self.base - sum(intent.quantity for intent in self.intents.values())

    def admit(
        self, wish: Wish, attempt: Attempt, believe_limit: bool, believe_seats: bool = True
    ) -> Reply:
        """Open an intent for the key, or say why not; a refusal writes nothing."""
        if not self.ready:
            return Reply("not_ready")
        if attempt[0] != self.epoch:
            return Reply("stale", self.epoch)
        if wish.rid in self.intents:
            return Reply("repeated", self.epoch)
        if believe_limit and self.suspected.get(wish.buyer, 0) + wish.quantity > LIMIT:
            return Reply("limit", self.epoch)
        word, picks = self._place(wish, believe_seats)
        if word == "admitted":
            self.intents[wish.rid] = Intent(attempt, wish.quantity, self.pick(picks))
        is_blind = self.is_named and self.seats_version == BLIND
        return Reply(word, self.epoch, units=picks, is_blind=is_blind)

    def _place(self, wish: Wish, believe_seats: bool) -> tuple[str, tuple[int, ...]]:
        """What stands in the way of a wish, and the units that it shall try to get."""
        enough, picks = self.avail >= wish.quantity, wish.picks
        is_blind = self.seats_version == BLIND
        if picks and believe_seats:
            if not is_blind and mask(picks) & ~self.seats:
                return "taken", ()
            if mask(picks) & mask(self.picked):
                return "contended", ()  # on somebody's way, whatever becomes of it
        if not enough:
            return "taken" if picks else "sold_out", ()
        if self.is_named and not picks and believe_seats and not is_blind:
            picks = first_run(self.offered, wish.quantity)
            if not picks:
                return "scattered", ()
        return "admitted", picks

    def settle(self, rid: int, attempt: Attempt, truth: Reply, buyer: int = 0) -> Reply:
        """This intent is over. Exactly this one: a later attempt of the key has its own."""
        open_ = self.intents.get(rid)
        if open_ and (open_.attempt == attempt or self.variant == "settle_any_attempt"):
            del self.intents[rid]
            self.let_go(open_.own)
        if truth.taken >= 0:
            self.suspected[buyer] = truth.taken
        return self.publish(truth)

    def publish(self, truth: Reply) -> Reply:
        """Believe (epoch, version, free) if it is newer. A newer epoch is a new history: its
        intents died with the old one, because Postgres fences every attempt of an older epoch."""
        if not self.ready or truth.epoch > self.epoch:
            self.intents, self.suspected, self.ready = {}, {}, True
            self.forget_seats()
            is_newer = True
        else:
            is_newer = (truth.epoch, truth.version) > (self.epoch, self.version)
        if is_newer or self.variant == "unversioned_publish":
            self.epoch, self.version, self.base = truth.epoch, truth.version, truth.free
        if self.is_named and truth.epoch == self.epoch:
            # Late changes fill gaps, though the figures they come with are old.
            self.hear(truth, is_newer)
        return DONE

    def read(self) -> Reply:
        word = "done" if self.ready else "not_ready"
        known = Reply(word, self.epoch, self.version, self.base)
        return known._replace(seats=self.seats, seats_version=self.seats_version)

    def oldest_intent(self) -> Reply:
        """reservation carries the rid here."""
        for rid, intent in self.intents.items():
            return Reply("open", attempt=intent.attempt, reservation=rid)
        return DONE

    def give_back(self, quantity: int) -> Reply:
        """Does not exist. The compensation everybody writes first, for its mutant."""
        self.base += quantity
        return DONE


class Worker:
    """One process. It knows what it was told, which may be old; it asks nobody for free."""

    def __init__(
        self, pg: Postgres, bouncer: Bouncer, post: Post, chance: Callable[[float], bool]
    ) -> None:
        self.pg, self.bouncer, self.post, self.chance = pg, bouncer, post, chance
        self.variant, self.epoch, self.may_pass = pg.variant, 1, True

    def reserve(self, wish: Wish) -> Course:
        """Hold units for one copy of a keyed request, or say honestly why not."""
        attempt, denied, believe_limit, believe_seats = NEVER, NEVER, True, True
        for _ in range(TRIES):
            attempt = max(attempt, (self.epoch, 1))
            gate = yield self.bouncer.admit, (wish, attempt, believe_limit, believe_seats)
            self.epoch = max(self.epoch, gate.epoch)
            if gate.word in REFUSED:
                answer = yield from self.refuse(wish, attempt, gate)
                if answer:
                    return answer
                believe_limit &= gate.word != "limit"
                believe_seats &= gate.word == "limit"
                continue
            if gate.word == "contended":
                believe_seats &= self.chance(0.6)  # waited long enough: now Postgres may say it
                continue
            if gate.word == "repeated":
                # Another copy is on its way. It ends with a row, or its intent goes away.
                found = yield self.pg.look_up, (wish,)
                if found.word == "ok":
                    return Answer("yes", found.reservation)
                continue
            if gate.word == "stale" and self.epoch > attempt[0]:
                continue
            if gate.word != "admitted" and not (self.may_pass and self.chance(0.5)):
                # Few may go past a silent bouncer. No promise: an older copy may have its hold.
                return Answer("aborted") if self.variant == "retryable_unasked" else UNKNOWN
            reply = yield from self.claim(wish, attempt, gate)
            if gate.is_blind and self.chance(0.5):
                yield from self.load()
            if reply.word == "ok":
                return Answer("yes", reply.reservation)
            if reply.word == "lost":
                return UNKNOWN
            if reply.word == "taken" and not (
                wish.picks or self.variant == "run_of_the_script_is_taken"
            ):
                # The script chose from an old bitmap, and would choose the same. Now Postgres does.
                believe_seats, attempt = False, (attempt[0], attempt[1] + 1)
                continue
            if reply.word in REFUSED:
                return Answer("no", attempt=attempt, reason=reply.word, units=reply.units)
            # Aborted, blocked or fenced: this attempt is dead for ever, the next one may live.
            # Except a fence of an *older* epoch: that is a Postgres that forgot, not a promise.
            future = reply.word == "fenced" and reply.epoch < attempt[0]
            if not future or self.variant == "any_fence_is_definite":
                denied = attempt
            if self.chance(0.3):
                break
            attempt = max(attempt, (reply.attempt[0], reply.attempt[1] + 1))
        return Answer("aborted", attempt=denied) if denied > NEVER else UNKNOWN

    def claim(self, wish: Wish, attempt: Attempt, gate: Reply) -> Generator[Call, Reply, Reply]:
        """Ask Postgres until the outcome is definite, then close the intent.

        A next attempt goes through the bouncer again: under the old intent the reaper would
        close what a living claim still stands for.
        """
        picks = wish.picks or gate.units
        if self.variant == "claim_after_told" and self.chance(0.1):
            self.post(self.pg.claim, (wish, attempt, attempt[0], picks))
            return Reply("aborted")
        fence = self.epoch if self.variant == "fence_by_worker_epoch" else attempt[0]
        reply = yield self.pg.claim, (wish, attempt, fence, picks)
        if self.variant == "retry_under_old_intent" and reply.word == "blocked":
            attempt = (reply.attempt[0], reply.attempt[1] + 1)
            reply = yield self.pg.claim, (wish, attempt, attempt[0], picks)
        for _ in range(TRIES):
            if reply.word == "contended":
                reply = yield self.pg.claim, (wish, attempt, fence, picks)
        if reply.word in ("lost", "contended"):
            # It may have committed, and it may yet arrive. Reading would not stop it.
            reply = yield self.pg.tombstone, (wish.rid, attempt)
        if reply.word == "lost":
            return reply  # the reaper will do the same
        self.epoch = max(self.epoch, reply.epoch)
        self.post(self.bouncer.settle, (wish.rid, attempt, reply, wish.buyer))
        if self.variant == "extra_incr_compensation" and reply.word != "ok":
            self.post(self.bouncer.give_back, (wish.quantity,))
        return reply

    def load(self) -> Generator[Call, Reply, None]:
        """Tell the bouncer of all units. What is told while this is under way may come first."""
        truth = yield self.pg.read_stock, ()
        if truth.word != "lost":
            self.post(self.bouncer.publish, (truth,))

    def refuse(
        self, wish: Wish, attempt: Attempt, gate: Reply
    ) -> Generator[Call, Reply, Answer | None]:
        """The bouncer says no. Look the key up first: its winner may have lost his answer.

        None means that the suspicion was wrong. The "no" is true for this copy only: an older
        copy whose intent Redis has lost may still land. Who wants more must leave a tombstone
        (`tombstone_refusals`) and pay one row for each refusal.
        """
        reason = gate.word
        if self.variant == "refuse_without_lookup" and reason == "sold_out":
            return Answer("no", attempt=attempt, reason=reason)
        found = yield self.pg.look_up, (wish,)
        at_limit = found.taken + wish.quantity > LIMIT or self.variant == "suspicion_not_confirmed"
        is_so = {
            "sold_out": True,
            "limit": at_limit,
            "taken": bool(found.units) or self.variant == "taken_said_unseen",
            "scattered": found.longest < wish.quantity or self.variant == "scattered_said_unseen",
        }[reason]
        if found.word == "absent" and not is_so:
            return None
        gone = found.units or wish.picks
        if found.word == "absent" and self.variant == "tombstone_refusals":
            found = yield self.pg.tombstone, (wish.rid, attempt)
        if found.word == "lost":
            return UNKNOWN
        if found.word == "ok":
            return Answer("yes", found.reservation)
        return Answer("no", attempt=attempt, reason=reason, units=gone)

    def purchase(self, reservation: int, reference: int = 0) -> Course:
        """Sell the hold. An unknown commit is simply run again: the second run reads the first."""
        for _ in range(TRIES):
            reply = yield self.pg.confirm, (reservation, reference)
            if reply.word != "lost":
                self.post(self.bouncer.publish, (reply,))
                return Answer(reply.word, reservation)
        return UNKNOWN

    def release(self, reservation: int) -> Course:
        return self.once(self.pg.release, reservation)

    def refund(self, reservation: int) -> Course:
        return self.once(self.pg.refund, reservation)

    def extend(self, reservation: int) -> Course:
        return self.once(self.pg.extend, reservation)

    def pay(self, reservation: int) -> Course:
        return self.once(self.pg.pay, reservation)

    def once(self, change: Callable[[int], Reply], reservation: int) -> Course:
        """No promise if the reply is lost: who repeats it reads the first one's outcome."""
        reply = yield change, (reservation,)
        if reply.word == "lost":
            return UNKNOWN
        self.post(self.bouncer.publish, (reply,))
        return Answer(reply.word, reservation, until=reply.until)

    def settle(self, notice: Notice) -> Course:
        """Answer the provider only when its word is written down: then it need not come again."""
        heard = UNKNOWN
        for _ in range(TRIES):
            reply = yield self.pg.settle_payment, (notice,)
            if reply.word == "lost":
                if self.variant == "thank_unheard":
                    return Answer("noted")
                continue
            self.post(self.bouncer.publish, (reply,))
            heard = Answer(reply.word, notice.hold)
            if reply.word != "undecided" or self.chance(0.5):
                break  # it is written down; what is undecided yet, a keeper decides
        return heard

    # Keepers: any number of them may run at once, none needs to be the leader.

    def sweep(self) -> Course:
        reply = yield self.pg.expire_due, ()
        if reply.word != "lost":
            self.post(self.bouncer.publish, (reply,))
        return Answer("done")

    def reap(self) -> Course:
        """Close the intent of a worker that died, or of a message that got lost. Too early is
        safe: the claim that comes after is blocked, and its worker takes the next attempt."""
        intent = yield self.bouncer.oldest_intent, ()
        if intent.word != "open" or self.variant == "no_reaper":
            return Answer("done")
        reply = yield self.pg.tombstone, (intent.reservation, intent.attempt)
        if reply.word != "lost":
            self.post(self.bouncer.settle, (intent.reservation, intent.attempt, reply))
        return Answer("done")

    def decide(self) -> Course:
        """Come back to money of which nothing was made: its units were in others' hands."""
        waiting = yield self.pg.undecided, ()
        if waiting.word != "open" or self.variant == "undecided_forgotten":
            return Answer("done")
        reply = yield self.pg.settle_payment, (waiting.notice,)
        if reply.word != "lost":
            self.post(self.bouncer.publish, (reply,))
        return Answer("done")

    def reconcile(self) -> Course:
        """Tell the bouncer what Postgres says; notice a Postgres that has forgotten.

        The bouncer is read first, so an honest Postgres can only be as new or newer. If it is
        older, or if the same version names another number, a snapshot was restored behind our
        back and a new epoch must begin, else the bouncer would ignore it for ever. What it tells
        of a named drop is the whole bitmap: changes may have been lost.
        """
        seen = yield self.bouncer.read, ()
        truth = yield self.pg.read_stock, ()
        if truth.word == "lost":
            return Answer("done")
        if seen.word == "done" and self._history_was_lost(seen, truth):
            truth = yield self.pg.begin_epoch, (truth.epoch,)
        if self.variant == "gap_unnoticed" and seen.seats_version != BLIND:
            truth = truth._replace(seats=-1)
        if truth.word != "lost":
            self.post(self.bouncer.publish, (truth,))
        return Answer("done")

    def _history_was_lost(self, seen: Reply, truth: Reply) -> bool:
        if self.variant == "reconcile_same_epoch_only" and seen.epoch != truth.epoch:
            return False
        if (seen.epoch, seen.version) == (truth.epoch, truth.version):
            return seen.free != truth.free and self.variant != "reconcile_ignores_free"
        return (seen.epoch, seen.version) > (truth.epoch, truth.version)
