"""One run: a service on slippery ground, buyers, faults, rests, and at last the judgement.

    start ─ round ─ rest ─ round ─ rest ─ ... ─ finish: buyers insist, holds run out ─ checks

Everything that is started is ended on every way out of `perform`.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import msgspec
import psutil  # type: ignore[import-untyped, unused-ignore]

from engine.infra.settings import Settings
from engine.ops.launch import free_port
from loadtest.chaos import checker, facts, plan
from loadtest.chaos.buyers import API, Stall
from loadtest.chaos.client import FINISH_SECONDS, Brief, Client, Orders
from loadtest.chaos.diary import Tally
from loadtest.chaos.ground import Ground
from loadtest.chaos.history import Heal, Resource, Writer, now
from loadtest.chaos.market import Market
from loadtest.chaos.mischief import Mischief
from loadtest.chaos.observer import Eye, observing, unrest
from loadtest.chaos.pgproxy import PgProxy
from loadtest.chaos.redisproxy import RedisProxy
from loadtest.chaos.report import Outcome
from loadtest.chaos.staff import Staff
from loadtest.chaos.stage import Stage
from loadtest.chaos.view import Scene, View
from loadtest.chaos.wire import Lost, Wire
from loadtest.fleet import migrate

SECRET = "what-the-provider-and-the-shop-know-in-chaos"
LOOK_SECONDS = 0.1  # between two looks of who waits for rest
SHOW_SECONDS = 0.5
DRAIN_SECONDS = 60.0  # for the last hold to end


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How to run."""

    seed: int
    seconds: float
    folder: Path  # of the run: histories, logs, report
    clients: int = 3
    buyers: int = 10  # of a client, at once
    workers: int = 3
    keepers: int = 2


class LogLine(msgspec.Struct):
    """What is read of a line of a log."""

    event: str = ""
    level: str = ""


class Run:
    """All of it. `stop` ends the faults early; what there is will be judged."""

    def __init__(self, options: Options, view: View, scene: Scene) -> None:
        self._options, self._view, self._scene = options, view, scene
        self._rounds = plan.draw(options.seed, options.seconds)
        self.stop = asyncio.Event()
        self.outcome = Outcome(
            seed=options.seed,
            seconds=options.seconds,
            lasted=0.0,
            planned=sum(len(each.faults) for each in self._rounds),
        )

    async def perform(self, base: Path) -> Outcome:
        """Run, finish and check; servers keep their data in `base`."""
        folder = self._options.folder
        self._write_run()
        try:
            async with AsyncExitStack() as stack:
                await self._set_up(base, stack)
                await self._faults()
                await self._finish()
                await facts.export(self._stage.ground.postgres.url, folder)
        finally:
            _keep_logs(base, folder / "logs")
        self.outcome.crashes = _crashes(folder / "logs")
        self._scene.phase = "checking"
        self._view.say("checking the histories ...")
        self.outcome.checked = await asyncio.to_thread(checker.check, folder)
        return self.outcome

    def _write_run(self) -> None:
        options = self._options
        told = {
            "seed": options.seed,
            "seconds": options.seconds,
            "plan": self._rounds,
            "connections_max": (options.workers + options.keepers) * Settings().pool_size,
        }
        (options.folder / "run.json").write_bytes(msgspec.json.encode(told))

    # ── setting up ───────────────────────────────────────────────────────────────────────────

    async def _set_up(self, base: Path, stack: AsyncExitStack) -> None:
        options, folder = self._options, self._options.folder
        ground = await stack.enter_async_context(Ground(base))
        postgres_way = await stack.enter_async_context(
            PgProxy.open(ground.postgres.url, seed=options.seed)
        )
        valkey_way = await stack.enter_async_context(
            RedisProxy.open(ground.valkey.url, seed=options.seed)
        )
        await asyncio.to_thread(migrate, {"DATABASE_URL": ground.postgres.url})
        await facts.install(ground.postgres.url)
        port = free_port()
        environment = {
            "DATABASE_URL": postgres_way.url,
            "REDIS_URL": valkey_way.url,
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "AUTH": "open",
            "PAYMENT_SECRET": SECRET,
            "LOG_LEVEL": "info",
            "LOG_FORMAT": "json",
            "METRICS_DIR": str(base / "metrics"),
            # All buyers come from one address.
            **{f"RATE_{what}_PER_ADDRESS": "off" for what in ("READS", "WRITES", "CALLBACKS")},
        }
        staff = await stack.enter_async_context(
            Staff(environment, base, options.workers, options.keepers)
        )
        await staff.await_complete()
        self._stage = Stage(ground, postgres_way, valkey_way, staff)
        self._market = Market(port, options.seconds)
        self._faults_file = stack.enter_context(Writer(folder / "faults.jsonl"))
        self._heals_file = stack.enter_context(Writer(folder / "heals.jsonl"))
        self._mischief = Mischief(self._stage, self._faults_file, self.stop)
        self._view.watch(self._mischief)
        self._eye = Eye(ground.postgres.url, ground.valkey.url)
        stack.push_async_callback(self._eye.close)
        stack.enter_context(observing(folder, ground.postgres.url, ground.valkey.url))
        self._clients = [self._client(number, port, stack) for number in range(options.clients)]
        await stack.enter_async_context(self._showing(port))

    def _client(self, number: int, port: int, stack: AsyncExitStack) -> Client:
        options = self._options
        name = f"client-{number}"
        client = Client(Brief(options.folder, name, port, SECRET, options.seed, options.buyers))
        stack.callback(client.stop)
        return client

    # ── the course ───────────────────────────────────────────────────────────────────────────

    async def _faults(self) -> None:
        outcome, began = self.outcome, time.monotonic()
        self._scene.began = began
        for number, each in enumerate(self._rounds, 1):
            if self.stop.is_set():
                break
            self._scene.phase = f"round {number}"
            self._order("go", await self._market.stalls())
            self._stage.drops = [stall.drop for stall in self._market.open]
            await asyncio.to_thread(self._stage.ground.keep_aof)
            if number == 1:
                self._look_at_resources("before")
            try:
                await self._mischief.perform(each)
            finally:
                outcome.faults = dict(self._mischief.done)
                outcome.skipped = dict(self._mischief.skipped)
                outcome.lasted = time.monotonic() - began
            outcome.heals.append(await self._heal(plan.HEAL_SECONDS))
        outcome.interrupted = self.stop.is_set()
        outcome.lasted = time.monotonic() - began

    async def _heal(self, seconds: float) -> Heal:
        """A quiet window: nobody asks for anything new, and all comes to rest. The clock runs from
        the end of the last fault; those who were killed are still being started then."""
        self._scene.phase = "healing"
        self._order("rest")
        await self._stage.heal()
        at, rest_at, seen = now(), None, ""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            seen = unrest(await self._eye.look()) or self._stage.staff.missing
            if rest_at is None and not seen:
                rest_at = now()
                self._scene.convergence = f"{(rest_at - at) / 1e9:.1f} s"
            await asyncio.sleep(LOOK_SECONDS)
        heal = Heal(at, now(), rest_at, "" if rest_at else seen)
        self._heals_file.write(heal)
        return heal

    async def _finish(self) -> None:
        """Buyers insist until they know, the last holds run out, all comes to rest."""
        self._scene.phase = "finishing"
        stuck = self.outcome.stuck
        self._order("finish")
        until = time.monotonic() + FINISH_SECONDS + 10
        while any(client.alive for client in self._clients) and time.monotonic() < until:
            await asyncio.sleep(LOOK_SECONDS)
        stuck += [client.process.name for client in self._clients if client.alive]
        codes = {client.process.name: client.process.exitcode for client in self._clients}
        stuck += [f"{name} ended with {code}" for name, code in codes.items() if code]
        until = time.monotonic() + DRAIN_SECONDS
        left = "nothing was seen"
        while left and time.monotonic() < until:
            sights = await self._eye.look()
            held = sum(sight.held or 0 for sight in sights)
            left = unrest(sights) or (f"{held} units are still held" if held else "")
            await asyncio.sleep(LOOK_SECONDS)
        stuck += [left] if left else []
        self._look_at_resources("after")
        self._listen()
        self.outcome.starts = self._stage.staff.starts

    def _look_at_resources(self, when: Literal["before", "after"]) -> None:
        """What the processes of the service have open: nothing may pile up."""
        with Writer(self._options.folder / "resources.jsonl") as writer:
            for post in self._stage.staff.posts:
                if post.pid is None:  # psutil would take that for ourselves
                    continue
                with suppress(psutil.Error):
                    process = psutil.Process(post.pid)
                    kilobytes = process.memory_info().rss // 1024
                    writer.write(
                        Resource(now(), post.name, when, fds=process.num_fds(), memory_kb=kilobytes)
                    )

    # ── clients, and what is shown ───────────────────────────────────────────────────────────

    def _order(self, do: Any, stalls: list[Stall] | None = None) -> None:
        for client in self._clients:
            client.order(Orders(do, stalls or []))

    def _listen(self) -> None:
        tally = Tally()
        for client in self._clients:
            client.listen()
            tally.add(client.tally)
        self.outcome.tally = self._scene.tally = tally
        self._scene.starts = self._stage.staff.starts

    @asynccontextmanager
    async def _showing(self, port: int) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(self._show(), name="show"),
            asyncio.create_task(self._ask_health(port), name="health"),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _show(self) -> None:
        while True:
            self._listen()
            self._view.show()
            await asyncio.sleep(SHOW_SECONDS)

    async def _ask_health(self, port: int) -> None:
        wire = Wire(port)
        eye = Eye(self._stage.ground.postgres.url, self._stage.ground.valkey.url)
        try:
            while True:
                try:
                    reply = await wire.ask("GET", f"{API}/health", b"", {}, 1.0)
                    self._scene.health = msgspec.json.decode(reply.body)["status"]
                except (Lost, msgspec.DecodeError, KeyError):
                    self._scene.health = "no answer"
                sights = await eye.look()
                if all(sight.held is not None for sight in sights):
                    self._scene.held = sum(sight.held or 0 for sight in sights)
                    self._scene.sold = sum(sight.sold or 0 for sight in sights)
                await asyncio.sleep(1.0)
        finally:
            wire.close()
            await eye.close()


def _crashes(logs: Path) -> Counter[str]:
    """What the service's own processes call errors: nothing a fault does may surprise them."""
    found = Counter[str]()
    for path in (*logs.glob("worker-*.log"), *logs.glob("keeper-*.log")):
        for line in path.read_text(errors="replace").splitlines():
            try:
                told = msgspec.json.decode(line, type=LogLine)
            except msgspec.DecodeError:  # said by Python itself, on its way out
                found["traceback"] += "Traceback" in line
            else:
                found[told.event] += told.level in ("error", "critical")
    return +found


def _keep_logs(base: Path, place: Path) -> None:
    """What workers, keepers and servers said, before their folder goes."""
    place.mkdir(parents=True, exist_ok=True)
    for log in (*base.glob("*.log"), *base.glob("*/*.log")):
        with suppress(OSError):
            shutil.copy(log, place / log.name)
