"""Accounts from the terminal: the first admin of a fresh machine, and who is forgotten there."""

from __future__ import annotations

import io

import asyncpg
import pytest

from tests.ops.conftest import Types
from tests.support.shop import Shop


async def test_the_first_admin_is_made_here_and_stays_until_there_is_another(
    types: Types, shop: Shop, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("correct horse\n"))
    made = await types("user", "create", "ops@example.com", "--username", "ops", "--admin")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    other = await types("user", "create", "ann@example.com")
    password = other.err.rpartition(": ")[2].strip()

    for words in ({"email": "ops@example.com", "password": "correct horse"},
                  {"email": "ann@example.com", "password": password}):  # fmt: skip
        assert (await shop.send("POST", "/users/login", words)).status == 200
    assert (await types("user", "create", "OPS@example.com")).code == 1
    assert (await types("user", "role", "ops@example.com", "user")).code == 1, "the last one"
    assert (await types("user", "role", "ann@example.com", "admin")).code == 0
    assert (await types("user", "role", made.out.strip(), "user")).code == 0
    again = await types("user", "password", "ops@example.com")
    words = {"email": "ops@example.com", "password": again.err.rpartition(": ")[2].strip()}
    assert (await shop.send("POST", "/users/login", words)).status == 200
    assert (await types("user", "erase", "ops@example.com")).code == 0
    listed = (await types("user", "list", "--json")).json
    assert [(row["email"], row["role"], row["status"]) for row in listed] == [
        ("ann@example.com", "admin", "active"),
        (None, "user", "deleted"),
    ]
    assert "ann@example.com" in (await types("user", "list")).out
    assert (await types("user", "erase", "nobody@example.com")).code == 1
    connection = await asyncpg.connect(database)
    told = await connection.fetch("SELECT target FROM audit_log WHERE outcome = 'done'")
    await connection.close()
    assert {made.out.strip(), other.out.strip()} == {row["target"] for row in told}, "about whom"
