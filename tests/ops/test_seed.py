"""The demo: made once, with accounts where they are asked for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from msgspec.structs import replace

from engine.identity.passwords import WELL_KNOWN, Passwords
from engine.infra.settings import Settings
from engine.ops.seed import seed
from tests.ops.conftest import Types

PEOPLE = {
    "admin@techzu.com": ("admin", "admin", 0),
    "john@example.com": ("johndoe", "user", 3),
    "sarah@example.com": ("sarah_k", "user", 3),
    "mike@example.com": ("mike92", "user", 2),
    "emma@example.com": ("emma_w", "user", 2),
}
Rows = Callable[[str], Awaitable[list[Any]]]


@pytest.fixture
def rows(database: str) -> Rows:
    """`await rows(query)`."""

    async def look(query: str) -> list[Any]:
        connection = await asyncpg.connect(database)
        try:
            return [tuple(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()

    return look


COUNTS = """SELECT (SELECT count(*) FROM drops), (SELECT count(*) FROM purchases),
                   (SELECT count(*) FROM users), (SELECT max(version) FROM users)"""


@pytest.mark.slow
async def test_the_demos_people_are_there_when_they_are_asked_for_and_made_once(
    settings: Settings, types: Types, rows: Rows
) -> None:
    _, nobody = await seed(settings)
    assert nobody == []
    # README's first lines: shoes before all that is not listed, and one a buyer of drop 21.
    unlisted = "SELECT max(id) FROM drops WHERE NOT listed"
    assert await rows(f"SELECT count(*) FROM drops WHERE listed AND id < ({unlisted})") == [(0,)]
    assert await rows("SELECT max_per_buyer FROM drops WHERE id = 21") == [(1,)]
    assert await rows("SELECT * FROM users") == []

    _, made = await seed(replace(settings, demo_accounts=True))
    before = await rows(COUNTS)
    again = await types("seed", "--accounts")
    _, none = await seed(replace(settings, demo_accounts=True, auth="required"))

    assert {each.email for each in made} == PEOPLE.keys()
    assert {each.password for each in made} == {WELL_KNOWN}
    found = await rows(
        """SELECT u.email, u.username, u.role, count(p.id), u.password_hash
             FROM users AS u LEFT JOIN purchases AS p ON p.buyer = u.id::text
            GROUP BY u.id"""
    )
    assert {email: (name, role, bought) for email, name, role, bought, _ in found} == PEOPLE
    passwords = Passwords(settings.data_dir, 60)
    assert (await passwords.verify(WELL_KNOWN, found[0][4])).ok
    passwords.close()
    assert (again.code, none) == (0, [])
    assert "the accounts were there" in again.out
    assert WELL_KNOWN not in again.out
    assert await rows(COUNTS) == before


@pytest.mark.slow
async def test_where_not_everybody_is_trusted_nobody_knows_their_passwords(
    settings: Settings, types: Types, rows: Rows
) -> None:
    said = await types("seed", "--accounts", AUTH="required")

    told = dict(line.split("  ") for line in said.out.splitlines() if "@" in line)
    assert told.keys() == PEOPLE.keys()
    assert len(set(told.values())) == len(PEOPLE)
    passwords = Passwords(settings.data_dir, 60)
    for email, hash in await rows("SELECT email, password_hash FROM users"):
        assert (await passwords.verify(told[email], hash)).ok
        assert not (await passwords.verify(WELL_KNOWN, hash)).ok
    passwords.close()
