"""Drills: run one, judge it, say so, and leave nothing running whatever happens."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn, TypeVar

import msgspec

from loadtest.fleet import Untrustworthy

F = TypeVar("F")


class Row(msgspec.Struct, frozen=True):
    """One line of the verdict; `holds` is None where nothing is demanded."""

    measure: str
    seen: str
    wanted: str = ""
    holds: bool | None = None


def table(rows: Sequence[Row]) -> str:
    """The verdict as text."""
    line = "{:<32}{:>14}  {:<10}{}".format
    marks = {None: "", True: "yes", False: "NO"}
    return "\n".join(
        [
            line("", "seen", "wanted", ""),
            *(line(row.measure, row.seen, row.wanted, marks[row.holds]) for row in rows),
        ]
    )


def perform(
    name: str,
    drill: Callable[[Path, ExitStack], F],
    judge: Callable[[F], Sequence[Row]],
    report: Path | None,
) -> NoReturn:
    """Run a drill in a folder of its own and end with 0 if every row of its verdict holds, 1 if one
    does not or nothing could be measured, 130 on Ctrl-C. `report`: all of it as JSON."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwind as on Ctrl-C
    try:
        with tempfile.TemporaryDirectory(prefix=f"{name}-") as folder, ExitStack() as stack:
            Path(folder).chmod(0o711)  # root's Postgres runs as somebody else, who has to get in
            facts = drill(Path(folder), stack)
    except (Untrustworthy, TimeoutError) as wrong:
        sys.exit(f"{name}: {wrong}")
    except KeyboardInterrupt:
        sys.exit(130)
    rows = judge(facts)
    print(table(rows))
    if report:
        told = {"verdict": rows, "facts": facts}
        report.write_bytes(msgspec.json.format(msgspec.json.encode(told), indent=2))
    sys.exit(any(row.holds is False for row in rows))
