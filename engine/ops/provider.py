"""A payment provider that is nobody's: it moves no money, and misbehaves as real ones do.

It keeps payments in memory, takes the money of whom it is told to, and tells the shop in signed
callbacks, at once or late, twice, or in the wrong order. Its books say what it charged and gave
back, so that they can be compared with the shop's: whoever paid has a unit or gets it back.

    async with MockProvider("http://127.0.0.1:8000", secret) as provider:
        await provider.pay(hold["id"], hold["amount"], hold["currency"], "slow+duplicate")
        await provider.idle()
        differences = compare(provider.charges.values(), purchases, refunds)

A behaviour is one or more names, a `+` between them: an ending (`ok` unless said), and manners.

    ending   ok · declined · declined_then_ok · twice · refunded · lost
    manner   slow · late · duplicate · out_of_order · wrong_amount
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import httpx2
import msgspec
import structlog

from engine.infra.http import cents, money
from engine.infra.ids import new_id, request_identity
from engine.ops.courier import Courier, Notice, Tally

log = structlog.get_logger()

CALLBACK = "/api/v1/payments/callback"
DECLINED, AGAIN = "-declined", "-again"  # end the references of a visit's other payments

# What is said of which payment of a visit, beat by beat; within one beat at the same moment.
Word = tuple[str, str]  # status, and what its payment's reference ends with
ENDINGS: dict[str, list[list[Word]]] = {
    "ok": [[("succeeded", "")]],
    "declined": [[("failed", "")]],
    "declined_then_ok": [[("failed", DECLINED)], [("succeeded", "")]],
    "twice": [[("succeeded", ""), ("succeeded", AGAIN)]],
    "refunded": [[("succeeded", "")], [("refunded", "")]],
    "lost": [],
}
MANNERS = ("slow", "late", "duplicate", "out_of_order", "wrong_amount")
NAMES = (*ENDINGS, *MANNERS)


class Behaviour(msgspec.Struct, frozen=True, kw_only=True):
    """How the provider treats one payment. Made by `behaviour`."""

    ending: str = "ok"
    manners: frozenset[str] = frozenset()
    slow_seconds: float = 2.0
    late_seconds: float = 2.0  # from now; to be late, it must be past the hold's deadline
    copies: int = 4  # of each callback, when it is a duplicate

    @property
    def wait_seconds(self) -> float:
        """How long nothing but `pending` is said."""
        slow = self.slow_seconds if "slow" in self.manners else 0.0
        return slow + (self.late_seconds if "late" in self.manners else 0.0)

    def beats(self) -> list[list[Word]]:
        """What is said after the wait."""
        beats = ENDINGS[self.ending]
        if beats and "out_of_order" in self.manners:
            beats = [*reversed(beats), [("pending", "")]]
            if self.ending != "declined":
                beats.append([("failed", "")])
        if "duplicate" in self.manners:  # at the same moment, and one that straggles
            beats = [said for beat in beats for said in (beat * (self.copies - 1), beat)]
        return beats


def behaviour(names: str, **knobs: Any) -> Behaviour:
    """A behaviour from its names, like `slow+duplicate`; `knobs` are its other fields.
    Raises ValueError."""
    given = [name for name in names.replace(" ", "+").split("+") if name]
    endings = [name for name in given if name in ENDINGS]
    if strange := [name for name in given if name not in NAMES]:
        raise ValueError(f"{strange[0]}: want one or more of {' '.join(NAMES)}, joined by +")
    if len(endings) > 1:
        raise ValueError(f"{' and '.join(endings)}: a payment ends in one way")
    manners = frozenset(name for name in given if name in MANNERS)
    return Behaviour(ending=endings[0] if endings else "ok", manners=manners, **knobs)


class Mix:
    """Behaviours drawn by weight; with the same seed, the same ones."""

    def __init__(self, weights: Mapping[str, float], seed: int | None = None, **knobs: Any) -> None:
        self._behaviours = {names: behaviour(names, **knobs) for names in weights}
        self._weights = list(weights.values())
        self._dice = random.Random(seed)
        if not any(self._weights) or min(self._weights) < 0:
            raise ValueError("want weights of 0 or more, and not only 0")

    @classmethod
    def read(cls, text: str, seed: int | None = None, **knobs: Any) -> Mix:
        """From words like `ok=60 slow=10 late+duplicate=5`. Raises ValueError."""
        pairs = [word.rpartition("=") for word in text.replace(",", " ").split()]
        return cls({names: float(weight) for names, _, weight in pairs}, seed, **knobs)

    def choose(self) -> tuple[str, Behaviour]:
        """The next one, and its names."""
        names = self._dice.choices(list(self._behaviours), self._weights)[0]
        return names, self._behaviours[names]


class Charge(msgspec.Struct, rename="camel"):
    """Money that the provider took."""

    reference: str
    reservation_id: str
    amount: str
    currency: str
    given_back: bool = False


class MockProvider:
    """Payments of one shop. Leaving it ends what is under way, and says so."""

    def __init__(
        self,
        shop: str,
        secret: str,
        *,
        seed: int | None = None,
        client: httpx2.AsyncClient | None = None,
        attempts_max: int = 20,
        patience_seconds: float = 180.0,
    ) -> None:
        self.charges: dict[str, Charge] = {}  # by reference
        self.behaved: Counter[str] = Counter()
        self.strangers: list[str] = []  # refunds asked of us, of money we never took
        dice = random.Random(seed)
        self._courier = Courier(
            shop.rstrip("/") + CALLBACK,
            secret.split(maxsplit=1)[0],
            client,
            attempts_max=attempts_max,
            patience_seconds=patience_seconds,
            dice=dice,
        )
        self._visits: dict[str, asyncio.Task[None]] = {}  # by reference
        self._busy: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._busy:
            log.warning("provider.unfinished", payments=len(self._busy))
        for task in self._busy:
            task.cancel()
        await asyncio.gather(*self._busy, return_exceptions=True)
        await self._courier.close()

    @property
    def tally(self) -> Tally:
        """What became of callbacks."""
        return self._courier.tally

    @property
    def busy(self) -> int:
        """Visits and refunds that are not over yet."""
        return len(self._busy)

    @property
    def under_way(self) -> list[str]:
        """The references of payments and refunds under way."""
        return [task.get_name().partition("-")[2] for task in self._busy]

    async def pay(
        self,
        reservation_id: str,
        amount: str,
        currency: str,
        how: Behaviour | str = "ok",
        reference: str | None = None,
    ) -> str:
        """Begin a payment; its reference. The same reference again is the same payment. What
        comes of it is told to the shop, from now on. Raises ValueError for a strange behaviour,
        `Invalid` for a strange amount."""
        manner = behaviour(how) if isinstance(how, str) else how
        taken = cents("amount", amount) + ("wrong_amount" in manner.manners)
        reference = reference or f"mock_{new_id()}"
        if reference not in self._visits:
            self.behaved["+".join([manner.ending, *sorted(manner.manners)])] += 1
            paid = Charge(reference, reservation_id, money(taken), currency)
            self._visits[reference] = self._begin(self._visit(paid, manner), f"visit-{reference}")
        return reference

    def status(self, reference: str) -> str | None:
        """Where a payment stands: under_way, accepted, declined or given_back; None: unknown."""
        if (visit := self._visits.get(reference)) is None:
            return None
        if (charge := self.charges.get(reference)) is not None:
            return "given_back" if charge.given_back else "accepted"
        return "declined" if visit.done() else "under_way"

    async def give_back(self, refunds: Iterable[Mapping[str, Any]]) -> list[str]:
        """Pay back what the shop owes, its rows of GET /refunds, and say so; the references. Of
        one that was given back before, the shop is told once more."""
        given: list[str] = []
        for row in refunds:
            charge = self.charges.get(str(row["reference"]))
            if charge is None:
                self.strangers.append(str(row["reference"]))
                log.warning("provider.never_charged", reference=row["reference"])
            elif row.get("status") != "done":
                given.append(charge.reference)
                self._begin(self._say("refunded", charge), f"refund-{charge.reference}")
        return given

    async def idle(self) -> None:
        """Until everything is told, or given up."""
        while self._busy:
            await asyncio.wait(list(self._busy))

    def _begin(self, work: Any, name: str) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work, name=name)
        self._busy.add(task)
        task.add_done_callback(self._end)
        return task

    def _end(self, task: asyncio.Task[None]) -> None:
        self._busy.discard(task)
        if not task.cancelled() and (wrong := task.exception()) is not None:
            log.error("provider.crashed", task=task.get_name(), exc_info=wrong)

    async def _visit(self, paid: Charge, manner: Behaviour) -> None:
        if manner.wait_seconds:
            await self._say("pending", paid)
            await asyncio.sleep(manner.wait_seconds)
        for beat in manner.beats():
            said = [
                (status, msgspec.structs.replace(paid, reference=paid.reference + suffix))
                for status, suffix in beat
            ]
            await asyncio.gather(*(self._say(status, charge) for status, charge in said))

    async def _say(self, status: str, charge: Charge) -> None:
        """Enter it in the books, then tell the shop."""
        if status in ("succeeded", "refunded"):
            charge = self.charges.setdefault(charge.reference, charge)
            charge.given_back = charge.given_back or status == "refunded"
        words = (charge.reference, charge.reservation_id, status, charge.amount, charge.currency)
        id = "msg_" + request_identity("provider", "callback", f"{status} {charge.reference}")
        await self._courier.deliver(Notice(*words), id)


class Differences(msgspec.Struct, frozen=True):
    """Between a provider's books and a shop's, by reference. All empty: they agree."""

    without: list[str]  # money was taken, and there is neither a unit for it nor a refund
    twice: list[str]  # more than one payment of a hold was kept
    both: list[str]  # the unit is the buyer's, and its money is owed back as well

    def __bool__(self) -> bool:
        return bool(self.without or self.twice or self.both)


def compare(
    charges: Iterable[Charge],
    purchases: Sequence[Mapping[str, Any]],
    refunds: Sequence[Mapping[str, Any]],
) -> Differences:
    """Compare with a shop's rows of GET /drops/{id}/purchases and of GET /refunds, all of them."""
    bought = {row["paymentReference"] for row in purchases if row["status"] != "refunded"}
    owed = {row["reference"] for row in refunds}
    kept: Counter[str] = Counter()
    without, twice, both = [], [], []
    for charge in charges:
        name = charge.reference
        if name in bought and name in owed:
            both.append(name)
        if charge.given_back or name in owed:
            continue
        kept[charge.reservation_id] += 1
        if kept[charge.reservation_id] > 1:
            twice.append(name)
        elif name not in bought:
            without.append(name)
    return Differences(without, twice, both)
