"""Two Postgres servers of a test's own.

two     a primary and a standby that follows it
there   settings that name both, with a migrated database that counts its epochs
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from engine.infra.settings import Settings
from engine.ops.migrate import migrate
from loadtest.chaos.standby import Pair, pair
from tests.support.failover import COUNT_EPOCHS, execute


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Pair]:
    """A primary and a standby."""
    with pair(tmp_path) as both:
        yield both


@pytest.fixture
async def there(two: Pair, settings: Settings) -> Settings:
    """Settings that name both, prepared."""
    settings = msgspec.structs.replace(settings, database_url=two.url)
    await migrate(settings)
    await execute(two.primary, COUNT_EPOCHS)
    await two.catch_up()
    return settings
