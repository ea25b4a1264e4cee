"""Insist: run a batch whose statement may be run twice with the effect of once.

After a deadlock it is run again; after a lost reply too, and the second run's reply tells what the
first one did. Only what is still not known at the deadline stays unknown.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from engine.infra.combiner import Seat
from engine.infra.postgres import Postgres, Session, Undone, Unknown, Unreachable

PAUSE_SECONDS = 0.02

T = TypeVar("T")
Chair = TypeVar("Chair", bound=Seat[Any, Any])


async def insist(
    postgres: Postgres,
    seats: list[Chair],
    send: Callable[[Session, list[Chair]], Awaitable[list[T]]],
) -> list[T]:
    """Rows of `send` for the seats that still wait. Raises `Undone`, `Unreachable` at the end."""
    until = max(seat.deadline for seat in seats)
    while True:
        before = [seat.at_risk for seat in seats]
        try:
            async with postgres.session() as session:
                # It may have taken long to get here: who was told "nothing was taken" in the
                # meantime must not be sent. From this line to the send nothing is awaited.
                waiting = [seat for seat in seats if seat.at_risk or not seat.told]
                for seat in waiting:
                    seat.at_risk = True
                return await send(session, waiting) if waiting else []
        except Undone as undone:
            # This run was undone; one before it, whose reply was lost, may not have been.
            for seat, at_risk in zip(seats, before, strict=True):
                seat.at_risk = at_risk
            if not undone.transient or time.monotonic() >= until:
                raise
        except (Unknown, Unreachable) as error:
            if time.monotonic() >= until:
                raise Unreachable from error
        await asyncio.sleep(PAUSE_SECONDS)
