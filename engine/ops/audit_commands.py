"""`velvetrope audit` and `velvetrope reconcile`: does it add up, and if not, mend it."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from engine.infra.settings import Settings
from engine.ops import terminal
from engine.sale.bodies import DROP_ID_MAX

REAL = Number(gte=1, lte=DROP_ID_MAX)
Drops = Annotated[
    int, Parameter(help="drops by id; none: all that are warm", name="DROP", validator=REAL)
]
AsJson = Annotated[bool, Parameter(help="for programs")]


def audit(
    *drops: Drops,
    watch: Annotated[bool, Parameter(help="keep looking, once a second, until Ctrl-C")] = False,
    json: AsJson = False,
) -> None:
    """Count everything again and say whether it adds up.

    Rows are counted in Postgres in one snapshot, also of the largest drops, beside the stock row
    and what the bouncer believes. `clean` means that no invariant is broken. Drift of the bouncer,
    open intents and undersell are shown too: while requests are under way they are no fault, and
    keepers mend them.
    A drop is warm while it sells, or did so lately.

    **Exit codes**: 0 all are clean · 1 at least one is not

    **Examples**

        velvetrope audit
        velvetrope audit 20 21 --json
        velvetrope audit --watch
    """
    from engine.ops import audit_page

    async def look(given: Settings) -> None:
        if watch:
            await audit_page.watch(given, drops, json)
        elif not await audit_page.once(given, drops, json):
            sys.exit(terminal.NO)

    terminal.run(look)


def reconcile(
    *drops: Annotated[int, Parameter(help="drops by id", name="DROP", validator=REAL)],
    all: Annotated[bool, Parameter(help="every warm drop")] = False,
    dry_run: Annotated[bool, Parameter(help="change nothing, say what would be done")] = False,
    json: AsJson = False,
) -> None:
    """Mend what can be mended: tell the bouncer the truth, end what dead workers left behind.

    Keepers do this by themselves every second; run it when you do not want to wait, or to see what
    is wrong. It is safe at any time and as often as you like: each step is "if newer" or keyed.
    What it cannot mend it says, and the drop should stay paused.

    **Exit codes**: 0 all are clean now · 1 something is left (or, with `--dry-run`, to do)

    **Examples**

        velvetrope reconcile 20 --dry-run
        velvetrope reconcile --all
    """
    if not drops and not all:
        terminal.refuse("name drops, or say --all", terminal.MISUSED)
    from engine.ops import audit_page

    async def work(given: Settings) -> None:
        if not await audit_page.mend(given, drops, dry_run, json):
            sys.exit(terminal.NO)

    said = "" if dry_run else "reconcile"
    terminal.run(work, deed=said, drops=list(drops) or "all warm ones")
