"""What the checks found, as rows of a table and as stories."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from loadtest.chaos.checker.record import Op, Record
from loadtest.chaos.facts import Fact
from loadtest.drills import Row

STORIES_MAX = 20  # of each check: a broken service breaks everything


class Finding(msgspec.Struct, frozen=True):
    """One violation: a sentence, and the ops, facts and other lines that show it."""

    check: str
    sentence: str
    shown: tuple[Any, ...]


class Verdict:
    """The rows of all checks in their order, and the first findings of each."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self.rows: list[Row] = []
        self.findings: list[Finding] = []
        self.counts: Counter[str] = Counter()

    def found(self, check: str, sentence: str, *shown: Any) -> None:
        """Note a violation."""
        self.counts[check] += 1
        if self.counts[check] <= STORIES_MAX:
            self.findings.append(Finding(check, sentence, shown))

    def close(self, check: str, measure: str) -> None:
        """The row of a check that wants nothing to be found."""
        count = self.counts[check]
        self.rows.append(Row(f"{check} {measure}", str(count), "0", count == 0))

    def figure(self, measure: str, seen: str, wanted: str = "", holds: bool | None = None) -> None:
        """A row of another kind."""
        self.rows.append(Row(measure, seen, wanted, holds))

    def story(self, finding: Finding) -> str:
        """A finding with its lines, in the order of their moments, in seconds of the run."""
        began = self._record.ops[0].since if self._record.ops else 0
        lines = sorted(
            (line for each in finding.shown for line in self._lines(each)), key=lambda line: line[0]
        )
        told = [f"  {(at - began) / 1e9:12.6f}  {text}" for at, text in lines]
        return "\n".join([f"{finding.check}: {finding.sentence}", *told])

    def _lines(self, shown: Any) -> list[tuple[int, str]]:
        if isinstance(shown, Op):
            return self._lines(shown.invoke) + (self._lines(shown.answer) if shown.answer else [])
        text = msgspec.json.encode(shown).decode()
        if isinstance(shown, Fact):
            return [(self._record.moment(shown.at), text)]
        return [(getattr(shown, "at", 0), text)]
