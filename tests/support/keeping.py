"""Keepers in the test's own process, some of them turned off or hurried."""

from __future__ import annotations

import asyncio

import msgspec

from engine import runtime
from engine.infra.settings import Settings


class Keeping:
    """All keepers, with some settings of their own."""

    def __init__(self, settings: Settings, **other: object) -> None:
        self._settings = msgspec.structs.replace(settings, **other)
        self._stop = asyncio.Event()

    async def __aenter__(self) -> None:
        ready = asyncio.Event()
        self._task = asyncio.create_task(runtime.keep(self._settings, self._stop, ready))
        await ready.wait()

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await self._task
