"""Turns: requests that are not combined wait for each other, and for nobody longer than allowed.

All of them together use at most half of the connections: no crowd of readers may stop a sale. Each
runs in the worker's own task, so a client who hangs up changes nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

import msgspec

from engine.infra.combiner import Crew
from engine.infra.errors import OutcomeUnknown, Retryable
from engine.infra.http import Answer, Call
from engine.infra.routing import Route
from engine.infra.settings import Settings


class Turns:
    """The calm requests of one worker."""

    def __init__(self, settings: Settings, crew: Crew) -> None:
        self._crew = crew
        self._deadline_seconds = settings.request_deadline_ms / 1000
        self._turns = asyncio.Semaphore(max(settings.pool_size // 2, 1))

    def urgent(self, route: Route) -> Route:
        """The route, ending by its deadline and waiting for nobody: an operator's switch."""
        return self._timed(route, nullcontext())

    def calm(self, route: Route) -> Route:
        """The route, its handler waiting for its turn and ending by its deadline."""
        return self._timed(route, self._turns)

    def _timed(self, route: Route, turn: AbstractAsyncContextManager[None]) -> Route:
        handler, late = route.handler, Retryable if route.method == "GET" else OutcomeUnknown

        async def in_turn(call: Call, until: float) -> Answer:
            async with turn:
                if time.monotonic() >= until:  # nobody waits for it any more
                    raise late
                return await handler(call)

        async def in_time(call: Call) -> Answer:
            until = time.monotonic() + self._deadline_seconds
            return await self._crew.within(in_turn(call, until), self._deadline_seconds, late)

        return msgspec.structs.replace(route, handler=in_time)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """A turn for one page of something long."""
        async with self._turns:
            yield
