"""python -m loadtest.chaos.checker FOLDER: the verdict over a run, and each violation's story."""

from __future__ import annotations

import sys
from pathlib import Path

from loadtest.chaos.checker import judge
from loadtest.drills import table
from loadtest.fleet import Untrustworthy


def main(arguments: list[str]) -> int:
    """0 if every row holds, 1 if one does not, 2 if nothing can be judged."""
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print("usage: python -m loadtest.chaos.checker FOLDER", file=sys.stderr)
        return 2
    try:
        verdict = judge(Path(arguments[0]))
    except Untrustworthy as wrong:
        print(f"checker: {wrong}", file=sys.stderr)
        return 2
    print(table(verdict.rows))
    for finding in verdict.findings:
        print(f"\n{verdict.story(finding)}")
    return int(any(row.holds is False for row in verdict.rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
