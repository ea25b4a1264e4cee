"""The witness: what Postgres itself wrote down, whatever the engine and its clients say.

    await install(url)             before the load: a schema `witness`, filled by triggers
    await tick(connection)         now and then, from one connection: both clocks at one moment
    await export(url, folder)      at the end: facts-<what>.jsonl, in the order of `seq`

Facts are rows of append-only tables, written in the transactions of what they tell: what was
rolled back left none, what was lost with a primary lost its facts, too.

Moments of facts are microseconds of Postgres's wall clock. A client's are nanoseconds of
CLOCK_MONOTONIC. A `Tick` binds the two: Postgres's clock was read between two readings of the
client's, which is exact to the time this took, and clocks of one machine drift by microseconds
a second. `install` and `export` make one tick each; an observer should make one a second, so that
a wall clock that is set meanwhile is noticed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from engine.infra import sql
from loadtest.chaos.history import now

HERE = Path(__file__).parent
FILES = {
    "drops": ("drops",),
    "stock": ("stock",),
    "units": ("units",),
    "holds": ("holds",),
    "money": ("purchases", "payments", "refunds"),
    "outbox": ("outbox",),
    "final": ("final_stock", "final_units", "final_holds", "final_allowances"),
    "clocks": ("ticks", "arrival"),
}


class Fact(msgspec.Struct, frozen=True, gc=False):
    """What every fact has: its number, its transaction, its moment, the epoch in force."""

    seq: int
    txid: int
    at: int
    epoch: int


class DropFact(Fact, frozen=True, gc=False, tag="drop"):
    """Terms of a drop from now on."""

    drop: int
    max_per_buyer: int | None
    max_per_order: int
    total_stock: int
    hold_seconds: int
    paused: str | None
    ready: bool
    starts: int
    ends: int | None


class StockFact(Fact, frozen=True, gc=False, tag="stock"):
    """A stock row, from version `before` to `version`; None: there was, or is, none."""

    drop: int
    before: int | None
    version: int | None
    free: int | None
    held: int | None
    sold: int | None
    withdrawn: int | None
    total: int | None


class UnitFact(Fact, frozen=True, gc=False, tag="unit"):
    """A unit on the shelf: free or withdrawn there, None where it was, or is, not on it."""

    drop: int
    number: int
    before: str | None
    after: str | None


class HoldFact(Fact, frozen=True, tag="hold"):
    """A reservation's row, tombstones included. `id_before`: the row's id until now."""

    drop: int
    id: str
    id_before: str | None
    request: str
    attempt: int
    buyer: str
    before: str | None
    after: str | None
    quantity: int
    units: list[int]
    amount_cents: int
    expires: int


class PurchaseFact(Fact, frozen=True, tag="purchase"):
    """A purchase; its states are `purchased` and `refunded`."""

    drop: int
    id: str
    request: str
    reservation: str
    buyer: str
    quantity: int
    units: list[int]
    reference: str | None
    bought: int
    before: str | None
    after: str | None


class PaymentFact(Fact, frozen=True, gc=False, tag="payment"):
    """The provider's newest word of a payment, and what became of it."""

    reference: str
    reservation: str | None
    amount_cents: int
    currency: str
    before: str | None
    after: str | None
    outcome: str | None
    reason: str | None


class RefundFact(Fact, frozen=True, gc=False, tag="refund"):
    """Money that is owed; its states are `due` and `done`."""

    id: int
    reference: str | None
    reservation: str | None
    amount_cents: int
    reason: str
    verified: bool
    before: str | None
    after: str | None


class ToldFact(Fact, frozen=True, tag="told"):
    """A row of the engine's outbox: `told` and `version` are what it tells."""

    drop: int
    id: int
    told: int
    version: int
    kind: str
    subjects: list[str | None]


class Tick(msgspec.Struct, frozen=True, gc=False, tag="tick"):
    """Postgres's clock `at` (µs) was read between `before` and `after` (ns, monotonic)."""

    before: int
    at: int
    after: int


class Arrival(msgspec.Struct, frozen=True, gc=False, tag="arrival"):
    """The transaction whose facts tell what was there before the witness came."""

    txid: int


class FinalStock(msgspec.Struct, frozen=True, gc=False, tag="final_stock"):
    """A stock row at the end."""

    drop: int
    version: int
    free: int
    held: int
    sold: int
    withdrawn: int
    total: int


class FinalUnit(msgspec.Struct, frozen=True, gc=False, tag="final_unit"):
    """A unit that is on the shelf at the end."""

    drop: int
    number: int
    state: str


class FinalHold(msgspec.Struct, frozen=True, gc=False, tag="final_hold"):
    """A reservation at the end."""

    drop: int
    id: str
    state: str


class FinalUse(msgspec.Struct, frozen=True, gc=False, tag="final_use"):
    """What a buyer uses of a limit at the end."""

    drop: int
    buyer: str
    used: int


def _queries() -> dict[str, sql.Query]:
    return sql.parse((HERE / "testimony.sql").read_text())


async def install(url: str) -> None:
    """Put the witness into a migrated database. Waits for statements under way; raises asyncpg's
    DuplicateSchemaError if one is there already."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute((HERE / "witness.sql").read_text())
        await tick(connection)
    finally:
        await connection.close()


async def tick(connection: Any) -> Tick:
    """Read both clocks at one moment, and keep it with the facts."""
    queries = _queries()
    before = now()
    at = await connection.fetchval(queries["read_clock"].text)
    after = now()
    await connection.execute(queries["keep_tick"].text, before, at, after)
    return Tick(before, int(at.timestamp() * 1_000_000), after)


async def export(url: str, folder: Path) -> None:
    """Write all facts, and the rows as they are now, into facts-*.jsonl. Nothing may be changing
    the sale any more. Streams: memory does not grow with the run."""
    queries = _queries()
    connection = await asyncpg.connect(url)
    try:
        await tick(connection)
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            for name, tables in FILES.items():
                with (folder / f"facts-{name}.jsonl").open("wb") as file:
                    for table in tables:
                        told = queries[f"tell_{table}"].text
                        await connection.copy_from_query(
                            f"SELECT row_to_json(line) FROM ({told}) AS line",
                            output=file,
                            # Each JSON text as it is: neither character occurs in one unescaped.
                            format="csv",
                            delimiter="\x02",
                            quote="\x01",
                            escape="\x01",
                        )
    finally:
        await connection.close()
