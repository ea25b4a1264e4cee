"""Tales: histories of a small service that does everything right, to be told to the checker.

The service is one counter per drop and a row per unit, and serves one request at a time; a request
is sent some time before and answered some time after. What it does is written down as clients and
the witness would. `Tale.write` leaves the folder of a run behind.
"""

from __future__ import annotations

import random
import uuid
from pathlib import Path
from typing import Any

import msgspec

from engine.infra.ids import request_identity
from loadtest.chaos import facts, history
from loadtest.chaos.facts import FinalHold, FinalStock, FinalUnit, FinalUse, StockFact
from loadtest.chaos.history import Complete, Invoke
from tests.support.folders import is_row_of, leave

WALL_US = 1_790_000_000_000_000  # what Postgres's clock says when ours says 0
EPOCH = 7
MS = 1_000_000
SHELF = ("free", "withdrawn")


def wall(moment: int) -> int:
    """Postgres's clock, in µs, at a moment of ours, in ns."""
    return WALL_US + moment // 1000


class Hold(msgspec.Struct):
    """A reservation of the small service."""

    id: str
    request: str
    drop: int
    buyer: str
    units: list[int]
    expires: int  # µs of the wall
    state: str = "active"
    extended: bool = False

    @property
    def words(self) -> dict[str, Any]:
        """As an answer shows it."""
        return {
            "id": self.id,
            "dropId": self.drop,
            "userId": self.buyer,
            "quantity": len(self.units),
            "units": [{"id": self.drop * 1000 + n, "number": n} for n in self.units],
            "status": self.state,
            "amount": f"{12 * len(self.units)}.00",
            "currency": "USD",
            "expiresAt": str(self.expires),
        }


class Tale:
    """The service, its clients and its witness. `moment` is now, in ns; everything takes some."""

    def __init__(self, seed: int = 0) -> None:
        self.dice = random.Random(seed)
        self.moment = 1_000 * MS
        self.lines: list[Any] = []  # of clients and nemeses
        self.instead: Any = None  # of a row at the end
        self.facts: list[Any] = [facts.Arrival(1), facts.Tick(0, wall(50_000), 100_000)]
        self.run: dict[str, Any] = {"seed": seed, "lost_tail": False}
        self.holds: dict[str, Hold] = {}  # by request
        # Purchase, request and reference by hold.
        self.bought: dict[str, tuple[str, str, str | None]] = {}
        self.payments: dict[str, str] = {}  # outcomes, by reference
        self.stock: dict[int, StockFact] = {}
        self.units: dict[tuple[int, int], str] = {}
        self.limits: dict[int, int] = {}
        self._seq = self._txid = 1
        self._ops = self._told = 0

    # ── the witness ──────────────────────────────────────────────────────────────────────────

    def _begin(self) -> None:
        self.moment += self.dice.randint(1, 20) * MS
        self._txid += 1

    def _fact(self, type: Any, /, **words: Any) -> Any:
        self._seq += 1
        fact = type(seq=self._seq, txid=self._txid, at=wall(self.moment), epoch=EPOCH, **words)
        self.facts.append(fact)
        return fact

    def _move(self, drop: int, number: int, state: str) -> None:
        before, after = (at if at in SHELF else None for at in (self.units[drop, number], state))
        self.units[drop, number] = state
        if before != after:
            self._fact(facts.UnitFact, drop=drop, number=number, before=before, after=after)

    def _count(self, drop: int, kind: str, hold: str) -> None:
        """The version that the units' moves make, and its row in the outbox."""
        was = self.stock[drop]
        states = [state for (d, _), state in self.units.items() if d == drop]
        figures = {s: states.count(s) for s in ("free", "held", "sold", "withdrawn")}
        assert was.version is not None
        version = was.version + 1
        words = {"drop": drop, "before": was.version, "version": version, "total": len(states)}
        self.stock[drop] = self._fact(StockFact, **words, **figures)
        self._told += 1
        row = {"id": self._told, "told": EPOCH, "version": version, "kind": kind}
        self._fact(facts.ToldFact, drop=drop, subjects=[hold], **row)

    def _turn(self, hold: Hold, before: str | None) -> None:
        self._fact(
            facts.HoldFact,
            drop=hold.drop,
            id=hold.id,
            id_before=None if before is None else hold.id,
            request=hold.request,
            attempt=1,
            buyer=hold.buyer,
            before=before,
            after=hold.state,
            quantity=len(hold.units),
            units=hold.units,
            amount_cents=1200 * len(hold.units),
            expires=hold.expires,
        )

    def _new_id(self) -> str:
        return str(uuid.UUID(int=self.dice.getrandbits(128)))

    # ── the clients ──────────────────────────────────────────────────────────────────────────

    def asks(self, verb: Any, drop: int, outcome: str = "ok", **more: Any) -> None:
        """A request that is served now: sent a little earlier, answered a little later."""
        self._ops += 1
        names = ("status", "code", "replayed", "value")
        answer = {name: more.pop(name) for name in names if name in more}
        early, late = self.dice.randint(1, 300 * MS), self.dice.randint(1, 300 * MS)
        process = f"client-{self._ops % 3}"
        self.lines.append(Invoke(self.moment - early, process, self._ops, verb, drop, **more))
        if outcome != "silence":
            self.lines.append(
                Complete(self.moment + late, process, self._ops, outcome, **answer)  # type: ignore[arg-type]
            )

    def passes(self, ms: int) -> None:
        """Nothing happens for a while."""
        self.moment += ms * MS

    def looks(self) -> None:
        """The observer looks at every drop, and the bouncer knows everything."""
        self.passes(1)
        for drop, row in self.stock.items():
            assert row.version is not None and row.free is not None
            seen = (row.epoch, row.version, row.free)
            sight = history.Sight(
                self.moment, drop, *seen, row.held, row.sold, 0, believed=seen, intents=0
            )
            self.lines.append(sight)

    # ── the service ──────────────────────────────────────────────────────────────────────────

    def opens(self, drop: int, units: int, limit: int) -> None:
        """A drop goes on sale."""
        self._begin()
        self.limits[drop] = limit
        terms = {"max_per_buyer": limit, "max_per_order": limit, "total_stock": units}
        window = {"paused": None, "ready": True, "starts": wall(0), "ends": None}
        self._fact(facts.DropFact, drop=drop, hold_seconds=60, **terms, **window)
        for number in range(1, units + 1):
            self.units[drop, number] = "free"
            self._fact(facts.UnitFact, drop=drop, number=number, before=None, after="free")
        figures = {"free": units, "held": 0, "sold": 0, "withdrawn": 0, "total": units}
        self.stock[drop] = self._fact(StockFact, drop=drop, before=None, version=1, **figures)

    def reserves(
        self, drop: int, buyer: str, key: str = "", quantity: int = 1, answered: bool = True
    ) -> Hold | None:
        """A buyer asks for units; the hold, or None if he was refused."""
        self._begin()
        subject = f"open:open:{buyer}"
        request = self._new_id()
        if key:
            request = str(uuid.UUID(request_identity(subject, "reserve", key)))
        words = {"buyer": buyer, "key": key, "quantity": quantity}
        known = self.holds.get(request)
        if known is not None:
            self._repeats(known, words)
            return known
        if self._is_above(drop, buyer, quantity):
            self.asks("reserve", drop, "fail", status=409, code="LIMIT_REACHED", **words)
            return None
        if not (taken := self._can_have(drop, buyer, quantity)):
            self.asks("reserve", drop, "fail", status=409, code="SOLD_OUT", **words)
            return None
        id = self._new_id()
        hold = Hold(id, request, drop, buyer, taken, wall(self.moment) + 60_000_000)
        self.holds[request] = hold
        for number in taken:
            self._move(drop, number, "held")
        self._turn(hold, None)
        self._count(drop, "reserved", id)
        outcome = "ok" if answered else self.dice.choice(["info", "silence"])
        told: dict[str, Any] = {"status": 201, "value": hold.words} if answered else {}
        self.asks("reserve", drop, outcome, **words, **told)
        return hold

    def _is_above(self, drop: int, buyer: str, quantity: int) -> bool:
        using = ("active", "paying", "purchased")
        mine = [h for h in self.holds.values() if (h.drop, h.buyer) == (drop, buyer)]
        used = sum(len(hold.units) for hold in mine if hold.state in using)
        return used + quantity > self.limits[drop]

    def _can_have(self, drop: int, buyer: str, quantity: int) -> list[int]:
        free = [n for (d, n), state in self.units.items() if d == drop and state == "free"]
        short = len(free) < quantity or self._is_above(drop, buyer, quantity)
        return [] if short else self.dice.sample(free, quantity)

    def _repeats(self, hold: Hold, words: dict[str, Any]) -> None:
        if words["quantity"] != len(hold.units):
            mismatch = "IDEMPOTENCY_MISMATCH"
            self.asks("reserve", hold.drop, "fail", status=422, code=mismatch, **words)
        else:
            told: dict[str, Any] = {"status": 201, "replayed": True, "value": hold.words}
            self.asks("reserve", hold.drop, **words, **told)

    def ends(self, hold: Hold, state: str) -> None:
        """A hold is released by its buyer, runs out, or is refunded."""
        if state == "expired":
            self.moment = max(self.moment, (hold.expires - WALL_US) * 1000 + MS)
        self._begin()
        before, hold.state = hold.state, state
        self._turn(hold, before)
        for number in hold.units:
            self._move(hold.drop, number, "free")
        self._count(hold.drop, state, hold.id)
        if state == "released":
            words = {"buyer": hold.buyer, "subject": hold.id, "key": f"r-{hold.id}"}
            self.asks("release", hold.drop, status=204, **words)
        if state == "refunded":
            bought, request, reference = self.bought[hold.id]
            self._purchase(hold, bought, request, reference, "purchased")
            self._owes(hold, reference, "refunded")

    def _purchase(
        self, hold: Hold, id: str, request: str, reference: str | None, before: str | None
    ) -> None:
        self._fact(
            facts.PurchaseFact,
            drop=hold.drop,
            id=id,
            request=request,
            reservation=hold.id,
            buyer=hold.buyer,
            quantity=len(hold.units),
            units=hold.units,
            reference=reference,
            bought=wall(self.moment),
            before=before,
            after="refunded" if before else "purchased",
        )

    def _owes(self, hold: Hold, reference: str | None, reason: str) -> None:
        words = {"amount_cents": 1200 * len(hold.units), "verified": True, "reason": reason}
        where = {"reference": reference, "reservation": hold.id, "before": None, "after": "due"}
        self._fact(facts.RefundFact, id=self._seq, **where, **words)

    def _sells(self, hold: Hold, request: str, reference: str | None) -> str:
        id = self._new_id()
        before, hold.state = hold.state, "purchased"
        self._turn(hold, before)
        self.bought[hold.id] = id, request, reference
        self._purchase(hold, id, request, reference, None)
        for number in hold.units:
            self._move(hold.drop, number, "sold")
        self._count(hold.drop, "purchased", hold.id)
        return id

    def buys(self, hold: Hold, key: str = "", answered: bool = True) -> None:
        """A hold is confirmed; one that cannot be is refused."""
        self._begin()
        request = request_identity(f"open:open:{hold.buyer}", "purchase", key or str(self._seq))
        words = {"buyer": hold.buyer, "subject": hold.id, "key": key}
        overdue = wall(self.moment) >= hold.expires and hold.id not in self.bought
        if overdue or hold.state not in ("active", "paying"):
            known = self.bought.get(hold.id)
            if known is None or hold.state == "refunded":
                code = "HOLD_EXPIRED" if overdue or hold.state == "expired" else "ALREADY_RESOLVED"
                self.asks("purchase", hold.drop, "fail", status=409, code=code, **words)
                return
            again = known[1] == str(uuid.UUID(request))
            told: dict[str, Any] = {"status": 201 if again else 200, "replayed": again}
            value = {"id": known[0], "reservationId": hold.id}
            self.asks("purchase", hold.drop, **words, **told, value=value)
            return
        id = self._sells(hold, str(uuid.UUID(request)), None)
        value = {"id": id, "reservationId": hold.id}
        outcome = "ok" if answered else "info"
        told = {"status": 201, "value": value} if answered else {}
        self.asks("purchase", hold.drop, outcome, **words, **told)

    def lengthens(self, hold: Hold, verb: str) -> None:
        """A hold is extended, or its payment begins."""
        self._begin()
        before = hold.state
        hold.expires += 60_000_000
        hold.state = "paying" if verb == "pay" else "active"
        hold.extended |= verb == "extend"
        self._turn(hold, before)
        words = {"buyer": hold.buyer, "subject": hold.id}
        self.asks(verb, hold.drop, status=200, value=hold.words, **words)

    def _revives(self, hold: Hold) -> bool:
        """Money came too late: other units, if there are any and he may have them."""
        if not (taken := self._can_have(hold.drop, hold.buyer, len(hold.units))):
            return False
        before, hold.state, hold.units = hold.state, "paying", taken
        for number in taken:
            self._move(hold.drop, number, "held")
        self._turn(hold, before)
        was = self.stock[hold.drop]
        words = msgspec.structs.asdict(was) | {"before": was.version}
        words |= {"free": (was.free or 0) - len(taken), "held": (was.held or 0) + len(taken)}
        moved = {name: words[name] for name in StockFact.__struct_fields__[4:]}
        self._fact(StockFact, **moved)  # on the way to the version that the sale makes
        return True

    def pays(self, hold: Hold, reference: str) -> None:
        """The provider says that money came for a hold: it is sold, or the money is owed back."""
        self._begin()
        revived = hold.state in ("expired", "released") and self._revives(hold)
        live = revived or hold.state in ("active", "paying")
        outcome = "purchased" if live else "refund_due"
        words = {
            "reference": reference,
            "reservation": hold.id,
            "amount_cents": 1200 * len(hold.units),
            "currency": "USD",
            "after": "succeeded",
        }
        self._fact(facts.PaymentFact, **words, before=None, outcome=None, reason=None)
        if live:
            request = request_identity("provider", "payment", reference)
            self._sells(hold, str(uuid.UUID(request)), reference)
        else:
            self._owes(hold, reference, "already_paid")
        reason = None if live else "already_paid"
        self._fact(facts.PaymentFact, **words, before="succeeded", outcome=outcome, reason=reason)
        self.asks("callback", hold.drop, status=200, subject=hold.id, reference=reference)

    def hears(self, reference: str, status: str) -> None:
        """The provider says that no money came."""
        self._begin()
        words = {"reference": reference, "reservation": None, "amount_cents": 0, "currency": "USD"}
        words |= {"before": None, "after": status, "outcome": None, "reason": None}
        self._fact(facts.PaymentFact, **words)

    def polls(self, drop: int) -> None:
        """Somebody looks at the stock."""
        self._begin()
        self.asks("stock", drop, status=200, value={"version": self.stock[drop].version})

    def heals(self, rest_ms: int = 900) -> None:
        """A fault happened, and all came to rest."""
        self.passes(1_000)
        self.lines.append(history.Fault(self.moment, self.moment + 500 * MS, "kill", "worker-1"))
        self.passes(500)
        healed = self.moment
        self.passes(rest_ms)
        rested = self.moment
        self.looks()
        self.passes(1)
        self.lines.append(history.Heal(healed, self.moment, rested))

    def measures(self, when: Any, fds: int = 100, connections: int = 20) -> None:
        """What a worker has open."""
        self.lines.append(
            history.Resource(self.moment, "worker-1", when, connections, fds, 12, 90_000)
        )

    # ── the end ──────────────────────────────────────────────────────────────────────────────

    def finals(self) -> list[Any]:
        """The rows as they are."""
        rows: list[Any] = [
            FinalStock(drop, *(getattr(row, name) for name in FinalStock.__struct_fields__[1:]))
            for drop, row in self.stock.items()
        ]
        rows += [FinalUnit(*unit, state) for unit, state in self.units.items() if state in SHELF]
        rows += [FinalHold(hold.drop, hold.id, hold.state) for hold in self.holds.values()]
        used: dict[tuple[int, str], int] = {}
        for hold in self.holds.values():
            if hold.state in ("active", "paying", "purchased"):
                buyer = hold.drop, hold.buyer
                used[buyer] = used.get(buyer, 0) + len(hold.units)
        return rows + [FinalUse(drop, buyer, units) for (drop, buyer), units in used.items()]

    def write(self, folder: Path) -> Path:
        """The folder of the run."""
        rows = [self.instead if is_row_of(self.instead, row) else row for row in self.finals()]
        leave(folder, self.lines, [*self.facts, *rows], self.run)
        return folder
