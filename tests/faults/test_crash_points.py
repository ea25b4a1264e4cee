"""INV-3, INV-4, INV-7: at every message, a process dies before, amid or after it; or stops
there past every time-out and then goes on as if nothing had happened.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.infra.settings import Settings
from tests.support.stories import STORIES
from tests.support.sweep import Sweep


@pytest.fixture
async def sweep(settings: Settings, template: str, tmp_path: Path) -> AsyncIterator[Sweep]:
    async with Sweep.open(settings, template, tmp_path) as opened:
        yield opened


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_census(sweep: Sweep) -> None:
    points = await sweep.census(list(STORIES))
    print(Counter(p.story for p in points))
    for p in points:
        print(p)
    print(len(points), len({p.where for p in points}))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("deed", ["kill", "stop"])
async def test_run(sweep: Sweep, deed) -> None:
    import os
    import time

    names = os.environ["NAMES"].split(",") if "NAMES" in os.environ else list(STORIES)
    points = await sweep.census(names)
    if "ONCE" in os.environ:
        points = list({p.where: p for p in reversed(points)}.values())
    t = time.monotonic()
    wrong = await sweep.run(points, deed)
    print(len(points), deed, time.monotonic() - t)
    for w in wrong:
        print("WRONG", w[:700])
