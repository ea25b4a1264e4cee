"""The supervisor's children, and the signals it waits for while they run.

A child is ready when it writes `ready` and a line end to the descriptor in VELVETROPE_READY_FD.
It may end before that with code 3: it refuses to start, and has said why on its stderr.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import FrameType, TracebackType
from typing import Self

REFUSED = 3
REST_MIN_SECONDS = 0.2
REST_MAX_SECONDS = 5.0
HEALTHY_SECONDS = 10.0
ECHO_SECONDS = 1.0  # a signal to us and to our group is one wish, heard twice
PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


class Stop(Exception):
    """Somebody asked us to end."""


class Signals:
    """Signals as something to wait for, so that they never interrupt a half-done step.

    SIGINT and SIGTERM raise `Stop` out of `wait`, each time they come; what follows one within a
    second is the same wish, since `timeout` and who ends a group reach us twice. SIGHUP sets
    `reload`. A child's end only cuts the waiting short.
    """

    def __init__(self) -> None:
        self.reload = False
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._before: dict[signal.Signals, object] = {}
        self._had_terminal = _has_terminal()
        self._stopped_at = float("-inf")

    def __enter__(self) -> Self:
        self._wakeup_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # nohup: the closing of a terminal is no news to us
            self._before[number] = signal.signal(number, _nothing)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._read)
        os.close(self._write)

    def wait(self, seconds: float, also: Iterable[int] = ()) -> None:
        """Wait for a signal, one of those descriptors or the time; raise `Stop` if asked to."""
        ready, _, _ = select.select([self._read, *also], [], [], max(seconds, 0.0))
        if self._read not in ready:
            return
        came = set(os.read(self._read, 4_096))
        if signal.SIGHUP in came:
            # A closed terminal sends it too, and nobody could end us from there any more.
            if self._had_terminal and not _has_terminal():
                self._stop()
            else:
                self.reload = True
        if came & {signal.SIGINT, signal.SIGTERM}:
            self._stop()

    def _stop(self) -> None:
        now = time.monotonic()
        if now >= self._stopped_at + ECHO_SECONDS:
            self._stopped_at = now
            raise Stop


class Child:
    """A process that is started again when it ends, sooner if it had lived well."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self.ready = False
        self.leaving = False  # we sent it away ourselves; it must not be started again
        self._command = list(command)
        self._environment = dict(environment)
        self._rest_seconds = 0.0
        self._again_at: float | None = None
        self._ready_fd: int | None = None
        self._start()

    def twin(self) -> Child:
        """A second process of the same kind, to take this one's place."""
        return Child(self.name, self._command, self._environment)

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    @property
    def code(self) -> int | None:
        """What it ended with; None while it runs."""
        return self.process.poll()

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What to listen on for its readiness."""
        return () if self._ready_fd is None else (self._ready_fd,)

    def listen(self) -> None:
        """Notice that it said it is ready."""
        if self._ready_fd is None:
            return
        with suppress(BlockingIOError):
            heard = os.read(self._ready_fd, 64)
            self.ready = self.ready or b"ready" in heard
            self.forget()

    def tend(self) -> str | None:
        """Start it again if it has ended and rested; a line to log when it is found dead."""
        if self.leaving or self.code is None:
            return None
        now = time.monotonic()
        if self._again_at is None:
            lived_well = now - self._born > HEALTHY_SECONDS
            doubled = min(self._rest_seconds * 2, REST_MAX_SECONDS) or REST_MIN_SECONDS
            self._rest_seconds = REST_MIN_SECONDS if lived_well else doubled
            self._again_at = now + self._rest_seconds
            self.ready = False
            return f"{self.name} {ending(self.code)}; starting it again in {self._rest_seconds:g} s"
        if now >= self._again_at:
            self._start()
        return None

    def terminate(self) -> None:
        """Ask it to finish what it does and leave."""
        self.leaving = True
        if self.code is None:
            self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it now, and whatever it started."""
        self.leaving = True
        if self.code is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self.process.wait()

    def forget(self) -> None:
        """Stop listening for its readiness."""
        if self._ready_fd is not None:
            os.close(self._ready_fd)
            self._ready_fd = None

    def _start(self) -> None:
        self.forget()
        self._again_at = None
        self._born = time.monotonic()
        self._ready_fd, theirs = os.pipe()
        os.set_blocking(self._ready_fd, False)
        try:
            self.process = spawn(
                self._command,
                self._environment | {"VELVETROPE_READY_FD": str(theirs)},
                pass_fds=(theirs,),
            )
        finally:
            os.close(theirs)


def spawn(
    command: Sequence[str], environment: Mapping[str, str], pass_fds: tuple[int, ...] = ()
) -> subprocess.Popen[bytes]:
    """Start a process that a terminal's Ctrl-C does not reach, and that we do not leave behind.

    Call it from the main thread: the kernel watches for the end of the thread that asked.
    """
    return subprocess.Popen(
        list(command),
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        pass_fds=pass_fds,
        preexec_fn=partial(_end_with, os.getpid()),  # noqa: PLW1509 - we have no threads
    )


def ending(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _end_with(parent: int) -> None:
    """In the child, before it becomes its program: end when the supervisor is killed."""
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() != parent:  # it was killed before we could ask
            os._exit(0)


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """A handler, so that the signal reaches the wake-up descriptor."""


def _has_terminal() -> bool:
    with suppress(OSError):
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
        return True
    return False
