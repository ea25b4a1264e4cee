"""Thousands listen to a drop while it is sold. What do they cost the buyers, and when do they hear?

    the most a second ─▶ 30 % of it: alone ─ heard ─ alone ─ heard …
                      ─▶ some read no more ─▶ one that tells is killed ─▶ verdict

What counts is the p99 of a reservation with listeners, next to the p99 without, within this run;
and the time from a change until a listener knew of it, over all changes and all listeners. A change
is dated by its row in the outbox, which is written before its commit: lags hold the commit, too.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import psutil  # type: ignore[import-untyped, unused-ignore]

from engine.ops.launch import free_port
from loadtest.audience import Audience, audience
from loadtest.bench import paced
from loadtest.bench.plan import Plan
from loadtest.bench.stage import RESERVE, Stage
from loadtest.client import Figures, Shot
from loadtest.crowd import room
from loadtest.drills import perform
from loadtest.fleet import ENGINE, ask, await_true, fleet
from loadtest.hearing import SHARE, STOPPED, Facts, Phase, judge, lags

API = "/api/v1"
WORKERS = 2
CONNECTIONS = 256  # of buyers
CATCH_UP_SECONDS = 5.0
COME_BACK_SECONDS = 20.0  # how long they took is judged by itself
REST_SECONDS = 1.0
KILL_AFTER = 0.3  # of the load
STOPPED_SECONDS = 14  # of the load beside those who read no more
HANDED_OVER_SECONDS = 2.0  # workers look so often for a process that takes listeners


class Drill:
    """Servers, workers, listeners and the phases of one run."""

    def __init__(self, options: argparse.Namespace, base: Path, stack: ExitStack) -> None:
        self._options = options
        self._stage = Stage(
            Plan(seconds=options.seconds, quick=options.only_counts), base / "stage", stack
        )
        self._stage.env["DATA_DIR"] = str(base / "stage")  # where a process for listeners is found
        self._workers = stack.enter_context(self._stage.engine(WORKERS))
        self._tellers = self._workers
        if options.listeners:
            own = str(free_port())
            env = {**self._stage.env, "PORT": own, "LISTENER_PORT": own}
            log = base / "listener.log"
            self._tellers = stack.enter_context(fleet([*ENGINE, "listen"], env, log, 1))
            time.sleep(HANDED_OVER_SECONDS)
        self._drop_id = 0
        self._rate = 0.0

    def run(self) -> Facts:
        """All phases, then the count."""
        options = self._options
        facts = Facts(wanted=room(options.sockets), hands=options.listeners)
        why = "all that were wanted" if facts.wanted == options.sockets else "as files allow"
        print(f"{facts.wanted:,} listeners: {why}", flush=True)
        if not options.brief:
            self._stage.age_log()
        facts.most_per_s = options.most or self._stage.holds(self._workers).value
        self._rate = facts.rate = SHARE * facts.most_per_s
        print(f"{facts.most_per_s:,.0f} holds/s at most, now {facts.rate:,.0f}", flush=True)
        seconds = (2 * options.rounds + 3) * (options.seconds + 2) + STOPPED_SECONDS
        self._drop_id = self._stage.open_drop(self._workers, int(self._rate * seconds * 1.2))
        with audience(self._workers.port, self._drop_id, facts.wanted) as hall:
            if not options.brief:
                self._phase("warm-up", hall)
            for number in range(options.rounds):
                if number:
                    hall.ask(seats=0)
                    time.sleep(REST_SECONDS)
                facts.phases.append(self._phase("alone", hall))
                self._be_heard(facts, hall)
            facts.words = hall.ask().words
            if not options.brief:
                self._stop_some(facts, hall)
            self._kill_one(facts, hall)
        self._audit(facts)
        return facts

    # ── phases ───────────────────────────────────────────────────────────────────────────────

    def _phase(self, name: str, hall: Audience, listeners: int = 0) -> Phase:
        """The load, in front of so many listeners."""
        began: list[float] = []

        def begin() -> None:
            began.append(hall.ask(forget=True).cpu_seconds)

        sample = self._stage.load(
            self._workers, self._shot(), connections=CONNECTIONS, before=begin, fire=self._paced
        )
        assert sample.figures is not None
        phase = self._seen(name, sample.figures, hall, listeners, began[0])
        phase = msgspec.structs.replace(phase, usage=sample.usage)
        self._show(phase)
        return phase

    def _be_heard(self, facts: Facts, hall: Audience) -> None:
        """All come, the load goes on, and they are weighed."""
        before, count = self._rss(), facts.wanted
        began = time.monotonic()
        hall.ask(seats=count)
        await_true(lambda: hall.ask().present == count, f"{count:,} to listen")
        print(f"          all there after {time.monotonic() - began:.1f} s", flush=True)
        time.sleep(REST_SECONDS)
        told = [(self._rss() - before) / count]
        facts.phases.append(self._phase("heard", hall, count))
        told.append((self._rss() - before) / count)
        if not facts.bytes_per_socket:  # memory that was used before is used again
            facts.bytes_per_socket = told

    def _stop_some(self, facts: Facts, hall: Audience) -> None:
        """Some read no more, and are to be cut while the others hear as before."""
        hall.ask(forget=True, stop=STOPPED)
        began = hall.ask().cpu_seconds
        figures = self._fire(STOPPED_SECONDS, self._rate)
        facts.stopped = self._seen("stopped", figures, hall, facts.wanted - STOPPED, began)
        facts.gone = hall.ask().gone
        self._show(facts.stopped)

    def _kill_one(self, facts: Facts, hall: Audience) -> None:
        """kill -9 to a worker, or to the process for listeners, in the middle of a load."""
        victim = self._tellers.processes[0]
        facts.its_own = self._listeners_of(victim.pid)
        began = hall.ask(forget=True).cpu_seconds
        seconds = self._options.seconds + (1 if self._options.brief else 4)
        timer = threading.Timer(seconds * KILL_AFTER, victim.kill)
        timer.start()
        try:
            # One worker is to do what is left.
            figures = self._fire(seconds, self._rate / WORKERS)
        finally:
            timer.join()
        count = facts.wanted - (0 if facts.stopped is None else STOPPED)
        facts.killed = self._seen("killed", figures, hall, count, began)
        facts.back = hall.ask().back
        self._show(facts.killed)

    def _seen(
        self, name: str, figures: Figures, hall: Audience, listeners: int, began: float
    ) -> Phase:
        """A load that is over, once everybody knows how it ended or has had time to."""
        load = os.getloadavg()[0]
        spent = hall.ask().cpu_seconds - began
        patience = COME_BACK_SECONDS if name == "killed" else CATCH_UP_SECONDS
        behind = self._behind(hall, patience) if listeners else 0
        seen = hall.ask(lags=True)
        return Phase(
            name=name,
            p50_ms=figures.p50_ms,
            p99_ms=figures.p99_ms,
            late_p99_ms=figures.late_p99_ms,
            ok=figures.ok,
            refused=figures.non_2xx + figures.errors,
            listeners=listeners,
            events=seen.frames,
            events_per_s=seen.frames / figures.seconds,
            audience_cpu=spent / figures.seconds,
            lags=lags(seen.heard, self._written()),
            lost=seen.lost,
            behind=behind + abs(listeners - sum(seen.versions.values())),
            load_average=load,
        )

    # ── loads ────────────────────────────────────────────────────────────────────────────────

    def _shot(self) -> Shot:
        return Shot(
            port=self._workers.port,
            path=RESERVE,
            run=self._stage.name_run(),
            drop_id=self._drop_id,
        )

    def _paced(self, shot: Shot, connections: int, seconds: float, watch: Any = None) -> Figures:
        return paced.fire(shot, connections, seconds, watch, rate=self._rate)

    def _fire(self, seconds: float, rate: float) -> Figures:
        return paced.fire(self._shot(), CONNECTIONS, seconds, rate=rate)

    # ── looking ──────────────────────────────────────────────────────────────────────────────

    def _behind(self, hall: Audience, patience: float) -> int:
        """How many do not know the last version, a while after it came to be."""
        until = time.monotonic() + patience
        while True:
            known, last = hall.ask().versions, self._version()
            behind = sum(count for version, count in known.items() if version != last)
            if not behind or time.monotonic() > until:
                return behind
            time.sleep(0.1)

    def _version(self) -> int:
        query = "SELECT version FROM stock WHERE drop_id = $1"
        return int(self._stage.query(query, self._drop_id)[0][0])

    def _written(self) -> Mapping[int, float]:
        """When each version was written down, in ms of Unix."""
        query = (
            "SELECT version, extract(epoch FROM min(created_at))::float8 * 1000 FROM outbox"
            " WHERE drop_id = $1 GROUP BY version"
        )
        return dict(map(tuple, self._stage.query(query, self._drop_id)))

    def _rss(self) -> int:
        """Bytes of all processes that may tell."""
        ones = {one.pid: one for one in [*self._workers.family(), *self._tellers.family()]}
        return sum(int(one.memory_info().rss) for one in ones.values())

    def _listeners_of(self, pid: int) -> int:
        """Connections of listeners to a process: none of them comes from 127.0.0.1."""
        found = psutil.Process(pid).net_connections("tcp")
        ours = (each for each in found if each.raddr and each.laddr.port == self._workers.port)
        return sum(each.raddr.ip != "127.0.0.1" for each in ours)

    def _audit(self, facts: Facts) -> None:
        print("counting ...", flush=True)
        since = ask(self._workers.port, f"{API}/drops/{self._drop_id}")[1]["serverTime"]
        path = f"{API}/drops/{self._drop_id}/audit"
        port = self._workers.port
        await_true(lambda: (ask(port, path)[1]["provenAt"] or "") > since, "an audit")
        facts.problems = ask(port, path)[1]["problems"]

    @staticmethod
    def _show(phase: Phase) -> None:
        text = f"{phase.name:<10}p50 {phase.p50_ms:>6.1f} ms   p99 {phase.p99_ms:>6.1f} ms"
        if phase.listeners:
            text += (
                f"   {phase.events_per_s:>7,.0f} events/s   lag p50 {phase.lags.p50:,}"
                f" p99 {phase.lags.p99:,} max {phase.lags.longest:,} ms"
            )
        print(text, flush=True)


def main() -> None:
    """`python -m loadtest.listeners`"""
    options = _options()
    perform(
        "listeners",
        lambda folder, stack: Drill(options, folder, stack).run(),
        lambda facts: judge(facts, only_counts=options.only_counts),
        options.report,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.listeners", description=__doc__)
    parser.add_argument("--sockets", type=int, default=5_000)
    parser.add_argument("--seconds", type=int, default=8, help="of each load")
    parser.add_argument("--rounds", type=int, default=2, help="alone and heard, so many times")
    parser.add_argument("--listeners", type=int, default=0, help="1: a process of their own")
    parser.add_argument("--most", type=float, default=0.0, help="holds a second; 0: measure")
    parser.add_argument("--brief", action="store_true", help="no warm-up, and everybody reads")
    parser.add_argument("--only-counts", action="store_true", help="show times, judge the rest")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write all of it as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
