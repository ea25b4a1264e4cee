"""Vitals: how the sale is, looked up once for everybody who asks: lags, stock, drift, undersell.

Three queries and one script a drop, of the drops that changed last. What cannot be looked up, since
Postgres or Redis is away, is left out: a figure that nobody knows is no figure.
"""

from __future__ import annotations

from engine.infra.meter import Labels
from engine.infra.metrics import DROPS_MAX, Values
from engine.infra.postgres import Postgres
from engine.infra.redis import Away
from engine.record import books
from engine.sale import shelf
from engine.sale.audit import undersell
from engine.sale.bouncer import Belief, Bouncer
from engine.sale.models import Drop, Offer
from engine.sale.reconcile import in_slices

KEEPER_SECONDS = 5.0  # without a sign of life, after which a keeper counts as gone


async def look(postgres: Postgres, bouncer: Bouncer, intent_ttl_seconds: float) -> Values:
    """The figures of metrics.py that are looked up, by metric. Raises what Postgres raises."""
    found: dict[str, dict[Labels, float]] = {
        name: {(): value} for name, value in (await shelf.signs(postgres, KEEPER_SECONDS)).items()
    }
    found |= {name: {(): value} for name, value in (await books.signs(postgres)).items()}
    warm = await shelf.warmest(postgres, DROPS_MAX)
    if not warm:
        return found
    drops = {drop.id: drop for drop in await shelf.list_drops(postgres, warm, count=len(warm))}
    beliefs = await _beliefs(bouncer, warm)
    # Figures after beliefs: then a belief can only be the older one.
    for offer in await shelf.offers(postgres, warm):
        drop, belief = drops[offer.drop_id], beliefs.get(offer.drop_id)
        for name, labels, value in _of_drop(drop, offer, belief, intent_ttl_seconds):
            found.setdefault(name, {})[str(drop.id), *labels] = value
    return found


async def _beliefs(bouncer: Bouncer, drop_ids: list[int]) -> dict[int, Belief | None]:
    """What the bouncer believes of each drop; nothing at all if it is away."""

    async def inspect(drop_id: int) -> Belief | None:
        return await bouncer.inspect(drop_id, deep=True)

    try:
        return dict(zip(drop_ids, await in_slices(drop_ids, inspect), strict=True))
    except Away:
        return {}


def _of_drop(
    drop: Drop, offer: Offer, belief: Belief | None, intent_ttl_seconds: float
) -> list[tuple[str, Labels, float]]:
    """(metric, further labels, value) of one drop."""
    figures = offer.figures
    rows: list[tuple[str, Labels, float]] = [
        ("stock_units", (state,), getattr(figures, state))
        for state in ("free", "held", "sold", "withdrawn")
    ]
    if belief is None:
        return rows
    missing = undersell(drop, belief, offer)
    late = (belief.epoch, belief.version) < (figures.epoch, figures.version)
    behind = figures.version - belief.version if belief.epoch == figures.epoch else figures.version
    oldest = belief.oldest_ms / 1000 + intent_ttl_seconds if belief.oldest_ms else 0.0
    return [
        *rows,
        ("drift_units", (), belief.available - (figures.free - belief.summed)),
        ("undersell_units", (), missing.units),
        ("undersell_seconds", (), missing.seconds),
        ("open_intents", (), belief.intents),
        ("oldest_intent_seconds", (), oldest),
        ("publish_lag_versions", (), behind if late else 0),
        ("publish_lag_seconds", (), (offer.now_ms - offer.changed_ms) / 1000 if late else 0.0),
    ]
