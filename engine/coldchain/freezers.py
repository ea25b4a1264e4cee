"""Freezers: drops whose named units are slots. A hold lasts 120 s; nobody's share is limited."""

from __future__ import annotations

from collections.abc import Sequence

from engine.coldchain import store
from engine.coldchain.models import COLDEST, HOLD_SECONDS, TARGET_TEMP, WARMEST
from engine.infra.http import invalid
from engine.infra.postgres import Postgres, Session
from engine.sale import drops
from engine.sale.models import NewDrop

PAY_SECONDS = 600  # nobody pays for a slot, but a drop has such a time
SLOTS_MAX = drops.SLICE  # a freezer is there at once


async def open_freezer(
    session: Session,
    slots: Sequence[str],
    days: int,
    name: str = "Freezer",
    target_temp: float = TARGET_TEMP,
    image_url: str | None = None,
) -> int:
    """A freezer with a slot of each name, at the temperature it is to have; its drop's id. The
    caller tells the bouncer of the drop. Readings of the last `days` have a place from now on.
    Raises `Invalid`."""
    _check(slots, name, target_temp)
    drop_id = await drops.create(
        session,
        NewDrop(
            name,
            0,
            "USD",
            image_url,
            None,
            None,
            HOLD_SECONDS,
            HOLD_SECONDS * 2,
            PAY_SECONDS,
            None,
            1,
            len(slots),
            pick="named",
            listed=False,
            names=tuple(slots),
        ),
    )
    await store.open_slots(session, drop_id, len(slots), target_temp)
    await store.partition_readings(session, days)
    return drop_id


def _check(slots: Sequence[str], name: str, target_temp: float) -> None:
    if not 1 <= len(slots) <= SLOTS_MAX:
        raise invalid("slots", f"want 1 to {SLOTS_MAX} names")
    for each in (name, *slots):
        if not (1 <= len(each) <= 100 and each.isprintable()):
            raise invalid("slots", f"{each[:20]!r} is no name: want 1 to 100 printable characters")
    if len(set(slots)) < len(slots):
        raise invalid("slots", "the same name twice")
    if not COLDEST <= target_temp <= WARMEST:
        raise invalid("targetTemp", f"want {COLDEST} to {WARMEST:g} °C")


async def partition(postgres: Postgres, days: int) -> int:
    """Have a place for readings where there are slots; how many weeks came or went."""
    if not await store.find_freezers(postgres):
        return 0
    return await store.partition_readings(postgres, days)
