"""Postgres for the live part: what was told in the outbox, and where it ends."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from engine.infra import sql
from engine.infra.postgres import Postgres

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
