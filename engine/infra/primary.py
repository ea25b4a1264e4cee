"""Which server is the primary now, where DATABASE_URL names several hosts.

    postgresql://me@a:5432,b:5432/sale      a and b are asked at once; who takes writes is meant

Asked in turn, as the driver does it, a host that is dead without a word would use up all the time
in which its neighbour would have answered. Of two that take writes, one came back from the dead
after the other had been promoted: the later timeline is the sale.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any
from urllib.parse import parse_qs

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from engine.infra import sql
from engine.infra.settings import Settings

WRITES = SessionAttribute.read_write
# urlsplit refuses hosts of which one is an IPv6 address, in some versions.
_PARTS = re.compile(r"((?:[^:/?]*://)?)([^/?]*)(.*)", re.DOTALL)
GRACE_SECONDS = 0.25  # for the neighbours of the first who takes writes


def hosts(url: str) -> list[str]:
    """One URL a host, in their order. Raises `ValueError` if they stand in the query."""
    scheme, place, rest = _PARTS.fullmatch(url).groups()  # type: ignore[union-attr]  # all optional
    if "," in "".join(parse_qs(rest.partition("?")[2]).get("host", [])):
        raise ValueError("write several hosts before the database: postgresql://a:5432,b:5432/sale")
    person, at, places = place.rpartition("@")
    return [f"{scheme}{person}{at}{one}{rest}" for one in places.split(",")]


async def connect(url: str, **words: Any) -> Any:
    """A connection to the primary, with asyncpg's own words and errors."""
    named = hosts(url)
    if len(named) == 1:
        return await asyncpg.connect(url, **words)
    asked = [asyncio.create_task(_ask(one, words), name="postgres-host") for one in named]
    latest = None
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
        # Who waits may be cancelled as well: whatever is not taken is given back.
        for each in await asyncio.gather(*asked, return_exceptions=True):
            if not isinstance(each, BaseException) and each[1] is not latest:
                each[1].terminate()
    return latest


async def _ask(url: str, words: dict[str, Any]) -> tuple[str, Any]:
    """The timeline of a host that takes writes, and a connection to it. A host may fall silent
    after the driver's own time-out is over: it is the time-out of all of this."""
    async with asyncio.timeout(words.get("timeout")):
        connection = await asyncpg.connect(url, **words, target_session_attrs=WRITES)
        try:
            row = await connection.fetchrow(sql.load("engine")["timeline"].text)
            return row["timeline"], connection
        except BaseException:
            connection.terminate()
            raise


def words(
    settings: Settings, connection_class: type, statement_timeout_ms: int, seconds: float
) -> dict[str, Any]:
    """How to connect. Of what is asked for at the start PgBouncer refuses most, or promises it and
    forgets it: there the role says it. Statements prepared on one server it may send to another."""
    told = {"application_name": "velvetrope"}
    if not settings.pgbouncer:
        told |= {
            "statement_timeout": str(statement_timeout_ms),
            "lock_timeout": "1000",
            "idle_in_transaction_session_timeout": "2000",
            "synchronous_commit": "on",
            "jit": "off",
        }
        if settings.schema:
            told["search_path"] = sql.quoted(settings.schema)
    chosen: dict[str, Any] = {
        "connection_class": connection_class,
        "timeout": seconds,
        "server_settings": told,
    }
    return chosen | ({"statement_cache_size": 0} if settings.pgbouncer else {})
