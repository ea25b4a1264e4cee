"""What buyers were told, and whether it can all be true.

The engine's own audit counts rows. This is the other side: a unit that two buyers were told is
theirs at one time is sold twice, whatever the rows say. Only the client's clock is used, and of
each hold only the time during which it lived for certain: from the arrival of the answer until
its life, counted from before the request was sent, is over. So slow answers and clocks that
differ hide a fault at worst, and never make one up.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from datetime import datetime
from math import inf
from typing import Any

import msgspec

PROBLEMS_MAX = 20  # a broken service would fill the memory with sentences

# Of a hold, and of a purchase; `status`, `serverTime` and stock are about the moment of asking.
SAME_IN_A_REPLAY = (
    "id",
    "reservationId",
    "dropId",
    "userId",
    "quantity",
    "units",
    "amount",
    "currency",
    "expiresAt",
    "purchasedAt",
    "paymentReference",
)


class Claim(msgspec.Struct, eq=False):
    """A hold or purchase, and when it lived for certain."""

    id: str
    buyer: str
    units: list[int]
    since: float
    until: float
    first: dict[str, Any]  # the answer itself

    def overlaps(self, other: Claim) -> bool:
        """Whether both lived at one time for certain."""
        return self.since < other.until and other.since < self.until


class Promises:
    """Everything that one crowd of buyers was told about one drop."""

    def __init__(self, limit: int | None) -> None:
        self.holds = 0
        self.units_bought = 0
        self.units_returned = 0  # bought, and refunded on an operator's word
        self.replays = 0
        self.above_limit: set[str] = set()
        self.problems: list[str] = []
        self._limit = limit
        self._of_unit: defaultdict[int, list[Claim]] = defaultdict(list)
        self._of_buyer: defaultdict[str, list[Claim]] = defaultdict(list)
        self._unanswered: dict[str, tuple[str, int]] = {}

    def asked(self, verb: str, key: str, units: int) -> None:
        """A request is on its way; until it is answered, it may or may not have had its effect."""
        self._unanswered[key] = verb, units

    def answered(self, key: str) -> None:
        """It has a definite answer."""
        self._unanswered.pop(key, None)

    def unanswered(self, verb: str) -> int:
        """Units of requests that never got a definite answer."""
        return sum(units for kind, units in self._unanswered.values() if kind == verb)

    def unanswered_requests(self) -> Counter[str]:
        """How many such requests, by verb."""
        return Counter(verb for verb, _ in self._unanswered.values())

    def held(self, answer: dict[str, Any], sent_at: float) -> Claim:
        """A buyer was told of a hold, by a request first sent at `sent_at`."""
        life = _moment(answer["expiresAt"]) - _moment(answer["serverTime"])
        units = [int(unit["id"]) for unit in answer["units"]]
        buyer = str(answer["userId"])
        claim = Claim(answer["id"], buyer, units, time.monotonic(), sent_at + life, answer)
        self.holds += 1
        for unit in units:
            self._of_unit[unit] = [c for c in self._of_unit[unit] if c.until > claim.since]
            self._of_unit[unit].append(claim)
        self._check(claim)
        mine = [each for each in self._of_buyer[buyer] if each.until > claim.since]
        self._of_buyer[buyer] = [*mine, claim]
        if self._limit and sum(len(each.units) for each in self._of_buyer[buyer]) > self._limit:
            self.above_limit.add(buyer)
        return claim

    def bought(self, claim: Claim, answer: dict[str, Any]) -> None:
        """A buyer was told that a hold is bought."""
        units = [int(unit["id"]) for unit in answer["units"]]
        if sorted(units) != sorted(claim.units):
            self._broken(f"{claim.buyer} held {claim.units} and bought {units}")
        self.units_bought += len(units)
        claim.until = inf
        for unit in units:
            if claim not in self._of_unit[unit]:
                self._of_unit[unit].append(claim)
        self._check(claim)

    def prolonged(self, claim: Claim, answer: dict[str, Any], sent_at: float) -> float:
        """A buyer was told that a hold lives longer, by a request first sent at `sent_at`; for
        how many seconds from then."""
        life = _moment(answer["expiresAt"]) - _moment(answer["serverTime"])
        claim.until = max(claim.until, sent_at + life)
        self._check(claim)
        return life

    def extended_again(self, claim: Claim) -> None:
        """A buyer was given more time a second time."""
        self._broken(f"{claim.buyer} was given more time twice for one hold")

    def paid(self, claim: Claim, answer: dict[str, Any]) -> Claim:
        """A buyer sees that a payment made a purchase; its claim. One that came after the deadline
        bought whatever units were free then."""
        units = [int(unit["id"]) for unit in answer["units"]]
        if time.monotonic() > claim.until:
            claim = Claim(claim.id, claim.buyer, units, time.monotonic(), inf, answer)
            self._of_buyer[claim.buyer].append(claim)
        self.bought(claim, answer)
        return claim

    def refunding(self, claim: Claim) -> None:
        """A purchase is about to be undone: from now on its units may be another's."""
        claim.until = min(claim.until, time.monotonic())

    def refunded(self, claim: Claim) -> None:
        """It was undone."""
        self.units_returned += len(claim.units)

    def giving_back(self, claim: Claim) -> None:
        """A buyer is about to give a hold back: from now on the units may be another's."""
        claim.until = min(claim.until, time.monotonic())

    def lost(self, claim: Claim, code: str) -> None:
        """A buyer was told that a hold has ended: not before its deadline, by nobody's hand."""
        if time.monotonic() < claim.until:
            left = claim.until - time.monotonic()
            self._broken(f"{claim.buyer} heard {code} of a hold with {left:.1f} s to live")
        claim.until = min(claim.until, time.monotonic())

    def replayed(self, first: dict[str, Any], again: Any) -> None:
        """A request was repeated with its key: the answer must be the first one."""
        self.replays += 1
        told = again if isinstance(again, dict) else {}
        differing = [name for name in SAME_IN_A_REPLAY if first.get(name) != told.get(name)]
        if differing:
            shown = ", ".join(f"{n}: {first.get(n)} then {told.get(n)}" for n in differing)
            self._broken(f"a repeated request was answered otherwise ({shown})")

    def _check(self, claim: Claim) -> None:
        for unit in claim.units:
            for other in self._of_unit[unit]:
                if other.id != claim.id and other.overlaps(claim):
                    both = f"{other.buyer} and {claim.buyer}"
                    self._broken(f"unit {unit} belonged to two buyers at one time: {both}")

    def _broken(self, sentence: str) -> None:
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(sentence)


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
