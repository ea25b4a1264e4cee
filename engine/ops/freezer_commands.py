"""`velvetrope freezer …`: make freezers and look at their slots, past the workers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts import Parameter

from engine.coldchain.models import TARGET_TEMP, Slot
from engine.infra.errors import Invalid
from engine.infra.settings import Settings
from engine.ops import terminal

freezer = cyclopts.App(
    name="freezer",
    help="""Make freezers and look at their slots.

A freezer is a drop whose units are slots with names: `drop pause`, `withdraw`, `audit` and the
others work on it, too. These commands speak to Postgres; no worker is asked.""",
)

Names = Annotated[list[str] | None, Parameter(help="names of slots", name="SLOT")]
AsJson = Annotated[bool, Parameter(help="for programs")]


@freezer.command
def create(
    slots: Names = None,
    /,
    *,
    file: Annotated[str | None, Parameter(help="more names, one a line; - reads them in")] = None,
    name: Annotated[str, Parameter(help="of the freezer")] = "Freezer",
    target_temp: Annotated[float, Parameter(help="°C that all of it is to have")] = TARGET_TEMP,
    json: AsJson = False,
) -> None:
    """Make a freezer with a slot of each name, up to 10,000.

    They can be held at once, for 120 seconds each. Names stay for ever.

    **Examples**

        velvetrope freezer create F1-A F1-B F1-C F1-D
        velvetrope freezer create --file slots.txt --name "Basement" --target-temp -20
    """

    from engine.coldchain.freezers import open_freezer
    from engine.runtime import ground
    from engine.sale import reconcile
    from engine.sale.models import unit_id

    async def work(given: Settings) -> None:
        names = [*(slots or []), *(_lines(file) if file is not None else [])]
        if not names:
            raise Invalid("name at least one slot, or a --file of names")
        async with ground(given) as base:
            async with base.postgres.transaction() as session:
                drop_id = await open_freezer(session, names, given.readings_days, name, target_temp)
            await reconcile.tell(base.postgres, base.bouncer, [drop_id])
        first, last = unit_id(drop_id, 1), unit_id(drop_id, len(names))
        if json:
            terminal.show_json({"dropId": drop_id, "slots": len(names), "firstSlotId": first})
        else:
            terminal.say(f"made {len(names)} slots, {first} to {last}, of drop {drop_id}")

    terminal.run(work, deed="create_freezer", name=name)


def _lines(file: str) -> list[str]:
    """The names in a file; empty lines are none."""
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"--file: {error}") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


@freezer.command
def show(*, json: AsJson = False) -> None:
    """Show every slot: who has it, how cold it is, and what is stored there.

    **Examples**

        velvetrope freezer show
        velvetrope freezer show --json
    """

    from engine.coldchain import store, views
    from engine.runtime import database

    async def look(given: Settings) -> None:
        found: list[Slot] = []
        async with database(given) as postgres:
            while page := await store.list_slots(postgres, after=found[-1].id if found else 0):
                found += page
        if json:
            terminal.show_json([views.slot_view(slot, True, None) for slot in found])
            return
        terminal.show(
            ("slot", "name", "status", "#°C", "", "buyer", "manifest", "until (UTC)"),
            [_row(slot) for slot in found],
        )

    terminal.run(look)


def _row(slot: Slot) -> tuple[object, ...]:
    hold, booking = slot.hold, slot.booking
    return (
        str(slot.id),
        slot.name,
        "withdrawn" if slot.withdrawn else slot.status,
        f"{slot.temperature:g}",
        slot.temp_status,
        hold.buyer if hold is not None else booking and booking.buyer,
        booking and booking.manifest.id,
        hold and hold.expires_at,
    )
