"""Audits and repairs for a person at a terminal: once as a table, or over and over, live."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from engine.infra.errors import Fault, NotFound
from engine.infra.http import iso
from engine.infra.postgres import Postgres
from engine.infra.settings import Settings
from engine.ops import terminal
from engine.runtime import KEEPER_STATEMENT_MS, Ground, ground
from engine.sale import shelf
from engine.sale.audit import Audit, Auditing
from engine.sale.models import STOCK_MAX
from engine.sale.reconcile import in_slices
from engine.sale.repair import Repair, repair

ROUND_SECONDS = 1.0
BAR_WIDTH = 20
BAR = "█ sold ▒ held · free"
COLUMNS = (
    "#drop",
    "status",
    "#total",
    "#free",
    "#held",
    "#sold",
    "#withdrawn",
    "#on offer",
    "#drift",
    "#intents",
    "#oldest",
    "#undersell",
    "proven (UTC)",
    "verdict",
)
SPARE_ONCE = ("#withdrawn", "#oldest", "#intents", "#total", "proven (UTC)")
SPARE = ("proven (UTC)", "#withdrawn", "#oldest", "#intents", BAR, "#total", "#on offer")


async def once(given: Settings, drops: Sequence[int], json: bool) -> bool:
    """Audit these drops, or all warm ones, and show it; whether all are clean."""
    async with ground(given, KEEPER_STATEMENT_MS) as base:
        audits = await _audits(base, Auditing(base.postgres, base.bouncer, 0, STOCK_MAX), drops)
    if json:
        terminal.show_json(audits)
    else:
        terminal.show(COLUMNS, [_row(audit) for audit in audits], SPARE_ONCE)
        for line in _problems(audits):
            terminal.say(line)
        if not audits:
            terminal.note("velvetrope: no drop is warm; name one to audit it all the same")
    return all(audit.clean for audit in audits)


async def watch(given: Settings, drops: Sequence[int], json: bool) -> None:
    """Audit and show, once a second, until told to stop. A server that is away is waited for."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    out = terminal.console()
    async with ground(given, KEEPER_STATEMENT_MS) as base:
        auditing = Auditing(base.postgres, base.bouncer, given.recount_seconds)
        with Live(console=out, screen=out.is_terminal, auto_refresh=False) as live:
            while not stop.is_set():
                try:
                    audits = await _audits(base, auditing, drops)
                    now = await _now(base.postgres)
                except Fault as fault:
                    live.update(Text(fault.message, style="bold red"), refresh=True)
                else:
                    _draw(out, live, audits, now, json)
                waiting = asyncio.create_task(stop.wait(), name="audit-stop")
                await asyncio.wait([waiting], timeout=ROUND_SECONDS)
                waiting.cancel()


async def mend(given: Settings, drops: Sequence[int], dry_run: bool, json: bool) -> bool:
    """Repair these drops, or all warm ones, and show what was done; whether nothing is left."""
    async with ground(given, KEEPER_STATEMENT_MS) as base:
        postgres, bouncer, thorough = base.postgres, base.bouncer, bool(drops)
        done = [
            await repair(postgres, bouncer, id, dry_run=dry_run, thorough=thorough)
            for id in drops or await _warm(postgres)
        ]
    if json:
        terminal.show_json(done)
    else:
        rows = [row for one in done for row in _steps(one)]
        if rows:
            terminal.show(("#drop", "step", "#count", "found", "done"), rows)
        needy, broken = sum(bool(one.found) for one in done), sum(not one.clean for one in done)
        terminal.say(f"{len(done)} looked at: {needy} needed something, {broken} do not add up")
        for one in done:
            for problem in (*one.problems, *one.offenders):
                terminal.say(Text(f"drop {one.drop_id}: {problem}", style="bold red"))
    return all(one.clean and all(step.done for step in one.found) for one in done)


async def _audits(base: Ground, auditing: Auditing, drops: Sequence[int]) -> list[Audit]:
    async def look(drop_id: int) -> Audit:
        found = await auditing.audit(drop_id)
        if found is None:
            raise NotFound(f"There is no drop {drop_id}")
        return found

    return await in_slices(list(drops) or await _warm(base.postgres), look)


async def _warm(postgres: Postgres) -> list[int]:
    return sorted(offer.drop_id for offer in await shelf.offers(postgres))


async def _now(postgres: Postgres) -> str:
    """Postgres's clock, as it stands in every offer; empty if there is none."""
    for offer in await shelf.offers(postgres):
        return iso(datetime.fromtimestamp(offer.now_ms / 1000, UTC))[11:19]
    return ""


def _draw(out: Console, live: Live, audits: list[Audit], now: str, json: bool) -> None:
    if json:
        print(msgspec.json.encode(audits).decode(), flush=True)
    elif out.is_terminal:
        live.update(_page(audits, now, out), refresh=True)
    else:
        for audit in audits:
            print(_line(audit, now), flush=True)


def _page(audits: list[Audit], now: str, out: Console) -> RenderableType:
    """The live view: what is broken first, then what sells."""
    first = sorted(audits, key=lambda audit: (audit.clean, audit.status != "live", -audit.drop_id))
    rows = [(*_row(audit)[:1], _bar(audit), *_row(audit)[1:]) for audit in first]
    broken = sum(not audit.clean for audit in audits)
    head = Text(f"{now} UTC   {len(audits)} warm drops, ")
    head.append(f"{broken} broken" if broken else "all clean", "bold red" if broken else "green")
    head.append("   Ctrl-C leaves", "dim")
    columns = (COLUMNS[0], BAR, *COLUMNS[1:])
    table = terminal.fitted(columns, rows, SPARE, out)
    return Group(head, *_problems(audits), Text(), table)


def _bar(audit: Audit) -> Text:
    """Sold, held and free as parts of a bar; what is there at all shows as one mark at least."""
    bar = Text()
    total = max(audit.total_stock, 1)
    for units, mark, style in ((audit.sold, "█", "green"), (audit.held, "▒", "yellow")):
        width = round(units * BAR_WIDTH / total)
        bar.append(mark * min(max(width, int(units > 0)), BAR_WIDTH - len(bar)), style)
    return bar.append("·" * (BAR_WIDTH - len(bar)), "dim")


def _row(audit: Audit) -> tuple[object, ...]:
    belief = audit.bouncer
    oldest = belief.oldest_intent_ms if belief else 0
    reason = f" ({audit.paused_reason})" if audit.status == "paused" else ""
    undersell = f"{audit.undersell.units} for {audit.undersell.seconds:.1f} s"
    return (
        str(audit.drop_id),
        f"{audit.status}{reason}",
        audit.total_stock,
        audit.free,
        audit.held,
        audit.sold,
        audit.withdrawn,
        belief and belief.available,
        audit.drift,
        belief and belief.open_intents,
        f"{oldest / 1000:.1f} s" if oldest > 0 else None,
        undersell if audit.undersell.units else 0,
        None if audit.proven_at is None else audit.proven_at[:19].replace("T", " "),
        _verdict(audit),
    )


def _verdict(audit: Audit) -> Text:
    if not audit.clean:
        return Text("broken", style="bold red")
    return Text("clean", style="green") if audit.proven_at else Text("not counted", style="yellow")


def _problems(audits: Sequence[Audit]) -> list[Text]:
    return [
        Text(f"drop {audit.drop_id}: {problem}", style="bold red")
        for audit in audits
        for problem in (*audit.problems, *audit.offenders)
    ]


def _line(audit: Audit, now: str) -> str:
    """The same for a pipe: one line a drop and round."""
    return (
        f"{now} drop={audit.drop_id} status={audit.status} free={audit.free} held={audit.held} "
        f"sold={audit.sold} withdrawn={audit.withdrawn} drift={audit.drift} "
        f"undersell={audit.undersell.units} {_verdict(audit).plain.replace(' ', '_')}"
    )


def _steps(one: Repair) -> list[tuple[object, ...]]:
    return [
        (str(one.drop_id), step.action, step.count, step.detail, _done(step.done, one.dry_run))
        for step in one.found
    ]


def _done(done: bool, dry_run: bool) -> Text:
    if done:
        return Text("done", style="green")
    return Text("would be" if dry_run else "not done", style="yellow")
