"""The bouncer's bitmap of a named drop: which units are free, and which are asked for just now.

    offered = seats (what Postgres said is free at `seats_version`) - picked (units of open intents)

Postgres tells what each version changed. Changes may come late, twice, in any order or never: in
order they are applied, early ones wait as news, and what is lost leaves a gap that a load fills.
Until then the bitmap is behind the figures, which is nothing: who took units in between has his
intent open, and they picked, until he tells.
"""

from __future__ import annotations

from collections.abc import Iterable

from .mutants import Variant
from .words import Changes, Reply

NEWS = 4  # changes that wait for their predecessors
BLIND = -1  # the version of a bitmap that is not there


def mask(units: Iterable[int]) -> int:
    """These units as bits."""
    bits = 0
    for unit in units:
        bits |= 1 << unit
    return bits


def units_of(bits: int) -> tuple[int, ...]:
    """These bits as units, ascending."""
    return tuple(n for n in range(bits.bit_length()) if bits >> n & 1)


def first_run(bits: int, size: int) -> tuple[int, ...]:
    """The first `size` units beside each other, or none."""
    for _ in range(size - 1):
        bits &= bits >> 1
    first = (bits & -bits).bit_length() - 1
    return tuple(range(first, first + size)) if bits else ()


def longest_run(bits: int) -> int:
    """How many are beside each other at most."""
    size = 0
    while bits:
        bits &= bits >> 1
        size += 1
    return size


class Seats:
    """The part of the bouncer that knows units by number. Each method is part of one script."""

    variant: Variant
    version: int

    def __init__(self) -> None:
        self.seats, self.seats_version = 0, BLIND
        self.news: dict[int, Changes] = {}
        self.picked: set[int] = set()

    @property
    def offered(self) -> int:
        """Bits of the units that an admission may name."""
        return self.seats & ~mask(self.picked)

    def forget_seats(self) -> None:
        """Another history: nothing that was known of units means anything."""
        if self.variant != "seats_outlive_their_epoch":
            self.seats, self.seats_version, self.news = 0, BLIND, {}
        self.picked = set()

    def pick(self, units: tuple[int, ...]) -> tuple[int, ...]:
        """An intent names them. Those that are its own: of two that name one unit (the other was
        let through unseen), the first covers it."""
        own = tuple(unit for unit in units if unit not in self.picked)
        self.picked.update(own)
        return own

    def let_go(self, own: tuple[int, ...]) -> None:
        """The intent is over. Whether they are free is not for an intent to say."""
        self.picked.difference_update(own)
        if self.variant == "give_back_sets_the_seats":
            self.seats |= mask(own)

    def hear(self, truth: Reply, is_newer: bool) -> None:
        """Postgres speaks at `truth.version`: of all units, of those it moved, or of none."""
        if truth.seats >= 0:
            self._load(truth.version, truth.seats)
        elif truth.changes is not None:
            self._learn(truth.version, truth.changes)
        elif is_newer and self.variant == "bitmap_kept" and self.seats_version != BLIND:
            self.seats_version = truth.version

    def _load(self, version: int, seats: int) -> None:
        if version <= self.seats_version and self.variant != "load_goes_back":
            return
        self.seats, self.seats_version = seats, max(version, self.seats_version)
        if self.variant == "load_forgets_intents":
            self.picked = set()
        self._catch_up()

    def _learn(self, version: int, changes: Changes) -> None:
        """Changes are kept though nothing is known: a load under way is older than they are."""
        if version <= self.seats_version:
            return
        if self.variant == "news_out_of_order" and self.seats_version != BLIND:
            self._apply(changes)
            self.seats_version, self.news = version, {}
            return
        if len(self.news) >= NEWS:
            self.news, self.seats_version = {}, BLIND  # whoever had to tell what is missing is gone
        self.news[version] = changes
        self._catch_up()

    def _catch_up(self) -> None:
        if self.seats_version == BLIND:
            return
        self.news = {v: each for v, each in self.news.items() if v > self.seats_version}
        while self.seats_version + 1 in self.news:
            self.seats_version += 1
            self._apply(self.news.pop(self.seats_version))

    def _apply(self, changes: Changes) -> None:
        self.seats = (self.seats & ~mask(changes.taken)) | mask(changes.freed)
