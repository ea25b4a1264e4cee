"""Drops: open, fill, pause, close and show them."""

from __future__ import annotations

from engine.infra.errors import NotFound
from engine.infra.postgres import Postgres, Session
from engine.sale import store
from engine.sale.models import Drop, NewDrop

SLICE = 10_000  # units put on the shelf in one transaction


async def create(session: Session, drop: NewDrop) -> int:
    """A new drop; its id. A small one is full at once, a large one is filled by a keeper."""
    drop_id = await store.insert_drop(session, drop)
    if drop.total_stock <= SLICE:
        await store.fill_drop(session, drop_id, SLICE)
    return drop_id


async def fill(postgres: Postgres) -> int:
    """Put the next slice of every unfilled drop on the shelf; how many units are still missing."""
    return sum(
        [await store.fill_drop(postgres, id, SLICE) for id in await store.unfilled_drops(postgres)]
    )


async def pause(session: Session, drop_id: int, reason: str | None) -> None:
    """Stop selling (or go on, with None). Live holds stay valid and can be bought."""
    if not await store.set_pause(session, drop_id, reason):
        raise NotFound(f"There is no drop {drop_id}")


async def close(session: Session, drop_id: int) -> None:
    """End a drop now. Live holds stay valid and can be bought."""
    if not await store.close_drop(session, drop_id):
        raise NotFound(f"There is no drop {drop_id}")


async def one(caller: Postgres | Session, drop_id: int) -> Drop:
    """A drop as it stands."""
    found = await store.list_drops(caller, ids=[drop_id])
    if not found:
        raise NotFound(f"There is no drop {drop_id}")
    return found[0]
