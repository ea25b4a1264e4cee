"""Start a server's process, wait until it answers, end it; and bury what a killed owner left.

Nothing here knows what a Postgres or a Valkey is beyond its name and the signals it likes.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from engine.infra.errors import Misconfigured
from engine.ops import binaries

START_SECONDS = 120.0  # crash recovery reads up to max_wal_size of log before it answers
ORPHAN_SECONDS = 20.0
POLL_SECONDS = 0.01
PORT_TRIES = 5

Pause = Callable[[float], None]

# Politest first: Postgres's fast, then immediate shutdown; Valkey closes its log on SIGTERM.
SIGNALS = {
    "postgres": (signal.SIGINT, signal.SIGQUIT),
    "valkey": (signal.SIGTERM,),
}
TERM = (signal.SIGTERM,)
PROGRAMS = {"postgres": ("postgres",), "valkey": ("valkey-server", "redis-server")}


def free_port(host: str = "127.0.0.1") -> int:
    """A port nobody listens on at the moment of asking."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def first_line_pid(pid_file: Path) -> int | None:
    """The process id in a server's pid file, if it has one."""
    with suppress(OSError, ValueError, IndexError):
        pid = int(pid_file.read_text().splitlines()[0])
        return pid if pid > 1 else None
    return None


def _is_ours(pid: int, name: str, folder: Path) -> bool:
    """Whether that process is this kind of server on this folder, not a reused number."""
    line = f"{binaries.command_of(pid)} "
    return f" {folder} " in line and any(f"{program} " in line for program in PROGRAMS[name])


def stop_orphan(pid: int | None, name: str, folder: Path, pause: Pause) -> None:
    """End what a killed owner left running. We hold the folder's lock, so no one else owns it."""
    if pid is None or not _is_ours(pid, name, folder):
        return
    for number in (*SIGNALS[name], signal.SIGKILL):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
        deadline = time.monotonic() + ORPHAN_SECONDS
        while _is_ours(pid, name, folder) and time.monotonic() < deadline:
            pause(POLL_SECONDS)
        if not _is_ours(pid, name, folder):
            return
    raise Misconfigured(f"{name} (process {pid}) on {folder} does not end: kill it and try again")


def forget_recycled_pid(pid_file: Path, data: Path) -> None:
    """Remove a postmaster.pid whose number now belongs to a stranger.

    Postgres would take the stranger for its predecessor and refuse to start: usual after a
    container restart, where numbers are small. A number that nobody has is left to Postgres.
    """
    pid = first_line_pid(pid_file)
    if pid is not None and binaries.command_of(pid) and not _is_ours(pid, "postgres", data):
        pid_file.unlink(missing_ok=True)


def start(
    command: Callable[[int], list[str]],
    spawn: Callable[[list[str]], Attempt],
    ready: Callable[[int, int], bool],
    port: int,
    pause: Pause,
) -> tuple[subprocess.Popen[bytes], int]:
    """Start it, and again where the failure passes by itself.

    Which is: a free port that somebody took between our look and the bind, or a known one that a
    passing connection of somebody's left by; and, after a kill -9, the last processes of the old
    Postgres still holding its shared memory.
    """
    deadline = time.monotonic() + START_SECONDS
    tries = PORT_TRIES
    while True:
        chosen = port or free_port()
        attempt = spawn(command(chosen))
        try:
            if _await_ready(attempt.process, partial(ready, chosen), deadline, pause):
                return attempt.process, chosen
        except BaseException:
            end(attempt.process, (signal.SIGQUIT, signal.SIGKILL), 5.0)
            raise
        match attempt.trouble():
            case "port":
                tries -= 1
            case "other":
                tries = 0
        if not tries or time.monotonic() > deadline:
            raise Misconfigured(attempt.reason())
        pause(0.1)


def _await_ready(
    process: subprocess.Popen[bytes],
    ready: Callable[[int], bool],
    deadline: float,
    pause: Pause,
) -> bool:
    """True once ready, False if it ended first."""
    while not ready(process.pid):
        if process.poll() is not None:
            return False
        if time.monotonic() > deadline:
            raise Misconfigured(f"an embedded server was not ready in {START_SECONDS:.0f} s")
        pause(POLL_SECONDS)
    return True


@dataclass
class Attempt:
    """One try at starting a server, and what it wrote to its log meanwhile."""

    process: subprocess.Popen[bytes]
    log: Path
    offset: int

    def trouble(self) -> Literal["memory", "port", "other"]:
        """What kept it from starting."""
        said = self._said()
        if "shared memory" in said and "still in use" in said:
            return "memory"
        return "port" if "in use" in said else "other"

    def reason(self) -> str:
        """The same for a person."""
        lines = self._said().splitlines() or ["it said nothing"]
        in_use = [line for line in lines if "in use" in line]
        fatal = [line for line in lines if "FATAL" in line]
        last = (in_use or fatal or lines)[-1].strip()
        return f"the embedded server ended with {self.process.returncode}: {last} (see {self.log})"

    def _said(self) -> str:
        with self.log.open("rb") as log:
            log.seek(self.offset)
            return log.read(65_536).decode(errors="replace")


def environment() -> dict[str, str]:
    """What a server needs to run: no secrets of ours, and English, which `start` reads."""
    kept = ("PATH", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"LC_ALL": "C"}


def spawn(command: list[str], *, log: Path, who: binaries.Account) -> Attempt:
    """Start the process, its words going to the log."""
    with log.open("ab") as out:
        offset = out.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd="/",
            env=environment(),
            start_new_session=True,  # a terminal's Ctrl-C is ours to answer; servers go last
            **who,
        )
    return Attempt(process, log, offset)


def end(
    process: subprocess.Popen[bytes], signals: tuple[signal.Signals, ...], patience_seconds: float
) -> None:
    """End the process: these signals in turn, each with some patience, then by force."""
    for number in signals:
        if process.poll() is not None:
            return
        process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience_seconds)
    if process.poll() is None:
        process.kill()
        process.wait()
