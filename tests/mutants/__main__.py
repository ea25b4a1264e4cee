"""Hunt known mistakes: each is planted in a copy of the engine, and the harness must notice it.

python -m tests.mutants                  all of them; exit 1 if one gets away
python -m tests.mutants no_reaper ...    these
python -m tests.mutants --list           what they are
python -m tests.mutants --run no_reaper dev    an engine with a mistake in it, to look at it
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
from tqdm import tqdm

from tests.mutants.planting import Mutant, mutants, plant

CAUGHT, CLEAN = 1, 0  # exit codes of a hunter; any other: it did not run
LIMIT_SECONDS = 300
TESTS = ("-m", "pytest", "-q", "-x", "-n", "0")  # with -x, xdist would say 2 of a failure
HUNTERS = {
    # The real code in virtual time: random runs, and a staged sale with one thing gone wrong.
    "runs": ["-m", "tests.virtual", "--seconds", "90", "--seed", "1", "--processes", "2"],
    "sweeps": [*TESTS, "tests/virtual/test_sweeps.py"],
    # The same calls on the model and on a real Postgres: what SQL may not do.
    "models": [*TESTS, "tests/virtual/test_ledger_matches.py"],
    # Real processes.
    "points": [*TESTS, "tests/faults/test_crash_points.py"],
    # Two claims for the last units, one of them in mid-transaction.
    "last units": [*TESTS, "tests/faults/test_last_units.py"],
    # Picks, and units that are in somebody's hands.
    "seats": [*TESTS, "tests/sale/test_named_units.py"],
    "scripts": [*TESTS, "tests/faults/test_lua_scripts.py"],
    "lost replies": [*TESTS, "tests/faults/test_lost_replies.py"],
    "redis forgets": [*TESTS, "tests/faults/test_redis_forgets.py"],
    "failover": [*TESTS, "tests/faults/test_failover.py"],
    "chaos": ["-m", "loadtest.chaos", "--seed", "1", "--duration", "120"],
}


class Hunt(msgspec.Struct, frozen=True):
    """How it went."""

    caught: bool
    seconds: float
    said: str


def _environment(copy: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}


def hunt(mutant: Mutant, hunter: str) -> Hunt:
    """Let a hunter loose on a copy with the mistake in it."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy = plant(mutant, Path(folder) / mutant.name)
        began = time.monotonic()
        try:
            done = subprocess.run(
                [sys.executable, *HUNTERS[hunter]],
                cwd=copy,
                env=os.environ
                | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "HUNT": "1"},
                capture_output=True,
                text=True,
                check=False,
                timeout=LIMIT_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return Hunt(False, time.monotonic() - began, f"not caught in {LIMIT_SECONDS} s")
        said = (done.stdout + done.stderr).strip()
        if done.returncode not in (CAUGHT, CLEAN):
            raise RuntimeError(f"{hunter} did not run:\n{said[-3_000:]}")
        # A test that ran out of time has noticed nothing.
        caught = done.returncode == CAUGHT and "Failed: Timeout" not in said
        return Hunt(caught, time.monotonic() - began, said)


def _how(said: str) -> str:
    """The line of a hunter's words that names the broken promise."""
    promise = r"^.*?((?:VIOLATION )?\b(?:INV-\d+|E  ).*)$"
    for pattern in (r"^(.*\S)\s+NO$", promise):
        if lines := re.findall(pattern, said, re.MULTILINE):
            return re.sub(r"\s+", " ", lines[0]).strip()[:90]
    return "caught"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="hunt these; none: all")
    parser.add_argument("--by", choices=HUNTERS, help="let another hunter try than the patch names")
    parser.add_argument("--list", action="store_true", help="say what they are")
    parser.add_argument(
        "--run", nargs=argparse.REMAINDER, metavar="NAME ARGUMENT", help="velvetrope with a mistake"
    )
    return parser


def _chosen(known: dict[str, Mutant], names: list[str]) -> list[Mutant]:
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"no such mutant: {' '.join(unknown)}; --list names them")
    return [known[name] for name in names] or list(known.values())


def _run(mutant: Mutant, arguments: list[str]) -> int:
    """The engine's own command line, from a copy with the mistake in it."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy = plant(mutant, Path(folder) / mutant.name)
        command = [sys.executable, "-m", "engine", *arguments]
        return subprocess.call(command, env=_environment(copy))


def main() -> int:
    """Hunt, and say how it went."""
    asked, known = _parser().parse_args(), mutants()
    if asked.run is not None:
        [mutant] = _chosen(known, asked.run[:1] or ["(none)"])
        return _run(mutant, asked.run[1:])
    if asked.list:
        for mutant in _chosen(known, asked.names):
            print(f"{mutant.name}\n    {mutant.mistake}\n    {mutant.breaks}\n")
        return 0
    line = "{:<32}{:<14}{:>10}  {}".format
    print(line("mutant", "hunter", "seconds", ""), flush=True)
    escaped = 0
    for mutant in tqdm(_chosen(known, asked.names), unit="mutant", disable=None, leave=False):
        hunter = asked.by or mutant.hunter
        went = hunt(mutant, hunter)
        escaped += not went.caught
        word = _how(went.said) if went.caught else "GOT AWAY"
        tqdm.write(line(mutant.name, hunter, f"{went.seconds:.0f}", word))
    print(f"{escaped} got away" if escaped else "all caught")
    return int(escaped > 0)


if __name__ == "__main__":
    sys.exit(main())
