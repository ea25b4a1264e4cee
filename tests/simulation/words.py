"""What is said on the wire: a buyer's wish, a server's reply, a worker's answer."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Literal, NamedTuple

Attempt = tuple[int, int]  # (epoch, n), compared in that order
NEVER: Attempt = (0, 0)
Status = Literal["pending", "failed", "succeeded"]


class Wish(NamedTuple):
    """One buyer's request under one idempotency key; every copy of it is equal."""

    rid: int
    buyer: int
    quantity: int
    picks: tuple[int, ...] = ()  # these very units; none: whichever, or the best of a named drop


class Changes(NamedTuple):
    """What one version did to the shelf of a named drop. Nothing is not the same as unknown."""

    taken: tuple[int, ...] = ()
    freed: tuple[int, ...] = ()


class Notice(NamedTuple):
    """A provider's word of one payment."""

    reference: int
    hold: int
    status: Status


NOTHING = Notice(0, 0, "pending")


class Reply(NamedTuple):
    """What a server says: a word, and the (epoch, version, free) that was true at that moment."""

    word: str
    epoch: int = 0
    version: int = 0
    free: int = 0
    attempt: Attempt = NEVER  # the tombstone that stands in the way
    reservation: int = 0
    taken: int = 0  # units this buyer holds or owns
    until: int = 0  # the hold's deadline
    notice: Notice = NOTHING  # a payment that waits to be decided
    # Of a named drop.
    units: tuple[int, ...] = ()  # admitted: these; taken: those that somebody has
    changes: Changes | None = None  # what the transaction of this version did; None: not told
    seats: int = -1  # all free units, as bits; -1: not told
    seats_version: int = -1
    longest: int = 0  # free units beside each other
    is_blind: bool = False  # admitted without a bitmap: somebody should load it


class Answer(NamedTuple):
    """What the worker tells the buyer.

    yes       you hold this reservation
    no        this copy took nothing, and the key had nothing before you sent it
    aborted   no attempt up to this one will ever hold anything (RETRYABLE)
    unknown   no promise (OUTCOME_UNKNOWN, IN_PROGRESS): repeat with the same key
    until     the hold lives until then, unless it ends before by its buyer's wish
    purchased, refund_due, undecided, noted: what became of a payment; its word is written down
    sold, expired, released, refunded, done: of purchases, releases, refunds and keepers
    none      of a refund: there is no such purchase now
    """

    word: str
    reservation: int = 0
    attempt: Attempt = NEVER
    reason: str = ""
    until: int = 0
    units: tuple[int, ...] = ()  # of a no because of them: those that somebody has


Call = tuple[Callable[..., Reply], tuple[Any, ...]]
Course = Generator[Call, Reply, Answer]
Post = Callable[[Callable[..., Reply], tuple[Any, ...]], None]

LOST = Reply("lost")
DONE = Reply("done")
UNKNOWN = Answer("unknown")


class Violation(AssertionError):
    """The protocol broke a promise."""


def require(kept: bool, promise: str) -> None:
    """Raise `Violation` unless the promise is kept."""
    if not kept:
        raise Violation(promise)
