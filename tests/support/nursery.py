"""Where armed processes come from: a process that has loaded the engine once and forks the rest.

A worker started anew takes a second of a processor; a fork of one that is about to start, hardly
anything, and a sweep needs hundreds. What runs in the fork is the command itself.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil


class Child:
    """An armed process, by its id."""

    def __init__(self, pid: int, log: Path) -> None:
        self.pid, self.log = pid, log

    @property
    def state(self) -> str:
        """dead, stopped or running."""
        try:
            status = psutil.Process(self.pid).status()
        except psutil.NoSuchProcess:
            return "dead"
        names = {psutil.STATUS_ZOMBIE: "dead", psutil.STATUS_STOPPED: "stopped"}
        return names.get(status, "running")

    def said(self, word: str) -> bool:
        """Whether its log has this word."""
        return word in self.log.read_text()

    def send(self, number: signal.Signals) -> None:
        """A signal, if it lives."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)


class Nursery:
    """The process that forks, and those it forked."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self._process, self._folder = process, folder
        self._children: list[Child] = []
        self._started = 0
        self._turn = asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: Path) -> AsyncIterator[Nursery]:
        """Load the engine; at the end nobody is left."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.support.nursery",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        nursery = cls(process, folder)
        try:
            yield nursery
        finally:
            for child in nursery._children:
                child.send(signal.SIGKILL)
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()

    async def start(self, command: str, environment: dict[str, str]) -> Child:
        """A process of `velvetrope <command>` with exactly this environment."""
        self._started += 1
        log = self._folder / f"{command}-{self._started}.log"
        log.touch()
        order = json.dumps({"command": command, "log": str(log), "environment": environment})
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async with self._turn:
            self._process.stdin.write(order.encode() + b"\n")
            pid = int(await self._process.stdout.readline())
        child = Child(pid, log)
        self._children.append(child)
        return child


def _become(command: str, log: str, environment: dict[str, str]) -> None:
    """Be that process from now on."""
    out = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["velvetrope", command]
    from engine.ops.cli import run

    run()


def main() -> None:
    """Fork one process an order, until nobody is there to order."""
    import engine.ops.cli
    import engine.ops.serve  # noqa: F401  # loaded here, so that a fork need not

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them: they are simply gone
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            try:
                _become(**order)
            finally:
                os._exit(0)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
