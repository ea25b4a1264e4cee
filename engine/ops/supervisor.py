"""`make run`: everything a sale needs, in one terminal, and nothing of it left afterwards.

    preflight ─ refused ─▶ one line, code 3
       │
    Postgres, Valkey        ours, unless DATABASE_URL / REDIS_URL name others
       │
    migrate, seed           children that end
       │
    serve (WORKERS), keep,  children that are started again when they end
    listen                  if LISTENERS=1
    provider                a mock one, if AUTH=open and no PAYMENT_URL names another
       │
    "velvetrope ready on …"

SIGINT, SIGTERM   the children finish what they do, then the servers stop; again: at once
SIGHUP            the children are replaced, one at a time, the new before the old
kill -9 of us     on Linux the children end with us; the servers are stopped by the next start
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO
from urllib.parse import urlsplit

from engine.infra.errors import Misconfigured
from engine.infra.settings import Settings
from engine.ops import doorstep, launch, preflight, stack
from engine.ops.children import REFUSED, Child, Signals, Stop, ending, spawn
from engine.ops.devstack import Server, start_postgres, start_valkey

READY_SECONDS = 60.0
DRAIN_SECONDS = 12.0
PORT_MAX = 65_535
TICK_SECONDS = 0.5  # a child's end and readiness wake us; this bounds what else may pass

ENGINE = (sys.executable, "-m", "engine")


@dataclass(frozen=True)
class Commands:
    """The programs to run; tests bring their own."""

    migrate: Sequence[str] = (*ENGINE, "migrate")
    seed: Sequence[str] = (*ENGINE, "seed")
    serve: Sequence[str] = (*ENGINE, "serve")
    keep: Sequence[str] = (*ENGINE, "keep")
    listen: Sequence[str] = (*ENGINE, "listen")
    provider: Sequence[str] = (*ENGINE, "provider")


def run_dev(settings: Settings, commands: Commands | None = None) -> int:
    """Run until told to stop; the exit code: 0, or 3 if it cannot start, after saying why."""
    with Signals() as signals:
        try:
            with ExitStack() as down:
                _run(settings, commands or Commands(), signals, down)
        except Stop:
            return 0
        except Misconfigured as refused:
            if str(refused):
                _say(f"velvetrope: {refused}", sys.stderr)
            return REFUSED
    return 0


def _run(settings: Settings, commands: Commands, signals: Signals, down: ExitStack) -> None:
    doorstep.access(settings)
    door = down.enter_context(doorstep.door(settings.host, settings.port))
    port: int = door.getsockname()[1]
    _check_given(settings)
    servers = _start_servers(settings, signals, down)
    paying = _mock_provider(settings, port, down)
    environment = _environment(settings, port, servers) | paying
    down.enter_context(stack.announce(settings.data_dir, environment))
    _once(commands.migrate, environment, signals)
    if not settings.database_url or os.environ.get("SEED") == "1":
        _once(commands.seed, environment, signals)
    crew = Crew(signals, list(servers.values()))
    down.callback(crew.drain)
    for number in range(1, settings.workers + 1):
        crew.hire(f"api-{number}", commands.serve, environment)
    crew.hire("keeper", commands.keep, environment)
    for _ in range(settings.listeners):
        crew.hire("listener", commands.listen, environment)
    if paying:
        crew.hire("provider", commands.provider, environment)
    crew.await_ready()
    _welcome(settings, port, servers, paying.get("PAYMENT_URL", settings.payment_url))
    crew.watch()


def _check_given(settings: Settings) -> None:
    for warning in asyncio.run(preflight.given_servers(settings)):
        _say(f"velvetrope: warning: {warning}", sys.stderr)


class Embedded:
    """A server of ours that is started again, on its port and its data, when it ends."""

    def __init__(
        self, start: Callable[..., Server], base: Path, pause: Callable[[float], None]
    ) -> None:
        self._start, self._base, self._pause = start, base, pause
        self._again_at = 0.0
        self.server = start(base, pause=pause)

    def tend(self) -> str | None:
        """Start it again if it has ended; a line to log then."""
        code = self.server.process.poll()
        if code is None or time.monotonic() < self._again_at:
            return None
        self._again_at = time.monotonic() + 1.0
        try:
            port = urlsplit(self.server.url).port
            self.server = self._start(self._base, port=port, pause=self._pause)
        except Misconfigured as wrong:
            return f"{self.server.name} does not come back: {wrong}"
        return f"{self.server.name} {ending(code)}; started again"

    def stop(self) -> None:
        """End the server that runs now."""
        self.server.stop()


def _start_servers(settings: Settings, signals: Signals, down: ExitStack) -> dict[str, Embedded]:
    """Those that no URL names, Postgres first, so that it is the last to stop."""
    wanted = {
        "DATABASE_URL": (settings.database_url, start_postgres, "postgres"),
        "REDIS_URL": (settings.redis_url, start_valkey, "valkey"),
    }
    servers = {}
    for variable, (given, start, folder) in wanted.items():
        if not given:
            servers[variable] = Embedded(start, settings.data_dir / folder, signals.wait)
            down.callback(servers[variable].stop)
    return servers


def _environment(settings: Settings, port: int, servers: Mapping[str, Embedded]) -> dict[str, str]:
    """What the children read their settings from: exactly ours, with the servers' addresses."""
    environment = dict(os.environ)
    for name in Settings.__struct_fields__:
        value = getattr(settings, name)
        environment[name.upper()] = str(value).lower() if isinstance(value, bool) else str(value)
    environment["PORT"] = str(port)
    return environment | {name: embedded.server.local for name, embedded in servers.items()}


def _mock_provider(settings: Settings, port: int, down: ExitStack) -> dict[str, str]:
    """What the children need to know of the mock provider; nothing, if there shall be none."""
    if settings.auth != "open" or settings.payment_url:
        return {}
    wanted = settings.provider_port
    try:
        door = doorstep.door(settings.host, wanted or min(port + 1, PORT_MAX))
    except Misconfigured:
        if wanted:
            raise Misconfigured(
                f"{settings.host}:{wanted} is taken: stop what listens there, or choose another "
                f"for the mock provider: PROVIDER_PORT={wanted + 1}"
            ) from None
        door = doorstep.door(settings.host, 0)
    theirs: int = down.enter_context(door).getsockname()[1]
    return {
        "PROVIDER_PORT": str(theirs),
        "PAYMENT_URL": f"http://{_in_url(settings.host)}:{theirs}/checkout",
        "PAYMENT_SECRET": settings.payment_secret or secrets.token_hex(32),
    }


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _once(command: Sequence[str], environment: Mapping[str, str], signals: Signals) -> None:
    """Run a child to its end; its failure is ours."""
    process = spawn(command, environment)
    try:
        while process.poll() is None:
            signals.wait(TICK_SECONDS)
    finally:
        launch.end(process, launch.TERM, DRAIN_SECONDS)
    if process.returncode == REFUSED:
        raise Misconfigured  # it has said why
    if process.returncode:
        raise Misconfigured(f"{' '.join(command[1:])} {ending(process.returncode)}, see above")


class Crew:
    """The API workers and the keeper: kept running, replaced, and sent home."""

    def __init__(self, signals: Signals, servers: Sequence[Embedded]) -> None:
        self._signals = signals
        self._servers = servers
        self._children: list[Child] = []

    def hire(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start one more child."""
        self._children.append(Child(name, command, environment))

    def await_ready(self) -> None:
        """Until all are ready; refuse to go on if one of them refuses to start."""
        deadline = time.monotonic() + READY_SECONDS
        while not all(child.ready for child in self._children):
            if time.monotonic() > deadline:
                late = " ".join(child.name for child in self._children if not child.ready)
                raise Misconfigured(f"not ready after {READY_SECONDS:.0f} s: {late}")
            self._listen()
            if any(child.code == REFUSED for child in self._children):
                raise Misconfigured  # it has said why
            self._tend()

    def watch(self) -> None:
        """Keep them running until `Stop`.

        From here on a refusal to start is like any other end: the settings have not changed, so
        a server must be away, and it may come back.
        """
        while True:
            self._turn()
            if self._signals.reload:
                self._signals.reload = False
                self._replace_all()

    def drain(self) -> None:
        """Let them finish, for a while; a second `Stop` ends the patience."""
        for child in self._children:
            child.terminate()
        deadline = time.monotonic() + DRAIN_SECONDS
        with suppress(Stop):
            while self._anyone_runs() and time.monotonic() < deadline:
                self._signals.wait(TICK_SECONDS)
        for child in self._children:
            if child.code is None:
                _say(f"velvetrope: {child.name} did not finish in time and was killed", sys.stderr)
            child.kill()
            child.forget()

    def _anyone_runs(self) -> bool:
        return any(child.code is None for child in self._children)

    def _turn(self) -> None:
        self._listen()
        self._tend()

    def _listen(self) -> None:
        """Wait for news: a signal, a child's end, a child's `ready`."""
        also = [fd for child in self._children for fd in child.descriptors]
        self._signals.wait(self._tick_seconds(), also)
        for child in self._children:
            child.listen()

    def _tend(self) -> None:
        """Start again who has ended."""
        everybody: list[Embedded | Child] = [*self._servers, *self._children]
        for one in everybody:
            if line := one.tend():
                _say(f"velvetrope: {line}", sys.stderr)

    def _tick_seconds(self) -> float:
        """Shorter while somebody rests before a new start."""
        resting = any(child.code is not None for child in self._children)
        return TICK_SECONDS / 10 if resting else TICK_SECONDS

    def _replace_all(self) -> None:
        for old in list(self._children):
            if not self._replace(old):
                _say(f"velvetrope: the new {old.name} did not come up; kept the old", sys.stderr)
                return
        _say("velvetrope: every child was replaced", sys.stderr)

    def _replace(self, old: Child) -> bool:
        """Put a new child in the old one's place, once it is ready."""
        new = old.twin()
        self._children.append(new)
        deadline = time.monotonic() + READY_SECONDS
        while not new.ready:
            self._turn()
            if time.monotonic() > deadline or new.code == REFUSED:
                new.kill()
                break
        unwanted = old if new.ready else new
        unwanted.terminate()
        deadline = time.monotonic() + DRAIN_SECONDS
        while unwanted.code is None and time.monotonic() < deadline:
            self._turn()
        unwanted.kill()
        unwanted.forget()
        self._children.remove(unwanted)
        return new.ready


def _welcome(
    settings: Settings, port: int, servers: Mapping[str, Embedded], payment_url: str
) -> None:
    given = {"DATABASE_URL": settings.database_url, "REDIS_URL": settings.redis_url}
    for variable, name in (("DATABASE_URL", "Postgres"), ("REDIS_URL", "Valkey")):
        if variable in servers:
            server = servers[variable].server
            _say(f"  {name:<9} {doorstep.masked(server.url)}  data in {_short(server.data)}")
        else:
            _say(f"  {name:<9} {doorstep.masked(given[variable])}  ({variable})")
    if payment_url:
        whose = "PAYMENT_URL" if settings.payment_url else "a mock provider: no money moves"
        _say(f"  Payment   {doorstep.masked(payment_url)}  ({whose})")
    _say("  Ctrl-C    stops everything; the data stays")
    _say(f"velvetrope ready on http://{_in_url(settings.host)}:{port}")


def _short(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _say(line: str, out: TextIO | None = None) -> None:
    """Tell the person; nobody reading any more is no reason to leave servers running."""
    with suppress(OSError, ValueError):
        stream = out or sys.stdout
        stream.write(line + "\n")
        stream.flush()
