"""Which server is the primary now, where DATABASE_URL names several hosts.

    postgresql://me@a:5432,b:5432/sale      a and b are asked at once; who takes writes is meant

Asked in turn, as the driver does it, a host that is dead without a word would use up all the time
in which its neighbour would have answered. Of two that take writes, one came back from the dead
after the other had been promoted: the later timeline is the sale.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from engine.infra import sql

WRITES = SessionAttribute.read_write
GRACE_SECONDS = 0.25  # for the neighbours of the first who takes writes


def hosts(url: str) -> list[str]:
    """One URL a host, in their order."""
    parts = urlsplit(url)
    if "," not in parts.netloc:
        return [url]
    person, at, places = parts.netloc.rpartition("@")
    return [urlunsplit(parts._replace(netloc=f"{person}{at}{one}")) for one in places.split(",")]


async def connect(url: str, **words: Any) -> Any:
    """A connection to the primary, with asyncpg's own words and errors."""
    named = hosts(url)
    if len(named) == 1:
        return await asyncpg.connect(url, **words)
    asked = [asyncio.create_task(_ask(one, words), name="postgres-host") for one in named]
    try:
        found, waiting, patience = [], set(asked), None
        while waiting and (patience is None or patience > 0):
            began = asyncio.get_running_loop().time()
            done, waiting = await asyncio.wait(
                waiting, timeout=patience, return_when=asyncio.FIRST_COMPLETED
            )
            found += [task.result() for task in done if not task.exception()]
            if found:
                spent = asyncio.get_running_loop().time() - began
                patience = GRACE_SECONDS if patience is None else patience - spent
        if not found:
            raise asked[0].exception() or OSError("no host answers")
        latest = max(found, key=lambda each: each[0])[1]
    finally:
        for task in asked:
            task.cancel()
        told = await asyncio.gather(*asked, return_exceptions=True)
    for each in told:
        if not isinstance(each, BaseException) and each[1] is not latest:
            each[1].terminate()
    return latest


async def _ask(url: str, words: dict[str, Any]) -> tuple[str, Any]:
    """The timeline of a host that takes writes, and a connection to it."""
    connection = await asyncpg.connect(url, **words, target_session_attrs=WRITES)
    try:
        row = await connection.fetchrow(sql.load("engine")["timeline"].text)
        return row["timeline"], connection
    except BaseException:
        connection.terminate()
        raise
