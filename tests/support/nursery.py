"""Where the engine's processes come from: one that has loaded the engine once and forks the rest.

A worker started anew takes a second of a processor; a fork of one that is about to start, hardly
anything, and the tests need hundreds. What runs in the fork is the command itself.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import gc
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil


class Child:
    """A process of the engine, and what it says."""

    def __init__(self, nursery: Nursery, pid: int, log: Path) -> None:
        self.pid, self.log = pid, log
        self._nursery = nursery
        self._code: int | None = None

    @property
    def returncode(self) -> int | None:
        """What it left with, -9 if it was killed; None while it lives."""
        if self._code is None:
            self._code = self._nursery.ask({"gone": self.pid})
        return self._code

    async def wait(self) -> int:
        """The same at its end."""
        while (code := self.returncode) is None:
            await asyncio.sleep(0.01)
        return code

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

    def send_signal(self, number: signal.Signals) -> None:
        """A signal, if it lives."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to leave."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """kill -9."""
        self.send_signal(signal.SIGKILL)


class Nursery:
    """The process that forks: one a test process, begun when it is first needed."""

    def __init__(self) -> None:
        words = [sys.executable, "-m", "tests.support.nursery"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(words, stdin=pipe, stdout=pipe)
        atexit.register(self._process.communicate)
        self.ask({})  # it has loaded all

    @classmethod
    @functools.cache
    def ours(cls) -> Nursery:
        """The one of this process."""
        return cls()

    def start(self, command: str, environment: Mapping[str, str], log: Path) -> Child:
        """A process of `velvetrope <command>` with exactly this environment; its words go to
        the end of the log."""
        log.touch()
        order = {"command": command, "log": str(log), "environment": dict(environment)}
        return Child(self, self.ask(order), log)

    def ask(self, order: dict[str, Any]) -> Any:
        """Order and answer, a line each."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


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


def _fork(order: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        _become(**order)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Fork one process an order, until nobody is there to order; who is left then is killed."""
    import engine.ops.cli
    import engine.ops.serve  # noqa: F401  # loaded here, so that a fork need not

    codes: dict[int, int | None] = {}  # None of those who live

    def bury(*_: object) -> None:
        """At once: who is dead and not buried is alive for whoever looks for a process."""
        for pid in [pid for pid, code in codes.items() if code is None]:
            with suppress(ChildProcessError):  # another signal came meanwhile, and buried him
                gone, status = os.waitpid(pid, os.WNOHANG)
                if gone:
                    codes[pid] = os.waitstatus_to_exitcode(status)

    signal.signal(signal.SIGCHLD, bury)
    gc.freeze()
    for line in sys.stdin:
        order, answer = json.loads(line), None
        if "gone" in order:
            answer = codes[order["gone"]]
        elif order:
            answer = _fork(order)
            codes[answer] = None
            bury()  # the signal of one who died at once knew nothing of him
        print(json.dumps(answer), flush=True)
    for pid in [pid for pid, code in codes.items() if code is None]:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
