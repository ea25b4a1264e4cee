"""The folder that a run leaves behind, written all at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from loadtest.chaos import facts
from loadtest.chaos.facts import FinalHold, FinalStock, FinalUnit, FinalUse

FILE_OF: dict[Any, str] = {
    facts.DropFact: "drops",
    facts.StockFact: "stock",
    facts.UnitFact: "units",
    facts.HoldFact: "holds",
    facts.PurchaseFact: "money",
    facts.PaymentFact: "money",
    facts.RefundFact: "money",
    facts.ToldFact: "outbox",
    FinalStock: "final",
    FinalUnit: "final",
    FinalHold: "final",
    FinalUse: "final",
    facts.Tick: "clocks",
    facts.Arrival: "clocks",
}


def leave(folder: Path, lines: list[Any], rows: list[Any], run: dict[str, Any]) -> None:
    """Lines of clients and nemeses, facts and rows at the end, and run.json."""
    _write(folder / "client-1.jsonl", sorted(lines, key=lambda line: line.at))
    for name in sorted(set(FILE_OF.values())):
        mine = [row for row in rows if FILE_OF[type(row)] == name]
        _write(folder / f"facts-{name}.jsonl", mine)
    (folder / "run.json").write_text(json.dumps(run))


def _write(path: Path, lines: list[Any]) -> None:
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))


def is_row_of(one: Any, two: Any) -> bool:
    """Whether both tell of the same row at the end."""
    keys = 1 if isinstance(one, FinalStock) else 2
    return type(one) is type(two) and (
        msgspec.structs.astuple(one)[:keys] == msgspec.structs.astuple(two)[:keys]
    )
