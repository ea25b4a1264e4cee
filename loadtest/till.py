"""Where buyers pay: a mock provider beside the service, whose books are compared with the shop's.

a hold's payUrl ─▶ /books says `"mock": true` ─▶ buyers pay there
anything else    ─▶ nobody pays: buyers confirm their holds themselves, and the verdict says so
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import msgspec

from engine.ops.provider import Charge, Differences, Mix, compare
from loadtest.fleet import Untrustworthy, ask

USUAL = (
    "ok=66 slow=8 duplicate=8 out_of_order=5 declined=3 declined_then_ok=3 late=3 twice=1"
    " wrong_amount=1 refunded=1 lost=1"
)
SLOW_SECONDS = 1.0
PAST_SECONDS = 1.0  # how far beyond its deadline a late payment comes
REST_SECONDS = 30.0  # for the provider to tell all, and for what is owed to be paid back


Pause = Callable[[float], None]
Rows = list[dict[str, Any]]


class Reckoning(msgspec.Struct, frozen=True, kw_only=True):
    """The provider's books beside the shop's, when all is told."""

    charged: int
    given_back: int
    differences: Differences
    owed: int  # refunds that were due
    still_owed: list[str]  # of those, what is due although it was paid back
    never_told: int  # callbacks that the provider gave up
    busy: int  # payments under way when patience ended


class Till:
    """One test's payments. `words` are weights of behaviours; `none`: nobody pays."""

    def __init__(self, run: str, words: str, provider: str = "") -> None:
        self.payments = 0
        self._mix = None if words == "none" else _mix(words)
        self._run, self._numbers = run, itertools.count(1)
        self._provider: str | None = None
        self._is_known = self._mix is None
        if provider and self._mix is not None and not self._learn(provider.rstrip("/")):
            raise Untrustworthy(f"{provider} is no mock provider: its /books do not say so")

    @property
    def is_open(self) -> bool:
        """Whether buyers pay, as far as is known yet."""
        return not self._is_known or self._provider is not None

    def takes(self, hold: dict[str, Any]) -> bool:
        """Whether this hold, whose payment has begun, can be paid; the first one tells of all."""
        if not self._is_known:
            parts = urlsplit(hold.get("payUrl", ""))
            self._learn(f"{parts.scheme}://{parts.netloc}")
        return self._provider is not None

    def pay(self, hold: dict[str, Any], life_seconds: float) -> str:
        """Pay at the provider as the mix has it; the behaviour's names."""
        assert self._mix is not None and self._provider is not None, "takes() said so"
        names, _ = self._mix.choose()
        bill = {
            "reservationId": hold["id"],
            "amount": hold["amount"],
            "currency": hold["currency"],
            "behaviour": names,
            "slowSeconds": SLOW_SECONDS,
            "lateSeconds": life_seconds + PAST_SECONDS,
            "reference": f"{self._run}-{next(self._numbers)}",
        }
        status, told = ask(self._provider, "/payments", bill)
        if status != 201:
            raise Untrustworthy(f"{self._provider}/payments was answered {status}: {told}")
        self.payments += 1
        return names

    def await_told(self, pause: Pause) -> int:
        """Wait until the provider has told everything; how many payments are still under way."""
        until = time.monotonic() + REST_SECONDS
        while self._provider and self._books()["busy"]:
            # Somebody else's payments may be under way there for as long as they like.
            if not (ours := sum(self._is_ours(name) for name in self._books()["underWay"])):
                return 0
            if time.monotonic() > until:
                return ours
            pause(0.2)
        return 0

    def reckon(
        self,
        purchases: list[dict[str, Any]],
        refunds: Callable[[], list[dict[str, Any]]],
        pause: Pause,
    ) -> Reckoning | None:
        """Compare the books, let the provider pay back what is owed, and see that it is done."""
        if not self._provider:
            return None
        busy = self.await_told(pause)
        books = self._books()
        charges = [msgspec.convert(row, Charge) for row in books["charges"]]
        charges = [charge for charge in charges if self._is_ours(charge.reference)]
        known = [row for row in refunds() if self._is_ours(row["reference"])]
        owed = [row for row in known if row["status"] == "due"]
        differences = compare(charges, purchases, known)
        ask(self._provider, "/refunds", {"data": owed})
        busy += self.await_told(pause)
        ours = {row["reference"] for row in owed}
        still = [row for row in refunds() if row["reference"] in ours and row["status"] == "due"]
        return Reckoning(
            charged=len(charges),
            given_back=sum(charge.given_back for charge in charges),
            differences=differences,
            owed=len(owed),
            still_owed=[row["reference"] for row in still],
            never_told=sum(self._is_ours(row["reference"]) for row in books["givenUp"]),
            busy=busy,
        )

    def _is_ours(self, reference: str | None) -> bool:
        return (reference or "").startswith(f"{self._run}-")

    def _books(self) -> dict[str, Any]:
        assert self._provider is not None
        return dict(ask(self._provider, "/books")[1])

    def _learn(self, provider: str) -> bool:
        """Whether a mock provider answers there: then buyers pay at it."""
        try:
            told = ask(provider, "/books")[1]
            is_mock = isinstance(told, dict) and told.get("mock") is True
        except (OSError, ValueError, msgspec.DecodeError):
            is_mock = False
        self._provider, self._is_known = provider if is_mock else None, True
        return is_mock


def _mix(words: str) -> Mix:
    try:
        return Mix.read(words)
    except ValueError as wrong:
        raise Untrustworthy(f"--payments {words!r}: {wrong}") from None
