"""The stage of an act: a durable Postgres and a Valkey, and whatever is started on them."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import msgspec
import redis

from engine.infra.settings import Settings
from engine.ops.devstack import start_postgres, start_valkey
from engine.ops.launch import free_port
from loadtest import client
from loadtest.bench import wrk
from loadtest.bench.plan import Plan, Sample
from loadtest.bench.usage import Account
from loadtest.client import Figures, Shot
from loadtest.fleet import ENGINE, Fleet, Untrustworthy, ask, await_true, fleet, migrate

API = "/api/v1"
RESERVE = f"{API}/reservations"
WORKERS = 2  # of each system: as many as cores
WARM_UP_SECONDS = 1
LOG_FILES = 40  # min_wal_size keeps 64
HOLDS_PER_S_MAX = 25_000  # drops are made to last at this rate
LIMITS_OFF = {
    name.upper(): "off" for name in Settings.__struct_fields__ if name.startswith("rate_")
}
T = TypeVar("T")


def ok_per_s(figures: Figures) -> float:
    """Answers a second that did what was asked."""
    return figures.ok_per_s


def requests_per_s(figures: Figures) -> float:
    """Answers a second, whatever they said."""
    return figures.requests_per_s


class Stage:
    """Servers for one act; all that is started here ends with `stack`."""

    def __init__(self, plan: Plan, base: Path, stack: ExitStack) -> None:
        self.plan, self._base, self._stack, self._shots = plan, base, stack, 0
        base.mkdir(mode=0o711)  # root's Postgres runs as somebody else, who has to get in
        self.postgres = start_postgres(base / "pg", durable=True)
        stack.callback(self.postgres.stop)
        self.valkey = start_valkey(base / "valkey")
        stack.callback(self.valkey.stop)
        self._fire = wrk.fire if plan.client == "wrk" else client.fire
        self._keepers: Fleet | None = None
        self._migrated = False
        self.env = {
            "DATABASE_URL": self.postgres.local,
            "REDIS_URL": self.valkey.local,
            "HOST": "127.0.0.1",
            "AUTH": "open",
            "LOG_LEVEL": "warning",
            "TRUSTED_PROXIES": "127.0.0.1",  # each request comes from an address of its own
        }

    @property
    def units(self) -> int:
        """Of a drop that outlasts a warm-up and a load."""
        return (self.plan.seconds + WARM_UP_SECONDS) * HOLDS_PER_S_MAX

    def enter(self, context: AbstractContextManager[T]) -> T:
        """Keep it open until the act is over."""
        return self._stack.enter_context(context)

    @property
    def settings(self) -> Settings:
        """For the engine in a process of ours."""
        return Settings(
            database_url=self.postgres.local, redis_url=self.valkey.local, auth="open", port=0
        )

    def versions(self) -> dict[str, str]:
        """Of the servers."""
        shown = self.query("SHOW server_version")
        with redis.Redis.from_url(self.valkey.url) as valkey:
            found: Any = valkey.info("server")
        return {"postgres": str(shown[0][0]), "valkey": str(found["valkey_version"])}

    def query(self, text: str, *values: Any, url: str = "") -> list[Any]:
        """What Postgres says, on a connection of its own."""

        async def ask_postgres() -> list[Any]:
            connection = await asyncpg.connect(url or self.postgres.url)
            try:
                return list(await connection.fetch(text, *values))
            finally:
                await connection.close()

        return asyncio.run(ask_postgres())

    def age_log(self) -> None:
        """Let Postgres make the log files that it will use: a server that has run for a day writes
        old ones anew, and to make one (16 MB of zeros, flushed) stops every commit for 0.14 s."""

        async def make_files() -> None:
            connection = await asyncpg.connect(self.postgres.url)
            try:
                for _ in range(LOG_FILES // 4 if self.plan.quick else LOG_FILES):
                    await connection.execute("SELECT pg_logical_emit_message(true, 'bench', '')")
                    await connection.execute("SELECT pg_switch_wal()")
                await connection.execute("CHECKPOINT")
            finally:
                await connection.close()

        asyncio.run(make_files())

    # ── who runs here ────────────────────────────────────────────────────────────────────────

    def migrate(self) -> None:
        """Bring the database to the present, once."""
        if not self._migrated:
            migrate(self.env)
            self._migrated = True

    @contextmanager
    def engine(
        self, workers: int = WORKERS, env: Mapping[str, str] | None = None
    ) -> Iterator[Fleet]:
        """API workers, ready; the first time with one process of keepers, which stays."""
        self.migrate()
        name = f"engine-{workers}"
        words = {**self.env, **(env or {}), "PORT": str(free_port())}
        with fleet([*ENGINE, "serve"], words, self._base / f"{name}.log", workers) as serving:
            if self._keepers is None:
                log = self._base / "keepers.log"
                self._keepers = self._stack.enter_context(
                    fleet([*ENGINE, "keep"], self.env, log, 1)
                )
            path = f"{API}/drops"
            await_true(lambda: ask(serving.port, path)[0] == 200, name, check=serving.check)
            yield serving

    @contextmanager
    def baseline(self, name: str, **env: str) -> Iterator[Fleet]:
        """A system of loadtest/baselines, on two workers."""
        port = str(free_port())
        command = (sys.executable, "-m", f"loadtest.baselines.{name}", port)
        with fleet(
            command, {**self.env, **env, "PORT": port}, self._base / f"{name}.log", WORKERS
        ) as serving:
            yield serving

    def open_drop(self, workers: Fleet, units: int, **terms: object) -> int:
        """A drop of the engine, filled and on sale."""
        wanted = {"name": "Bench", "price": "10.00", "totalStock": units, "holdSeconds": 3_600}
        drop_id: int = ask(workers.port, f"{API}/drops", {**wanted, "maxPerBuyer": 1, **terms})[1][
            "id"
        ]
        path = f"{API}/drops/{drop_id}"
        await_true(lambda: ask(workers.port, path)[1]["status"] != "preparing", "a full drop")
        return drop_id

    def open_tier(self, workers: Fleet, numbers: int) -> int:
        """A tier of members, filled and open."""
        wanted = {"tier": self.name_run(), "year": "2025", "capacity": numbers}
        drop_id: int = ask(workers.port, f"{API}/memberships/drops", wanted)[1]["dropId"]
        path = f"{API}/drops/{drop_id}"
        await_true(lambda: ask(workers.port, path)[1]["status"] != "preparing", "a full tier")
        return drop_id

    def stock(self, workers: Fleet, drop_id: int) -> dict[str, int]:
        """What the engine tells of a drop's units."""
        told: dict[str, int] = ask(workers.port, f"{API}/drops/{drop_id}/stock")[1]
        return told

    def held(self, workers: Fleet, drop_id: int) -> int:
        """Units of a drop that are somebody's for a while."""
        return self.stock(workers, drop_id)["heldStock"]

    # ── loads ────────────────────────────────────────────────────────────────────────────────

    def account(self, workers: Fleet | None = None) -> Account:
        """Whose CPU is to be told apart."""
        parts = {"postgres": [self.postgres.pid], "valkey": [self.valkey.pid]}
        if self._keepers is not None:
            self._keepers.check()
            parts["keepers"] = [each.pid for each in self._keepers.processes]
        if workers is not None:
            parts = {"workers": [each.pid for each in workers.processes], **parts}
        return Account(parts)

    def name_run(self) -> str:
        """Buyers of one load are nobody else's."""
        self._shots += 1
        return f"r{self._shots}"

    def load(
        self,
        workers: Fleet,
        shot: Shot,
        *,
        connections: int | None = None,
        before: Callable[[], None] = lambda: None,
        fire: Callable[..., Figures] | None = None,
        score: Callable[[Figures], float] = ok_per_s,
    ) -> Sample:
        """Warm up, then load; `before` is called between the two. An echo needs it as well: the
        first seconds after a pause are slower, whoever runs."""
        many, shoot = connections or self.plan.connections, fire or self._fire
        shoot(msgspec.structs.replace(shot, run=self.name_run()), many, WARM_UP_SECONDS)
        before()
        account = self.account(workers)
        shot = msgspec.structs.replace(shot, run=self.name_run())
        with _weighing(workers, self.plan.seconds / 2) as weights:
            figures = shoot(shot, many, self.plan.seconds, account)
        workers.check()
        return Sample(
            value=score(figures),
            figures=figures,
            usage=account.usage(figures.requests, figures.cpu_seconds),
            rss_mb=sum(weights) / 2**20,
        )

    def checked_load(
        self, workers: Fleet, shot: Shot, ledger: Callable[[], int], **words: Any
    ) -> Sample:
        """A load of which every 2xx, and nothing else, shows in what `ledger` counts."""
        before: list[int] = []
        sample = self.load(workers, shot, before=lambda: before.append(settled(ledger)), **words)
        assert sample.figures is not None
        connections = words.get("connections") or self.plan.connections
        check_promises(sample.figures, settled(ledger) - before[0], connections)
        return sample

    def holds(self, workers: Fleet, **words: Any) -> Sample:
        """Durable holds of one new drop, by new buyers, each of them checked."""
        drop_id = self.open_drop(workers, self.units)
        shot = Shot(port=workers.port, path=RESERVE, run="", drop_id=drop_id)
        ledger = partial(self.held, workers, drop_id)
        return self.checked_load(workers, shot, ledger, **words)


@contextmanager
def _weighing(workers: Fleet, after_seconds: float) -> Iterator[list[int]]:
    """Collects, once, the resident memory of the largest worker while it is under load."""
    weights: list[int] = []
    timer = threading.Timer(after_seconds, lambda: weights.append(workers.rss()))
    timer.start()
    try:
        yield weights
    finally:
        timer.cancel()
        timer.join()


def settled(figure: Callable[[], int]) -> int:
    """A figure once requests cut off by the client have run to their end."""
    seen = [figure()]

    def is_still() -> bool:
        time.sleep(0.3)
        seen.append(figure())
        return seen[-1] == seen[-2]

    await_true(is_still, "the stock to come to rest")
    return seen[-1]


def check_promises(figures: Figures, grown: int, connections: int) -> None:
    """Every 2xx must show in the figure that grew, and nothing else may."""
    if figures.non_2xx:
        raise Untrustworthy(
            f"{figures.non_2xx} of {figures.requests} refused, though the drop should have lasted"
        )
    if not 0 <= grown - figures.ok <= connections + figures.errors:  # in flight, or cut off
        raise Untrustworthy(f"{figures.ok} answers were promised, the stock shows {grown}")
