"""What the documents say of how a promise is attacked is there, and can be run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.mutants.planting import mutants

ROOT = Path(__file__).parents[2]
PROOFS = [ROOT / "docs" / name for name in ("INVARIANTS.md", "RELIABILITY.md", "WINDOWS.md")]
WINDOWS = 106


@pytest.mark.parametrize("page", PROOFS, ids=lambda page: page.stem)
def test_the_tests_that_are_named_exist(page: Path) -> None:
    named = set(re.findall(r"`(tests/[\w/.]+)`", page.read_text()))

    assert named
    assert sorted(path for path in named if not (ROOT / path).exists()) == []


@pytest.mark.parametrize("page", PROOFS, ids=lambda page: page.stem)
def test_the_commands_that_are_named_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)", page.read_text()))

    assert named <= targets


def test_every_failure_window_says_what_attacks_it() -> None:
    lines = (ROOT / "docs" / "WINDOWS.md").read_text().splitlines()
    rows = [line.split("|")[1:-1] for line in lines if re.match(r"\| [A-H]\d+ ", line)]

    assert len(rows) == WINDOWS
    bare = [id.strip() for id, _, _, closed, attacked in rows if not attacked.strip()]
    assert bare == ["B22", "D13"], "what nothing attacks is said to be out of reach"


def test_every_mutant_is_named_where_its_promise_stands() -> None:
    said = "".join(page.read_text() for page in PROOFS)

    assert [name for name in mutants() if f"`{name}`" not in said] == []
