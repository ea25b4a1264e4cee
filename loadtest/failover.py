"""Postgres fails over in mid-sale. What is lost, and how long does nobody buy?

    normal ─ the standby receives no more (asynchronous only) ─ kill -9 ─ promoted ─ after ─ verdict

Twice, from the start: with a standby that commits wait for, which may lose nothing; and with one
that lags, which loses what it had not received: that tail is counted hold by hold, and compared
with what the engine said of it.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from engine.ops.devstack import start_valkey
from loadtest.chaos.standby import Pair, ask, pair
from loadtest.client import GRACE_SECONDS, Gun, Shot, keep_connected
from loadtest.drills import Row, perform
from loadtest.fleet import ask as send
from loadtest.fleet import await_true, engine
from loadtest.probes import API

WORKERS, KEEPERS = 2, 2
UNITS = 200_000
LAG_SECONDS = 1.0
BACK_MAX_SECONDS = 8.0
SETTLED_SECONDS = 20.0
HOLDS = "SELECT array_agg(id::text) FROM reservations WHERE state = 'active'"
# A unit of two live holds would be two rows that name it.
TWICE = (
    "SELECT count(*) FROM (SELECT unnest(units) AS unit FROM reservations WHERE state = 'active'"
    " GROUP BY unit HAVING count(*) > 1) AS doubled"
)
EPOCHS = "SELECT array_agg(DISTINCT epoch) FROM outbox"


class Told(msgspec.Struct):
    """What is read of an answer."""

    id: str = ""
    error: str = ""


class Notebook(Gun):
    """Writes down every hold that was promised, and when."""

    def __init__(self, shot: Shot) -> None:
        super().__init__(shot, float("inf"))
        self.promised: dict[str, float] = {}
        self.words: Counter[str] = Counter()
        self._decode = msgspec.json.Decoder(Told).decode

    def stop(self) -> None:
        """Nobody sends any more."""
        self._ends_at = 0.0

    def hit(self, status: int, sent_at: float, body: bytes) -> None:
        super().hit(status, sent_at, body)
        told = self._decode(body)
        if status == 201:
            self.promised[told.id] = time.perf_counter()
        else:
            self.words[told.error] += 1

    def first_after(self, moment: float) -> float | None:
        """Seconds from a moment until the next hold was promised."""
        later = [at for at in self.promised.values() if at > moment]
        return min(later) - moment if later else None


class Course(msgspec.Struct, kw_only=True, rename="camel"):
    """One failover."""

    synchronous: bool
    promised: int = 0
    lost: int = 0  # promised holds whose rows are gone
    untold: int = 0  # holds that nobody was promised
    told_units: int = 0  # what the engine said of it
    told_versions: int = 0
    epochs: int = 0  # begun by it
    promote_seconds: float = 0.0
    back_seconds: float | None = None  # from the kill to the next hold
    twice: int = 0
    words: dict[str, int] = {}
    cut: int = 0
    ended: int = 0
    problems: list[str] = []


def judge(courses: list[Course]) -> list[Row]:
    """The verdict of both."""
    rows = []
    for course in courses:
        name = "synchronous" if course.synchronous else "asynchronous"
        words = ", ".join(f"{n:,} {word}" for word, n in course.words.items()) or "none"
        back = course.back_seconds
        least = "0" if course.synchronous else ">= 1"
        rows += [
            Row(f"a standby, {name}", ""),
            Row("  holds promised", f"{course.promised:,}", ">= 1", course.promised > 0),
            # The one that lags has to lose something, or nothing was drilled.
            Row(
                "  promised and lost",
                f"{course.lost:,}",
                least,
                (course.lost > 0) != course.synchronous,
            ),
            Row(
                "  units that the engine missed",
                f"{course.told_units:,}",
                least,
                (course.told_units > 0) != course.synchronous,
            ),
            Row("  epochs begun", f"{course.epochs}", "1", course.epochs == 1),
            Row("  promotion took, s", f"{course.promote_seconds:.2f}"),
            Row(
                "  sold again after the kill, s",
                "never" if back is None else f"{back:.2f}",
                f"<= {BACK_MAX_SECONDS:.0f}",
                back is not None and back <= BACK_MAX_SECONDS,
            ),
            Row(
                "  holds that nobody was told of",
                f"{course.untold}",
                f"<= {course.words.get('OUTCOME_UNKNOWN', 0) + course.cut}",
                course.untold <= course.words.get("OUTCOME_UNKNOWN", 0) + course.cut,
            ),
            Row("  units twice", f"{course.twice}", "0", course.twice == 0),
            Row("  other answers", words),
            Row("  lost connections", f"{course.cut}", "0", course.cut == 0),
            Row("  processes that ended", f"{course.ended}", "0", course.ended == 0),
            Row("  audit", "; ".join(course.problems) or "clean", "clean", not course.problems),
        ]
    return rows


class Drill:
    """Two servers, Valkey, workers and keepers, for one failover."""

    def __init__(
        self, options: argparse.Namespace, base: Path, stack: ExitStack, synchronous: bool
    ) -> None:
        self._options = options
        self._course = Course(synchronous=synchronous)
        base.mkdir(mode=0o711)
        self._two: Pair = stack.enter_context(pair(base, durable=True))
        valkey = start_valkey(base / "valkey", durable=False)
        stack.callback(valkey.stop)
        env = {
            "DATABASE_URL": self._two.url,
            "REDIS_URL": valkey.url,
            "HOST": "127.0.0.1",
            "AUTH": "open",
            "LOG_LEVEL": "warning",
            "METRICS_DIR": str(base / "metrics"),
        }
        self._workers, self._keepers = engine(stack, env, base, workers=WORKERS, keepers=KEEPERS)
        self._port = self._workers.port

    def run(self) -> Course:
        """The sale, the failover, the count."""
        print(f"{'' if self._course.synchronous else 'a'}synchronous standby ...", flush=True)
        wanted = {"name": "Drill", "price": "10.00", "totalStock": UNITS, "holdSeconds": 86_400}
        drop_id: int = send(self._port, f"{API}/drops", wanted)[1]["id"]
        stock = f"{API}/drops/{drop_id}/stock"
        await_true(lambda: send(self._port, stock)[1]["availableStock"] == UNITS, "all units")
        asyncio.run(self._sell(drop_id))
        asyncio.run(self._count())
        self._hear(drop_id)
        processes = [*self._workers.processes, *self._keepers.processes]
        self._course.ended = sum(process.poll() is not None for process in processes)
        return self._course

    async def _sell(self, drop_id: int) -> None:
        options, course, two = self._options, self._course, self._two
        await two.catch_up()
        if course.synchronous:
            await two.wait_for_standby()
        shot = Shot(port=self._port, path=f"{API}/reservations", run="drill", drop_id=drop_id)
        notes = Notebook(shot)
        tasks = [
            asyncio.create_task(keep_connected(notes), name=f"connection-{number}")
            for number in range(options.connections)
        ]
        try:
            await asyncio.sleep(options.normal)
            if not course.synchronous:
                await two.cut()
                await asyncio.sleep(LAG_SECONDS)
            killed = time.perf_counter()
            two.kill()
            await two.promote()
            course.promote_seconds = time.perf_counter() - killed
            await asyncio.sleep(options.after)
        finally:
            notes.stop()
            _, late = await asyncio.wait(tasks, timeout=GRACE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        # A reply of before the kill may be read after it: only what follows the promotion is new.
        since = notes.first_after(killed + course.promote_seconds)
        course.back_seconds = None if since is None else since + course.promote_seconds
        course.words, course.cut = dict(notes.words), notes.errors + len(late)
        course.promised = len(notes.promised)
        there = set(await ask(two.standby, HOLDS) or [])
        course.lost = len(notes.promised.keys() - there)
        course.untold = len(there - notes.promised.keys())

    async def _count(self) -> None:
        course, standby = self._course, self._two.standby
        course.twice = await ask(standby, TWICE)
        course.epochs = len(await ask(standby, EPOCHS)) - 1

    def _hear(self, drop_id: int) -> None:
        """The audit when all is at rest, and what the engine says was lost."""
        course, path = self._course, f"{API}/drops/{drop_id}"
        since = send(self._port, path)[1]["serverTime"]
        until = time.monotonic() + SETTLED_SECONDS
        while True:
            audit: dict[str, Any] = send(self._port, f"{path}/audit")[1]
            bouncer = audit["bouncer"] or {"openIntents": "?"}
            rests = audit["drift"] == 0 == bouncer["openIntents"] and audit["provenAt"] > since
            if rests or time.monotonic() > until:
                break
            time.sleep(0.25)
        unrest = [] if rests else [f"drift {audit['drift']}, bouncer {bouncer}"]
        course.problems = [*audit["problems"], *unrest]
        for line in (self._workers.log, self._keepers.log):
            for said in line.read_text().splitlines():
                if '"sale.history_lost"' in said:
                    told = msgspec.json.decode(said)
                    course.told_units += told["units"]
                    course.told_versions += told["versions"]


def drill(options: argparse.Namespace, folder: Path) -> list[Course]:
    """Both failovers, each with servers of its own."""
    courses = []
    for synchronous in (True, False):
        with ExitStack() as stack:
            one = Drill(options, folder / f"{synchronous}".lower(), stack, synchronous)
            courses.append(one.run())
    return courses


def main() -> None:
    """`python -m loadtest.failover`"""
    options = _options()
    perform("failover", lambda folder, _: drill(options, folder), judge, options.report)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.failover", description=__doc__)
    parser.add_argument("--normal", type=float, default=5, help="seconds before the fall")
    parser.add_argument("--after", type=float, default=8, help="seconds after the promotion")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--report", type=Path, metavar="FILE", help="write all of it as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
