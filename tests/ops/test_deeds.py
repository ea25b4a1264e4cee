"""What operators do at the terminal goes to the system log, and to stderr where nobody looks."""

from __future__ import annotations

import syslog
from typing import Any

import asyncpg
import msgspec
import pytest
from structlog.testing import capture_logs

from engine.infra.errors import NotFound
from engine.infra.settings import Settings
from engine.ops.deeds import deed
from tests.ops.conftest import Types


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The lines of the system log."""
    lines: list[Any] = []
    monkeypatch.setattr(
        syslog, "syslog", lambda _priority, line: lines.append(msgspec.json.decode(line))
    )
    monkeypatch.setenv("SUDO_USER", "olga")
    return lines


def test_a_deed_is_told_however_it_ends(told: list[Any]) -> None:
    with capture_logs() as lines:
        with deed("pause", drop_id=20):
            pass
        with pytest.raises(NotFound), deed("pause", drop_id=777):
            raise NotFound
        with pytest.raises(SystemExit), deed("reconcile", drops=[20]):
            raise SystemExit(1)
        with pytest.raises(KeyboardInterrupt), deed("close", drop_id=20):
            raise KeyboardInterrupt

    assert [each["outcome"] for each in told] == [
        "done",
        "NOT_FOUND",
        "exit 1",
        "KeyboardInterrupt",
    ]
    assert told[0] == {
        "event": "admin.action",
        "who": "terminal:olga",
        "operation": "pause",
        "drop_id": 20,
        "outcome": "done",
    }
    assert len(lines) == 4, "no person reads this stderr"


def test_a_person_at_a_terminal_is_not_told_what_he_did(
    told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with capture_logs() as lines, deed("pause", drop_id=20):
        pass

    assert (len(told), lines) == (1, [])


async def test_commands_that_change_something_are_told_and_looks_are_not(
    types: Types, told: list[Any]
) -> None:
    made = await types("drop", "create", "Aurora", "--price", "120", "--stock", "3", "--json")
    drop = str(made.json["id"])
    for words in (
        ("drop", "list"),
        ("drop", "change", drop, "--price", "99", "--max-per-buyer", "none"),
        ("drop", "add", drop, "2"),
        ("drop", "withdraw", drop, "all"),
        ("drop", "pause", drop),
        ("drop", "resume", drop),
        ("audit", drop),
        ("reconcile", drop, "--dry-run"),
        ("reconcile", drop),
        ("drop", "close", drop),
    ):
        said = await types(*words)
        assert said.code == 0, (words, said.err)

    assert [each["operation"] for each in told] == [
        *("create_drop", "change_drop", "add_stock", "withdraw_stock", "pause", "resume"),
        *("reconcile", "close"),
    ]
    assert told[1]["change"] == {"price": "99", "max_per_buyer": "none"}
    assert {each["outcome"] for each in told} == {"done"}


async def test_they_stand_in_the_audit_log_as_well(
    types: Types, told: list[Any], settings: Settings
) -> None:
    made = await types("drop", "create", "Aurora", "--price", "120", "--stock", "3", "--json")
    drop = str(made.json["id"])
    database = await asyncpg.connect(settings.database_url)
    key = (await types("apikey", "create", "my shop", "--scope", "metrics")).out.strip()
    await types("apikey", "revoke", key)
    await types("drop", "pause", "777")
    rows = await database.fetch(
        "SELECT a.who, a.operation, a.target, a.change::text, e.outcome FROM audit_log AS a"
        " JOIN audit_log AS e ON e.began = a.id ORDER BY a.id"
    )
    assert [(row["operation"], row["target"], row["outcome"]) for row in rows] == [
        ("create_drop", None, "done"),
        ("create_key", None, "done"),
        ("revoke_key", key.split("_")[1], "done"),
        ("pause", "777", "NOT_FOUND"),
    ]
    assert {row["who"] for row in rows} == {"terminal:olga"}
    assert key.rpartition("_")[2] not in str(rows)

    await database.execute("ALTER TABLE audit_log ADD CHECK (false) NOT VALID")
    refused = await types("drop", "change", drop, "--price", "99")
    assert (refused.code, (await types("drop", "pause", drop)).code) == (3, 0)
    rows = await database.fetch("SELECT price_cents, paused_reason FROM drops")
    assert [tuple(row) for row in rows] == [(12_000, "admin")]
    token = await types("token", "create", "ops", "--admin", JWT_SECRET="x" * 32)
    assert (token.code, len(told)) == (0, 7)
    await database.close()


async def test_keys_are_told_without_their_secrets(types: Types, told: list[Any]) -> None:
    key = (await types("apikey", "create", "my shop", "--scope", "metrics")).out.strip()
    new = (await types("apikey", "rotate", key)).out.strip()
    await types("apikey", "revoke", new)
    await types("apikey", "revoke", "nobody")

    assert [(each["operation"], each["outcome"]) for each in told] == [
        ("create_key", "done"),
        ("rotate_key", "done"),
        ("revoke_key", "done"),
        ("revoke_key", "NOT_FOUND"),
    ]
    assert told[0]["scopes"] == ["metrics"]
    for secret in (key, new):
        assert secret.rpartition("_")[2] not in str(told)
