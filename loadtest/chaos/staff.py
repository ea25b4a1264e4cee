"""The service's own processes, which are killed all the time: whoever ends is started again.

A nemesis may kill, stop or send away a process at any time; the staff notices an end within a
tenth of a second and puts another process in its place, as an operator's supervisor would.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from loadtest.fleet import ROOT, Untrustworthy

POLL_SECONDS = 0.1
REST_SECONDS = (0.1, 2.0)  # before one that could not start is tried again: it doubles
READY_SECONDS = 40.0
LEAVE_SECONDS = 12.0
DEADLY = (signal.SIGKILL, signal.SIGTERM)


class Stay:
    """One process on a post, from its start to its end. `struck`: a nemesis sent it a signal that
    ends it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process, self.struck = process, False

    @property
    def ended(self) -> int | None:
        """How it ended, as subprocess says it; None: it is there."""
        return self.process.poll()


class Post:
    """A place that one process fills at a time."""

    def __init__(self, name: str, command: str, environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.ready = False
        self.starts = 0
        self.crash_point = ""  # where the next process ends by itself; "": nowhere
        self.armed: Stay | None = None  # the last one of those that were to
        self._command, self._environment, self._log = command, environment, log
        self._rest_seconds, self._again_at = REST_SECONDS[0], 0.0
        self._ready_fd: int | None = None
        self.stay: Stay | None = None  # of the process there is, or was until a moment ago

    @property
    def pid(self) -> int | None:
        """The process id, while there is a process."""
        return self.stay.process.pid if self.stay and self.stay.ended is None else None

    def signal(self, number: signal.Signals) -> bool:
        """Send it a signal; False if there is nobody."""
        if self.pid is None or self.stay is None:
            return False
        self.stay.struck |= number in DEADLY
        self.stay.process.send_signal(number)
        return True

    def arm(self, crash_point: str) -> None:
        """The next process ends by itself there; it will be `armed`."""
        self.crash_point, self.armed = crash_point, None

    def tend(self) -> None:
        """Notice that it is ready, or has ended; start it if nobody is there."""
        self._listen()
        if self.pid is not None:
            return
        if self.stay is not None:
            self._rest_seconds = (
                REST_SECONDS[0] if self.ready else min(self._rest_seconds * 2, REST_SECONDS[1])
            )
            self.stay, self.ready = None, False
            self._again_at = time.monotonic() + self._rest_seconds
        if time.monotonic() >= self._again_at:
            self._start()

    def end(self, patience_seconds: float = LEAVE_SECONDS) -> None:
        """End it, gently if it will."""
        if self.stay is not None and self.stay.ended is None:
            process = self.stay.process
            process.send_signal(signal.SIGCONT)
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(patience_seconds)
            process.kill()
            process.wait()
        self._forget()

    def _start(self) -> None:
        self._forget()
        self.starts += 1
        self._ready_fd, theirs = os.pipe()
        os.set_blocking(self._ready_fd, False)
        words = {**os.environ, **self._environment, "VELVETROPE_READY_FD": str(theirs)}
        words["CRASH_POINT"] = self.crash_point
        try:
            with self._log.open("ab") as out:
                process = subprocess.Popen(
                    [sys.executable, "-m", "engine", self._command],
                    env=words,
                    cwd=ROOT,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                    pass_fds=(theirs,),
                )
                self._take(process)
        finally:
            os.close(theirs)

    def _take(self, process: subprocess.Popen[bytes]) -> None:
        self.stay = Stay(process)
        if self.crash_point:
            self.armed, self.crash_point = self.stay, ""

    def _listen(self) -> None:
        if self._ready_fd is None:
            return
        with suppress(BlockingIOError):
            self.ready = self.ready or b"ready" in os.read(self._ready_fd, 64)
            self._forget()

    def _forget(self) -> None:
        if self._ready_fd is not None:
            os.close(self._ready_fd)
            self._ready_fd = None


class Staff:
    """All posts. Leaving it ends every process."""

    def __init__(
        self, environment: Mapping[str, str], folder: Path, workers: int, keepers: int
    ) -> None:
        def post(command: str, number: int) -> Post:
            name = f"{'worker' if command == 'serve' else 'keeper'}-{number}"
            return Post(name, command, environment, folder / f"{name}.log")

        self.workers = [post("serve", number) for number in range(workers)]
        self.keepers = [post("keep", number) for number in range(keepers)]
        self._tending: asyncio.Task[None] | None = None

    @property
    def posts(self) -> list[Post]:
        """Everybody."""
        return [*self.workers, *self.keepers]

    @property
    def missing(self) -> str:
        """Who is not there, or not ready, in words; "" if everybody is."""
        absent = [post.name for post in self.posts if not post.ready or post.pid is None]
        return f"still being started: {', '.join(absent)}" if absent else ""

    @property
    def starts(self) -> int:
        """How often a process was started."""
        return sum(post.starts for post in self.posts)

    async def __aenter__(self) -> Staff:
        self._tending = asyncio.create_task(self._tend(), name="staff")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.gather(self._tending, return_exceptions=True)
        # In threads: to drain they need the proxies, which live in this loop.
        await asyncio.gather(*(asyncio.to_thread(post.end) for post in self.posts))

    async def await_complete(self, patience_seconds: float = READY_SECONDS) -> None:
        """Until everybody is ready. Raises `Untrustworthy` when that takes too long."""
        deadline = time.monotonic() + patience_seconds
        while self.missing:
            if self._tending is not None and self._tending.done():
                self._tending.result()
            if time.monotonic() > deadline:
                raise Untrustworthy(f"after {patience_seconds:.0f} s {self.missing}")
            await asyncio.sleep(POLL_SECONDS)

    async def _tend(self) -> None:
        while True:
            for post in self.posts:
                post.tend()
            await asyncio.sleep(POLL_SECONDS)
