"""The ledger is no lie: the same calls on it and on a real Postgres do the same.

Hypothesis draws sequences of the engine's own store calls, and after each the answers and the rows
of both must agree. What names a moment or a unit's number is left out.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections import Counter
from typing import Any

import asyncpg
import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from engine.infra.postgres import Connection, Session, Undone
from engine.sale import shelf, store, till
from engine.sale.models import Claim, Confirm, NewDrop, Notice, Release, Returned, Taken
from engine.sale.payment import request_of

from . import statements
from .driver import as_asyncpg
from .ledger import BORN, SqlError, Tables, Transaction, drive

MOMENTS = {"created_at", "expires_at", "server_time", "lives_ms"}
MOMENTS |= {"received_at", "changed_at", "purchased_at"}
NUMBERS = {"numbers", "units"}  # of units without names: which of many is whose means nothing
ROWS = {
    "reservations": "SELECT request_id, attempt, quantity, state::text, buyer FROM reservations"
    " WHERE drop_id = $1",
    "allowances": "SELECT buyer, used FROM allowances WHERE drop_id = $1",
    "stock": "SELECT version, free, held, sold, withdrawn, total FROM stock WHERE drop_id = $1",
    "units": "SELECT state::text FROM units WHERE drop_id = $1",
    "picks": "SELECT number, reservation_id FROM picks WHERE drop_id = $1",
    "purchases": "SELECT request_id, reservation_id, quantity, payment_reference, adopted"
    " FROM purchases WHERE drop_id = $1",
}
# Who hunts known mistakes wants to know that there is one, not its shortest story.
PHASES = [phase for phase in Phase if phase is not Phase.shrink or "HUNT" not in os.environ]
BOUND = settings(
    phases=PHASES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    database=None,
)


class Modelled:
    """The ledger behind a connection's two methods, with nobody else on it."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    def heed(self) -> None:
        """There is no standby whose word could be missing."""

    async def fetch(self, text: str, *values: Any) -> list[Any]:
        tx = Transaction(self.tables)
        try:
            rows: list[Any] = drive(statements.run(tx, text, values))
        except SqlError as error:
            tx.end()
            raise as_asyncpg(error.sqlstate) from None
        tx.commit()
        return rows

    async def fetchrow(self, text: str, *values: Any) -> Any:
        rows = await self.fetch(text, *values)
        return rows[0] if rows else None


def _plain(value: Any, left_out: set[str]) -> Any:
    """What is to be compared of an answer."""
    if isinstance(value, Returned | Taken):  # in no order within a drop
        rows = sorted(zip(value.buyers, value.quantities, strict=True))
        told = value.bought if isinstance(value, Taken) else value.reservations
        units = None if value.numbers is None else sorted(value.numbers)
        return [value.drop_id, _plain(value.figures, left_out), sorted(told), rows, units]
    if isinstance(value, msgspec.Struct):
        names = [name for name in value.__struct_fields__ if name not in left_out]
        return {name: _plain(getattr(value, name), left_out) for name in names}
    if isinstance(value, dict):
        return {key: _plain(each, left_out) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each, left_out) for each in value]
    return value


def _unordered(name: str, answer: Any) -> Any:
    """What was bought of a drop is told in no order."""
    if name == "purchase_units":
        rows = ((drop, figures, bought) for drop, figures, bought in answer)
        return [[drop, figures, sorted(made, key=str)] for drop, figures, made in rows]
    return answer


buyers = st.sampled_from(["ann", "ben", "cleo"])
numbers = st.integers(0, 11)
picks = st.lists(st.integers(1, 9), unique=True, max_size=2)  # none: the best of a named drop


class SameSale(RuleBasedStateMachine):
    """One drop in both: twelve requests, three buyers, as many calls as Hypothesis likes."""

    url = ""
    words: Counter[str]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.real: Any = self.runner.run(asyncpg.connect(self.url, connection_class=Connection))
        self.drop = self.ids = 0

    def teardown(self) -> None:
        self.runner.run(self.real.close())
        self.runner.close()

    @initialize(
        units=st.sampled_from([8, 5, 2, 9]),  # few and many left, so that batches fit and do not
        limit=st.sampled_from([1, 2, None, 4]),
        order=st.sampled_from([2, 4]),
        pick=st.sampled_from(["any", "named"]),
    )
    def begin(self, units: int, limit: int | None, order: int, pick: str) -> None:
        self.left_out = MOMENTS if pick == "named" else MOMENTS | NUMBERS
        self.is_named = pick == "named"
        self.runner.run(self._begin(units, limit, order, pick))
        self.requests = [uuid.UUID(self.new()).hex for _ in range(12)]
        self.holds = [self.new()]
        self.bought: list[str] = []  # the last time that anybody bought
        some = ("ann", "ben", "cleo")
        self.claim({n: (buyer, 1, [2 * n + 2]) for n, buyer in enumerate(some)}, 1, 0)
        if self.is_named:
            self.claim({3: ("dora", 2, [])}, 1, 0)

    async def _begin(self, units: int, limit: int | None, order: int, pick: str) -> None:
        terms = (None, None, None, 600, 3_000, 600)
        wish = NewDrop("a drop", 500, "EUR", *terms, limit, order, units, pick=pick)

        session = Session(self.real)
        self.drop = await shelf.insert_drop(session, wish)
        while await shelf.fill_drop(session, self.drop, 1_000):
            pass
        tables = self.tables = Tables(lambda: time.time() - BORN.timestamp())
        self.modelled = Session(Modelled(tables))
        for table, key in (("drops", "id"), ("stock", "drop_id")):
            row = await self.real.fetchrow(f"SELECT * FROM {table} WHERE {key} = $1", self.drop)
            tables.rows[table][self.drop] = dict(row)
        for row in await self.real.fetch("SELECT * FROM units WHERE drop_id = $1", self.drop):
            tables.rows["units"][self.drop, row["number"]] = dict(row)
        state = dict(await self.real.fetchrow("SELECT * FROM engine_state"))
        here = {"timeline": tables.timeline, "direct_until": BORN}
        tables.rows["engine_state"][True] = state | here
        self.epoch = state["epoch"]

    def new(self) -> str:
        """An id of this drop; the same when Hypothesis plays it again, but for the drop."""
        self.ids += 1
        return str(uuid.UUID(int=(self.drop << 80) + self.ids * 7919 % 104_729))

    def both(self, call: Any, *args: Any) -> Any:
        """The answer of both, which is the same; so are the rows afterwards."""
        return self.runner.run(self._both(call, *args))

    async def _both(self, call: Any, *args: Any) -> Any:
        answers = []
        for session in (Session(self.real), self.modelled):
            try:
                answers.append(
                    _unordered(call.__name__, _plain(await call(session, *args), self.left_out))
                )
            except Undone as undone:
                answers.append(undone.sqlstate)
        assert answers[0] == answers[1], call.__name__
        self._count(call.__name__, answers[0])
        for table, text in ROWS.items():
            found = [tuple(row) for row in await self.real.fetch(text, self.drop)]
            names = [w.strip().split("::")[0] for w in text.split("FROM")[0][6:].split(",")]
            mine = [
                tuple(row.get(name, 0) for name in names)
                for key, row in self.tables.rows[table].items()
                if self.drop in (key, row.get("drop_id"), key[0] if type(key) is tuple else None)
            ]
            # A tombstone's own id means nothing; nor does which of many units is whose.
            assert sorted(map(str, found)) == sorted(map(str, mine)), f"{call.__name__}: {table}"
        return answers[0]

    def _count(self, name: str, answer: Any) -> None:
        """What was met, so that the test can say that it met enough."""
        if isinstance(answer, str):
            self.words[answer] += 1
        elif name == "claim_units":
            self.words.update(answer["words"] or ["all held"])
        elif name == "find_payments":
            self.words.update(str(each["reason"] or each["outcome"]) for each in answer.values())
        else:
            self.words[name] += bool(answer)

    @rule(
        wishes=st.dictionaries(
            numbers, st.tuples(buyers, st.integers(1, 3), picks), min_size=1, max_size=4
        ),
        attempt=st.integers(1, 3),
        other_epoch=st.sampled_from([0, 0, 0, 0, 1]),
    )
    def claim(self, wishes: Any, attempt: int, other_epoch: int) -> None:
        claims = []
        for number in sorted(wishes, key=lambda number: self.requests[number]):
            buyer, quantity, picked = wishes[number]
            hold, mine = self.new(), tuple(sorted(picked)) if self.is_named else None
            words = (self.requests[number], attempt, hold, buyer, len(mine or ()) or quantity)
            claims.append(Claim(*words, mine))
            self.holds.append(hold)
        self.both(store.claim_units, self.drop, self.epoch + other_epoch, claims)

    @rule(which=st.sets(numbers, min_size=1, max_size=4), attempt=st.integers(1, 3))
    def abort(self, which: set[int], attempt: int) -> None:
        requests = sorted(self.requests[number] for number in which)
        claims = [Claim(r, attempt, self.new(), "ann", 1) for r in requests]
        self.both(store.abort_requests, self.drop, claims)

    def _live(self, number: int) -> str:
        """A hold that is there, or may be."""
        rows = self.tables.rows["reservations"].values()
        live = [str(row["id"]) for row in rows if row["state"] in ("active", "paying")]
        known = live if live and number < 6 else self.holds
        return known[-1 - number % len(known)]

    def _made(self, number: int) -> str:
        """A hold that is there, or was."""
        rows = self.tables.rows["reservations"].values()
        made = [str(row["id"]) for row in rows if row["state"] != "aborted"]
        return made[-1 - number % len(made)] if made and number else self.holds[0]

    @rule(
        which=st.sets(numbers, min_size=1, max_size=3),
        buyer=st.sampled_from([None, "ann", "ben"]),
        reference=st.sampled_from([None, "a", "b"]),
        request=numbers,
    )
    def purchase(self, which: set[int], buyer: Any, reference: Any, request: int) -> None:
        confirms = [
            (Confirm(self._live(n), buyer, reference, uuid.UUID(self.new()).hex, True), self.new())
            for n in sorted(which)
        ]
        self.both(store.purchase_units, confirms)
        self.bought = [confirm.reservation_id for confirm, _ in confirms]
        self.both(store.find_purchases_by_reservation, [c.reservation_id for c, _ in confirms])

    @rule(which=st.sets(numbers, min_size=1, max_size=3), buyer=st.sampled_from([None, "ann"]))
    def release(self, which: set[int], buyer: str | None) -> None:
        self.both(store.release_holds, [Release(self._live(n), buyer) for n in sorted(which)])

    @rule(number=numbers, swept=st.booleans())
    def let_run_out(self, number: int, swept: bool) -> None:
        """Its deadline is over, and a keeper comes by, or not yet."""
        hold = uuid.UUID(self._live(number))
        text = (
            "UPDATE reservations SET expires_at = clock_timestamp() - interval '1 s' WHERE id = $1"
        )
        self.runner.run(self.real.execute(text, hold))
        request = self.tables.request_of.get(hold)
        row = None if request is None else self.tables.rows["reservations"].get(request)
        if request is not None and row is not None and row["id"] == hold:
            past = row | {"expires_at": BORN}
            self.tables.rows["reservations"][request] = past
        self.both(store.find_reservations, [self._live(number)])
        if swept:
            self.both(store.expire_holds, self.drop, 100)

    @rule(number=numbers, verb=st.sampled_from([till.pay_hold, till.extend_hold]))
    def prolong(self, number: int, verb: Any) -> None:
        self.both(verb, self._live(number), None)

    @rule(
        which=st.lists(st.tuples(numbers, st.integers(0, 4)), min_size=1, max_size=3),
        status=st.sampled_from(["pending", "failed", "succeeded", "succeeded", "refunded"]),
        units=st.sampled_from([1, 1, 1, 2]),
    )
    def settle(self, which: Any, status: Any, units: int) -> None:
        notices = {}
        for number, reference in which:
            name = f"{self.drop}-{reference}"
            wish = Notice(name, self._made(number), status, 500 * units, "EUR", request_of(name))
            notices[name] = (wish, self.new())
        self.both(till.settle_payments, [notices[name] for name in sorted(notices)])
        self.both(till.find_payments, [f"{self.drop}-{n}" for n in range(5)])

    @rule(number=numbers, reference=st.sampled_from(["a", "b", "c"]))
    def pay_twice(self, number: int, reference: str) -> None:
        wanted = self.bought[number % len(self.bought)] if self.bought else self._made(number)
        self.both(till.owe_refunds, [(wanted, reference)])

    @rule()
    def look(self) -> None:
        self.both(store.look_up_requests, self.requests)
        self.both(store.find_allowances, self.drop, ["ann", "ben", "cleo"])
        if self.is_named:
            self.both(store.find_taken, self.drop, [1, 2, 3, 4, 5])
            self.both(store.free_numbers, self.drop)
            self.both(store.longest_run, self.drop)


COMMON = {"all held", "held", "limit", "sold_out", "blocked", "repeated", "purchase_units"}
COMMON |= {"release_holds", "expire_holds", "taken", "find_taken", "longest_run", "purchased"}
RARE = {"fenced", "too_many", "owe_refunds", "scattered", "pay_hold", "extend_hold"}
RARE |= {"wrong_amount", "already_paid"}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("examples", "words"),
    [
        pytest.param(50, COMMON, id="a slice"),
        # What a run draws depends on what else it has imported, so few of them miss something.
        pytest.param(400, COMMON | RARE, id="at length", marks=pytest.mark.at_length),
    ],
)
def test_the_ledger_does_what_postgres_does(database: str, examples: int, words: set[str]) -> None:
    counted = Counter[str]()
    machine = type("SameSaleHere", (SameSale,), {"url": database, "words": counted})

    run_state_machine_as_test(
        machine, settings=settings(BOUND, max_examples=examples, stateful_step_count=20)
    )

    assert {word for word, times in counted.items() if times} >= words
