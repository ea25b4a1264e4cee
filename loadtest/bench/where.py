"""Where a bench ran: machine, disk, versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path
from statistics import median
from typing import Any

import psutil  # type: ignore[import-untyped, unused-ignore]

from loadtest.fleet import ROOT


def flush_ms(folder: Path, times: int = 100) -> float:
    """What it takes this disk to keep a page for good: the price of a commit."""
    took = []
    with (folder / "flush").open("wb", buffering=0) as file:
        for _ in range(times):
            began = time.perf_counter()
            file.write(bytes(8_192))
            os.fsync(file.fileno())
            took.append(time.perf_counter() - began)
    return round(1_000 * median(took), 2)


def machine(folder: Path) -> dict[str, Any]:
    """Where this runs."""
    names = [platform.processor() or platform.machine()]
    cpus = Path("/proc/cpuinfo")
    if cpus.exists():
        lines = cpus.read_text().splitlines()
        names = [
            line.partition(": ")[2] for line in lines if line.startswith("model name")
        ] or names
    memory = round(psutil.virtual_memory().total / 2**30)
    cores, flush = psutil.cpu_count(), flush_ms(folder)
    return {"cores": cores, "cpu": names[0], "memoryGB": memory, "flushMs": flush}


def commit() -> str:
    """The checkout's commit; "+dirty" if it has been edited since."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    return (git("rev-parse", "--short", "HEAD") or "none") + "+dirty" * bool(git("status", "-s"))
