"""The bouncer hears of a batch before its buyers do, unless it does not answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from engine.infra.combiner import Seat
from engine.sale.bouncer import Bouncer
from tests.support.shop import Shop

_settle, _answer = Bouncer.settle, Seat.answer


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Who heard of a hold, in order."""
    order: list[str] = []

    def answer(self: Seat[Any, Any], result: Any) -> None:
        order.append("buyer")
        _answer(self, result)

    monkeypatch.setattr(Seat, "answer", answer)
    return order


async def test_no_buyer_hears_of_his_hold_before_the_bouncer_does(
    shop: Shop, heard: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def settle(self: Bouncer, drop_id: int, figures: Any = None, **words: Any) -> bool:
        done = await _settle(self, drop_id, figures, **words)
        if words.get("closed"):
            heard.append("bouncer")
        return done

    monkeypatch.setattr(Bouncer, "settle", settle)
    drop_id = await shop.open_drop(2)

    assert (await shop.reserve(drop_id, "ann")).status == 201

    assert heard == ["bouncer", "buyer"]


async def test_a_bouncer_that_does_not_answer_keeps_no_buyer_waiting(
    shop: Shop, heard: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drop_id = await shop.open_drop(2)
    gate = asyncio.Event()

    async def settle(self: Bouncer, drop_id: int, figures: Any = None, **words: Any) -> bool:
        if words.get("closed"):
            await gate.wait()
            heard.append("bouncer")
        return await _settle(self, drop_id, figures, **words)

    monkeypatch.setattr(Bouncer, "settle", settle)

    assert (await shop.reserve(drop_id, "ann")).status == 201
    assert heard == ["buyer"]
    gate.set()
    assert await shop.settled(drop_id)
