"""What clients see of a drop's named units: a page of its seat map."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from engine.infra.describe import shown
from engine.infra.lists import Count, Page, listing
from engine.sale.models import unit_id
from engine.sale.shelf import Sheet


class SeatView(msgspec.Struct):
    """One named unit of a drop."""

    id: int
    number: int
    name: str
    status: Annotated[str, shown(enum=["free", "held", "sold", "withdrawn"])]


class SheetView(msgspec.Struct, rename="camel"):
    """A page of a drop's named units in their order, at one version."""

    drop_id: int
    epoch: int
    version: int
    data: list[SeatView]
    next_cursor: str | None
    meta: Count | UnsetType = UNSET


def sheet_view(drop_id: int, sheet: Sheet, page: Page) -> SheetView:
    """A page of a seat map for everybody."""
    rows = [
        SeatView(unit_id(drop_id, unit.number), unit.number, unit.name, unit.status)
        for unit in sheet.units
    ]
    last = rows[-1].number if rows else sheet.total
    cursor = str(last) if last < sheet.total else None
    told = listing(rows, page, cursor, sheet.total)
    return SheetView(drop_id, sheet.epoch, sheet.version, told.data, told.next_cursor, told.meta)
