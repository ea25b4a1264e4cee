"""The known mistakes are still mistakes of this engine, which itself knows none of them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.mutants.__main__ import HUNTERS
from tests.mutants.planting import MUTABLE, ROOT, Mutant, fit, mutants

MUTANTS = mutants()
LEAST = 10


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mutants")
    for name in MUTABLE:
        ignored = shutil.ignore_patterns("__pycache__", "assets")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    return folder


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_a_mistake_still_fits_into_the_engine_and_into_nothing_else(
    mutant: Mutant, copy: Path
) -> None:
    fit(mutant, copy, only_try=True)

    touched = re.findall(r"^\+\+\+ b/(.*)$", mutant.patch.read_text(), re.MULTILINE)
    assert touched
    assert all(path.startswith(tuple(f"{name}/" for name in MUTABLE)) for path in touched)
    assert mutant.mistake
    assert mutant.breaks.startswith("INV-")
    assert mutant.hunter in HUNTERS


def test_there_are_enough_of_them() -> None:
    assert len(MUTANTS) >= LEAST


def test_the_engine_knows_of_no_mutant() -> None:
    """No branch, no switch, no name of any of them: what is tested is what is run."""
    words = re.compile(r"mutant|\bvariant\b|" + "|".join(MUTANTS), re.IGNORECASE)
    for name in MUTABLE:
        for path in (ROOT / name).rglob("*"):
            if path.suffix in (".py", ".lua", ".sql"):
                assert not words.search(path.read_text()), path
