"""Plant a mistake: a copy of the engine with one patch in it. The engine itself knows of none.

A patch of patches/ begins with what a reader must know, in words of one line each:

    Mistake  what somebody might have written
    Breaks   the promise that does not hold any more
    Hunter   which part of the harness catches it soonest
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[2]
PATCHES = Path(__file__).parent / "patches"
MUTABLE = ("engine", "lua", "sql")  # what a mistake may be in
COPIED = (*MUTABLE, "loadtest", "tests", "pyproject.toml", "docs", "README.md")


class Mutant(msgspec.Struct, frozen=True):
    """One mistake."""

    name: str
    mistake: str
    breaks: str
    hunter: str
    patch: Path


def mutants() -> dict[str, Mutant]:
    """All of them, by name."""
    return {path.stem: _read(path) for path in sorted(PATCHES.glob("*.patch"))}


def _read(path: Path) -> Mutant:
    head, _, _ = path.read_text().partition("\n\n")
    words = dict(line.split(maxsplit=1) for line in head.splitlines())
    return Mutant(path.stem, words["Mistake"], words["Breaks"], words["Hunter"], path)


def plant(mutant: Mutant, folder: Path) -> Path:
    """A copy of the project with the mistake in it. Raises `CalledProcessError` with git's words
    if the patch does not fit any more: then write the mistake anew."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "results", "img")
            shutil.copytree(source, folder / name, ignore=ignored)
        elif source.exists():
            shutil.copy(source, folder / name)
    fit(mutant, folder)
    return folder


def fit(mutant: Mutant, folder: Path, *, only_try: bool = False) -> None:
    """Apply the patch to a copy, or only try whether it fits."""
    flags = ["--check"] if only_try else []
    # The folder is no repository of its own, and must not be taken for a part of ours.
    subprocess.run(
        ["git", "apply", "--verbose", *flags, str(mutant.patch)],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin:/usr/local/bin", "GIT_CEILING_DIRECTORIES": str(folder.parent)},
        check=True,
        capture_output=True,
        text=True,
    )
