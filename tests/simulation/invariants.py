"""What must hold in every schedule, numbered as in docs/INVARIANTS.md.

The checker knows everything and the protocol knows nothing of it: it reads the rows after each
commit and remembers each word that was told. A promise that a lost history took away is counted
(`lost_*`), never hidden, and never called kept.
"""

from __future__ import annotations

from collections import Counter

from .buyers import Provider
from .model import Bouncer
from .money import MoneyChecker
from .postgres import LIFE_MAX, LIMIT, LIVE, PAY, UNITS, Postgres, Reservation
from .seating import OpenClaim, SeatChecker
from .words import NEVER, Answer, Attempt, Notice, Wish, require


class Checker:
    """Audits Postgres and the bouncer, and holds the workers to their words."""

    def __init__(
        self, pg: Postgres, bouncer: Bouncer, provider: Provider, counts: Counter[str]
    ) -> None:
        self.pg, self.bouncer, self.counts = pg, bouncer, counts
        self.money = MoneyChecker(pg, provider, counts)
        self.seats = SeatChecker(pg, bouncer, counts) if pg.is_named else None
        self.mark = pg.commits
        self.named: dict[tuple[int, int], int] = {}  # what each (epoch, version) said
        self.consumed = (0, 0)
        self.final: dict[int, Reservation] = {}  # those that ended, as last seen
        self.taken: dict[int, int] = {}
        self.last_with: dict[tuple[int, int], int] = {}  # when did this buyer last have n units?
        self.told_yes: dict[int, int] = {}
        self.told_no: dict[int, tuple[int, Attempt]] = {}
        self.told_aborted: dict[int, Attempt] = {}
        self.voided: dict[int, Attempt] = {}
        self.lost_at = self.restored_at = 0  # the last history, the last one without an epoch
        self.told_sold: set[int] = set()
        self.told_expired: set[int] = set()
        self.told_until: dict[int, int] = {}
        self.unheard: list[tuple[int, int]] = []  # (version, units) taken past the bouncer
        self.lost: set[int] = set()
        self.lost_sales: set[int] = set()

    # After each commit.

    def audit(self) -> None:
        """INV-1, 2, 3, 4, 5, 8, 9, 13 on the rows, if the last statement changed any."""
        pg = self.pg
        if self.mark == pg.commits:
            return
        self.mark = pg.commits
        name = (pg.epoch, pg.version)
        require(self.named.setdefault(name, pg.free) == pg.free, "INV-9: forked version")
        require(pg.free + pg.held + pg.sold == UNITS, "INV-2: free + held + sold = total")
        self._audit_reservations()

    def _audit_reservations(self) -> None:
        pg, units = self.pg, self.pg.units
        held = sold = 0
        rids = set()
        taken: dict[int, int] = {}
        for number, row in pg.reservations.items():
            rids.add(row.rid)
            size = len(row.units)
            live = row.state in LIVE
            if live:
                held += size
                promised = row.deadline == row.made_at + self._life(row)
                require(promised, "INV-5: it lives longer or shorter than promised")
            elif row.state == "sold":
                sold += size
            if live or row.state == "sold":
                taken[row.buyer] = taken.get(row.buyer, 0) + size
                for unit in row.units:
                    require(units[unit] == number, "INV-1: a unit has one live owner")
            if not live and self.final.get(number) is not row:
                self._audit_end(number, row)
            require(size == row.quantity, "INV-2: quantity is all or nothing")
            aborted = self.told_aborted.get(row.rid, NEVER)
            require(row.attempt > aborted, "INV-3: told aborted, but it became a hold")
        require((pg.held, pg.sold) == (held, sold), "INV-2: the stock row equals the rows")
        require(units.count(0) == pg.free, "INV-2: free equals the free units")
        require(len(rids) == len(pg.reservations), "INV-4: one key, one hold")
        self._count_taken(taken)
        self.money.audit(taken)
        if self.seats:
            self.seats.audit()

    def _life(self, row: Reservation) -> int:
        """Its own time, once more if it was extended, never too much; and once the time to pay."""
        own = self.pg.ttl * (2 if row.extended else 1)
        return min(own, LIFE_MAX) + (PAY if row.state == "paying" else 0)

    def _audit_end(self, number: int, row: Reservation) -> None:
        before, payment = self.final.get(number), self.pg.payments.get(row.paid_by)
        paid = payment is not None and (payment.hold, payment.outcome) == (number, "purchased")
        if before and before.state != row.state:
            revived = before.state in ("expired", "released") and row.state == "sold" and paid
            undone = before.state == "sold" and row.state == "refunded"
            require(revived or undone, "INV-5: one end only")
            if revived:
                self.counts["paid late, revived"] += 1
                self.unheard.append((self.pg.version, row.quantity))
        self.final[number] = row
        in_time = row.ended_at < row.deadline
        sold = row.state == "sold"
        require(not sold or in_time or paid, "INV-5: sold after its deadline")
        require(row.state != "expired" or not in_time, "INV-5: expired before its deadline")
        require(not sold or paid or number not in self.told_expired, "INV-3: told expired")
        if row.state == "expired":
            until = self.told_until.get(number, 0)
            require(row.ended_at >= until, "INV-3: told a longer life than it had")

    def _count_taken(self, taken: dict[int, int]) -> None:
        for buyer, before in self.taken.items():
            self.last_with[buyer, before] = self.pg.now
        for units in taken.values():
            require(units <= LIMIT, "INV-8: at most LIMIT units per buyer")
        self.taken = taken

    # After each script.

    def audit_bouncer(self) -> None:
        """INV-9 for the bouncer: what it believes only ever becomes newer."""
        believed = (self.bouncer.epoch, self.bouncer.version)
        require(believed >= self.consumed, "INV-9: a consumer went back in time")
        self.consumed = believed

    def audit_admission(self, claims: list[OpenClaim]) -> None:
        """INV-6: without lost data the bouncer never offers what a claim on its way may take.

        Who pays late takes free units past the bouncer: it hears of them with the next figures."""
        pg, open_ = self.pg, {}
        for claim in claims:
            rid, attempt = claim.wish.rid, claim.attempt
            request = pg.requests.get(rid)
            doomed = request and (request.reservation or request.attempt >= attempt)
            if not doomed and attempt[0] == pg.epoch:
                open_[rid] = claim
        self.unheard = [each for each in self.unheard if each[0] > self.bouncer.version]
        past = sum(units for _, units in self.unheard)
        offered = self.bouncer.avail - past
        asked = sum(claim.wish.quantity for claim in open_.values())
        require(offered <= pg.free - asked, "INV-6: admits too many")
        if self.seats:
            self.seats.audit_offer(list(open_.values()), bool(self.unheard))

    # At each word.

    def tell(self, wish: Wish, sent_at: int, answer: Answer) -> None:
        """INV-3 and INV-4: the answer is true now; `audit` keeps watching that it stays true."""
        word, number = answer.word, answer.reservation
        self.counts[f"told {word}"] += 1
        if word == "yes":
            before = self.told_yes.get(wish.rid, number)
            excused = before in self.lost or number in self.lost
            require(before == number or excused, "INV-4: replays are identical")
            self.told_yes[wish.rid] = number
        elif word in ("no", "aborted"):
            self._tell_nothing_taken(wish, sent_at, answer)
        elif word == "sold":
            self.told_sold.add(number)
        elif word == "expired" and sent_at > self.lost_at:
            # Else it may speak of a release that went with the lost history.
            self.told_expired.add(number)
        elif word == "until" and sent_at > self.lost_at:
            self.told_until[number] = max(self.told_until.get(number, 0), answer.until)

    def tell_provider(self, notice: Notice, sent_at: int, answer: Answer) -> None:
        """INV-13: what a provider is thanked for is written down."""
        self.money.tell(notice, sent_at, answer)

    def _tell_nothing_taken(self, wish: Wish, sent_at: int, answer: Answer) -> None:
        request = self.pg.requests.get(wish.rid)
        row = self.pg.reservations[request.reservation] if request and request.reservation else None
        # A row made while this copy was under way is another copy's: the two just crossed.
        require(row is None or row.made_at >= sent_at, "INV-3: told no, but the hold was there")
        if answer.word == "aborted":
            # A copy from before a silent restore may have learned it from what is gone.
            words = self.told_aborted if sent_at > self.restored_at else self.voided
            words[wish.rid] = max(words.get(wish.rid, NEVER), answer.attempt)
            stands = self.told_aborted.get(wish.rid, NEVER)
            require(row is None or row.attempt > stands, "INV-3: told aborted, but held")
            return
        if sent_at > self.restored_at:
            self.told_no[wish.rid] = (self.pg.now, answer.attempt)
        if self.seats and answer.word == "no":
            self.seats.tell_no(wish, sent_at, answer)
        if answer.reason == "limit":
            require(self._was_at_limit(wish, sent_at), "INV-3: told limit, but was below it")

    def _was_at_limit(self, wish: Wish, since: int) -> bool:
        if self.taken.get(wish.buyer, 0) + wish.quantity > LIMIT:
            return True
        return any(
            self.last_with.get((wish.buyer, units), -1) >= since
            for units in range(LIMIT - wish.quantity + 1, LIMIT + 1)
        )

    def count_overtaken(self, wish: Wish, attempt: Attempt, sent_at: int, unattended: bool) -> None:
        """A hold for a copy that was under way when another copy of the key was told no.

        Not a violation, "no" speaks for one copy. Unattended, nobody will hear of the hold."""
        told_at, refused = self.told_no.get(wish.rid, (0, NEVER))
        if self.restored_at < sent_at < told_at and attempt <= refused:
            self.counts["refusals overtaken"] += 1
            self.counts["overtaken unattended"] += unattended

    # When a history ends.

    def lose_history(self, before: dict[int, Reservation], fenced: bool) -> None:
        """Postgres was replaced by its past: note which told words it took along."""
        rows = self.pg.reservations
        self.lost_at = self.pg.now
        self.lost |= before.keys() - rows.keys()
        self.lost_sales |= _sold(before) - _sold(rows)
        self.final = {n: row for n, row in rows.items() if row.state not in LIVE}
        # A release that was lost with the tail: the hold lives again and may be bought.
        self.told_expired -= {n for n, row in rows.items() if row.state in LIVE}
        # So was a longer life.
        for number in [n for n, until in self.told_until.items() if _deadline(rows, n) < until]:
            del self.told_until[number]
            self.counts["told until, lost"] += 1
        if not fenced:
            # The tombstones are gone and nothing fences their attempts: these words are void.
            self.restored_at = self.pg.now
            self.voided |= self.told_aborted
            self.told_aborted.clear()
            self.named.clear()
        self.money.lose_history(self.pg.now)
        self.mark = -1
        self.audit()

    def forget_consumer(self) -> None:
        """Redis lost its state: a new consumer begins."""
        self.consumed = (self.bouncer.epoch, self.bouncer.version)

    # When the faults are over and the keepers have had their turn.

    def audit_healed(self) -> None:
        """INV-3 for each word ever told, INV-7 for the rest."""
        pg, rows = self.pg, self.pg.reservations
        require(not self.bouncer.intents, "INV-7: an intent stays open")
        require(self.bouncer.avail == pg.free, "INV-7: the bouncer differs from Postgres")
        for row in rows.values():
            require(row.state not in LIVE or row.deadline > pg.now, "INV-7: held past its deadline")
            broken = row.attempt <= self.voided.get(row.rid, NEVER)
            self.counts["aborted, void by restore"] += broken
        for number in self.told_yes.values():
            require(number in rows or number in self.lost, "INV-3: told yes, but there is nothing")
            self.counts["told yes, lost"] += number in self.lost
        for number in self.told_sold:
            kept = number in rows and rows[number].state in ("sold", "refunded")
            require(kept or number in self.lost_sales, "INV-3: told sold, but it is not")
            self.counts["told sold, lost"] += number in self.lost_sales
        self.money.audit_healed()
        if self.seats:
            self.seats.audit_healed(bool(self.restored_at))


def _sold(rows: dict[int, Reservation]) -> set[int]:
    return {number for number, row in rows.items() if row.state in ("sold", "refunded")}


def _deadline(rows: dict[int, Reservation], number: int) -> int:
    return rows[number].deadline if number in rows else 0
