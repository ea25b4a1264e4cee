"""One run: servers, workers, keepers, buyers and their weather, from one seed.

    World(seed).run() -> Counter of what happened, or `Violation`

After the buyers' time everything heals, and eight seconds later nothing may be left over.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from random import Random
from typing import Any

from engine.sale.models import Reserve

from .buyers import CURRENCY, PRICE_CENTS, Buyer, Counted
from .lasso import lasso
from .ledger import BORN, Tables
from .loop import Process, Stuck, VirtualLoop
from .oracle import Copy, Oracle, Violation
from .postgres import Server
from .seating import bits, free_of
from .staff import KEEPERS, Keeping, Worker
from .stock import LIVE
from .valkey import Valkey
from .weather import Weather, accident

HEAL_SECONDS = 8.0  # INV-7
LATE = {"late": 2.5, "zombie": 2.0, "slow": 3.0}  # seconds at most
NAMED = 0.4  # of the drops sell units that have names
YOUNG_SECONDS = 6.0  # a little more than an intent lives
Patch = Callable[[], AbstractContextManager[object]]


class World:
    """See the module. `fates` says what becomes of the workers' n-th message of a kind or name."""

    def __init__(
        self,
        seed: int,
        *,
        patch: Patch | None = None,
        fates: dict[tuple[str, int], str] | None = None,
        calm: bool = False,
        story: bool = False,
    ) -> None:
        self.seed, self._patch = seed, patch or nullcontext
        self.random, self._dice = Random(seed), Random(~seed)
        self.naming = Random(f"names {seed}")
        self.weather = Weather(Random(f"weather {seed}"))
        if calm:
            still = {"postgres": 0.0, "redis": 0.0, "accidents": 0, "hang_ups": 0.0, "spikes": 0.0}
            vars(self.weather).update(still)
        self.loop = VirtualLoop(Random(f"order {seed}"), self.weather.disorder)
        self.story: list[str] | None = [] if story else None
        self.counts: Counter[str] = Counter()
        self.broken: str | None = None
        self.fates, self.messages = fates or {}, Counter[str]()
        self.healing = self.over = False
        skew = self.random.choice((0.0, 0.0, -2.0, 2.0))
        self.valkey = Valkey(self.loop, lambda: _us(self.loop.now + skew))
        self.tables = Tables(self.loop.time)
        self.server = Server(self.loop, self.tables, Random(f"postgres {seed}"))
        self.server.patience = self.weather.patience
        self.server.flush_seconds = self.weather.flush_seconds
        self.oracle = Oracle(self.loop, self.tables, self.valkey.keyspace, self._break)
        self.server.after = self.oracle.committed
        self.valkey.after = self.oracle.scripted
        self.drops: list[int] = []
        self.buyers = self.random.randint(2, 8)
        self.seconds = self.random.choice((2.0, 4.0, 7.0))
        self.workers: list[Worker] = []
        self.keepers: list[Keeping] = []
        self.staff: list[Worker | Keeping] = []
        self.requests: list[tuple[Copy, Counted]] = []
        self.redis_snapshot: Any = None
        self.postgres_snapshots: list[tuple[float, Any]] = []
        self.rounds = KEEPERS
        self.mended_at = 0.0  # when the last accident is over
        self.hang_up_plan: Callable[[], int] | None = None

    # ── what its parts ask ───────────────────────────────────────────────────────────────────

    def note(self, words: str) -> None:
        if self.story is not None and not self.over:
            self.story.append(f"{self.loop.now:9.4f}  {words}")

    def _break(self, words: str) -> None:
        if self.broken is None:
            self.broken = words
            self.note(f"VIOLATION {words}")

    def fate(self, kind: str, name: str, process: Process, counts: bool) -> str:
        """What becomes of one message."""
        planned = None
        if counts:
            self.messages[kind] += 1
            self.messages[name] += 1
            planned = self.fates.get((kind, self.messages[kind]))
            planned = self.fates.get((name, self.messages[name]), planned)
        drawn = self.weather.fate(kind, name)
        told = planned or ("ok" if self.healing else drawn)
        if told not in ("ok", "seen", "unseen"):
            self.counts[f"{kind} {told}"] += 1
            if told in LATE:  # what arrives late is a fault when it arrives
                self.mended_at = max(self.mended_at, self.loop.now + LATE[told])
            self.note(f"{process.name} {kind} {told}: {name}")
        elif self.story is not None and name:
            self.note(f"{process.name} {kind}: {name}")
        return told

    def lag(self) -> float:
        return self.weather.lag()

    def hang_up_at(self) -> int:
        """At which await a client hangs up; 0: at none."""
        if self.hang_up_plan is not None:
            return self.hang_up_plan()
        if self.healing or self._dice.random() >= self.weather.hang_ups:
            return 0
        self.counts["client hangs up"] += 1
        return self._dice.randint(1, 6)

    def later(self, seconds: float, callback: Callable[..., object], *args: Any) -> None:
        """The end of an accident, after so long: before it nothing is healed."""
        self.mended_at = max(self.mended_at, self.loop.now + seconds)
        self.loop.outside(seconds, callback, *args)

    def hear(self, level: str, event: str, fields: dict[str, Any]) -> None:
        """The engine's log: what it did not expect is a violation."""
        told = {k: v for k, v in fields.items() if k != "exc_info"}
        error = fields.get("exc_info")
        self.note(f"log {level}: {event} {told or ''} {error or ''}")
        self.counts[f"log {event}"] += 1
        if level == "exception" or event == "task.failed":
            import sys

            self._break(f"the engine logged {event}: {error or sys.exc_info()[1]!r} {told}")

    @property
    def first(self) -> Worker:
        """The first worker there was; it may be dead."""
        return next(process for process in self.staff if isinstance(process, Worker))

    def hire(self) -> None:
        """Another worker."""
        worker = Worker(self, f"worker-{len(self.staff)}")
        self.workers.append(worker)
        self.staff.append(worker)

    def hire_keeper(self) -> None:
        keeper = Keeping(self, f"keeper-{len(self.staff)}", self.rounds)
        self.keepers.append(keeper)
        self.staff.append(keeper)

    def operate(self, reason: str | None) -> None:
        """An operator pauses a drop, or lets all go on; the reconciler tells the bouncer."""
        for drop_id in self.drops:
            row = self.tables.rows["drops"][drop_id]
            terms = row["terms_version"] + 1
            row = row | {"paused_reason": reason, "terms_version": terms}
            self.tables.rows["drops"][drop_id] = row

    # ── a run ────────────────────────────────────────────────────────────────────────────────

    def run(self) -> Counter[str]:
        """Play it. Raises `Violation`."""
        loop = self.loop
        asyncio.set_event_loop(None)
        with lasso(loop.time, Random(f"engine {self.seed}"), self.hear), self._patch():
            try:
                loop.run_until_complete(self._play())
            except Stuck:
                self._break("INV-12: somebody waits for what never comes")
            finally:
                self._bury()
        self.counts += self.oracle.counts
        self.counts["steps"] += loop.steps
        self.counts["virtual ms"] += round(loop.now * 1000)
        self.counts["runs"] += 1
        for complaint in loop.complaints:
            self._break(f"the loop complained: {complaint}")
        if self.broken is not None:
            raise Violation(self.broken)
        return self.counts

    def open(self) -> None:
        """Drops, servers and staff."""
        random, now = self.random, self.tables.now()
        rows = self.tables.rows
        long_ago = BORN - timedelta(days=1)
        rows["engine_state"][True] = {
            "epoch": int(BORN.timestamp()) - 60,
            "timeline": self.tables.timeline,
            "direct_until": long_ago,
        }
        for drop_id in range(1, random.choice((1, 1, 2)) + 1):
            total = random.choice((1, 1, 2, 2, 3, 5, 8))
            by_name = self.naming.random() < NAMED
            rows["drops"][drop_id] = {
                "id": drop_id, "price_cents": PRICE_CENTS, "currency": CURRENCY,
                "starts_at": long_ago, "ends_at": None, "total_stock": total,
                "hold_seconds": random.choice((1, 1, 2, 4)), "max_hold_seconds": 6,
                "pay_seconds": 2, "max_per_buyer": random.choice((None, 1, 2, 4)),
                "max_per_order": random.choice((2, 4)), "paused_reason": None,
                "terms_version": 2, "prepared_at": long_ago, "pick": "named" if by_name else "any",
            }  # fmt: skip
            figures = {"free": total, "held": 0, "sold": 0, "withdrawn": 0, "total": total}
            rows["stock"][drop_id] = {"version": 1, "changed_at": now} | figures
            for number in range(1, total + 1):
                position = random.getrandbits(40)
                unit = {"state": "free", "position": number if by_name else position}
                rows["units"][drop_id, number] = unit
            self.drops.append(drop_id)
        for _ in range(random.choice((2, 2, 3))):
            self.hire()
        for _ in range(random.choice((1, 1, 2))):
            self.hire_keeper()

    async def _play(self) -> None:
        self.open()
        await asyncio.sleep(0.05)
        loop, weather, random = self.loop, self.weather, self.random
        if random.random() < 0.7:
            await self._grow_old()
        rushes = [random.random() * self.seconds for _ in range(random.choice((0, 1, 2, 4)))]
        for number in range(random.randint(4, 40)):
            buyer = Buyer(self, number)
            moment = random.choice(rushes) if rushes else random.random() * self.seconds
            loop.outside(moment + random.random() * 0.01, self._admit, buyer)
        for _ in range(weather.accidents):
            loop.outside(random.random() * self.seconds, accident, self, self.counts)
        self._remember()
        await asyncio.sleep(self.seconds)
        self._heal()
        await asyncio.sleep(max(self.mended_at - loop.now, 0.0))
        await self._settle_down()
        await self._audit()

    async def _grow_old(self) -> None:
        """A young bouncer, or a new connection to it, makes every refusal more careful: let both
        have been there for a while."""
        for worker in self.workers:
            for _ in range(6):
                worker.start(worker.redis.ping(), "warm")
        await asyncio.sleep(0.1)
        self.loop.now += YOUNG_SECONDS

    async def _settle_down(self) -> None:
        """Wait until nothing more can happen, at most as long as INV-7 allows."""
        until = self.loop.now + HEAL_SECONDS
        while self.loop.now < until:
            await asyncio.sleep(0.25)
            if not self.loop.is_still() or any(worker.idle() for worker in self.workers):
                continue
            live = any(row["state"] in LIVE for row in self.tables.rows["reservations"].values())
            waiting = any(n.task is not None and not n.task.done() for _, n in self.requests)
            if not live and not waiting and self._compare() == (0, []):
                return

    def _admit(self, buyer: Buyer) -> None:
        self.visits.append(self.loop.create_task(buyer.visit(), name=buyer.name))

    @property
    def visits(self) -> list[asyncio.Task[None]]:
        return self.__dict__.setdefault("_visits", [])  # type: ignore[no-any-return]

    def _remember(self) -> None:
        """A standby follows a little behind."""
        now = self.loop.now
        self.postgres_snapshots = [each for each in self.postgres_snapshots if each[0] > now - 2]
        self.postgres_snapshots.append((now, self.tables.snapshot()))
        if not self.healing:
            self.loop.outside(0.05, self._remember)

    def _heal(self) -> None:
        """The last fault is over; buyers leave."""
        self.note("HEALED")
        self.healing = True
        self.weather.accidents = 0
        for visit in self.visits:
            visit.cancel()
        self.valkey.full = False
        for process in self.staff:
            if not process.dead and process.frozen_until > self.loop.now:
                process.frozen_until = self.loop.now
                self.loop._thaw(process)

    async def _audit(self) -> None:
        """Nothing is left over, everywhere the same is believed."""
        for visit in self.visits:
            if visit.done() and not visit.cancelled() and visit.exception() is not None:
                self._break(f"a buyer stumbled: {visit.exception()!r}")
        for worker in self.workers:
            if left := worker.idle():
                self._break(f"INV-12: {worker.name} is not idle: {left}")
        for copy, _ in self.requests:
            waiting = copy.word == "gone" and not copy.process.dead and copy.done_at == float("inf")
            task = next((t for c, n in self.requests if c is copy and (t := n.task)), None)
            if waiting and task is not None and not task.done():
                self._break(f"INV-12: {copy} was never answered")
        backends = [b for b in self.server.backends if b.tx is not None and b.explicit]
        if backends:
            self._break("INV-12: a transaction stays open")
        self.oracle.healed(*self._compare())

    def _compare(self) -> tuple[int, list[str]]:
        """Open intents, and how the bouncer differs from Postgres."""
        intents, drift = 0, []
        keyspace, rows = self.valkey.keyspace, self.tables.rows
        epoch = rows["engine_state"][True]["epoch"]
        for drop_id in self.drops:
            name = b":%d}:drop" % drop_id
            key = next((key for key in list(keyspace.data) if key.endswith(name)), b"")
            known = keyspace.find(key) if key else None
            if known is None:
                drift.append(f"drop {drop_id} is unknown")
                continue
            intents += len(keyspace.find(key[: -len(b"drop")] + b"intents") or ())
            stock = rows["stock"][drop_id]
            truth = (epoch, stock["version"], stock["free"], 0)
            said = tuple(int(known[f]) for f in (b"epoch", b"version", b"free", b"open"))
            if said != truth:
                drift.append(f"drop {drop_id}: {said}, in Postgres {truth}")
            if rows["drops"][drop_id]["pick"] == "named":
                drift += self._compare_seats(drop_id, key[: -len(b"drop")], known)
        return intents, drift

    def _compare_seats(self, drop_id: int, key: bytes, known: dict[bytes, bytes]) -> list[str]:
        """How the bouncer's bitmaps differ from the shelf."""
        keyspace = self.valkey.keyspace
        truth = (self.tables.rows["stock"][drop_id]["version"], free_of(self.tables, drop_id), ())
        seats, picked = (bits(keyspace.find(key + name) or b"") for name in (b"seats", b"picked"))
        said = (int(known.get(b"seats_version", b"-1")), seats, picked)
        return [] if said == truth else [f"drop {drop_id} has {said}, in Postgres {truth}"]

    def _bury(self) -> None:
        """End what is left without a word: the dead, and the keepers that never end."""
        self.over = True
        for process in self.staff:
            process.dead = True
        for server in list(self.server.backends):
            server.dead = True
        tasks = asyncio.all_tasks(self.loop) | {t for p in self.staff for t in p.tasks}
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        for task in sorted(tasks, key=lambda task: task.get_name()):
            if not task.done():
                with contextlib.suppress(BaseException):
                    coroutine = task.get_coro()
                    assert coroutine is not None
                    coroutine.close()
        self.loop._ready.clear()
        self.loop._scheduled.clear()
        self.loop.close()


def _us(seconds: float) -> int:
    return round((BORN.timestamp() + seconds) * 1_000_000)


def a_wish(drop_id: int, buyer: str, rid: str) -> Reserve:
    return Reserve(drop_id, buyer, 1, rid, keyed=True)
