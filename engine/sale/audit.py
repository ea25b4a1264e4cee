"""Audit: count everything again and say whether it adds up.

Postgres is counted in one snapshot; the bouncer beside it. `clean` means that no invariant is
broken; drift of the bouncer is shown, and is not a broken invariant while requests are under way.
"""

from __future__ import annotations

from typing import Any

import msgspec

from engine.infra.postgres import Postgres
from engine.infra.redis import Away
from engine.sale import store
from engine.sale.bouncer import Belief, Bouncer


class Audit(msgspec.Struct, frozen=True, rename="camel"):
    """What was counted. `problems` empty: every invariant holds."""

    drop_id: int
    clean: bool
    problems: list[str]
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


async def audit(postgres: Postgres, bouncer: Bouncer, drop_id: int) -> Audit | None:
    """Count one drop; None if there is none."""
    try:
        belief = await bouncer.inspect(drop_id, deep=True)
    except Away:
        belief = None
    async with postgres.transaction(isolation="repeatable_read") as session:
        rows = await store.count_units(session, drop_id)
    if rows is None:
        return None
    problems = _problems(rows)
    return Audit(
        drop_id,
        not problems,
        problems,
        rows["epoch"],
        rows["version"],
        rows["total_stock"],
        rows["free"],
        rows["held"],
        rows["sold"],
        rows["withdrawn"],
        round(max(rows["overdue_seconds"], 0.0), 3),
        _believed(belief),
        None if belief is None else belief.available - (rows["free"] - belief.summed),
    )


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
