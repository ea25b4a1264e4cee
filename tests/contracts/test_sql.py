"""Every statement fits the real schema, and uses the index that its header names."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from engine.infra import sql
from tests.support.clones import cloned

SLICES = sorted(path.stem for path in (sql.folder() / "queries").glob("*.sql"))
QUERIES = [query for name in SLICES for query in sql.load(name).values()]
FUNCTIONS = sorted((sql.folder() / "functions").glob("*.sql"))
HOT = {"next_deadline", "list_reservations", "list_purchases", "recent_purchases"}


@pytest.fixture(scope="module")
async def schema(template: str) -> AsyncIterator[str]:
    """The URL of one database for all of this file: nothing here leaves anything in it."""
    async with cloned(template) as url:
        yield url


@pytest.fixture
async def connection(schema: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the real schema."""
    opened = await asyncpg.connect(schema)
    yield opened
    await opened.close()


async def _plan(connection: asyncpg.Connection, statement: str) -> str:
    """The generic plan when whole tables may not be read."""
    words = set(re.findall(r"\$\d+", statement))
    given = f"({', '.join(['NULL'] * len(words))})" if words else ""
    await connection.execute(
        "SET enable_seqscan = off; SET enable_bitmapscan = off;"
        f" SET plan_cache_mode = force_generic_plan; PREPARE it AS {statement}"
    )
    return "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN EXECUTE it{given}"))


def _indexes_of(plan: str) -> set[str]:
    return set(re.findall(r"Index (?:Only )?Scan (?:Backward )?using (\w+)", plan))


async def _indexes_there(connection: asyncpg.Connection) -> set[str]:
    rows = await connection.fetch("SELECT indexname FROM pg_indexes WHERE schemaname = 'public'")
    return {row["indexname"] for row in rows}


def sql_of(function: str) -> str:
    """The text of a function's file."""
    return (sql.folder() / "functions" / f"{function}.sql").read_text()


def _named(header: str) -> set[str]:
    line = re.search(r"^(?:-- )?Index  (.+)$", header, re.MULTILINE)
    return set(re.findall(r"\w+", line[1])) if line else set()


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.name)
async def test_every_query_prepares_on_the_real_schema(
    connection: asyncpg.Connection, query: sql.Query
) -> None:
    prepared = await connection.prepare(query.text)

    assert len(prepared.get_parameters()) == len(query.words)
    if query.cardinality != "many":
        assert prepared.get_attributes(), "a row is promised"


def test_the_hot_queries_name_their_index() -> None:
    named = {query.name for query in QUERIES if _named(query.promise)}

    assert named >= HOT


@pytest.mark.parametrize("query", [q for q in QUERIES if _named(q.promise)], ids=lambda q: q.name)
async def test_a_query_uses_the_index_that_its_header_names(
    connection: asyncpg.Connection, query: sql.Query
) -> None:
    assert _indexes_of(await _plan(connection, query.text)) >= _named(query.promise)


@pytest.mark.parametrize(
    ("function", "first_words", "index"),
    [
        ("claim_units", "SELECT units.ctid AS place", "units_free_by_position"),
        ("claim_units_singly", "SELECT units.number, units.position", "units_free_by_position"),
        ("expire_holds", "SELECT r.id", "reservations_by_deadline"),
    ],
)
async def test_the_scan_inside_a_function_walks_its_index_in_order(
    connection: asyncpg.Connection, function: str, first_words: str, index: str
) -> None:
    text = sql_of(function)
    assert index in _named(text)
    start = text.index(first_words)
    scan = text[start : text.index("FOR UPDATE SKIP LOCKED", start)]
    types = {"p_drop": "bigint", "v_head": "bigint", "v_last": "bigint", "p_limit": "integer"}
    types |= {"v_now": "timestamptz"}
    types |= {"v_wanted": "integer", "v_quantity": "integer"}
    for i, word in enumerate(sorted(set(re.findall(r"\b[pv]_\w+", scan))), 1):
        scan = re.sub(rf"\b{word}\b", f"${i}::{types[word]}", scan)

    plan = await _plan(connection, scan)

    assert _indexes_of(plan) == {index}
    assert "Sort" not in plan, "the index gives the order"


@pytest.mark.parametrize("path", FUNCTIONS, ids=lambda path: path.stem)
async def test_a_function_says_what_it_promises_what_it_locks_and_by_which_index(
    connection: asyncpg.Connection, path: Path
) -> None:
    text = sql_of(path.stem)
    header = text[: text.index("CREATE OR REPLACE FUNCTION")]

    assert header.startswith(f"-- {path.stem}: "), "the first line: name and promise"
    assert re.search(r"^-- Locks  \S", header, re.MULTILINE)
    assert all(line.startswith("--") for line in header.splitlines() if line)
    assert _named(header)
    assert _named(header) <= await _indexes_there(connection) | {"none"}
    assert text.count("CREATE OR REPLACE FUNCTION") == 1


async def test_every_function_is_the_one_of_its_file(connection: asyncpg.Connection) -> None:
    rows = await connection.fetch(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
    )

    assert sorted(row["proname"] for row in rows) == [path.stem for path in FUNCTIONS]


async def test_every_index_that_anybody_names_is_there(connection: asyncpg.Connection) -> None:
    named = {index for query in QUERIES for index in _named(query.promise)}

    assert named <= await _indexes_there(connection)
