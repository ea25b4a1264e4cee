"""What the `drop` commands do: straight to Postgres, then the bouncer is told.

Never over HTTP, so that a sale can be paused although every worker hangs. Arguments are checked
by the same words as the API's, transactions are the same verbs.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from msgspec import UNSET
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from engine.infra.errors import Invalid, NotFound
from engine.infra.http import money
from engine.infra.ids import parse_id
from engine.infra.postgres import Postgres, Session, Undone
from engine.infra.settings import Settings
from engine.ops import terminal
from engine.runtime import Ground, ground
from engine.sale import drops, reconcile, shelf, store, views
from engine.sale.models import Drop, Hold, Release
from engine.sale.release import check, publish_returned

STATEMENT_MS = 20_000  # ten thousand units on a busy machine
LOOK_SECONDS = 0.2
QUIET_SECONDS = 10.0  # without progress, before we say that nobody seems to fill
PAGE = 100
CHECK_VIOLATION = "23514"
OPTIONS = {
    "totalStock": "--stock",
    "addStock": "UNITS",
    "pick": "--named",
    "withdrawStock": "UNITS",
    "body": "the options",
}
COLUMNS = (
    "#id",
    "name",
    "status",
    "#price",
    "",
    "#free",
    "#held",
    "#sold",
    "#withdrawn",
    "#total",
    "starts (UTC)",
    "ends (UTC)",
)
SPARE = ("#withdrawn", "ends (UTC)", "starts (UTC)", "#total")

T = TypeVar("T")
Effect = Callable[[Session], Awaitable[int]]


def checked(read: Callable[..., T], body: Any) -> T:
    """What the API's own check makes of it; a refusal names the option instead of the field."""
    try:
        return read(body)
    except Invalid as wrong:
        raise _worded(wrong) from None


def _worded(wrong: Invalid) -> Invalid:
    fields = wrong.details.get("fields")
    if not fields:
        return wrong
    name, problem = fields[0]["field"], fields[0]["problem"]
    dashed = "--" + re.sub(r"([A-Z])", r"-\1", name).lower()
    return Invalid(f"{OPTIONS.get(name, dashed)}: {problem}")


def lines_of(path: Path) -> list[str]:
    """Names of units, a line each; empty lines are none."""
    try:
        return [line for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{path} cannot be read: {error}") from None


def picks(named: bool, units: Path | None) -> dict[str, Any]:
    """What a new drop's body says of its units."""
    if units is not None and not named:
        raise Invalid("--units: add --named, so that buyers pick units by these names")
    told: dict[str, Any] = {"pick": "named"} if named else {}
    return told if units is None else told | {"units": lines_of(units)}


def more(units: int | Path) -> dict[str, Any]:
    """What a change says of units that are added: how many, or how they are called."""
    return {"add_stock": units} if isinstance(units, int) else {"units": lines_of(units)}


def limit(text: str | None) -> Any:
    """A number of units a buyer, None for `none`, UNSET if nothing was said."""
    match optional(text):
        case str(said) if not said.isascii() or not said.isdigit():
            raise Invalid("--max-per-buyer: want a number, or none")
        case str(said):
            return int(said)
        case other:
            return other


def optional(text: str | None) -> Any:
    """A text, None for `none`, UNSET if nothing was said."""
    if text is None:
        return UNSET
    return None if text == "none" else text


def said(value: T | None) -> Any:
    """A value, or UNSET if nothing was said."""
    return UNSET if value is None else value


async def act(given: Settings, effect: Effect, *, wait: bool = False) -> Drop:
    """Do it in one transaction, tell the bouncer, and return the drop as it stands then."""
    async with ground(given, STATEMENT_MS) as base:
        try:
            async with base.postgres.transaction() as session:
                drop_id = await effect(session)
        except Undone as undone:
            if undone.sqlstate == CHECK_VIOLATION:  # only Postgres knows when "now" is
                raise Invalid("--ends-at: a drop cannot end before it starts") from None
            raise
        except Invalid as wrong:
            raise _worded(wrong) from None
        await _tell(base, drop_id)
        if wait:
            await _fill(base.postgres, drop_id)
        return await drops.one(base.postgres, drop_id)


async def release(given: Settings, reservation: str) -> Hold:
    """Give a live hold back for its buyer; the hold as it was. Twice is once."""
    found = parse_id(reservation)
    if found is None:
        raise NotFound(f"There is no reservation {reservation}")
    wish = Release(found, None)
    async with ground(given) as base:
        async with base.postgres.transaction() as session:
            hold = await store.find_reservation(session, wish.reservation_id)
            returned = await store.release_holds(session, [wish])
        if not returned:
            check(wish, hold)
        await publish_returned(base.bouncer, returned)
    assert hold is not None, "`check` refuses what is not there"
    return hold


async def find(given: Settings, statuses: list[str] | None, most: int) -> list[Drop]:
    """Drops of these statuses, newest first."""
    async with ground(given) as base:
        found: list[Drop] = []
        while len(found) < most:
            before = found[-1].id if found else None
            page = min(PAGE, most - len(found))
            more = await shelf.list_drops(base.postgres, None, statuses, before, page)
            found += more
            if len(more) < page:
                break
        return found


async def timeline(given: Settings, buyer: str, most: int, json: bool) -> None:
    """Show what a buyer held and what became of it, newest first."""
    async with ground(given) as base:
        lives = await store.list_holds(base.postgres, buyer=buyer, count=most)
    if json:
        terminal.show_json([views.chapter(life) for life in lives])
        return
    columns = ("reservation", "#drop", "name", "#units", "status", "reserved (UTC)")
    rows = [
        (
            life.hold.id,
            str(life.hold.drop_id),
            life.drop_name,
            life.hold.quantity,
            life.hold.status,
            life.created_at,
            life.hold.expires_at,
            life.ended_at,
            life.purchase_id,
        )
        for life in lives
    ]
    terminal.show((*columns, "held until", "ended", "purchase"), rows)


def show_one(drop: Drop, json: bool) -> None:
    """One drop: a row for a person, the API's own view for a program."""
    show_many([drop], json, single=True)


def show_many(found: list[Drop], json: bool, *, single: bool = False) -> None:
    """Drops as a table, or as the API shows them."""
    if json:
        shown = [views.drop_view(drop) for drop in found]
        terminal.show_json(shown[0] if single else shown)
    else:
        terminal.show(COLUMNS, [_row(drop) for drop in found], SPARE)


def show_all_of(drop: Drop) -> None:
    """Everything known of one drop, a line each."""
    view = views.drop_view(drop)
    names = [name for name in view.__struct_fields__ if getattr(view, name) is not UNSET]
    terminal.show(("", ""), [(name.replace("_", " "), getattr(view, name)) for name in names])


def _row(drop: Drop) -> tuple[object, ...]:
    reason = f" ({drop.paused_reason})" if drop.status == "paused" and drop.paused_reason else ""
    return (
        str(drop.id),
        drop.name,
        f"{drop.status}{reason}",
        money(drop.price_cents),
        drop.currency,
        drop.free,
        drop.held,
        drop.sold,
        drop.withdrawn,
        drop.total_stock,
        drop.starts_at,
        drop.ends_at,
    )


async def _tell(base: Ground, drop_id: int) -> None:
    if not await reconcile.tell(base.postgres, base.bouncer, [drop_id]):
        terminal.note(
            "velvetrope: done in Postgres; Redis is away, a keeper tells it when it is back"
        )


async def _fill(postgres: Postgres, drop_id: int) -> None:
    """Watch a keeper put the units on the shelf. Leaving early changes nothing."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    out = terminal.console()
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        drop = await drops.one(postgres, drop_id)
        task = bar.add_task("units", total=drop.total_stock)
        there, changed_at = -1, time.monotonic()
        while True:
            stock = await shelf.stock_of(postgres, drop_id)
            assert stock is not None, "drops are never deleted"
            now = stock.free + stock.held + stock.sold + stock.withdrawn
            bar.update(task, completed=now)
            if now >= drop.total_stock:
                return
            if now != there:
                there, changed_at = now, time.monotonic()
            elif time.monotonic() - changed_at > QUIET_SECONDS:
                terminal.note(
                    f"velvetrope: {now:,} of {drop.total_stock:,} units are there and nobody adds "
                    "more: does a keeper run (`velvetrope keep`)?"
                )
                changed_at = time.monotonic()
            await asyncio.sleep(LOOK_SECONDS)
