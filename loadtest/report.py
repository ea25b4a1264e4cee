"""What a bench says in the end: medians, ratios within rounds, and where they were measured."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import psutil  # type: ignore[import-untyped, unused-ignore]

from loadtest.client import Figures
from loadtest.fleet import ROOT

ECHO, HOLDS, SOLD_OUT, KEYED = "echo", "holds", "sold out", "sold out, keyed"
BASELINE = {4: "one by one, pool 4", 16: "one by one, pool 16"}
MEASURES = (ECHO, HOLDS, SOLD_OUT, KEYED, *BASELINE.values())
UNLIMITED = {HOLDS: "holds, no limits", SOLD_OUT: "sold out, no limits"}


class Run(msgspec.Struct, frozen=True):
    """One measure in one round; memory is that of all its workers, half-way through."""

    figures: Figures
    rss_mb: float

    @property
    def score(self) -> float:
        """What is compared: answers a second that did what the measure is about."""
        return self.figures.ok_per_s or self.figures.requests_per_s


class Row(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One measure over all rounds: medians, extremes, and ratios taken within each round."""

    measure: str
    per_s: float
    per_s_min: float
    per_s_max: float
    to_echo: float
    to_baseline: float
    p50_ms: float
    p99_ms: float
    errors: int
    rss_mb: float
    rounds: list[Run]


def summarise(rounds: list[dict[str, Run]]) -> list[Row]:
    """The table's rows; "the baseline" is the better pool size of each round."""
    echo = [each[ECHO].score for each in rounds]
    baseline = [max(each[name].score for name in BASELINE.values()) for each in rounds]
    rows = []
    for name in rounds[0]:
        runs = [each[name] for each in rounds]
        scores = [run.score for run in runs]
        rows.append(
            Row(
                measure=name,
                per_s=median(scores),
                per_s_min=min(scores),
                per_s_max=max(scores),
                to_echo=median([a / b for a, b in zip(scores, echo, strict=True)]),
                to_baseline=median([a / b for a, b in zip(scores, baseline, strict=True)]),
                p50_ms=median([run.figures.p50_ms for run in runs]),
                p99_ms=median([run.figures.p99_ms for run in runs]),
                errors=sum(run.figures.errors for run in runs),
                rss_mb=median([run.rss_mb for run in runs]),
                rounds=runs,
            )
        )
    return rows


def table(rows: list[Row]) -> str:
    """The rows as text."""
    line = "{:<22}{:>22}{:>9}{:>13}{:>9}{:>9}{:>8}{:>9}".format
    heads = (
        "req/s [min - max]",
        "x echo",
        "x one by one",
        "p50 ms",
        "p99 ms",
        "errors",
        "worker MB",
    )
    lines = [line("", *heads)]
    for row in rows:
        rate = f"{row.per_s:,.0f} [{row.per_s_min:,.0f} - {row.per_s_max:,.0f}]"
        ratios = f"{row.to_echo:.2f}", f"{row.to_baseline:.2f}"
        times = f"{row.p50_ms:.1f}", f"{row.p99_ms:.1f}"
        lines.append(line(row.measure, rate, *ratios, *times, row.errors, f"{row.rss_mb:.0f}"))
    return "\n".join(lines)


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
