"""Workers that died between the bouncer's word and Postgres: their intents stay open."""

from __future__ import annotations

from engine.runtime import Ground
from engine.sale.bouncer import ATTEMPTS_PER_EPOCH, Admission


async def admit(
    ground: Ground, drop_id: int, requests: list[tuple[str, int, str]], attempt: int = 1
) -> Admission:
    """What the bouncer says to (request, quantity, buyer) of a worker that does nothing more."""
    epoch = ground.postgres.epoch
    number = epoch * ATTEMPTS_PER_EPOCH + attempt
    batch = [(request, number, quantity, buyer, False) for request, quantity, buyer in requests]
    return await ground.bouncer.admit(drop_id, epoch, batch)


async def strand(ground: Ground, drop_id: int, count: int) -> None:
    """So many open intents of one unit each that nobody will ever close."""
    ghosts = [(f"{n:032x}", 1, f"ghost-{n}") for n in range(count)]
    assert (await admit(ground, drop_id, ghosts)).words == ["admitted"] * count
