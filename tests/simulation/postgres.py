"""Postgres in the model: the rows, and what each transaction makes of them."""

from __future__ import annotations

from itertools import count
from typing import Literal, NamedTuple

from .mutants import Variant
from .seats import first_run, longest_run, mask, units_of
from .words import DONE, NEVER, Attempt, Changes, Notice, Reply, Status, Wish

UNITS, LIMIT = 6, 2  # stock, units per buyer
TTLS, PAY, LIFE_MAX = (30, 45), 25, 75  # clock ticks: of a hold, to pay on top, before that
LIVE = ("held", "paying")
RANK: dict[Status, int] = {"pending": 0, "failed": 1, "succeeded": 2}


class Request(NamedTuple):
    """A row per key: reservation 0 is a tombstone. Refusals leave no row."""

    attempt: Attempt
    reservation: int


class Reservation(NamedTuple):
    """held ─▶ paying ─▶ sold ─▶ refunded, or expired | released until money comes after all."""

    rid: int
    buyer: int
    quantity: int
    units: tuple[int, ...]
    attempt: Attempt
    made_at: int
    deadline: int
    state: Literal["held", "paying", "sold", "expired", "released", "refunded"] = "held"
    ended_at: int = 0
    extended: bool = False
    paid_by: int = 0  # the payment it was bought with; 0 if its buyer named none
    picks: tuple[int, ...] = ()  # what its buyer asked for by name


class Payment(NamedTuple):
    """What the provider said of one payment, and what became of it: decided once."""

    hold: int
    status: Status
    outcome: Literal["", "purchased", "refund_due"] = ""
    reason: str = ""


class Postgres:
    """Decides. Each method is one transaction: it happens wholly or not at all."""

    def __init__(self, variant: Variant = "", ttl: int = TTLS[-1], is_named: bool = False) -> None:
        self.variant, self.ttl, self.now, self.is_named = variant, ttl, 1, is_named
        self.ids = count(1)  # random UUIDs in the engine: never given twice, whatever is restored
        self.commits = 0  # transactions that changed something the checker looks at
        self.in_hands = 0  # free units that claims under way have locked: SKIP LOCKED skips them
        self.locked: frozenset[int] = frozenset()  # the same of a named drop, by number
        self.changes: Changes | None = None  # of the transaction that is running
        self.epoch, self.version = 1, 0
        self.free, self.held, self.sold = UNITS, 0, 0
        self.units = [0] * UNITS  # the owning reservation, 0 is free
        self.requests: dict[int, Request] = {}
        self.reservations: dict[int, Reservation] = {}
        self.payments: dict[int, Payment] = {}  # by reference
        self.refunds: dict[tuple[int, int], str] = {}  # (reference, reservation) -> reason

    def claim(self, wish: Wish, attempt: Attempt, fence: int, picks: tuple[int, ...] = ()) -> Reply:
        """Hold `quantity` units for the key, or say why not. The order of the questions matters.
        `fence` is the attempt's own epoch, never a newer one its worker has heard of since.
        `picks` are the buyer's, or the bouncer's for a buyer who wants the best."""
        if self.variant == "fence_before_lookup" and fence != self.epoch:
            return self._reply("fenced")
        request = self.requests.get(wish.rid)
        if request and request.reservation:
            return self._reply("ok", reservation=request.reservation)
        if request and request.attempt >= attempt:
            return self._reply("blocked", attempt=request.attempt)
        # Only now the fence: before the look-up it would deny a hold that exists.
        if fence != self.epoch:
            return self._reply("fenced")
        taken = self.taken_by(wish.buyer)
        if taken + wish.quantity > LIMIT and self.variant != "limit_by_suspicion_only":
            return self._refuse("limit", wish, attempt)
        if self.is_named:
            return self._take_named(wish, attempt, picks)
        if self.free < (1 if self.variant == "partial_quantity" else wish.quantity):
            return self._refuse("sold_out", wish, attempt)
        return self._take(wish, attempt, self._first_free(wish.quantity))

    def _first_free(self, quantity: int) -> tuple[int, ...]:
        return units_of(self.shelf)[:quantity]

    def _take_named(self, wish: Wish, attempt: Attempt, picks: tuple[int, ...]) -> Reply:
        """These units or none, or the first run. What is locked may come free: never "taken"."""
        shelf, locked = self.shelf, mask(self.locked)
        if not picks:
            picks = first_run(shelf & ~locked, wish.quantity)
            if not picks and first_run(shelf, wish.quantity):
                return self._refuse("contended", wish, attempt)
            if not picks and self.variant == "scattered_run":
                picks = self._first_free(wish.quantity)
            if len(picks) < wish.quantity:
                return self._refuse("scattered", wish, attempt)
        if self.variant == "contended_is_taken":
            shelf &= ~locked
        gone = tuple(unit for unit in picks if not shelf >> unit & 1)
        if gone and not (self.variant == "partial_pick" and len(gone) < len(picks)):
            return self._refuse("taken", wish, attempt, gone)
        if mask(picks) & locked:
            return self._refuse("contended", wish, attempt)
        return self._take(wish, attempt, tuple(unit for unit in picks if unit not in gone))

    def _take(self, wish: Wish, attempt: Attempt, units: tuple[int, ...]) -> Reply:
        mine = next(self.ids)
        self.requests[wish.rid] = Request(attempt, mine)
        self.reservations[mine] = Reservation(
            wish.rid,
            wish.buyer,
            wish.quantity,
            units,
            attempt,
            made_at=self.now,
            deadline=self.now + self.ttl,
            picks=wish.picks,
        )
        self._move(units, mine, free=-len(units), held=len(units))
        return self._reply("ok", reservation=mine, taken=self.taken_by(wish.buyer))

    def _refuse(
        self, word: str, wish: Wish, attempt: Attempt, units: tuple[int, ...] = ()
    ) -> Reply:
        if self.variant == "tombstone_refusals" and word != "contended":
            self.requests[wish.rid] = Request(attempt, 0)
        return self._reply(word, taken=self.taken_by(wish.buyer))._replace(units=units)

    def tombstone(self, rid: int, attempt: Attempt) -> Reply:
        """The hold, or the certainty that no attempt up to this one will ever become one.

        The unique key on rid makes it wait for a claim that is still committing, so it cannot
        overlook one; a claim that arrives later is blocked. Must run on the primary.
        """
        request = self.requests.get(rid)
        if request and request.reservation:
            return self._reply("ok", reservation=request.reservation)
        stored = max(attempt, request.attempt) if request else attempt
        if self.variant != "read_instead_of_tombstone":
            self.requests[rid] = Request(stored, 0)
        return self._reply("aborted", attempt=stored)

    def look_up(self, wish: Wish) -> Reply:
        """What the key has, how much its buyer has, and whether his picks are on the shelf: of one
        moment, else a copy is told that its own twin's unit is taken. Promises nothing more."""
        request, taken = self.requests.get(wish.rid), self.taken_by(wish.buyer)
        if request and request.reservation:
            return self._reply("ok", reservation=request.reservation, taken=taken)
        gone = tuple(unit for unit in wish.picks if self.units[unit])
        return self._reply("absent", taken=taken)._replace(
            units=gone, longest=longest_run(self.shelf)
        )

    @property
    def shelf(self) -> int:
        """The free units, as bits."""
        return mask([unit for unit, owner in enumerate(self.units) if not owner])

    def confirm(self, reservation: int, reference: int = 0) -> Reply:
        """Sell a hold before its deadline, by this clock; running it twice is running it once.
        The buyer may name the payment; the provider's own word of it comes another way."""
        row = self.reservations.get(reservation)
        if row is None:
            return self._reply("expired")
        # Past the deadline it is over whether or not anybody swept.
        in_time = self.now < row.deadline or self.variant == "confirm_without_deadline"
        if row.state in LIVE and in_time:
            self._sell(reservation, reference)
        state = self.reservations[reservation].state
        return self._reply(state if state in ("sold", "refunded") else "expired")

    def release(self, reservation: int) -> Reply:
        """The buyer gives the hold back. Only what it still holds: units have new owners soon."""
        row = self.reservations.get(reservation)
        if row and (row.state in LIVE or self.variant == "release_without_owner_check"):
            self._end(reservation, "released")
        return self._reply("released")

    def expire_due(self) -> Reply:
        """Take back every hold whose deadline has passed; the mirror image of `confirm`."""
        for reservation, row in list(self.reservations.items()):
            if row.state in LIVE and row.deadline <= self.now:
                self._end(reservation, "expired")
        return self._reply("done")

    def read_stock(self) -> Reply:
        truth = self._reply("done")
        return truth._replace(seats=self.shelf) if self.is_named else truth

    def begin_epoch(self, expected: int) -> Reply:
        """A new history begins, unless somebody else already began it."""
        if self.epoch == expected:
            # Drawn from the clock, not counted from the row: a second failover to a standby that
            # never saw the first bump would count to the same number, and two histories share it.
            drawn = 0 if self.variant == "epoch_counted_not_drawn" else self.now
            self.epoch = max(self.epoch + 1, drawn)
        return self.read_stock()

    def taken_by(self, buyer: int) -> int:
        rows = self.reservations.values()
        return sum(
            len(r.units)
            for r in rows
            if r.buyer == buyer and (r.state in LIVE or r.state == "sold")
        )

    # Money.

    def extend(self, reservation: int) -> Reply:
        """A live hold runs for its own time once more: once, and never past its longest life."""
        row = self.reservations.get(reservation)
        if row is None or row.state not in LIVE or self.now >= row.deadline:
            return self._reply("expired")
        if row.state == "paying" or (row.extended and self.variant != "extend_twice"):
            return self._reply("until", reservation=reservation, until=row.deadline)
        until = 2 * row.deadline - row.made_at
        if self.variant != "extend_past_the_longest_life":
            until = min(until, row.made_at + LIFE_MAX)
        return self._prolong(reservation, row._replace(deadline=until, extended=True))

    def pay(self, reservation: int) -> Reply:
        """Payment of a live hold begins: time on top, once. From then on it cannot be extended."""
        row = self.reservations.get(reservation)
        if row is None or row.state not in LIVE or self.now >= row.deadline:
            return self._reply("expired")
        if row.state == "paying" and self.variant != "pay_again_and_again":
            return self._reply("until", reservation=reservation, until=row.deadline)
        row = row._replace(deadline=row.deadline + PAY, state="paying")
        return self._prolong(reservation, row)

    def _prolong(self, reservation: int, row: Reservation) -> Reply:
        self.reservations[reservation] = row
        self.commits += 1
        return self._reply("until", reservation=reservation, until=row.deadline)

    def settle_payment(self, notice: Notice) -> Reply:
        """Write down what the provider says, and make of money that came what can be made of it.

        Of two words the later status counts. Decided once: whoever comes again reads it.
        """
        reference, hold, status = notice
        known = self.payments.get(reference)
        if known is None or RANK[known.status] < RANK[status]:
            known = Payment(hold, status)
            self._note(reference, known)
        elif self.variant == "failed_after_succeeded_undoes" and status == "failed":
            known = known._replace(status=status, outcome="", reason="")
            self._note(reference, known)
        again = self.variant == "doubled_word_decides_again"
        if known.status == "succeeded" and (not known.outcome or again):
            self._decide(reference, known)
        known = self.payments[reference]
        undecided = known.status == "succeeded" and not known.outcome
        return self._reply(known.outcome or ("undecided" if undecided else "noted"))

    def _decide(self, reference: int, payment: Payment) -> None:
        row = self.reservations.get(payment.hold)
        if row is None:
            self._owe(reference, payment, "unknown")
        elif row.state == "refunded":
            if self.variant != "unnamed_debt_stays":
                self.refunds.pop((0, payment.hold), None)  # it was owed for this one
            self._owe(reference, payment, "refunded")
        elif row.state == "sold":
            # Bought without naming a payment: the first that comes was it.
            if row.paid_by in (0, reference) or self.variant == "second_payment_unnoticed":
                self.reservations[payment.hold] = row._replace(paid_by=row.paid_by or reference)
                self._note(reference, payment._replace(outcome="purchased"))
            else:
                self._owe(reference, payment, "already_paid")
        elif row.state in LIVE and (self.now < row.deadline or self.variant != "unswept_is_gone"):
            # Past its deadline too: nobody else has its units.
            self._sell(payment.hold, reference)
            self._note(reference, payment._replace(outcome="purchased"))
        else:
            self._revive(reference, payment, row)

    def _revive(self, reference: int, payment: Payment, row: Reservation) -> None:
        """The hold is gone: its buyer gets free units, if he may have them and there are any."""
        if self.variant == "late_payment_is_silent":
            return
        over = self.taken_by(row.buyer) + row.quantity > LIMIT
        if over and self.variant != "revive_ignores_limit":
            self._owe(reference, payment, "limit")
            return
        another = self.variant == "late_payment_takes_another_seat"
        by_name = self.is_named and not another
        units = row.units if by_name else self._first_free(row.quantity)
        if self.variant == "late_payment_takes_held_units":
            units = row.units
        elif by_name and mask(units) & ~self.shelf:
            self._owe(reference, payment, "sold_out")  # another seat is not what he paid for
            return
        elif by_name and mask(units) & mask(self.locked):
            return
        elif not by_name and self.free - self.in_hands < row.quantity:
            # Only what is in nobody's hands can be taken; only what is not free is sold out.
            hasty = self.variant == "sold_out_from_empty_skip_locked"
            if self.free < row.quantity or hasty:
                self._owe(reference, payment, "sold_out")
            return
        self.reservations[payment.hold] = row._replace(
            units=units, state="sold", ended_at=self.now, paid_by=reference
        )
        self._move(units, payment.hold, free=-len(units), sold=len(units))
        self._note(reference, payment._replace(outcome="purchased"))

    def _owe(self, reference: int, payment: Payment, reason: str) -> None:
        self._note(reference, payment._replace(outcome="refund_due", reason=reason))
        self.refunds.setdefault((reference, payment.hold), reason)

    def _note(self, reference: int, payment: Payment) -> None:
        self.payments[reference] = payment
        self.commits += 1

    def undecided(self) -> Reply:
        """A payment that came and of which nothing was made."""
        for reference, payment in self.payments.items():
            if payment.status == "succeeded" and not payment.outcome:
                return Reply("open", notice=Notice(reference, payment.hold, payment.status))
        return DONE

    def refund(self, reservation: int) -> Reply:
        """Undo a purchase: its units are free again, and the money is owed. Once."""
        row = self.reservations.get(reservation)
        again = row and row.state == "refunded" and self.variant == "refund_frees_twice"
        if row and (row.state == "sold" or again):
            self.reservations[reservation] = row._replace(state="refunded")
            if self.variant != "refund_owes_nothing":
                self.refunds.setdefault((row.paid_by, reservation), "refunded")
            self._move(row.units, 0, free=len(row.units), sold=-len(row.units))
        # A purchase that went with a lost history can be made anew: "none" is about now.
        return self._reply("refunded" if row and row.state in ("sold", "refunded") else "none")

    # Rows.

    def _sell(self, reservation: int, reference: int) -> None:
        row = self.reservations[reservation]
        self.reservations[reservation] = row._replace(
            state="sold", ended_at=self.now, paid_by=reference
        )
        self._move((), 0, held=-len(row.units), sold=len(row.units))

    def _end(self, reservation: int, state: Literal["expired", "released"]) -> None:
        row = self.reservations[reservation]
        self.reservations[reservation] = row._replace(state=state, ended_at=self.now)
        self._move(row.units, 0, free=len(row.units), held=-len(row.units))

    def _move(
        self, units: tuple[int, ...], owner: int, free: int = 0, held: int = 0, sold: int = 0
    ) -> None:
        for unit in units:
            self.units[unit] = owner
        self.free, self.held, self.sold = self.free + free, self.held + held, self.sold + sold
        if self.changes is None:
            self.version += 1  # one a transaction, whatever it moves
            self.changes = Changes()
        taken, freed = self.changes
        self.changes = Changes(taken + units, freed) if owner else Changes(taken, freed + units)
        self.commits += 1

    def _reply(
        self,
        word: str,
        attempt: Attempt = NEVER,
        reservation: int = 0,
        taken: int = -1,
        until: int = 0,
    ) -> Reply:
        """The end of the transaction. Who moved the version says what it did, if only "nothing"."""
        changes, self.changes = self.changes, None
        return Reply(
            word,
            self.epoch,
            self.version,
            self.free,
            attempt,
            reservation,
            taken,
            until,
            changes=changes if self.is_named else None,
        )
