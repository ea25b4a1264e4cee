"""`velvetrope drop …`: run a sale from the terminal, past the workers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import cyclopts
from cyclopts import Parameter
from cyclopts.validators import Number

from engine.infra.settings import Settings
from engine.ops import terminal
from engine.sale.bodies import DROP_ID_MAX
from engine.sale.models import DropStatus

drop = cyclopts.App(
    name="drop",
    help="""Run a sale: list, create, change, pause and close drops, add and withdraw stock.

These commands speak to Postgres and then tell the bouncer; no worker is asked. So they work while
workers hang, and while Redis is away. Running workers go by a change within a second. Held and
sold units are never touched: what a buyer holds stays valid and can be bought.""",
)

Id = Annotated[
    int, Parameter(help="the drop's id", name="DROP", validator=Number(gte=1, lte=DROP_ID_MAX))
]
Price = Annotated[str, Parameter(help="money with at most two decimals: 120 or 119.90")]
Moment = Annotated[str | None, Parameter(help="ISO 8601: 2030-01-31T12:00:00Z (UTC unless said)")]
Currency = Annotated[str | None, Parameter(help="three letters (USD)")]
End = Annotated[str | None, Parameter(help="the same, or none")]
HoldSeconds = Annotated[int | None, Parameter(help="how long a buyer may think (60)")]
LifeSeconds = Annotated[int | None, Parameter(help="how long a hold may be extended to")]
PaySeconds = Annotated[int | None, Parameter(help="to pay in, once payment has begun (600)")]
EachBuyer = Annotated[str | None, Parameter(help="units a buyer: a number or none (1)")]
EachOrder = Annotated[int | None, Parameter(help="units a reservation (up to 10)")]
CoolDown = Annotated[
    int | None, Parameter(help="who lets a hold go waits so many times as long (0: off)")
]
Picture = Annotated[str | None, Parameter(help="a path or an http(s) address, or none")]
Wait = Annotated[bool, Parameter(help="show a bar until a keeper has put every unit there")]
Limit = Annotated[
    int, Parameter(help="how many, newest first (50)", validator=Number(gte=1, lte=10_000))
]
AsJson = Annotated[bool, Parameter(help="for programs: as the API shows it")]

BESIDE = ("id", "json")


@drop.command(name="list")
def list_(
    *,
    status: Annotated[list[DropStatus] | None, Parameter(help="only these; repeatable")] = None,
    limit: Limit = 50,
    json: AsJson = False,
) -> None:
    """Show drops with their stock, newest first.

    The figures are Postgres's own, not the bouncer's.

    **Examples**

        velvetrope drop list --status live --status paused
        velvetrope drop list --limit 500 --json
    """
    from engine.ops import drop_acts

    async def look(given: Settings) -> None:
        statuses: list[str] | None = [*status] if status else None
        drop_acts.show_many(await drop_acts.find(given, statuses, limit), json)

    terminal.run(look)


@drop.command
def show(id: Id, /, *, json: AsJson = False) -> None:
    """Show everything about one drop.

    Terms, window, limits and stock. Whether it adds up is another question: `velvetrope audit`.

    **Examples**

        velvetrope drop show 20
    """
    from engine.ops import drop_acts
    from engine.runtime import ground
    from engine.sale import drops

    async def look(given: Settings) -> None:
        async with ground(given) as base:
            found = await drops.one(base.postgres, id)
        if json:
            drop_acts.show_one(found, json)
        else:
            drop_acts.show_all_of(found)

    terminal.run(look)


@drop.command
def create(
    name: Annotated[str, Parameter(help="what is sold, as buyers see it")],
    /,
    *,
    price: Price,
    stock: Annotated[int | None, Parameter(help="units, 1 to 1,000,000")] = None,
    named: Annotated[bool, Parameter(negative="", help="buyers pick units: seats, slots")] = False,
    units: Annotated[Path | None, Parameter(help="a file of their names, a line each")] = None,
    currency: Currency = None,
    starts_at: Moment = None,
    ends_at: Moment = None,
    hold_seconds: HoldSeconds = None,
    max_hold_seconds: LifeSeconds = None,
    pay_seconds: PaySeconds = None,
    max_per_buyer: EachBuyer = None,
    max_per_order: EachOrder = None,
    cooldown_factor: CoolDown = None,
    image_url: Picture = None,
    wait: Wait = False,
    json: AsJson = False,
) -> None:
    """Make a drop.

    It opens at `--starts-at`, or now. Of more than 10,000 units a keeper puts them on the shelf, a
    million in about ten seconds. It is `preparing` meanwhile; `--wait` shows how far it is. With
    `--named` buyers pick units by name, or by number if there is no file.

    **Examples**

        velvetrope drop create "Meridian Daybreak" --price 139 --stock 120
        velvetrope drop create "Premiere" --price 45 --named --units seats.txt
        velvetrope drop create "Tour" --price 89.50 --stock 200000 --max-per-buyer 4 \\
            --starts-at 2030-01-31T12:00:00Z --hold-seconds 300 --wait
    """
    from engine.ops import drop_acts
    from engine.ops.drop_acts import optional, said
    from engine.sale import bodies, drops

    async def work(given: Settings) -> None:
        body = bodies.DropBody(
            name=name,
            price=price,
            total_stock=said(stock),
            **drop_acts.picks(named, units),
            currency=said(currency),
            starts_at=optional(starts_at),
            ends_at=optional(ends_at),
            hold_seconds=said(hold_seconds),
            max_hold_seconds=said(max_hold_seconds),
            pay_seconds=said(pay_seconds),
            max_per_buyer=drop_acts.limit(max_per_buyer),
            max_per_order=said(max_per_order),
            cooldown_factor=said(cooldown_factor),
            image_url=optional(image_url),
        )
        wish = drop_acts.checked(bodies.new_drop, body)
        made = await drop_acts.act(given, lambda session: drops.create(session, wish), wait=wait)
        drop_acts.show_one(made, json)

    terminal.run(work, deed="create_drop", name=name, stock=stock, price=price)


@drop.command
def change(
    id: Id,
    /,
    *,
    name: Annotated[str | None, Parameter(help="a new name")] = None,
    price: Price | None = None,
    starts_at: Moment = None,
    ends_at: End = None,
    hold_seconds: HoldSeconds = None,
    max_hold_seconds: LifeSeconds = None,
    pay_seconds: PaySeconds = None,
    max_per_buyer: EachBuyer = None,
    max_per_order: EachOrder = None,
    cooldown_factor: CoolDown = None,
    image_url: Picture = None,
    json: AsJson = False,
) -> None:
    """Change a drop's terms, also in mid-sale; what is not named stays.

    Holds keep the price and the deadline they were given; new ones go by the new terms. All of it
    is changed, or nothing.

    **Examples**

        velvetrope drop change 20 --price 99 --max-per-buyer none
        velvetrope drop change 20 --starts-at 2030-01-31T13:00:00Z --ends-at none
    """
    options = dict(locals()).items()  # as they were typed, for the line that tells of it
    changed = {name: said for name, said in options if said is not None and name not in BESIDE}
    from engine.ops.drop_acts import limit, optional, said

    async def work(given: Settings) -> None:
        await _change(
            given,
            id,
            json,
            name=said(name),
            price=said(price),
            starts_at=said(starts_at),
            ends_at=optional(ends_at),
            hold_seconds=said(hold_seconds),
            max_hold_seconds=said(max_hold_seconds),
            pay_seconds=said(pay_seconds),
            max_per_buyer=limit(max_per_buyer),
            max_per_order=said(max_per_order),
            cooldown_factor=said(cooldown_factor),
            image_url=optional(image_url),
        )

    terminal.run(work, deed="change_drop", drop_id=id, change=changed)


@drop.command
def add(
    id: Id,
    units: Annotated[int | Path, Parameter(help="how many more, or a file of their names")],
    /,
    *,
    wait: Wait = False,
    json: AsJson = False,
) -> None:
    """Put more units on sale, also in mid-sale.

    Up to 10,000 are there at once, more are filled in by a keeper while the drop sells on. Units
    that have names need more of them: a file, a line each.

    **Examples**

        velvetrope drop add 20 100000 --wait
        velvetrope drop add 21 balcony.txt
    """
    from engine.ops import drop_acts

    async def work(given: Settings) -> None:
        await _change(given, id, json, wait, **drop_acts.more(units))

    terminal.run(work, deed="add_stock", drop_id=id, units=str(units))


@drop.command
def withdraw(
    id: Id,
    units: Annotated[int | Literal["all"], Parameter(help="how many free units, or all")],
    /,
    *,
    json: AsJson = False,
) -> None:
    """Take free units off sale.

    Held and sold ones are never touched. If fewer than that are free, nothing happens and the exit
    code is 1; `all` takes what is free at that moment. Holds that end later are free again. At most
    50,000 units at a time: for more, run it again, or close the drop.

    **Examples**

        velvetrope drop withdraw 20 5
        velvetrope drop withdraw 20 all
    """

    async def work(given: Settings) -> None:
        await _change(given, id, json, withdraw_stock=units)

    terminal.run(work, deed="withdraw_stock", drop_id=id, units=units)


@drop.command
def pause(id: Id, /, *, json: AsJson = False) -> None:
    """Stop selling at once: the kill switch.

    Nobody reserves any more, on every worker within a second. Live holds stay valid and can be
    bought. Pausing twice is pausing once.

    **Examples**

        velvetrope drop pause 20
    """

    async def work(given: Settings) -> None:
        await _pause(given, id, "admin", json)

    terminal.run(work, deed="pause", drop_id=id)


@drop.command
def resume(id: Id, /, *, json: AsJson = False) -> None:
    """Go on selling, whoever paused it: an operator or the auditor.

    After the auditor paused a drop, look first: `velvetrope audit DROP`, then `velvetrope
    reconcile DROP`. It pauses again what still does not add up.

    **Examples**

        velvetrope drop resume 20
    """

    async def work(given: Settings) -> None:
        await _pause(given, id, None, json)

    terminal.run(work, deed="resume", drop_id=id)


@drop.command
def close(id: Id, /, *, json: AsJson = False) -> None:
    """End a drop now.

    Live holds stay valid and can be bought. To open it again, move its end:
    `velvetrope drop change DROP --ends-at none`.

    **Examples**

        velvetrope drop close 20
    """
    from engine.ops import drop_acts
    from engine.sale import drops

    async def work(given: Settings) -> None:
        async def end(session: Any) -> int:
            await drops.close(session, id)
            return id

        drop_acts.show_one(await drop_acts.act(given, end), json)

    terminal.run(work, deed="close", drop_id=id)


@drop.command
def release(
    reservation: Annotated[str, Parameter(help="the reservation's id", name="RESERVATION")],
    /,
) -> None:
    """Give a live hold back for its buyer; its units are on sale again at once.

    For a buyer who asks, or a hold made by mistake. What was bought or has run out is not given
    back: exit code 1. Twice is once.

    **Examples**

        velvetrope drop release 01932c5e-7a40-7c55-8d5c-3f2b1a0c9d8e
    """
    from engine.ops import drop_acts

    async def work(given: Settings) -> None:
        hold = await drop_acts.release(given, reservation)
        terminal.say(f"{hold.quantity} of drop {hold.drop_id}, held by {hold.buyer}, on sale again")

    terminal.run(work, deed="release", reservation_id=reservation)


@drop.command
def timeline(
    buyer: Annotated[str, Parameter(help="the buyer's id", name="BUYER")],
    /,
    *,
    limit: Limit = 50,
    json: AsJson = False,
) -> None:
    """Show what a buyer held and what became of it, newest first.

    For a buyer who says "I had one": when it was reserved, until when it was held, and whether it
    was bought, given back, or ran out.

    **Examples**

        velvetrope drop timeline ann
        velvetrope drop timeline shop-customer-40213 --json
    """
    from engine.ops import drop_acts

    async def look(given: Settings) -> None:
        await drop_acts.timeline(given, buyer, limit, json)

    terminal.run(look)


async def _change(given: Settings, id: int, json: bool, wait: bool = False, **terms: Any) -> None:
    from engine.ops import drop_acts
    from engine.sale import bodies, drops

    wish = drop_acts.checked(bodies.drop_change, bodies.ChangeBody(**terms))

    async def effect(session: Any) -> int:
        await drops.change(session, id, wish)
        return id

    drop_acts.show_one(await drop_acts.act(given, effect, wait=wait), json)


async def _pause(given: Settings, id: int, reason: str | None, json: bool) -> None:
    from engine.ops import drop_acts
    from engine.sale import drops

    async def effect(session: Any) -> int:
        await drops.pause(session, id, reason)
        return id

    drop_acts.show_one(await drop_acts.act(given, effect), json)
