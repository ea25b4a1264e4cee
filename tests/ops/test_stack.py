"""The file that says where a running stack's servers are speaks only while its writer lives."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from engine.infra.errors import Misconfigured
from engine.ops import stack

FIRST = dict.fromkeys(stack.TOLD, "first")
SECOND = dict.fromkeys(stack.TOLD, "second")


def test_it_is_its_owners_alone_holds_no_secret_and_goes_with_its_writer(tmp_path: Path) -> None:
    folder = tmp_path / "data"

    with stack.announce(folder, FIRST | {"JWT_SECRET": "s3cret"}):
        assert stack.find(folder) == FIRST
        assert stat.S_IMODE((folder / "env").stat().st_mode) == 0o600
        assert "s3cret" not in (folder / "env").read_text()

    assert stack.find(folder) == {}
    assert not folder.exists()


def test_what_a_dead_writer_left_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "env").write_text("DATABASE_URL=postgresql://gone\n")

    assert stack.find(tmp_path) == {}


def test_a_strangers_file_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stack.announce(tmp_path, FIRST):
        assert stack.find(tmp_path) == FIRST
        monkeypatch.setattr(os, "geteuid", lambda: -1)
        assert stack.find(tmp_path) == {}


def test_a_second_writer_takes_over_and_the_firsts_end_does_not_end_it(tmp_path: Path) -> None:
    first = stack.announce(tmp_path, FIRST)
    first.__enter__()
    with stack.announce(tmp_path, SECOND):
        first.__exit__(None, None, None)

        assert stack.find(tmp_path) == SECOND
    assert stack.find(tmp_path) == {}


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")

    with pytest.raises(Misconfigured, match="set DATA_DIR to a writable folder"):
        stack.announce(tmp_path / "data", FIRST).__enter__()
