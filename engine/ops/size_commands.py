"""`velvetrope size`: how large a deployment must be for a sale."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from engine.ops import terminal
from engine.ops.sizing import Sale

MOST = Number(gte=1, lte=1_000_000_000)
YEAR = 31_536_000
SHARE = Number(gte=0, lte=1_000)
_usual = Sale(buyers=1, units=1)


def size(
    *,
    buyers: Annotated[int | None, Parameter(help="who will come", validator=MOST)] = None,
    units: Annotated[int | None, Parameter(help="that are on sale", validator=MOST)] = None,
    seconds: Annotated[
        float, Parameter(help="within which they come (60)", validator=Number(gte=1, lte=YEAR))
    ] = _usual.seconds,
    tries: Annotated[
        float, Parameter(help="more, of each who was refused (2)", validator=SHARE)
    ] = _usual.tries,
    polls: Annotated[
        float, Parameter(help="of the stock, by each; a cache's do not count (5)", validator=SHARE)
    ] = _usual.polls,
    unkeyed: Annotated[bool, Parameter(help="tries carry no Idempotency-Key")] = False,
    wait: Annotated[
        float, Parameter(help="seconds that the last of the rush may wait (1)", validator=SHARE)
    ] = _usual.wait_seconds,
    cores: Annotated[
        int, Parameter(help="of a machine you would rent (16)", validator=Number(gte=1, lte=1_024))
    ] = 16,
    bench: Annotated[
        Path | None, Parameter(help="a JSON result of `make bench`, instead of our figures")
    ] = None,
    json: Annotated[bool, Parameter(help="for programs")] = False,
) -> None:
    """Say how large a deployment must be for a sale: cores, connections, memory, disk.

    Half of the buyers are taken to come within the first tenth of the time: that is the rush.
    Each wishes once, tries again when refused, and looks at the stock now and then. What one
    request costs was measured (docs/PERFORMANCE.md), on one machine: let `make bench` measure
    yours, and give its result. The queue is a fluid: what cannot be served at once waits, and
    who comes last waits for all of it. Cores are told as a range: what is used if nothing else
    ran, and that with 30 % kept free. TLS, proxies and the network are not in it. Without
    buyers and units it shows typical sales, in Markdown.

    **Examples**

        velvetrope size
        velvetrope size --buyers 500000 --units 5000
        velvetrope size --buyers 500000 --units 5000 --seconds 600 --polls 0 --cores 8
        velvetrope size --buyers 20000 --units 500 --bench loadtest/results/local/bench.json
        velvetrope size --buyers 500000 --units 5000 --json
    """
    from engine.infra.errors import Invalid
    from engine.ops import size_page, sizing

    try:
        costs = sizing.measured(bench) if bench else sizing.Costs()
    except Invalid as wrong:
        terminal.refuse(wrong.message, terminal.MISUSED)
    if buyers is None and units is None:
        print(size_page.markdown(costs))
        return
    if buyers is None or units is None:
        terminal.refuse("--buyers and --units belong together", terminal.MISUSED)
    sale = Sale(
        buyers=buyers,
        units=units,
        seconds=seconds,
        tries=tries,
        polls=polls,
        keyed=not unkeyed,
        wait_seconds=wait,
    )
    found = size_page.answer(sizing.estimate(sale, costs), cores)
    if json:
        terminal.show_json(found)
    else:
        size_page.tell(found)
