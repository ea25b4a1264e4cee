"""Worker processes of the systems under test: started together, watched, ended together."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil  # type: ignore[import-untyped, unused-ignore]

from engine.ops.launch import free_port

ROOT = Path(__file__).resolve().parent.parent
ENGINE = (sys.executable, "-m", "engine")
READY_SECONDS = 60.0


class Untrustworthy(Exception):
    """What was measured is not what was meant to be measured."""


class Fleet(msgspec.Struct, frozen=True):
    """The workers of one system, sharing a port."""

    port: int
    processes: list[subprocess.Popen[bytes]]
    log: Path

    def check(self) -> None:
        """Raise if a worker has died."""
        if any(process.poll() is not None for process in self.processes):
            said = self.log.read_text(errors="replace")[-1_500:]
            raise Untrustworthy(f"a worker ended by itself; {self.log.name} says:\n{said}")

    def family(self) -> list[psutil.Process]:
        """The workers and what they started."""
        parents = [psutil.Process(process.pid) for process in self.processes]
        return [one for parent in parents for one in (parent, *parent.children(recursive=True))]

    def rss(self) -> int:
        """Bytes of memory that the largest of them occupies."""
        return max(int(one.memory_info().rss) for one in self.family())

    def is_listening(self) -> bool:
        """Whether each worker accepts connections; a shared port answers for any of them."""
        listening = 0
        for one in self.family():
            with suppress(psutil.NoSuchProcess):  # a child that had only one thing to do
                sockets = one.net_connections("tcp")
                ours = (s for s in sockets if s.status == "LISTEN" and s.laddr.port == self.port)
                listening += any(ours)
        return listening >= len(self.processes)


@contextmanager
def fleet(command: Sequence[str], env: Mapping[str, str], log: Path, count: int) -> Iterator[Fleet]:
    """`count` processes of `command`, of which none is left afterwards."""
    port = int(env.get("PORT", "0"))
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            with log.open("ab") as out:
                # A session of their own: Ctrl-C is for us, who then end them in order.
                process = subprocess.Popen(
                    command,
                    env={**os.environ, "METRICS_DIR": str(log.parent / "metrics"), **env},
                    cwd=ROOT,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                )
                processes.append(process)
        started = Fleet(port, processes, log)
        if port:
            await_true(started.is_listening, f"{log.stem} to listen", check=started.check)
        yield started
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def migrate(env: Mapping[str, str]) -> None:
    """Bring the engine's database to the present."""
    done = subprocess.run(
        [*ENGINE, "migrate"], env={**os.environ, **env}, cwd=ROOT, capture_output=True, check=False
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace")[-1_500:]
        raise Untrustworthy(f"the engine does not migrate: {said}")


def engine(
    stack: ExitStack, env: Mapping[str, str], base: Path, *, workers: int, keepers: int
) -> tuple[Fleet, Fleet]:
    """Workers on a free port and keepers, on a migrated database, ready; ended with `stack`."""
    migrate(env)
    serving = {**env, "PORT": str(free_port())}
    serve = stack.enter_context(fleet([*ENGINE, "serve"], serving, base / "workers.log", workers))
    keep = stack.enter_context(fleet([*ENGINE, "keep"], env, base / "keepers.log", keepers))
    path = "/api/v1/drops"
    await_true(lambda: ask(serve.port, path)[0] == 200, "the engine", check=serve.check)
    return serve, keep


def await_true(
    question: Callable[[], bool], what: str, *, check: Callable[[], None] = lambda: None
) -> None:
    """Ask until the answer is yes, for a minute at most."""
    deadline = time.monotonic() + READY_SECONDS
    while not question():
        check()
        if time.monotonic() > deadline:
            raise Untrustworthy(f"waited {READY_SECONDS:.0f} s for {what}")
        time.sleep(0.1)


def ask(
    where: int | str,
    path: str,
    body: object = None,
    headers: Mapping[str, str] | None = None,
    method: str | None = None,
) -> tuple[int, Any]:
    """Status and JSON of a GET, or of a POST of `body`; never through a proxy.

    `where` is a port of this machine or the beginning of an address.
    """
    base = f"http://127.0.0.1:{where}" if isinstance(where, int) else where
    data = None if body is None else msgspec.json.encode(body)
    request = urllib.request.Request(base + path, data, method=method)
    for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
        request.add_header(name, value)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=60) as answer:
            told = answer.read()
            return answer.status, msgspec.json.decode(told) if told else None
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, msgspec.json.decode(refusal.read())
