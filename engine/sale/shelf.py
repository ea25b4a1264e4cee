"""Postgres for drops and their stock: one function a query. Rows become Structs here."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from engine.infra import sql
from engine.infra.postgres import Session
from engine.sale.models import Drop, NewDrop, Offer, Proof, Stock, Terms
from engine.sale.rows import figures
from engine.sale.store import Caller

NAMED = 3  # offenders of each kind

_queries = sql.load("sale")


class Unit(msgspec.Struct, frozen=True):
    """A named unit, and what is the matter with it: free, held, sold or withdrawn."""

    number: int
    name: str
    status: str


class Sheet(msgspec.Struct):
    """A page of a seat map at one version, encoded once for all who share it."""

    epoch: int
    version: int
    total: int  # units of the drop
    units: list[Unit]
    body: bytes = b""


async def insert_drop(session: Session, drop: NewDrop) -> int:
    """A new drop without units yet; its id."""
    words = {name: getattr(drop, name) for name in NewDrop.__struct_fields__ if name != "names"}
    return int((await session.call(_queries["insert_drop"], **words))["drop_id"])


async def name_units(session: Session, drop_id: int, first: int, names: Sequence[str]) -> list[str]:
    """Call units so, from this number on; those of the names that a unit had already."""
    words = {"drop_id": drop_id, "first": first, "names": names}
    new = {row["name"] for row in await session.call(_queries["name_units"], **words)}
    return [name for name in names if name not in new]


async def named_otherwise(session: Session, drop_id: int) -> bool:
    """Whether a unit of a drop has a name that is not its number."""
    return bool((await session.call(_queries["named_otherwise"], drop_id=drop_id))["named"])


async def fill_drop(caller: Caller, drop_id: int, slice: int) -> int:
    """Put the next units on the shelf; how many are still missing."""
    return int((await caller.call(_queries["fill_drop"], drop_id=drop_id, slice=slice))["missing"])


async def unfilled_drops(caller: Caller) -> list[int]:
    """Drops whose units are not all there yet."""
    return [row["id"] for row in await caller.call(_queries["unfilled_drops"])]


def _drop(row: Any) -> Drop:
    return Drop(**{name: row[name] for name in Drop.__struct_fields__})


async def list_drops(
    caller: Caller,
    ids: Sequence[int] | None = None,
    statuses: Sequence[str] | None = None,
    before: int | None = None,
    count: int = 100,
    skip: int = 0,
) -> list[Drop]:
    """Drops with their stock, newest first."""
    query = _queries["list_drops"]
    rows = await caller.call(
        query, ids=ids, statuses=statuses, before=before, count=count, skip=skip
    )
    return [_drop(row) for row in rows]


async def count_drops(caller: Caller, statuses: Sequence[str] | None) -> int:
    """How many drops there are of these statuses."""
    return int((await caller.call(_queries["count_drops"], statuses=statuses))["items"])


async def recent_purchases(
    caller: Caller, drop_ids: Sequence[int]
) -> dict[int, list[tuple[str, datetime]]]:
    """The three newest (buyer, moment) of each drop."""
    recent: dict[int, list[tuple[str, datetime]]] = {}
    for row in await caller.call(_queries["recent_purchases"], drop_ids=drop_ids):
        recent.setdefault(row["drop_id"], []).append((row["buyer"], row["purchased_at"]))
    return recent


async def take_fillers_turn(session: Session, drop_id: int) -> bool:
    """Keep fillers of a drop out until the end of the transaction; False if there is no such."""
    return await session.call(_queries["take_fillers_turn"], drop_id=drop_id) is not None


async def withdraw_units(session: Session, drop_id: int, count: int | None) -> tuple[int, int, int]:
    """Take free units off sale (None: all): how many, and how many are free and held now."""
    row = await session.call(_queries["withdraw_units"], drop_id=drop_id, count=count)
    return row["taken"], row["free"], row["held"]


async def lock_drop(session: Session, drop_id: int) -> Terms | None:
    """A drop's terms, kept from others' changes until the end of the transaction."""
    row = await session.call(_queries["lock_drop"], drop_id=drop_id)
    return row and Terms(**{name: row[name] for name in Terms.__struct_fields__})


async def change_drop(session: Session, drop_id: int, terms: Terms) -> None:
    """New terms for a locked drop."""
    words = {name: getattr(terms, name) for name in Terms.__struct_fields__}
    await session.call(_queries["change_drop"], drop_id=drop_id, **words)


async def set_pause(caller: Caller, drop_id: int, reason: str | None) -> bool:
    """Pause or resume; False if there is no such drop."""
    return await caller.call(_queries["set_pause"], drop_id=drop_id, reason=reason) is not None


async def begin_pause(caller: Caller, drop_id: int, reason: str) -> bool:
    """Pause unless it is paused already; whether it was not."""
    return await caller.call(_queries["begin_pause"], drop_id=drop_id, reason=reason) is not None


async def end_pause(caller: Caller, drop_id: int, reason: str) -> bool:
    """Resume if paused for this reason; whether it was."""
    return await caller.call(_queries["end_pause"], drop_id=drop_id, reason=reason) is not None


async def close_drop(caller: Caller, drop_id: int) -> bool:
    """End a drop now; False if there is no such drop."""
    return await caller.call(_queries["close_drop"], drop_id=drop_id) is not None


async def stocks(caller: Caller, drop_ids: Sequence[int]) -> dict[int, Stock]:
    """The stock rows of drops."""
    rows = await caller.call(_queries["stocks"], drop_ids=drop_ids)
    names = Stock.__struct_fields__
    return {row["drop_id"]: Stock(*[row[name] for name in names]) for row in rows}


async def stock_of(caller: Caller, drop_id: int) -> Stock | None:
    """The stock row of one drop."""
    return (await stocks(caller, [drop_id])).get(drop_id)


async def offers(caller: Caller, drop_ids: Sequence[int] | None = None) -> list[Offer]:
    """What the bouncer should know: of the named drops, or of all that are warm."""
    return [
        Offer(
            row["drop_id"],
            figures(row),
            row["terms_version"],
            row["starts_ms"],
            row["ends_ms"] or 0,
            row["shut"],
            row["max_per_buyer"],
            row["max_per_order"],
            row["promised"],
            row["now_ms"],
            row["changed_ms"],
            row["cooldown_factor"],
            row["is_named"],
        )
        for row in await caller.call(_queries["offers"], drop_ids=drop_ids)
    ]


async def find_numbers(
    caller: Caller, names: Sequence[tuple[int, str]]
) -> dict[tuple[int, str], int]:
    """The units that are called so, by (drop, name); unknown names are absent."""
    rows = await caller.call(
        _queries["find_numbers"],
        drop_ids=[drop_id for drop_id, _ in names],
        names=[name for _, name in names],
    )
    return {(row["drop_id"], row["name"]): row["number"] for row in rows}


async def find_picks(caller: Caller, drop_ids: Sequence[int]) -> dict[int, tuple[bool, int]]:
    """Whether the units of drops have names, and how many there are or will be."""
    rows = await caller.call(_queries["find_picks"], drop_ids=drop_ids)
    return {row["id"]: (row["is_named"], row["total_stock"]) for row in rows}


async def list_units(caller: Caller, drop_id: int, after: int, count: int) -> Sheet | None:
    """Named units after a number; None: no such drop, or its units have no names."""
    words = {"drop_id": drop_id, "after": after, "count": count}
    row = await caller.call(_queries["list_units"], **words)
    if row is None or row["pick"] != "named":
        return None
    columns = (row["numbers"], row["names"], row["statuses"])
    return Sheet(row["epoch"], row["version"], row["total"], list(map(Unit, *columns)))


async def warmest(caller: Caller, count: int) -> list[int]:
    """The warm drops that changed last."""
    return [row["drop_id"] for row in await caller.call(_queries["warmest"], count=count)]


async def signs(caller: Caller, keeper_seconds: float) -> dict[str, float]:
    """What Postgres knows of how the sale is, by metric. A keeper that gave no sign of life for so
    long is none; no keeper ever: no age of its last sign."""
    row = await caller.call(_queries["vital_signs"], seconds=keeper_seconds)
    return {name: float(value) for name, value in row.items() if value is not None}


async def keep_proof(caller: Caller, drop_id: int, proof: Proof) -> None:
    """Remember a recount."""
    await caller.call(
        _queries["keep_proof"],
        drop_id=drop_id,
        version=proof.version,
        proven_at=proof.proven_at,
        problems=proof.problems,
    )


async def find_proof(caller: Caller, drop_id: int) -> Proof | None:
    """The newest recount of a drop."""
    row = await caller.call(_queries["find_proof"], drop_id=drop_id)
    return row and Proof(
        row["version"], row["proven_at"], row["problems"], age_seconds=row["age_seconds"]
    )


async def count_units(session: Session, drop_id: int) -> dict[str, Any] | None:
    """Stock row and rows of one drop from one snapshot, and which of them disagree."""
    row = await session.call(_queries["count_units"], drop_id=drop_id)
    if row is None:
        return None
    found = dict(row)
    queries = {"strays": _queries, "misfits": _queries, "unmet": sql.load("payments")}
    found |= {"misnamed": 0, "misnamed_named": []}
    if found["pick"] == "named" or found["picked_rows"]:
        queries["misnamed"] = _queries
    for name, slice_queries in queries.items():
        rows = await session.call(slice_queries[f"find_{name}"], drop_id=drop_id, count=NAMED)
        found[name] = rows[0]["total"] if rows else 0
        found[f"{name}_named"] = [each["words"] for each in rows]
    return found


async def drops_pictured(caller: Caller, images: Sequence[str]) -> list[tuple[int, str, bool]]:
    """(id, picture, whether anything of it was held or sold) of drops with these pictures."""
    rows = await caller.call(_queries["drops_pictured"], images=images)
    return [(row["id"], row["image_url"], row["touched"]) for row in rows]


async def move_start(caller: Caller, drop_id: int, seconds: float) -> None:
    """Let a drop start so many seconds from now."""
    await caller.call(_queries["move_start"], drop_id=drop_id, seconds=seconds)
