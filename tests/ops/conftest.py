"""The command line in this process: as a person types it, without paying for a new Python."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from engine.infra import log
from engine.infra.settings import Settings
from engine.ops import cli


class Said(msgspec.Struct):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output as a program reads it."""
        return json.loads(self.out)


Types = Callable[..., Awaitable[Said]]


@pytest.fixture
def types(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Types:
    """`await types("drop", "list")` is `velvetrope drop list` on this test's servers."""
    monkeypatch.setattr(log, "configure", lambda *_: None)  # this process has its own
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("database_url", "redis_url", "auth"):
        monkeypatch.setenv(name.upper(), getattr(settings, name))
    monkeypatch.setenv("DATA_DIR", str(settings.data_dir))  # where an open shop keeps its secret
    for name in ("JWT_SECRET", "HMAC_SECRET", "PORT", "HOST"):
        monkeypatch.delenv(name, raising=False)

    def run(words: tuple[str, ...]) -> int:
        try:
            cli.run(list(words))
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    async def type_(*words: str, **environment: str) -> Said:
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            capsys.readouterr()
            with capture_logs():
                code = await asyncio.to_thread(run, words)
            out, err = capsys.readouterr()
        return Said(code, out, err)

    return type_
