"""Fresh databases, cloned from a migrated template: one a test, or as many as it likes."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

TEMPLATE = "velvetrope_template"
_numbers = itertools.count()


@asynccontextmanager
async def cloned(server: str) -> AsyncIterator[str]:
    """The URL of a database of one's own, until the end of the block."""
    name = f"test_{next(_numbers)}"
    admin = await asyncpg.connect(server)
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    try:
        yield named(server, name)
    finally:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


def named(url: str, name: str) -> str:
    """The same server's database of that name."""
    return url.rpartition("/")[0] + "/" + name
