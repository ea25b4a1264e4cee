"""Drops: open, fill, change, pause, close and show them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from engine.infra.errors import NotFound
from engine.infra.http import invalid
from engine.infra.postgres import Postgres, Session
from engine.sale import shelf
from engine.sale.errors import Preparing, SoldOut
from engine.sale.models import STOCK_MAX, Change, Drop, NewDrop, Terms

SLICE = 10_000  # units put on the shelf in one transaction
WITHDRAWN_MAX = 50_000  # units taken off sale in one transaction: they must fit a request's time


async def create(session: Session, drop: NewDrop) -> int:
    """A new drop; its id. A small one is full at once, a large one is filled by a keeper."""
    drop_id = await shelf.insert_drop(session, drop)
    if drop.names:
        await _name(session, drop_id, 1, drop.names)
    if drop.total_stock <= SLICE:
        await shelf.fill_drop(session, drop_id, SLICE)
    return drop_id


async def _name(session: Session, drop_id: int, first: int, names: Sequence[str]) -> None:
    if known := await shelf.name_units(session, drop_id, first, names):
        raise invalid("units", f"{known[0]} is the name of a unit already")


async def fill(postgres: Postgres) -> int:
    """Put the next slice of every unfilled drop on the shelf; how many units are still missing."""
    return sum(
        [await shelf.fill_drop(postgres, id, SLICE) for id in await shelf.unfilled_drops(postgres)]
    )


async def change(session: Session, drop_id: int, wish: Change) -> None:
    """Change a drop in mid-sale, all of it or nothing. Holds keep the price and the time they were
    given; held and sold units are never touched.
    Raises `NotFound`, `Invalid`, `SoldOut`, `Preparing`."""
    # Adding locks the drop, then its stock; withdrawing the stock, then the drop: they take turns.
    stocking = wish.add_stock or wish.withdraw_stock
    if stocking and not await shelf.take_fillers_turn(session, drop_id):
        raise NotFound(f"There is no drop {drop_id}")
    if wish.withdraw_stock:
        await _withdraw(session, drop_id, wish.withdraw_stock)
    terms = await shelf.lock_drop(session, drop_id)
    if terms is None:
        raise NotFound(f"There is no drop {drop_id}")
    if terms.total_stock + wish.add_stock > STOCK_MAX:
        room = STOCK_MAX - terms.total_stock
        raise invalid("addStock", f"a drop has at most {STOCK_MAX} units: {room} more fit here")
    if wish.add_stock:
        await _name_more(session, drop_id, terms.total_stock + 1, wish.names)
    told = msgspec.structs.replace(
        terms, **wish.terms, total_stock=terms.total_stock + wish.add_stock
    )
    _check(told)
    await shelf.change_drop(session, drop_id, told)
    if wish.add_stock:  # a keeper adds what does not fit one slice
        await shelf.fill_drop(session, drop_id, SLICE)


async def _name_more(session: Session, drop_id: int, first: int, names: Sequence[str]) -> None:
    """Names for units that are added, if there must be any: numbers go on by themselves. Not while
    units are still to come that are called by theirs: such a name would be one of them."""
    is_named = (await one(session, drop_id)).pick == "named"
    if names:
        if not is_named:
            raise invalid("units", "the units of this drop have no names: say addStock")
        stock = await shelf.stock_of(session, drop_id)
        if stock is None or stock.total < first - 1:
            raise Preparing("Units are still being put on the shelf: name more when all are there")
        await _name(session, drop_id, first, names)
    elif is_named and await shelf.named_otherwise(session, drop_id):
        raise invalid("units", "the units of this drop have names: say how the new ones are called")


async def _withdraw(session: Session, drop_id: int, wanted: int | str) -> None:
    stock = await shelf.stock_of(session, drop_id)
    if stock is None:
        raise NotFound(f"There is no drop {drop_id}")
    if wanted == "all" and (await one(session, drop_id)).total_stock > stock.total:
        raise Preparing("Units are still being put on the shelf: all of them cannot be withdrawn")
    if wanted == "all" and stock.free > WITHDRAWN_MAX:
        raise invalid(
            "withdrawStock",
            f"{stock.free} units are free: withdraw {WITHDRAWN_MAX} at a time, or close the drop",
        )
    count = wanted if isinstance(wanted, int) else None
    taken, free, held = await shelf.withdraw_units(session, drop_id, count)
    if count is not None and taken < count:
        # What was taken is undone with this transaction, so it is free as well.
        raise SoldOut(
            f"Only {taken + free} units are free: nothing was withdrawn",
            final=False,
            availableStock=taken + free,
            heldStock=held,
        )


def _check(terms: Terms) -> None:
    """What the parts of a change must add up to, with what they leave as it was."""
    if terms.ends_at is not None and terms.ends_at < terms.starts_at:
        raise invalid("endsAt", "a drop cannot end before it starts")
    if terms.max_hold_seconds < terms.hold_seconds:
        raise invalid("maxHoldSeconds", f"less than holdSeconds, which is {terms.hold_seconds}")


async def pause(session: Session, drop_id: int, reason: str | None) -> None:
    """Stop selling (or go on, with None). Live holds stay valid and can be bought."""
    if not await shelf.set_pause(session, drop_id, reason):
        raise NotFound(f"There is no drop {drop_id}")


async def close(session: Session, drop_id: int) -> None:
    """End a drop now. Live holds stay valid and can be bought."""
    if not await shelf.close_drop(session, drop_id):
        raise NotFound(f"There is no drop {drop_id}")


async def one(caller: Postgres | Session, drop_id: int) -> Drop:
    """A drop as it stands."""
    found = await shelf.list_drops(caller, ids=[drop_id])
    if not found:
        raise NotFound(f"There is no drop {drop_id}")
    return found[0]
