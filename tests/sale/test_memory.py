"""What a worker remembers of a drop that is sold out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from engine import runtime
from engine.infra.combiner import Crew
from engine.infra.settings import Settings
from engine.runtime import Ground
from engine.sale.errors import SoldOut
from engine.sale.memory import MEMORY_SECONDS, Memory
from engine.sale.models import Reserve
from engine.sale.reserve import Reserving
from tests.support.shop import Shop
from tests.support.wait import wait_until


@pytest.fixture
async def ground(settings: Settings) -> AsyncIterator[Ground]:
    async with runtime.ground(settings) as opened:
        yield opened


@pytest.fixture
async def crew() -> AsyncIterator[Crew]:
    crew = Crew()
    yield crew
    await crew.drain(5)


def _refuses(memory: Memory, drop_id: int, quantity: int = 1) -> bool:
    try:
        memory.refuse(drop_id, quantity)
    except SoldOut:
        return True
    return False


async def _sold_out(shop: Shop, ground: Ground, crew: Crew) -> tuple[int, Reserving, str]:
    """A drop of one unit that is held, a worker that was told so, and the hold."""
    drop = await shop.open_drop(1)
    hold: str = (await shop.reserve(drop, "ann")).json["id"]
    reserving = Reserving(ground.postgres, ground.bouncer, crew)
    with pytest.raises(SoldOut):
        await reserving.reserve(Reserve(drop, "bob", 1, "b" * 32, keyed=False))
    return drop, reserving, hold


async def test_while_somebody_asks_it_is_renewed_and_nobody_waits(
    shop: Shop, ground: Ground, crew: Crew
) -> None:
    drop, reserving, _ = await _sold_out(shop, ground, crew)
    began = time.monotonic()

    while time.monotonic() < began + 5 * MEMORY_SECONDS:
        assert _refuses(reserving._memory, drop), "a crowd would have had to ask the bouncer"
        await asyncio.sleep(MEMORY_SECONDS / 20)


async def test_when_nobody_asks_it_is_forgotten(shop: Shop, ground: Ground, crew: Crew) -> None:
    drop, reserving, _ = await _sold_out(shop, ground, crew)

    await asyncio.sleep(1.5 * MEMORY_SECONDS)

    assert not _refuses(reserving._memory, drop)


async def test_a_unit_that_comes_back_is_known_within_the_time_that_may_be_remembered(
    shop: Shop, ground: Ground, crew: Crew
) -> None:
    drop, reserving, hold = await _sold_out(shop, ground, crew)
    assert _refuses(reserving._memory, drop)
    assert (await shop.release(hold, "ann")).status == 204

    async def may_ask() -> bool:
        return not _refuses(reserving._memory, drop)

    await wait_until(may_ask, "the unit may be asked for", MEMORY_SECONDS + 1, pause=0.002)
    held = await reserving.reserve(Reserve(drop, "bob", 1, "c" * 32, keyed=False))
    assert held.quantity == 1


async def test_what_was_forgotten_stays_so_though_an_answer_of_before_arrives(
    shop: Shop, ground: Ground, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop, reserving, _ = await _sold_out(shop, ground, crew)
    asked, answered, admit = asyncio.Event(), asyncio.Event(), ground.bouncer.admit

    async def slowly(*words: object) -> object:
        told = await admit(*words)  # type: ignore[arg-type]
        asked.set()
        await answered.wait()
        return told

    monkeypatch.setattr(ground.bouncer, "admit", slowly)
    while not asked.is_set():
        assert _refuses(reserving._memory, drop)
        await asyncio.sleep(0.005)

    reserving.forget(drop)
    answered.set()
    await asyncio.sleep(0.02)

    assert not _refuses(reserving._memory, drop)
