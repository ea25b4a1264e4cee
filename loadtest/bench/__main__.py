"""`python -m loadtest.bench`: measure, say what came of it, write it down."""

from __future__ import annotations

import argparse
import platform
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]

from loadtest.bench import plot, report, where, wrk
from loadtest.bench.claims import PGBENCH, Claims, Snapshots
from loadtest.bench.deadlines import Deadlines
from loadtest.bench.goals import GOALS, Goal, chosen
from loadtest.bench.logins import Logins
from loadtest.bench.plan import QUICK, Act, Plan, Sample
from loadtest.bench.rates import ONE_BY_ONE, Clients, Rates
from loadtest.bench.report import Result, Round
from loadtest.bench.sizes import Sizes
from loadtest.bench.spread import Spread
from loadtest.bench.stage import Stage
from loadtest.fleet import ROOT, Untrustworthy

ACTS: tuple[type[Act], ...] = (
    Rates,
    Spread,
    Sizes,
    Deadlines,
    Claims,
    Snapshots,
    Logins,
    Clients,
)
TRIES = 2  # of a sample that could not be trusted
RESULTS = ROOT / "loadtest" / "results" / "local"


def programme(plan: Plan, goals: Sequence[Goal]) -> list[tuple[type[Act], tuple[str, ...]]]:
    """Which acts are given, and which samples each of them takes."""
    wanted = {name for goal in goals for name in goal.needs}
    wanted -= {name for name, pool in ONE_BY_ONE.items() if pool not in plan.pools}
    wanted -= {name for name, clients in PGBENCH.items() if clients not in plan.clients}
    given = [(act, tuple(name for name in act.names if name in wanted)) for act in ACTS]
    return [(act, names) for act, names in given if names]


def perform(plan: Plan, goals: Sequence[Goal]) -> Result:
    """All acts, each on servers of its own; whatever happens, nothing that was started is left."""
    acts = programme(plan, goals)
    seconds = sum(act.lasts(plan, names) for act, names in acts)
    tqdm.write(f"{len(goals)} goals, about {seconds / 60:.1f} minutes", file=sys.stderr)
    began, moment = time.monotonic(), datetime.now(UTC)
    versions = {"python": platform.python_version()}
    steps = sum(min(plan.rounds, act.rounds_max) * len(names) for act, names in acts)
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        tqdm(total=steps, unit="sample") as progress,
    ):
        Path(folder).chmod(0o711)  # root's Postgres runs as somebody else, who has to get in
        machine = where.machine(Path(folder))
        book = Book(progress)
        for act, names in acts:
            progress.set_description(f"{act.__name__.lower()}: servers")
            with ExitStack() as stack, book.trusting(act.__name__.lower()):
                stage = Stage(plan, Path(folder) / act.__name__.lower(), stack)
                versions |= stage.versions()
                book.play(act(plan, stage, names))
    return Result(
        quick=plan.quick,
        began=moment.isoformat(timespec="seconds"),
        minutes=round((time.monotonic() - began) / 60, 1),
        machine=machine,
        versions=versions,
        commit=where.commit(),
        plan=plan,
        goals=report.judge(goals, book.rounds),
        samples=report.rows(book.rounds),
        refused=book.refused,
    )


class Book:
    """What was measured, and what was refused because it could not be trusted."""

    def __init__(self, progress: Any) -> None:
        self.rounds: list[Round] = []
        self.refused: list[str] = []
        self._progress = progress

    @contextmanager
    def trusting(self, what: str) -> Iterator[None]:
        """Whatever is refused within costs this figure, and not all others of a long run."""
        try:
            yield
        except (Untrustworthy, TimeoutError) as wrong:
            self.refused.append(f"{what}: {wrong}")
            tqdm.write(f"refused: {what}: {wrong}", file=sys.stderr)

    def play(self, act: Act) -> None:
        """A B A B: every sample once, then every sample again."""
        for _ in range(min(act.plan.rounds, act.rounds_max)):
            samples: dict[str, Sample] = {}
            self.rounds.append(samples)
            for name in act.chosen:
                self._progress.set_description(name)
                for _ in range(TRIES):
                    if name not in samples:
                        with self.trusting(name):
                            samples[name] = act.take(name, samples)
                self._progress.update()


def main() -> None:
    """The command."""
    options = _options()
    if options.list:
        print(_list())
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwind as on Ctrl-C
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = 65_536 if most == resource.RLIM_INFINITY else min(65_536, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
    only = "clients-echo,clients-holds" if options.compare_clients else options.only
    try:
        clients = wrk.is_installed() and not options.quick
        goals = chosen(
            only, without_limits=options.without_limits, clients=clients, quick=options.quick
        )
    except ValueError as wrong:
        sys.exit(f"bench: {wrong}")
    try:
        result = perform(_plan(options), goals)
    except KeyboardInterrupt:
        sys.exit(130)
    print(report.text(result))
    name = "part" if only else "quick" if result.quick else "bench"
    _write(result, options.results, name, options.json)
    if any(goal.value is None for goal in result.goals):
        sys.exit("bench: what is unknown could not be measured, for the reasons given above")


def _write(result: Result, folder: Path, name: str, json: Path | None) -> None:
    """JSON and picture, into the folder of results and wherever else is wanted."""
    folder.mkdir(parents=True, exist_ok=True)
    told = msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n"
    (folder / f"{name}.json").write_bytes(told)
    (folder / f"{name}.svg").write_text(plot.picture(result))
    if json is not None:
        json.write_bytes(told)
    shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    print(f"\nwritten: {shown / name}.json and .svg")


def _plan(options: argparse.Namespace) -> Plan:
    plan = QUICK if options.quick else Plan()
    given = {
        name: getattr(options, name)
        for name in ("rounds", "seconds", "connections")
        if getattr(options, name) is not None
    }
    who = options.client
    if who == "auto":
        who = "wrk" if wrk.is_installed() else "own"
    words = {"client": who, "without_limits": options.without_limits}
    return msgspec.structs.replace(plan, **given, **words)


def _list() -> str:
    """Every goal, as it is asked and computed."""
    lines = []
    for goal in GOALS:
        name = f"{goal.key} ({goal.id})" if goal.id else goal.key
        lines += [f"{name:<24}{goal.title}  {goal.bound}", f"{'':<24}{goal.how}", ""]
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench")
    number = argparse.ArgumentParser.add_argument
    number(parser, "--rounds", type=int, choices=range(1, 21), metavar="1-20")
    number(parser, "--seconds", type=int, choices=range(1, 31), metavar="1-30")
    number(parser, "--connections", type=int, choices=range(2, 4097), metavar="2-4096")
    parser.add_argument("--only", default="", metavar="KEY,…", help="these goals; --list names all")
    parser.add_argument("--list", action="store_true", help="print the goals, measure nothing")
    parser.add_argument("--quick", action="store_true", help="under two minutes, small and rough")
    parser.add_argument("--client", default="auto", choices=("wrk", "own", "auto"))
    told = "how far wrk and our own client agree, and nothing else"
    parser.add_argument("--compare-clients", action="store_true", help=told)
    told = "measure workers with all limits off as well, beside the others"
    parser.add_argument("--without-limits", action="store_true", help=told)
    parser.add_argument("--json", type=Path, metavar="FILE", help="the result here as well")
    told = "where result and picture go (loadtest/results/local)"
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help=told)
    return parser.parse_args()


if __name__ == "__main__":
    main()
