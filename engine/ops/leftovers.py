"""Leftovers: what `make clean` removes of the embedded servers, stopping first what still runs.

    python -m engine.ops.leftovers FOLDER

Needs no environment, only a Python: the environment may be gone already. A folder that a live
`make run` owns is refused; servers that outlived a killed one are stopped.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

from engine.infra.errors import Misconfigured
from engine.ops import devstack, launch


def remove(data_dir: Path) -> None:
    """Delete an embedded stack's folder. Raises `Misconfigured` if somebody uses it."""
    data_dir = data_dir.resolve()
    owned = [
        devstack.own(data_dir / name) for name in ("postgres", "valkey") if _is(data_dir, name)
    ]
    try:
        postgres, valkey = data_dir / "postgres", data_dir / "valkey"
        moved = postgres / "elsewhere"
        data = (moved.resolve() if moved.exists() else postgres) / "data"
        launch.stop_orphan(
            launch.first_line_pid(data / "postmaster.pid"), "postgres", data, time.sleep
        )
        launch.stop_orphan(
            launch.first_line_pid(valkey / "valkey.pid"), "valkey", valkey, time.sleep
        )
        if moved.is_symlink() and moved.resolve().name.startswith(devstack.ELSEWHERE):
            shutil.rmtree(moved.resolve(), ignore_errors=True)
        shutil.rmtree(data_dir)
    finally:
        for lock in owned:
            lock.close()


def _is(data_dir: Path, name: str) -> bool:
    return (data_dir / name).is_dir()


if __name__ == "__main__":
    try:
        remove(Path(sys.argv[1]))
    except Misconfigured as why:
        sys.exit(f"velvetrope: {why}")
