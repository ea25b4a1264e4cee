"""Audit: count everything again and say whether it adds up.

Postgres is counted in one snapshot; the bouncer beside it. `clean` means that no invariant is
broken; drift of the bouncer is shown, and is not a broken invariant while requests are under way.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec

from engine.infra.http import iso
from engine.infra.postgres import Postgres
from engine.infra.redis import Away
from engine.sale import store
from engine.sale.bouncer import Belief, Bouncer

REMEMBERED_MAX = 1_000  # drops


class Audit(msgspec.Struct, frozen=True, rename="camel"):
    """What was counted. `problems` empty: every invariant holds."""

    drop_id: int
    clean: bool
    problems: list[str]
    proven_at: str  # when the rows were last counted
    epoch: int
    version: int
    total_stock: int
    free: int
    held: int
    sold: int
    withdrawn: int
    overdue_seconds: float  # how long the oldest hold is past its deadline
    bouncer: dict[str, int] | None  # None: it is away, or knows nothing of this drop
    drift: int | None  # bouncer's available − (free − open intents); 0 when all agree


class Auditing:
    """The audits of one worker. Figures are live; the rows behind them are counted by one at a
    time and at most every few seconds, since everybody may ask and counting is dear."""

    def __init__(self, postgres: Postgres, bouncer: Bouncer, recount_seconds: float) -> None:
        self._postgres, self._bouncer = postgres, bouncer
        self._recount_seconds = recount_seconds
        self._counting = asyncio.Lock()
        self._counted: dict[int, tuple[float, dict[str, Any]]] = {}

    async def audit(self, drop_id: int) -> Audit | None:
        """Does one drop add up? None if there is none."""
        rows = await self._count(drop_id)
        if rows is None:
            return None
        try:
            belief = await self._bouncer.inspect(drop_id, deep=True)
        except Away:
            belief = None
        figures = (await store.offers(self._postgres, [drop_id]))[0].figures
        problems = _problems(rows)
        return Audit(
            drop_id,
            not problems,
            problems,
            iso(rows["counted_at"]),
            figures.epoch,
            figures.version,
            rows["total_stock"],
            figures.free,
            figures.held,
            figures.sold,
            figures.withdrawn,
            round(max(rows["overdue_seconds"], 0.0), 3),
            _believed(belief),
            None if belief is None else belief.available - (figures.free - belief.summed),
        )

    async def _count(self, drop_id: int) -> dict[str, Any] | None:
        async with self._counting:
            known = self._counted.get(drop_id)
            if known is not None and time.monotonic() < known[0]:
                return known[1]
            async with self._postgres.transaction(isolation="repeatable_read") as session:
                rows = await store.count_units(session, drop_id)
            if rows is not None:
                if len(self._counted) >= REMEMBERED_MAX:
                    self._counted.clear()
                self._counted[drop_id] = time.monotonic() + self._recount_seconds, rows
            return rows


def _problems(rows: dict[str, Any]) -> list[str]:
    """Broken invariants, in words."""
    checks = [
        (rows["free"] == rows["free_rows"], "INV-2: free units and the stock row differ"),
        (rows["held"] == rows["held_rows"], "INV-2: held units and the stock row differ"),
        (rows["sold"] == rows["sold_rows"], "INV-2: sold units and the stock row differ"),
        (
            rows["withdrawn"] == rows["withdrawn_rows"],
            "INV-2: withdrawn units and the stock row differ",
        ),
        (rows["held"] == rows["live_units"], "INV-5: held units and live holds differ"),
        (rows["sold"] == rows["bought_units"], "INV-1: sold units and purchases differ"),
        (
            rows["used_units"] == rows["held"] + rows["sold"],
            "INV-8: allowances and owned units differ",
        ),
        (rows["over_limit"] == 0, "INV-8: a buyer owns more than the limit"),
        (rows["strays"] == 0, "INV-1: units and holds disagree about who owns whom"),
    ]
    return [f"{words} ({_shown(rows)})" for holds, words in checks if not holds]


def _shown(rows: dict[str, Any]) -> str:
    names = (
        "free",
        "held",
        "sold",
        "withdrawn",
        "total",
        "live_units",
        "bought_units",
        "used_units",
        "strays",
    )
    return ", ".join(f"{name}={rows[name]}" for name in names)


def _believed(belief: Belief | None) -> dict[str, int] | None:
    if belief is None:
        return None
    return {
        "epoch": belief.epoch,
        "version": belief.version,
        "free": belief.free,
        "available": belief.available,
        "openIntents": belief.intents,
        "openUnits": belief.summed,
        "miscounted": belief.open - belief.summed,
        "oldestIntentMs": belief.oldest_ms,
    }
