"""Keepers in the test's own process, some of them turned off or hurried."""

from __future__ import annotations

import asyncio

import msgspec

from engine import runtime
from engine.infra.locks import Locks
from engine.infra.settings import Settings
from engine.keepers.auditor import Auditor
from engine.runtime import Ground


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


def locks_of(ground: Ground) -> Locks:
    """The locks of a process of its own."""
    return Locks(ground.postgres, ground.redis, ground.settings.redis_url)


def auditor_of(ground: Ground) -> Auditor:
    """The auditor of a keeper process of its own."""
    return Auditor(ground.postgres, ground.bouncer, locks_of(ground))
