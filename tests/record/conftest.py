"""A ledger that was sealed, and its facts."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from engine.record.seal import seal
from engine.runtime import Ground
from tests.support.ledger import Facts, ring


@pytest.fixture
async def facts(ground: Ground) -> AsyncIterator[Facts]:
    """Who writes them."""
    connection = await asyncpg.connect(ground.settings.database_url)
    yield Facts(ground, connection)
    await connection.close()


@pytest.fixture
async def book(facts: Facts) -> Facts:
    """Sixteen records: a block of six purchases (1 to 6), four bookings (7 to 10), a block of a
    refund and three purchases (11 to 14), two bookings (15, 16). Heights 1, 2 to 5, 6, 7 and 8."""
    drop_id = await facts.drop()
    bought = await facts.buy(drop_id, 6)
    await facts.book(drop_id, 4)
    await facts.refund(bought[0])
    await facts.buy(drop_id, 3)
    await facts.book(drop_id, 2)
    assert await seal(facts.ground.postgres, ring()) == 16
    return facts
