"""Judge a run from what it left behind, offline: C1 to C13, each in a sort or less.

    check(folder)                               the verdict
    python -m loadtest.chaos.checker FOLDER     the same as a table, and each violation's story

What it rests on: every version of a drop's stock is one commit, and the witness (facts.py) wrote
down which. So a history need not be searched for an order that explains it: the order is known,
and each promise is held against it. `lost_tail` in run.json says that an asynchronous standby was
promoted; then acknowledged work that is gone is counted, and everything else is judged by what the
surviving history holds.
"""

from __future__ import annotations

import gc
from pathlib import Path

from loadtest.chaos.checker.answers import acknowledged, asked_for, one_answer
from loadtest.chaos.checker.effects import Effects
from loadtest.chaos.checker.holds import limits, money, one_end
from loadtest.chaos.checker.order import real_time, views
from loadtest.chaos.checker.record import read
from loadtest.chaos.checker.rest import convergence, leaks
from loadtest.chaos.checker.soldout import honest
from loadtest.chaos.checker.stock import conservation, one_owner
from loadtest.chaos.checker.verdict import Verdict
from loadtest.drills import Row


def check(folder: Path) -> list[Row]:
    """The verdict over the folder of a run (history.py). Raises `Untrustworthy` if what it left
    behind cannot be judged, for example when no facts were exported."""
    return judge(folder).rows


def judge(folder: Path) -> Verdict:
    """The verdict with its findings."""
    gc.disable()  # nothing of a record is garbage, and to look for some takes as long as to read
    try:
        record = read(folder)
        verdict = Verdict(record)
        effects = Effects(record)
        one_owner(record, verdict)
        conservation(record, verdict)
        acknowledged(record, effects, verdict)
        asked_for(record, effects, verdict)
        one_answer(record, effects, verdict)
        one_end(record, verdict)
        real_time(record, effects, verdict)
        honest(record, verdict)
        convergence(record, verdict)
        limits(record, verdict)
        views(record, verdict)
        leaks(record, verdict)
        money(record, verdict)
        return verdict
    finally:
        gc.enable()
