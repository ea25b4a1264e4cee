"""How many holds a second, next to an empty server and to the obvious implementation.

Absolute figures say as much about the machine as about the code, and swing by half from one
minute to the next. So all systems are measured in turns, round after round, on one machine, one
Postgres and one Valkey; what counts is the ratio within a round.

Every hold is checked: a round fails if the stock that the server reports did not grow by what
the client was promised, give or take the requests in flight when the client hung up.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import resource
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import redis
from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]

from engine.infra.settings import Settings
from engine.ops.devstack import start_postgres, start_valkey
from engine.ops.launch import free_port
from loadtest import client, report, wrk
from loadtest.client import Figures, Shot
from loadtest.fleet import ENGINE, Fleet, Untrustworthy, ask, await_true, fleet, migrate
from loadtest.report import BASELINE, ECHO, HOLDS, KEYED, MEASURES, SOLD_OUT, UNLIMITED, Run

WORKERS = 2  # of each system
WARM_UP_SECONDS = 1
LIMITS = [name for name in Settings.__struct_fields__ if name.startswith("rate_")]
HOLDS_PER_S_MAX = 25_000  # drops are made to last at this rate


def settled(held: Callable[[], int]) -> int:
    """The held stock once requests cut off by the client have run to their end."""
    seen = [held()]

    def is_still() -> bool:
        time.sleep(0.4)
        seen.append(held())
        return seen[-1] == seen[-2]

    await_true(is_still, "the stock to come to rest")
    return seen[-1]


class Bench:
    """All systems, running; `measure` puts one of them under load."""

    def __init__(self, options: argparse.Namespace, base: Path, stack: ExitStack) -> None:
        self._options = options
        self._fire = wrk.fire if options.client == "wrk" else client.fire
        self._base, self._stack, self._shots = base, stack, 0
        self._stock = (options.seconds + WARM_UP_SECONDS) * HOLDS_PER_S_MAX
        self._env = self._start_servers()
        port = str(free_port())
        self._echo = self._start("echo", *_baseline("echo", port), env={"PORT": port})
        self._baselines = {name: self._start_baseline(size) for size, name in BASELINE.items()}
        self._start_engine()

    def _start_servers(self) -> dict[str, str]:
        postgres = start_postgres(self._base / "pg", durable=True)
        self._stack.callback(postgres.stop)
        valkey = start_valkey(self._base / "valkey")
        self._stack.callback(valkey.stop)
        self.versions = {"python": platform.python_version(), **_versions(postgres.url, valkey.url)}
        return {
            "DATABASE_URL": postgres.url,
            "REDIS_URL": valkey.url,
            "HOST": "127.0.0.1",
            "AUTH": "open",
            "LOG_LEVEL": "warning",
            "TRUSTED_PROXIES": "127.0.0.1",  # each request comes from an address of its own
        }

    def _start(self, name: str, *command: str, env: dict[str, str], count: int = WORKERS) -> Fleet:
        log = self._base / f"{name}.log"
        return self._stack.enter_context(fleet(command, self._env | env, log, count))

    def _start_baseline(self, pool_size: int) -> Fleet:
        port = str(free_port())
        env = {"PORT": port, "POOL_SIZE": str(pool_size)}
        name = f"one-by-one-{pool_size}"
        return self._start(name, *_baseline("one_by_one", port), env=env)

    def _start_engine(self) -> None:
        """Two workers and one process of keepers, and a drop of which the only unit is held."""
        migrate(self._env)
        self._engine = self._start("engine", *ENGINE, "serve", env={"PORT": str(free_port())})
        if self._options.without_limits:
            off = {limit.upper(): "off" for limit in LIMITS} | {"PORT": str(free_port())}
            self._unlimited = self._start("unlimited", *ENGINE, "serve", env=off)
        self._keeper = self._start("keeper", *ENGINE, "keep", env={}, count=1)
        port, check = self._engine.port, self._engine.check
        await_true(lambda: ask(port, "/api/v1/drops")[0] == 200, "the engine", check=check)
        self._sold_out = self._open_drop(1)
        if (told := self._wish("the-one")) != 201:
            raise Untrustworthy(f"the only unit of a new drop was refused: {told}")

    def _wish(self, buyer: str) -> int:
        """What a single buyer of the sold-out drop is told."""
        wish = {"dropId": self._sold_out, "userId": buyer}
        return ask(self._engine.port, "/api/v1/reservations", wish)[0]

    def measure(self, name: str) -> Run:
        """Warm the system up, put it under load, check what it did."""
        self._keeper.check()
        if name == ECHO:
            return self._run(self._echo, "/reservations")
        engine = self._unlimited if name in UNLIMITED.values() else self._engine
        if name in (HOLDS, UNLIMITED[HOLDS]):
            drop_id, port = self._open_drop(self._stock), self._engine.port
            held = partial(_held, port, f"/api/v1/drops/{drop_id}/stock")
            return self._run(engine, "/api/v1/reservations", drop_id, held=held)
        if name in (SOLD_OUT, KEYED, UNLIMITED[SOLD_OUT]):
            return self._run_sold_out(engine, keyed=name == KEYED)
        workers = self._baselines[name]
        drop_id = ask(workers.port, "/drops", {"totalStock": self._stock})[1]["id"]
        held = partial(_held, workers.port, f"/stock/{drop_id}")
        return self._run(workers, "/reservations", drop_id, held=held)

    def _open_drop(self, stock: int) -> int:
        wanted = {"name": "Bench", "price": "10.00", "totalStock": stock, "holdSeconds": 3_600}
        port = self._engine.port
        drop_id: int = ask(port, "/api/v1/drops", wanted | {"maxPerBuyer": 1})[1]["id"]
        path = f"/api/v1/drops/{drop_id}"
        await_true(lambda: ask(port, path)[1]["status"] != "preparing", "a drop to be filled")
        return drop_id

    def _run_sold_out(self, engine: Fleet, *, keyed: bool) -> Run:
        path = "/api/v1/reservations"
        run = self._run(engine, path, self._sold_out, keyed=keyed)
        told = self._wish(f"late-{self._shots}")  # wrk tells no statuses: ask for one
        if run.figures.ok or told != 409:
            raise Untrustworthy(f"sold out, yet {run.figures.ok} holds and an answer of {told}")
        return run

    def _run(
        self,
        workers: Fleet,
        path: str,
        drop_id: int = 0,
        *,
        keyed: bool = False,
        held: Callable[[], int] | None = None,
    ) -> Run:
        """Warm up, then load. With `held`, every 2xx must show in it and nothing else may."""
        self._shots += 1
        run = f"w{self._shots}"
        shot = Shot(port=workers.port, path=path, drop_id=drop_id, keyed=keyed, run=run)
        self._fire(shot, self._options.connections, WARM_UP_SECONDS)
        before = settled(held) if held else 0
        shot = msgspec.structs.replace(shot, run=f"m{self._shots}")
        with _weighing(workers, self._options.seconds / 2) as weights:
            figures = self._fire(shot, self._options.connections, self._options.seconds)
        workers.check()
        if held:
            self._verify(figures, settled(held) - before)
        return Run(figures, sum(weights) / 2**20)

    def _verify(self, figures: Figures, grown: int) -> None:
        in_flight = self._options.connections + figures.errors
        if not 0 <= grown - figures.ok <= in_flight:
            raise Untrustworthy(f"{figures.ok} holds were promised, the stock shows {grown}")
        if figures.non_2xx:
            refused = f"{figures.non_2xx} of {figures.requests} refused"
            raise Untrustworthy(
                f"{refused}, though the drop should have lasted ({self._stock} units)"
            )


@contextmanager
def _weighing(workers: Fleet, after_seconds: float) -> Iterator[list[int]]:
    """Collects, once, the resident memory of all workers while they are under load."""
    weights: list[int] = []
    timer = threading.Timer(after_seconds, lambda: weights.append(workers.rss()))
    timer.start()
    try:
        yield weights
    finally:
        timer.cancel()
        timer.join()


def _baseline(name: str, port: str) -> tuple[str, ...]:
    return (sys.executable, "-m", f"loadtest.baselines.{name}", port)


def _held(port: int, path: str) -> int:
    return int(ask(port, path)[1]["heldStock"])


def _versions(postgres_url: str, valkey_url: str) -> dict[str, str]:
    async def ask_postgres() -> str:
        connection = await asyncpg.connect(postgres_url)
        version = await connection.fetchval("SHOW server_version")
        await connection.close()
        return str(version)

    with redis.Redis.from_url(valkey_url) as valkey:
        found: Any = valkey.info("server")
    return {"postgres": asyncio.run(ask_postgres()), "valkey": str(found["valkey_version"])}


def bench(options: argparse.Namespace) -> dict[str, Any]:
    """Run all rounds; whatever happens, nothing that was started is left."""
    rounds: list[dict[str, Run]] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, ExitStack() as stack:
        Path(folder).chmod(0o711)  # root's Postgres runs as somebody else, who has to get in
        machine = report.machine(Path(folder))
        systems = Bench(options, Path(folder), stack)
        # Beside what they are compared with: a minute changes more than limits cost.
        twins = UNLIMITED if options.without_limits else {}
        measures = [name for each in MEASURES for name in (each, twins.get(each)) if name]
        with tqdm(total=options.rounds * len(measures), unit="run") as progress:
            for _ in range(options.rounds):
                rounds.append({})
                for name in measures:
                    progress.set_description(name)
                    rounds[-1][name] = systems.measure(name)
                    progress.update()
    return {
        "machine": machine,
        "versions": systems.versions,
        "commit": report.commit(),
        "settings": {name: value for name, value in vars(options).items() if name != "json"},
        "network": "loopback only",
        "measures": report.summarise(rounds),
    }


def main() -> None:
    """`python -m loadtest.bench`"""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwind as on Ctrl-C
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = 65_536 if most == resource.RLIM_INFINITY else min(65_536, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
    try:
        result = bench(options)
    except Untrustworthy as wrong:
        sys.exit(f"bench: {wrong}")
    except KeyboardInterrupt:
        sys.exit(130)
    facts = {name: fact for name, fact in result.items() if name != "measures"}
    tqdm.write(report.table(result["measures"]) + "\n")
    for name, fact in facts.items():
        words = fact.items() if isinstance(fact, dict) else [("", fact)]
        tqdm.write(f"{name:<10}" + ", ".join(f"{key} {value}".strip() for key, value in words))
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, choices=range(1, 21), metavar="1-20")
    parser.add_argument("--seconds", type=int, default=4, choices=range(1, 31), metavar="1-30")
    parser.add_argument(
        "--connections", type=int, default=512, choices=range(2, 4097), metavar="2-4096"
    )
    parser.add_argument("--client", default="auto", choices=("wrk", "own", "auto"))
    told = "measure workers with all limits off as well, beside the others"
    parser.add_argument("--without-limits", action="store_true", help=told)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if options.client == "auto":
        options.client = "wrk" if wrk.is_installed() else "own"
    return options


if __name__ == "__main__":
    main()
