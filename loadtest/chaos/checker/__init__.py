"""Judge a run from what it left behind: C1 to C13.

from loadtest.chaos.checker import check
python -m loadtest.chaos.checker FOLDER     the verdict, and for each violation its story
"""

from __future__ import annotations

from pathlib import Path

from loadtest.drills import Row


def check(folder: Path) -> list[Row]:
    """The verdict over the folder of a run (history.py). Raises `Untrustworthy` if what it left
    behind cannot be judged, for example when no facts were exported."""
    raise NotImplementedError
