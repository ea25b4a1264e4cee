"""Openings: drops whose numbers are members'. Each is drawn from a shuffled shelf, as every unit
that nobody picks: the order is that of a CSPRNG (sql/functions/fill_drop.sql)."""

from __future__ import annotations

import re
from datetime import datetime

from engine.infra.errors import Invalid, Misconfigured
from engine.infra.http import invalid
from engine.infra.postgres import Postgres, Session, Undone
from engine.infra.settings import Settings
from engine.membership import store
from engine.membership.errors import TierTaken
from engine.membership.models import LIMIT_MAX, NAME_FORM
from engine.sale import drops
from engine.sale.checks import NAME_MAX, whole
from engine.sale.models import STOCK_MAX, NewDrop

HOLD_SECONDS = 60  # nobody holds a number, but a drop has such a time
UNIQUE_VIOLATION = "23505"


async def open_tier(
    session: Session,
    tier: str,
    year: str,
    capacity: int,
    *,
    name: str | None = None,
    image_url: str | None = None,
    starts_at: datetime | None = None,
    max_per_buyer: int | None = None,
) -> int:
    """A drop with the numbers 1 to `capacity`; its id. The caller tells the bouncer of it.
    Raises `Invalid`, `TierTaken`."""
    _check(tier, year, capacity)
    if name is not None and not (1 <= len(name) <= NAME_MAX and name.isprintable()):
        raise invalid("name", f"want 1 to {NAME_MAX} printable characters")
    if max_per_buyer is not None:
        whole("maxPerBuyer", max_per_buyer, LIMIT_MAX)
    drop_id = await drops.create(
        session,
        NewDrop(
            name or f"{tier.capitalize()} {year}",
            0,
            "USD",
            image_url,
            starts_at,
            None,
            HOLD_SECONDS,
            HOLD_SECONDS,
            HOLD_SECONDS,
            max_per_buyer,
            1,
            capacity,
            pick="minted",
            listed=False,
        ),
    )
    try:
        await store.open_membership_drop(session, drop_id, tier, year)
    except Undone as undone:
        if undone.sqlstate != UNIQUE_VIOLATION:
            raise
        raise TierTaken from None
    return drop_id


def _check(tier: str, year: str, capacity: int) -> None:
    for field, text in (("tier", tier), ("year", year)):
        if re.fullmatch(NAME_FORM, text) is None:
            raise invalid(field, "want 1 to 32 letters, digits, - and _")
    whole("capacity", capacity, STOCK_MAX)


def check_configured(settings: Settings) -> None:
    """Raise `Misconfigured` if these settings want a drop that can be none."""
    if settings.drop_capacity:
        try:
            _check(settings.drop_tier, settings.drop_year, settings.drop_capacity)
        except Invalid as wrong:
            said = f"DROP_TIER, DROP_YEAR, DROP_CAPACITY: {wrong.message}"
            raise Misconfigured(said) from None


async def open_configured(postgres: Postgres, settings: Settings) -> int | None:
    """The drop that DROP_TIER, DROP_YEAR and DROP_CAPACITY want, if it is not there; its id."""
    if not settings.drop_capacity:
        return None
    named = (settings.drop_tier, settings.drop_year)
    if await store.find_tiers(postgres, named=named):
        return None
    try:
        async with postgres.transaction() as session:
            return await open_tier(session, *named, settings.drop_capacity)
    except TierTaken:  # another keeper was first
        return None
