"""`python -m loadtest.chaos`: break a service in every known way while it sells, and prove that it
sold every unit once, told nobody a lie, and came to rest within 8 s each time.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from engine.infra.errors import Misconfigured
from loadtest.chaos import plan, report
from loadtest.chaos.report import Outcome
from loadtest.chaos.run import Options, Run
from loadtest.chaos.view import Scene, View
from loadtest.drills import table
from loadtest.fleet import ROOT, Untrustworthy

SECONDS = 180.0
UNITS = {"": 1, "s": 1, "m": 60, "h": 3_600}
EVIDENCE = ("client-*.jsonl", "facts-*.jsonl", "sights.jsonl")  # large, and kept where it matters


def main() -> None:
    """Ends with 0 if all of it holds, 1 if not or nothing could be measured, 143 on SIGTERM."""
    given = _given()
    rounds = plan.draw(given.seed, given.duration)
    if given.plan:
        print(f"seed {given.seed}, {given.duration:.0f} s")
        print(plan.told(rounds))
        return
    folder: Path = given.folder or _place(given.seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.txt").write_text(plan.told(rounds) + "\n")
    options = Options(seed=given.seed, seconds=given.duration, folder=folder)
    faults = sum(len(each.faults) for each in rounds)
    print(
        f"seed {given.seed}: {faults} faults in {len(rounds)} round{'s' * (len(rounds) > 1)}, "
        f"all of them in {folder / 'plan.txt'}",
        flush=True,
    )
    try:
        with tempfile.TemporaryDirectory(prefix="chaos-") as base:
            Path(base).chmod(0o711)  # root's Postgres runs as somebody else, who has to get in
            outcome = asyncio.run(_perform(options, Path(base)))
    except (Untrustworthy, Misconfigured, TimeoutError) as wrong:
        sys.exit(
            f"chaos: {wrong}\nlogs are in {folder / 'logs'}; "
            f"again: make chaos SEED={given.seed} DURATION={given.duration:.0f}s"
        )
    except (asyncio.CancelledError, KeyboardInterrupt):
        sys.exit(143)
    sys.exit(_conclude(outcome, folder, keep=given.keep))


async def _perform(options: Options, base: Path) -> Outcome:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    scene = Scene(seed=options.seed, seconds=options.seconds)
    with View(scene) as view:
        run = Run(options, view, scene)

        def interrupt() -> None:
            """The first Ctrl-C ends the faults, the second everything."""
            if run.stop.is_set():
                task.cancel()
            else:
                view.say("stopping; what there is will be judged (again: at once)")
                run.stop.set()

        loop.add_signal_handler(signal.SIGINT, interrupt)
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
        return await run.perform(base)


def _conclude(outcome: Outcome, folder: Path, *, keep: bool) -> int:
    """Say it, write it, and clear away what proves nothing any more."""
    report.write(outcome, folder)
    rows = report.verdict(outcome)
    print(f"faults by kind\n{report.counts(outcome.faults)}")
    if outcome.skipped:
        print(f"\nskipped, and why\n{report.counts(outcome.skipped)}")
    print(f"\n{table(rows)}")
    print("ok: done; fail: a definite no, such as sold out; info: no answer, or none that is sure")
    print(f"\n{report.headline(rows)}")
    print(f"report: {folder / 'report.md'}")
    if report.holds(rows):
        print(f"\n{report.ended(outcome)}")
        if keep:
            judge = f".venv/bin/python -m loadtest.chaos.checker {folder}"
            print(f"judge the histories once more: {judge}")
        else:
            print(f"their histories are deleted; to keep them: {report.repeat(outcome)} KEEP=1")
            for pattern in EVIDENCE:
                for path in folder.glob(pattern):
                    path.unlink()
            shutil.rmtree(folder / "logs", ignore_errors=True)
        return 0
    print(f"\n{report.again(outcome, folder)}")
    return 1


def _place(seed: int) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return ROOT / "loadtest" / "results" / "local" / f"chaos-{stamp}-seed-{seed}"


def _seconds(text: str) -> float:
    """`90`, `90s`, `20m` or `1h`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text}: say 90s, 20m or 1h")
    return float(found[1]) * UNITS[found[2]]


def _given() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.chaos", description=__doc__)
    parser.add_argument(
        "--duration", type=_seconds, default=SECONDS, help="90s, 20m, 1h; rests included"
    )
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument(
        "--plan", action="store_true", help="show the plan of a seed and do nothing"
    )
    parser.add_argument("--folder", type=Path, metavar="DIR", help="for histories and report")
    parser.add_argument("--keep", action="store_true", help="keep the histories of a good run, too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
