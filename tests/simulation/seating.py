"""Named units: who picked what has just that, and what is said of a unit is true.

Part of the checker (`invariants.py`), so it sees every row after each commit, and the bouncer's
bitmap after each script.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from .model import Bouncer
from .postgres import LIVE, UNITS, Postgres, Reservation
from .seats import BLIND, longest_run, mask
from .words import Answer, Attempt, Wish, require


class OpenClaim(NamedTuple):
    """A claim on its way, or about to be sent."""

    wish: Wish
    attempt: Attempt
    picks: tuple[int, ...]


class SeatChecker:
    """Audits picks, the bitmap, and every "taken"."""

    def __init__(self, pg: Postgres, bouncer: Bouncer, counts: Counter[str]) -> None:
        self.pg, self.bouncer, self.counts = pg, bouncer, counts
        self.shelf = pg.shelf  # as last seen
        self.last_had = [-1] * UNITS  # when a unit was somebody's
        self.last_longest = [-1] * (UNITS + 1)  # when the longest run was just so long

    # After each commit.

    def audit(self) -> None:
        """INV-1: what was picked was given, all of it; the best is side by side."""
        pg = self.pg
        self._remember()
        self.shelf = pg.shelf
        for row in pg.reservations.values():
            if row.picks:
                require(row.units == row.picks, "INV-1: other units than were picked")
            else:
                beside = row.units[-1] - row.units[0] == row.quantity - 1
                require(beside, "INV-1: the best are not beside each other")
        have = [unit for row in pg.reservations.values() if _has(row) for unit in row.units]
        require(len(have) == len(set(have)), "INV-1: a unit was picked twice")

    def _remember(self) -> None:
        self.last_longest[longest_run(self.shelf)] = self.pg.now
        for unit in range(UNITS):
            if not self.shelf >> unit & 1:
                self.last_had[unit] = self.pg.now

    # After each script of a calm schedule.

    def audit_offer(self, claims: list[OpenClaim], is_paid_past: bool) -> None:
        """INV-6: what is asked for just now is not offered, nor what is known to be taken."""
        pg, bouncer = self.pg, self.bouncer
        if bouncer.seats_version == BLIND or bouncer.epoch != pg.epoch:
            return
        self.counts["scripts that saw"] += 1
        offered = bouncer.offered
        for claim in claims:
            intent = bouncer.intents.get(claim.wish.rid)
            if intent is not None and intent.attempt == claim.attempt:
                own = mask(intent.own)
                require(not offered & own, "INV-6: offers units of a claim on its way")
        if bouncer.seats_version == bouncer.version and not is_paid_past:
            unseen = mask([unit for row in pg.reservations.values() for unit in self._unseen(row)])
            require(not offered & ~(pg.shelf | unseen), "INV-6: offers units that somebody has")

    def _unseen(self, row: Reservation) -> tuple[int, ...]:
        """Units that an intent got without covering them, and that nobody has told of yet: Postgres
        chose them, or another intent covered them."""
        intent = self.bouncer.intents.get(row.rid)
        if intent is None or not _has(row):
            return ()
        return tuple(unit for unit in row.units if unit not in intent.own)

    # At each word.

    def tell_no(self, wish: Wish, since: int, answer: Answer) -> None:
        """INV-3: "taken" and "none beside each other" were so while the buyer waited."""
        self._remember()
        if answer.reason == "taken":
            self.counts["told taken"] += 1
            asked = bool(answer.units) and set(answer.units) <= set(wish.picks)
            require(asked, "INV-3: told taken of what was not picked")
            if any(self.last_had[unit] < since for unit in answer.units):
                require(False, "INV-3: told taken, but nobody had it")
        elif answer.reason == "scattered":
            self.counts["told scattered"] += 1
            seen = max(self.last_longest[: wish.quantity])
            require(seen >= since, "INV-3: told none beside each other, but there were")
        else:
            picked = answer.reason == "sold_out" and wish.picks
            require(not picked, "INV-3: who picks is told of his picks")

    # When the faults are over.

    def audit_healed(self, is_restored: bool) -> None:
        """INV-7: the bitmap is the shelf, and nothing is asked for. But a restored history that
        caught up, to the same version and as many free units, cannot be told from the lost one:
        then the bitmap names others until the next load, and each refusal by it is asked about."""
        pg, bouncer = self.pg, self.bouncer
        require(not bouncer.picked, "INV-7: a unit stays picked")
        require(bouncer.seats_version == pg.version, "INV-7: the bitmap is old")
        is_true = bouncer.seats == pg.shelf
        self.counts["bitmap, untrue by restore"] += not is_true
        require(is_true or is_restored, "INV-7: the bitmap differs from the rows")


def _has(row: Reservation) -> bool:
    return row.state in LIVE or row.state == "sold"
