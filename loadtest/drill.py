"""Redis is lost in mid-sale. Does the sale go on, and does nobody hear a lie?

    warm-up ─ normal ─ kill -9 ─── away ─── started again, empty ─ back ─ verdict

Full load of durable holds on a drop that outlasts the drill, so that every SOLD_OUT on it is a
false one. Beside it a small drop that is sold out: every two seconds one hold of it is given
back, and whoever asks a second later must not hear SOLD_OUT any more.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from engine.ops.devstack import Server, start_postgres, start_valkey
from loadtest.client import Shot
from loadtest.drills import Row, perform
from loadtest.fleet import Untrustworthy, ask, await_true, engine
from loadtest.probes import API, Beside, Return, Returns, Sight, Sights
from loadtest.pulse import Slice, Total, pulse, receive

WORKERS = 2
WARM_UP_SECONDS = 2.0
SMALL_UNITS = 5
RETURN_SECONDS = 2.0  # between two units given back
LOOK_SECONDS = 0.25
HOLDS_PER_S_MAX = 20_000  # drops are made to last at this rate
DROP_SECONDS = 50.0  # then the load moves to another: a drop has a million units at most
FALSE_MAX_SECONDS = 1.0
RATIO_MIN = 0.3
BACK_SHARE = 0.8  # of the usual rate counts as back to normal
SETTLED_SECONDS = 5.0
SETTLED_MIN = 0.5  # of the normal rate: less is not settled but broken
BACK_MAX_SECONDS = 5.0


class Facts(msgspec.Struct, kw_only=True, rename="camel"):
    """All that was seen."""

    normal_from: float
    killed_at: float = 0.0
    returned_at: float = 0.0
    slices: list[Slice] = []
    total: Total
    returns: list[Return] = []
    sights: list[Sight] = []
    workers_ended: int = 0
    held: int = 0
    problems: list[str] = []

    def rate(self, since: float, until: float) -> float:
        """Holds a second between two moments."""
        within = [each for each in self.slices if since <= each.began < until]
        return sum(each.ok for each in within) / (sum(each.seconds for each in within) or 1.0)

    @property
    def normal(self) -> float:
        """Holds a second with Redis."""
        return self.rate(self.normal_from, self.killed_at)

    @property
    def away(self) -> float:
        """Holds a second without."""
        return self.rate(self.killed_at, self.returned_at)

    @property
    def settled(self) -> float:
        """Holds a second when Redis has long been back. Less than normal as well without any drill:
        rates fall by a third while a database grows by a million holds."""
        end = max((each.began + each.seconds for each in self.slices), default=0.0)
        return self.rate(max(end - SETTLED_SECONDS, self.returned_at), end)

    @property
    def back_seconds(self) -> float | None:
        """From Redis's return until the rate is near what it settles at (near normal if that is
        less), health is ok and the figures agree."""
        usual = min(self.normal, self.settled)
        rates = (
            each.began
            for each in self.slices
            if each.began >= self.returned_at
            and self.rate(each.began, each.began + 1.0) >= BACK_SHARE * usual
        )
        well = (
            sight.at
            for sight in self.sights
            if sight.at >= self.returned_at and sight.health == "ok" and sight.agrees
        )
        moments = next(rates, None), next(well, None)
        if moments[0] is None or moments[1] is None:
            return None
        return max(moments[0], moments[1]) - self.returned_at

    @property
    def false_sold_outs(self) -> int:
        """How often SOLD_OUT was said for more than a second though there were units."""
        stretches = sum(seconds > FALSE_MAX_SECONDS for seconds in self.total.stretches)
        returns = sum(
            each.taken_seconds is None or each.refused_seconds > FALSE_MAX_SECONDS
            for each in self.returns
        )
        return stretches + returns


def judge(facts: Facts, *, only_zeros: bool = False) -> list[Row]:
    """The verdict. With `only_zeros` a run too short for rates is judged by the rest."""
    ratio = facts.away / facts.normal if facts.normal else 0.0
    back, surplus = facts.back_seconds, facts.held - facts.total.ok
    taken = [each.taken_seconds for each in facts.returns if each.taken_seconds is not None]
    uncertain = facts.total.uncertain
    words = ", ".join(f"{n:,} {word or 'unreadable'}" for word, n in facts.total.words.items())
    in_time = back is not None and back <= BACK_MAX_SECONDS
    return [
        Row("holds/s with Redis", f"{facts.normal:,.0f}"),
        Row("holds/s without", f"{facts.away:,.0f}"),
        Row(
            "ratio",
            f"{ratio:.2f}",
            f">= {RATIO_MIN}",
            None if only_zeros else ratio >= RATIO_MIN,
        ),
        Row(
            "false sold-outs beyond 1 s", f"{facts.false_sold_outs}", "0", not facts.false_sold_outs
        ),
        Row("  units given back", f"{len(facts.returns)}", ">= 1", bool(facts.returns)),
        Row("  slowest to be had again, s", f"{max(taken, default=0):.2f}"),
        Row("  false sold-outs of any length", f"{facts.total.words.get('SOLD_OUT', 0):,}"),
        Row(
            "back to normal after, s",
            "never" if back is None else f"{back:.1f}",
            f"<= {BACK_MAX_SECONDS:.0f}",
            None if only_zeros else in_time,
        ),
        Row(
            "  then settled at, holds/s",
            f"{facts.settled:,.0f}",
            f">= {SETTLED_MIN * facts.normal:,.0f}",
            None if only_zeros else facts.settled >= SETTLED_MIN * facts.normal,
        ),
        Row("workers that ended", f"{facts.workers_ended}", "0", facts.workers_ended == 0),
        Row(
            "holds in the stock - 201s",
            f"{surplus}",
            f"0 to {uncertain}",
            0 <= surplus <= uncertain,
        ),
        Row("other answers", words or "none"),
        Row("lost connections", f"{facts.total.errors}"),
        Row("audit", "; ".join(facts.problems) or "clean", "clean", not facts.problems),
    ]


class Drill:
    """Servers, workers and two drops, for one run."""

    def __init__(self, options: argparse.Namespace, base: Path, stack: ExitStack) -> None:
        self._options, self._base, self._stack = options, base, stack
        postgres = start_postgres(base / "postgres", durable=True)
        stack.callback(postgres.stop)
        self._valkey = self._start_valkey(0)
        stack.callback(self._stop_valkey)
        env = {
            "DATABASE_URL": postgres.url,
            "REDIS_URL": self._valkey.url,
            "HOST": "127.0.0.1",
            "AUTH": "open",
            "LOG_LEVEL": "warning",
        }
        self._workers, self._keeper = engine(stack, env, base, workers=WORKERS, keepers=1)
        self.port = self._workers.port

    def _start_valkey(self, port: int) -> Server:
        # Without a file it comes back empty: the worst case, and the one to be shown.
        return start_valkey(self._base / "valkey", port=port, durable=False)

    def _stop_valkey(self) -> None:
        self._valkey.stop()

    def _open_drop(self, units: int) -> int:
        wanted = {"name": "Drill", "price": "10.00", "totalStock": units, "holdSeconds": 86_400}
        drop_id: int = ask(self.port, f"{API}/drops", wanted)[1]["id"]
        path = f"{API}/drops/{drop_id}"
        await_true(lambda: ask(self.port, path)[1]["status"] == "live", "a drop to be filled")
        return drop_id

    def run(self) -> Facts:
        """All phases, then the count."""
        options = self._options
        seconds = WARM_UP_SECONDS + options.normal + options.away + options.back
        lives = [
            min(DROP_SECONDS, seconds - at) for at in range(0, int(seconds), int(DROP_SECONDS))
        ]
        print(f"filling {len(lives)} large drop{'s' * (len(lives) > 1)} ...", flush=True)
        large = [self._open_drop(int(life * HOLDS_PER_S_MAX)) for life in lives]
        small = self._open_drop(SMALL_UNITS)
        returns, sights = Returns(self.port, small, SMALL_UNITS), Sights(self.port, small)
        shot = Shot(port=self.port, path=f"{API}/reservations", run="drill")
        with ExitStack() as beside:
            pipe = beside.enter_context(
                pulse(shot, large, DROP_SECONDS, options.connections, seconds)
            )
            beside.enter_context(Beside(returns.look, RETURN_SECONDS))
            beside.enter_context(Beside(sights.look, LOOK_SECONDS))
            facts = self._watch(pipe, sights)
        facts.returns, facts.sights = returns.seen, sights.seen
        self._count(facts, large, small)
        return facts

    def _watch(self, pipe: Any, sights: Sights) -> Facts:
        """Read the pulse, show it, and do to Redis what the plan says when its time has come."""
        options, second = self._options, _Second()
        first = receive(pipe, 30)
        assert isinstance(first, Slice), "a load that ended before it began"
        began = first.began
        normal_from = began + WARM_UP_SECONDS
        facts = Facts(normal_from=normal_from, slices=[first], total=Total(0, {}, 0, []))
        print(_HEAD, flush=True)
        while isinstance(told := receive(pipe, 30), Slice):
            facts.slices.append(told)
            phase = _phase(facts, told)
            if line := second.add(told, told.began - began, phase, sights.health):
                print(line, flush=True)
            if not facts.killed_at and told.began >= normal_from + options.normal:
                self._valkey.process.kill()
                self._valkey.process.wait()
                facts.killed_at = time.monotonic()
            away = time.monotonic() - facts.killed_at
            if facts.killed_at and not facts.returned_at and away >= options.away:
                self._valkey = self._start_valkey(urlsplit(self._valkey.url).port or 0)
                facts.returned_at = time.monotonic()
        facts.total = told
        return facts

    def _count(self, facts: Facts, large: list[int], small: int) -> None:
        """After the last answer, when all has come to rest."""
        processes = [*self._workers.processes, *self._keeper.processes]
        facts.workers_ended = sum(process.poll() is not None for process in processes)
        for drop_id in (*large, small):
            facts.problems += [f"drop {drop_id}: {why}" for why in self._problems(drop_id)]
        for drop_id in large:
            stock = ask(self.port, f"{API}/drops/{drop_id}/stock")[1]
            facts.held += stock["heldStock"]
            if not stock["availableStock"]:
                raise Untrustworthy(f"drop {drop_id} sold out before its load was over")

    def _problems(self, drop_id: int) -> list[str]:
        path = f"{API}/drops/{drop_id}"
        since = ask(self.port, path)[1]["serverTime"]
        until = time.monotonic() + 20
        while True:
            audit = ask(self.port, f"{path}/audit")[1]
            bouncer = audit["bouncer"] or {"openIntents": "?"}
            rests = audit["drift"] == 0 == bouncer["openIntents"] and audit["provenAt"] > since
            if rests or time.monotonic() > until:
                break
            time.sleep(0.25)
        unrest = [] if rests else [f"drift {audit['drift']}, bouncer {bouncer}"]
        return [*audit["problems"], *unrest]


_LINE = "{:>4}  {:<8}{:>9}{:>9}{:>10}{:>8}{:>8}  {}".format
_HEAD = _LINE("s", "phase", "holds/s", "p99 ms", "SOLD_OUT", "other", "errors", "health")


def _phase(facts: Facts, told: Slice) -> str:
    if facts.returned_at:
        return "back"
    if facts.killed_at:
        return "away"
    return "normal" if told.began >= facts.normal_from else "warm-up"


class _Second:
    """Slices summed up until a second is full."""

    def __init__(self) -> None:
        self._slices: list[Slice] = []

    def add(self, told: Slice, at: float, phase: str, health: str) -> str:
        """A line to show, once a second."""
        self._slices.append(told)
        seconds = sum(each.seconds for each in self._slices)
        if seconds < 0.99:
            return ""
        words: Counter[str] = Counter()
        for each in self._slices:
            words.update(each.words)
        rate = sum(each.ok for each in self._slices) / seconds
        p99 = max(each.p99_ms for each in self._slices)
        errors = sum(each.errors for each in self._slices)
        sold_out, others = words.pop("SOLD_OUT", 0), words.total()
        self._slices = []
        return _LINE(
            f"{at:.0f}", phase, f"{rate:,.0f}", f"{p99:,.0f}", sold_out, others, errors, health
        )


def main() -> None:
    """`python -m loadtest.drill`"""
    options = _options()
    perform(
        "drill",
        lambda folder, stack: Drill(options, folder, stack).run(),
        lambda facts: judge(facts, only_zeros=options.only_zeros),
        options.report,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.drill", description=__doc__)
    parser.add_argument("--normal", type=float, default=10, help="seconds before Redis is lost")
    parser.add_argument("--away", type=float, default=60, help="seconds without it")
    parser.add_argument("--back", type=float, default=15, help="seconds after it is back")
    parser.add_argument("--connections", type=int, default=256)
    parser.add_argument(
        "--only-zeros", action="store_true", help="show ratio and recovery without judging them"
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="write all of it as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
