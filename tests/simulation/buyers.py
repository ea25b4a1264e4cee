"""Everybody outside: buyers, a shop that refunds, and a provider who charges for holds.

A charge is a fact from the moment its buyer pays, whatever we hear of it. The provider repeats
each of its words, in any order, until a worker acknowledged it.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import NamedTuple

from .model import Worker
from .postgres import UNITS
from .words import Answer, Course, Notice, Status, Wish

STORIES: tuple[tuple[Status, ...], ...] = (
    ("succeeded",),
    ("succeeded",),
    ("pending", "succeeded"),
    ("pending", "failed", "succeeded"),
    ("failed",),
)


class Charge(NamedTuple):
    """A payment as its provider knows it."""

    hold: int
    buyer: int
    succeeded: bool


class Provider:
    """Charges buyers, and says so until it is heard."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.charges: dict[int, Charge] = {}  # by reference
        self.unheard: dict[Notice, None] = {}  # a set that keeps its order: seeds stay seeds

    def charge(self, hold: int, buyer: int) -> int:
        """One attempt to pay for a hold; its reference."""
        reference = len(self.charges) + 1
        story = self.random.choice(STORIES)
        self.charges[reference] = Charge(hold, buyer, "succeeded" in story)
        for status in story:
            self.unheard[Notice(reference, hold, status)] = None
        return reference

    def pick(self) -> Notice | None:
        """A word that nobody acknowledged, the oldest as likely as the newest."""
        return self.random.choice(list(self.unheard)) if self.unheard else None

    def hear(self, notice: Notice) -> None:
        """Acknowledged: it need not be said again, though copies may be under way."""
        self.unheard.pop(notice, None)


class Buyers:
    """They wish, wait, pay, change their minds, and walk away."""

    def __init__(
        self, random: Random, buyers: int, keys: int, provider: Provider, is_named: bool
    ) -> None:
        self.random, self.buyers, self.provider = random, buyers, provider
        self.is_named = is_named
        self.keys_given = 0
        self.wishes = [self.new_wish() for _ in range(keys)]
        self.known: dict[int, int] = {}  # what they were told: rid -> reservation
        self.bought: list[int] = []
        self.paid: dict[int, int] = {}  # reservation -> the last payment for it

    def new_wish(self) -> Wish:
        self.keys_given += 1
        quantity = 1 + (self.random.random() < 0.3)
        wish = Wish(self.keys_given, 1 + int(self.random.random() * self.buyers), quantity)
        if self.is_named and self.random.random() < 0.6:
            picks = self.random.sample(range(UNITS), quantity)
            return wish._replace(picks=tuple(sorted(picks)))
        return wish

    def act(self, worker: Worker, start: Callable[[str, Course, Wish], None]) -> None:
        """Somebody does something; `start` hands a request to the network."""
        slot = int(self.random.random() * len(self.wishes))
        wish = self.wishes[slot]
        reservation = self.known.get(wish.rid)
        dice = self.random.random()
        if reservation is None or dice < 0.15:
            start("reserve", worker.reserve(wish), wish)
        elif dice < 0.33:
            named = self.paid.get(reservation, 0) if dice < 0.24 else 0
            start("purchase", worker.purchase(reservation, named), wish)
        elif dice < 0.50:
            start("release", worker.release(reservation), wish)
        elif dice < 0.56:
            start("extend", worker.extend(reservation), wish)
        elif dice < 0.64:
            start("pay", worker.pay(reservation), wish)
        elif dice < 0.82:
            self.paid[reservation] = self.provider.charge(reservation, wish.buyer)
        elif dice < 0.86 and self.bought:
            start("refund", worker.refund(self.random.choice(self.bought)), wish)
        else:
            self.wishes[slot] = self.new_wish()  # walks away; the hold will expire

    def hear(self, wish: Wish, answer: Answer) -> None:
        """An answer reaches its buyer, or nearly."""
        if answer.word == "yes" and self.random.random() < 0.8:  # else his line broke before
            self.known[wish.rid] = answer.reservation
        elif answer.word in ("sold", "expired", "released") and self.random.random() < 0.7:
            self.wishes = [self.new_wish() if w.rid == wish.rid else w for w in self.wishes]
        if answer.word == "sold":
            self.bought.append(answer.reservation)

    def hear_provider(self, notice: Notice, answer: Answer) -> None:
        """An answer reaches the provider, or nearly; a purchase is known to the shop, too."""
        if answer.word != "unknown" and self.random.random() < 0.8:
            self.provider.hear(notice)
        if answer.word == "purchased":
            self.bought.append(notice.hold)
