"""Slow senders and idle connections crowd the door. Does the sale go on at its pace?

    normal ─ the crowd comes ─ attacked ─ it goes ─ normal ─ it comes ─ attacked ─ verdict

In every phase the same load of durable holds; what counts is the p99 of a reservation with the
crowd, next to the p99 without, within this run.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import msgspec

from engine.ops.devstack import start_postgres, start_valkey
from loadtest import client
from loadtest.client import Figures, Shot
from loadtest.crowd import SLOW, Seen, crowd, look, room
from loadtest.drills import Row, perform
from loadtest.fleet import ask, await_true, engine
from loadtest.probes import Beside

API = "/api/v1"
WORKERS = 2
HOLDS_PER_S_MAX = 15_000
RATIO_MAX = 3.0
LATE_SECONDS = 2.0  # a slow sender may outlive its time by so much on a busy machine
LOOK_SECONDS = 0.5
MET_SHARE = 0.9  # of the crowd that must stand there at the least


class Phase(msgspec.Struct, frozen=True, rename="camel"):
    """One load, with or without the crowd."""

    name: str
    figures: Figures
    rss: int  # bytes, of the larger worker
    standing: dict[str, int] = {}  # the least that was seen


class Facts(msgspec.Struct, kw_only=True, rename="camel"):
    """All that was seen."""

    wanted: dict[str, int]
    patience: dict[str, float]  # seconds, of slow heads and bodies
    phases: list[Phase] = []
    seen: list[Seen] = []  # at the end of each attack
    held: int = 0
    problems: list[str] = []
    workers_ended: int = 0

    def p99_ms(self, name: str) -> float:
        """The mean p99 of all phases of this name."""
        found = [each.figures.p99_ms for each in self.phases if each.name == name]
        return sum(found) / len(found) if found else 0.0

    @property
    def ok(self) -> int:
        """Promised holds."""
        return sum(each.figures.ok for each in self.phases)

    def sent_away(self, kind: str) -> Counter[str]:
        """With what words this kind was sent away."""
        total = Counter[str]()
        for each in self.seen:
            total.update(each.sent_away.get(kind, {}))
        return total

    def longest(self, kind: str) -> float:
        """Seconds that the most patient of this kind could stand there."""
        return max((each.longest.get(kind, 0.0) for each in self.seen), default=0.0)


def judge(facts: Facts, *, only_counts: bool = False) -> list[Row]:
    """The verdict. With `only_counts` a run too short for times is judged by the rest."""
    normal, attacked = facts.p99_ms("normal"), facts.p99_ms("attacked")
    ratio = attacked / normal if normal else float("inf")
    errors = sum(each.figures.errors for each in facts.phases)
    refusals = sum(each.figures.non_2xx for each in facts.phases)
    surplus = facts.held - facts.ok
    rows = [
        Row("p99 of a reservation, ms", f"{normal:,.1f}"),
        Row("  with the crowd, ms", f"{attacked:,.1f}"),
        Row("ratio", f"{ratio:.2f}", f"< {RATIO_MAX}", None if only_counts else ratio < RATIO_MAX),
        *(_stands(facts, kind, 0.25 if only_counts else MET_SHARE) for kind in facts.wanted),
        *(row for kind in SLOW for row in _was_cut(facts, kind)),
    ]
    for kind in ("silent", "idle"):
        away = _words(facts.sent_away(kind))
        rows.append(Row(f"{kind}, sent away", away or "none"))
    rss = [each.rss / (1 << 20) for each in facts.phases] or [0.0]
    rows.append(Row("memory of a worker, MiB", f"{rss[0]:,.0f} to {max(rss):,.0f}"))
    return [
        *rows,
        Row("other answers to buyers", f"{refusals}", "0", refusals == 0),
        Row("lost connections of buyers", f"{errors}", "0", errors == 0),
        Row("holds in the stock - 201s", f"{surplus}", f"0 to {errors}", 0 <= surplus <= errors),
        Row("workers that ended", f"{facts.workers_ended}", "0", facts.workers_ended == 0),
        Row("audit", "; ".join(facts.problems) or "clean", "clean", not facts.problems),
    ]


def _stands(facts: Facts, kind: str, share: float) -> Row:
    attacks = [each.standing for each in facts.phases if each.name == "attacked"]
    least = min((each.get(kind, 0) for each in attacks), default=0)
    wanted = int(facts.wanted[kind] * share)
    return Row(f"{kind}, always at the door", f"{least:,}", f">= {wanted:,}", least >= wanted)


def _was_cut(facts: Facts, kind: str) -> Iterator[Row]:
    away = facts.sent_away(kind)
    longest, patience = facts.longest(kind), facts.patience[kind]
    yield Row(f"slow {kind}, cut with", _words(away) or "none", ">= 1", away["408"] > 0)
    yield Row(
        "  the most patient, s",
        f"{longest:.1f}",
        f"<= {patience + LATE_SECONDS:.1f}",
        longest <= patience + LATE_SECONDS,
    )


def _words(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {word}" for word, count in counts.most_common())


class Drill:
    """Servers, workers and the phases of one run."""

    def __init__(self, options: argparse.Namespace, base: Path, stack: ExitStack) -> None:
        self._options = options
        postgres = start_postgres(base / "postgres", durable=True)
        stack.callback(postgres.stop)
        valkey = start_valkey(base / "valkey", durable=False)
        stack.callback(valkey.stop)
        env = {
            "DATABASE_URL": postgres.url,
            "REDIS_URL": valkey.url,
            "HOST": "127.0.0.1",
            "AUTH": "open",
            "LOG_LEVEL": "warning",
            "HEADER_TIMEOUT_MS": str(int(options.header_seconds * 1_000)),
            "BODY_TIMEOUT_MS": str(int(options.body_seconds * 1_000)),
        }
        self._workers, self._keeper = engine(stack, env, base, workers=WORKERS, keepers=1)
        self.port = self._workers.port

    def run(self) -> Facts:
        """All phases, then the count."""
        options = self._options
        slow, idle = room(options.slow), room(options.slow + options.idle) - room(options.slow)
        wanted = {
            "heads": slow - slow // 2,
            "bodies": slow // 2,
            "silent": idle - idle // 2,
            "idle": idle // 2,
        }
        why = "all that were wanted" if idle == options.idle else "as many as open files allow"
        print(f"{slow:,} slow senders and {idle:,} idle connections: {why}", flush=True)
        patience = {"heads": options.header_seconds, "bodies": options.body_seconds}
        facts, drops = Facts(wanted=wanted, patience=patience), []
        self._load(self._open_drop(options.seconds), options.seconds, "warm-up")
        for _ in range(2):
            drops += [self._open_drop(options.seconds) for _ in range(2)]
            facts.phases.append(self._load(drops[-2], options.seconds, "normal"))
            with crowd(self.port, wanted) as pipe:
                self._await_crowd(pipe, sum(wanted.values()))
                least = _Least(pipe)
                with Beside(least.look, LOOK_SECONDS):
                    seen = self._load(drops[-1], options.seconds, "attacked")
                facts.phases.append(msgspec.structs.replace(seen, standing=least.standing))
                facts.seen.append(look(pipe))
            self._workers.check()
        self._count(facts, drops)
        return facts

    def _open_drop(self, seconds: float) -> int:
        units = int(seconds * HOLDS_PER_S_MAX)
        wanted = {"name": "Door", "price": "10.00", "totalStock": units, "holdSeconds": 86_400}
        drop_id: int = ask(self.port, f"{API}/drops", wanted)[1]["id"]
        path = f"{API}/drops/{drop_id}"
        await_true(lambda: ask(self.port, path)[1]["status"] == "live", "a drop to be filled")
        return drop_id

    def _load(self, drop_id: int, seconds: float, name: str) -> Phase:
        shot = Shot(port=self.port, path=f"{API}/reservations", run=f"d{drop_id}", drop_id=drop_id)
        figures = client.fire(shot, self._options.connections, seconds, processes=1)
        print(
            f"{name:<10}{figures.ok_per_s:>9,.0f} holds/s   p50 {figures.p50_ms:>6.1f} ms"
            f"   p99 {figures.p99_ms:>6.1f} ms",
            flush=True,
        )
        return Phase(name, figures, self._workers.rss())

    def _await_crowd(self, pipe: Pipe, count: int) -> None:
        def stands() -> bool:
            return sum(look(pipe).standing.values()) >= count * MET_SHARE

        await_true(stands, f"{count:,} connections to stand at the door", check=self._workers.check)

    def _count(self, facts: Facts, drops: Sequence[int]) -> None:
        processes = [*self._workers.processes, *self._keeper.processes]
        facts.workers_ended = sum(process.poll() is not None for process in processes)
        print("counting ...", flush=True)
        since = ask(self.port, f"{API}/drops/{drops[0]}")[1]["serverTime"]
        for drop_id in drops:
            facts.problems += [f"drop {drop_id}: {why}" for why in self._problems(drop_id, since)]
            facts.held += ask(self.port, f"{API}/drops/{drop_id}/stock")[1]["heldStock"]

    def _problems(self, drop_id: int, since: str) -> list[str]:
        """What an audit says whose last look at every row was after a moment."""
        path = f"{API}/drops/{drop_id}/audit"
        await_true(lambda: (ask(self.port, path)[1]["provenAt"] or "") > since, "an audit")
        problems: list[str] = ask(self.port, path)[1]["problems"]
        return problems


class _Least:
    """The smallest crowd of each kind that was seen."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self.standing: dict[str, int] = {}

    def look(self) -> None:
        for kind, count in look(self._pipe).standing.items():
            self.standing[kind] = min(count, self.standing.get(kind, count))


def main() -> None:
    """`python -m loadtest.door`"""
    options = _options()
    perform(
        "door",
        lambda folder, stack: Drill(options, folder, stack).run(),
        lambda facts: judge(facts, only_counts=options.only_counts),
        options.report,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.door", description=__doc__)
    parser.add_argument("--seconds", type=float, default=8, help="of each of the four phases")
    parser.add_argument("--slow", type=int, default=500, help="slow senders, half in bodies")
    parser.add_argument("--idle", type=int, default=10_000, help="half of them never speak")
    parser.add_argument("--connections", type=int, default=64, help="of honest buyers")
    parser.add_argument("--header-seconds", type=float, default=5, help="HEADER_TIMEOUT_MS")
    parser.add_argument("--body-seconds", type=float, default=10, help="BODY_TIMEOUT_MS")
    parser.add_argument("--only-counts", action="store_true", help="show times, judge the rest")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write all of it as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
