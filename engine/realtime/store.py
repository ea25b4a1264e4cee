"""Postgres for the live part: what was told in the outbox, and where it ends."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

import msgspec

from engine.infra import sql
from engine.infra.postgres import Postgres
from engine.realtime.models import Seats, Slot
from engine.record import books
from engine.record.views import EntryView, entry_view

EVER = 2**62  # after every sequence

_queries = sql.load("realtime")


class Fact(msgspec.Struct, frozen=True):
    """A row of the outbox: something happened to so many holds of a drop, or to its terms."""

    id: int
    drop_id: int
    kind: str
    told_at: datetime
    count: int
    subjects: list[str]  # the holds, if they were asked for


async def read_facts(
    postgres: Postgres, after: int, gaps: Sequence[int], named: bool, most: int
) -> tuple[int, datetime, list[Fact]]:
    """The epoch, Postgres's time, and what was told after a position and in gaps before it."""
    query = _queries["read_facts"]
    rows = await postgres.call(query, after=after, gaps=gaps, named=named, most=most)
    facts = [
        Fact(
            row["id"],
            row["drop_id"],
            row["kind"],
            row["created_at"],
            row["count"],
            [str(id) for id in row["subjects"] or ()],
        )
        for row in rows
        if row["id"] is not None
    ]
    return rows[0]["present"], rows[0]["now"], facts


async def newest_fact(postgres: Postgres) -> tuple[int, int, datetime, list[int]]:
    """The epoch, where the outbox ends, Postgres's time, and which of the last numbers are not
    there: some of them may still be on their way."""
    row = await postgres.call(_queries["newest_fact"])
    return row["present"], row["id"], row["now"], row["missing"]


async def free_units(postgres: Postgres, drop_ids: Sequence[int], most: int) -> list[Seats]:
    """The shelves of those of these drops that are named and have no more units than that."""
    rows = await postgres.call(_queries["free_units"], drops=drop_ids, most=most)
    return [
        Seats(row["drop_id"], row["present"], row["version"], frozenset(row["numbers"]))
        for row in rows
    ]


async def live_slots(postgres: Postgres, drop_ids: Collection[int] | None, most: int) -> list[Slot]:
    """Slots of some drops, or all, by name."""
    drops = None if drop_ids is None else sorted(drop_ids)
    rows = await postgres.call(_queries["live_slots"], drops=drops, most=most)
    return [
        Slot(
            row["drop_id"],
            row["number"],
            row["name"],
            row["status"],
            row["temp_status"],
            row["temperature"],
            row["target_temp"],
            row["measured_at"],
            row["expires_at"],
            None if row["reservation_id"] is None else str(row["reservation_id"]),
            row["buyer"],
        )
        for row in rows
    ]


async def lapsed_slots(
    postgres: Postgres, ids: Sequence[str]
) -> dict[tuple[int, int], tuple[str, str]]:
    """(drop, number) of the slots that these holds held: the hold, and whose it was."""
    rows = await postgres.call(_queries["lapsed_slots"], ids=ids)
    return {(row["drop_id"], row["number"]): (str(row["id"]), row["buyer"]) for row in rows}


async def newest_entries(postgres: Postgres, most: int) -> list[EntryView]:
    """The newest records of the ledger, oldest first, each with its link."""
    return [entry_view(record) for record in reversed(await books.shown(postgres, EVER, most))]
