"""What every command shares: its settings, its exit code, and two ways to say a thing.

    0  done                      2  the command line was not understood
    1  the answer is no          3  it cannot start: settings or servers

A person gets a table, a program gets `--json`. Tables fit the terminal; piped, they are as wide
as they need to be.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Coroutine, Iterable, Sequence
from datetime import datetime
from typing import Any, NoReturn

import msgspec
import uvloop
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from engine.infra import log, settings
from engine.infra.errors import Fault, Invalid, Misconfigured, OutcomeUnknown, Problem
from engine.infra.http import iso
from engine.infra.settings import Settings
from engine.ops import children, deeds, stack

NO = 1
MISUSED = 2
REFUSED = children.REFUSED  # a supervisor must not start it again
INTERRUPTED = 130
PIPE_WIDTH = 240
LONG_RUNNING = ("worker", "keeper", "listener", "provider")


def given(beside_a_stack: bool = True) -> Settings:
    """The settings; where no database is named, the servers of a live `make run` are."""
    try:
        read = settings.read()
        if not beside_a_stack or read.database_url:
            return read
        said = {name: value for name, value in os.environ.items() if value}
        return settings.read(stack.find(read.data_dir) | said)
    except Misconfigured as why:
        refuse(str(why))


def run(work: Any, process: str = "terminal", deed: str = "", **what: Any) -> None:
    """Run a coroutine function with the settings; what goes wrong is one line and a code. A `deed`
    changes something: who did `what` is told (deeds.py)."""
    read = given()
    log_to_stderr(read, process)
    try:
        coroutine: Coroutine[Any, Any, str | None] = work(read)
        if not deed:
            uvloop.run(coroutine)
            return
        with deeds.deed(deed, **what):
            uvloop.run(deeds.recorded(read, deed, what, coroutine))
    except Misconfigured as why:
        refuse(str(why))
    except Invalid as problem:
        refuse(problem.message, MISUSED)
    except OutcomeUnknown:
        refuse("the connection was lost under way: it may have been done; look before you repeat")
    except Fault as problem:
        refuse(problem.message)
    except Problem as problem:
        refuse(problem.message, NO)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # whoever read us has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def log_to_stderr(read: Settings, process: str = "terminal") -> None:
    """Set up the log of a command; of one that ends by itself only warnings are wanted."""
    if process not in LONG_RUNNING and read.log_level == "info":
        read = msgspec.structs.replace(read, log_level="warning")
    log.configure(read, process)


def refuse(why: str, code: int = REFUSED) -> NoReturn:
    """One line, and the end."""
    print(f"velvetrope: {why}", file=sys.stderr)
    sys.exit(code)


def console() -> Console:
    """Where tables go. Names come from people, so nothing in them is markup."""
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(width=width, markup=False, emoji=False, highlight=False)


def say(line: str | Text) -> None:
    """One line for a person."""
    console().print(line, soft_wrap=True)


def note(line: str) -> None:
    """A line beside the output, so that a pipe carries the output alone."""
    print(line, file=sys.stderr)


def show_json(value: Any) -> None:
    """The same for a program: one JSON document, indented."""
    print(msgspec.json.format(msgspec.json.encode(value)).decode())


def grid(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A plain table. A column whose name starts with `#` holds numbers."""
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in columns:
        number = name.startswith("#")
        made.add_column(name.lstrip("#"), justify="right" if number else "left", no_wrap=number)
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else shown(cell) for cell in row))
    return made


def fitted(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    spare: Sequence[str],
    out: Console,
) -> Table:
    """A table as wide as the terminal: half a number misleads, so spare columns go, in order."""
    kept, lines = list(columns), [list(row) for row in rows]
    for name in (*spare, ""):
        made = grid(kept, lines)
        wide = Measurement.get(out, out.options.update(width=PIPE_WIDTH), made).maximum
        if wide <= out.width or not name:
            break
        place = kept.index(name)
        del kept[place]
        for line in lines:
            del line[place]
    return made


def show(
    columns: Sequence[str], rows: Iterable[Sequence[object]], spare: Sequence[str] = ()
) -> None:
    """Print a table; where the terminal is too narrow for it, without some of the spare columns."""
    out = console()
    out.print(fitted(columns, rows, spare, out))


def verdict(word: str) -> Text:
    """`ok`, `warn` or `fail` in its colour; the word alone says it too."""
    return Text(word, style={"ok": "green", "warn": "yellow", "fail": "bold red"}[word])


def shown(cell: object) -> str:
    """A value as a person reads it."""
    match cell:
        case None:
            return "–"
        case bool():
            return "yes" if cell else "no"
        case int():
            return f"{cell:,}"
        case datetime():
            return iso(cell)[:19].replace("T", " ")
        case _:
            return str(cell)
