"""Postgres for the audit log: one function a query of sql/queries/deeds.sql."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from engine.infra import sql
from engine.infra.postgres import Postgres

_queries = sql.load("deeds")


class Act(msgspec.Struct, frozen=True):
    """What somebody is about to do, or tries. `change` is JSON, without secrets."""

    who: str
    operation: str
    target: str | None = None
    change: str | None = None
    request_id: str | None = None
    address: str | None = None


class Ended(msgspec.Struct, frozen=True):
    """How it ended: `done` or a code, the HTTP status if there is one, what was made."""

    outcome: str
    status: int | None = None
    target: str | None = None


class Deed(msgspec.Struct, frozen=True):
    """An act with its end; `outcome` is `unknown` where there is none."""

    id: int
    who: str
    operation: str
    target: str | None
    change: str | None  # JSON
    outcome: str
    status: int | None
    request_id: str | None
    address: str | None
    at: datetime
    ended_at: datetime | None


class Wanted(msgspec.Struct, frozen=True):
    """Which acts are meant: those of which all that is given is true."""

    who: str | None = None
    operation: str | None = None
    outcome: str | None = None
    since: datetime | None = None
    until: datetime | None = None  # that moment too


async def begin_deed(postgres: Postgres, act: Act) -> int:
    """Write down what is about to be done; its id."""
    row = await postgres.call(_queries["begin_deed"], **msgspec.structs.asdict(act))
    return int(row["id"])


async def end_deed(postgres: Postgres, began: int, act: Act, ended: Ended) -> None:
    """Write down how it ended, once."""
    await postgres.call(
        _queries["end_deed"],
        began=began,
        who=act.who,
        operation=act.operation,
        request_id=act.request_id,
        **msgspec.structs.asdict(ended),
    )


async def refuse_deed(postgres: Postgres, act: Act, ended: Ended) -> None:
    """Write down what was tried in vain: one row."""
    words = {name: value for name, value in msgspec.structs.asdict(act).items() if name != "change"}
    await postgres.call(
        _queries["refuse_deed"], **words, outcome=ended.outcome, status=ended.status
    )


async def list_deeds(
    postgres: Postgres, wanted: Wanted, before: int | None, count: int, skip: int = 0
) -> list[Deed]:
    """Acts, newest first, before an id."""
    place: dict[str, Any] = {"before": before, "count": count, "skip": skip}
    words = msgspec.structs.asdict(wanted) | place
    rows = await postgres.call(_queries["list_deeds"], **words)
    return [Deed(**dict(row)) for row in rows]


async def count_deeds(postgres: Postgres, wanted: Wanted, most: int) -> int:
    """How many acts are meant; counted up to `most`."""
    words = msgspec.structs.asdict(wanted) | {"most": most}
    return int((await postgres.call(_queries["count_deeds"], **words))["items"])
