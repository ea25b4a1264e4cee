"""The terminal teaches: every command says when to use it, how, and what its exit codes mean."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import cyclopts
import msgspec
import pytest

from engine import runtime
from engine.infra.settings import Settings
from engine.ops import stack
from engine.ops.cli import app
from engine.ops.migrate import migrate
from engine.record import keys
from engine.record.verify import verify
from tests.ops.conftest import Types

ROOT = Path(__file__).parents[2]
GROUPS = ("Run", "Operate", "Credentials", "Check")
RUN = ("serve", "keep", "listen", "dev", "provider", "migrate", "seed")
NOUNS = ("drop", "freezer", "ledger", "pass", "tier", "apikey", "beta", "receipt", "token", "user")
TOP = (*RUN, *NOUNS, "reconcile", "audit")
FIELDS = Settings.__struct_fields__


def commands(under: cyclopts.App, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command's words."""
    for name in under:
        if name.startswith("-"):
            continue
        found = under[name]
        if found.default_command is None:
            yield from commands(found, (*path, name))
        else:
            yield (*path, name)


COMMANDS = sorted(commands(app))


def test_every_command_is_there() -> None:
    assert {words[0] for words in COMMANDS} == {*TOP, "settings", "preflight", "size"}
    verbs = {words[1] for words in COMMANDS if words[0] == "drop"}
    assert verbs >= {"list", "show", "create", "change", "pause", "resume", "close", "add"}
    assert verbs >= {"withdraw", "release", "timeline"}


def examples(text: str) -> list[str]:
    """The commands that a text shows, without what a shell does with them."""
    lines = text.replace("\\\n", " ")
    shown = re.findall(r"^(?:\s*[A-Z_]+=\S*)*\s*velvetrope (.+)", lines, re.MULTILINE)
    return [re.split(r"\s+#|\s[|>]", line)[0].strip() for line in shown]


def documented(words: tuple[str, ...]) -> str:
    """A command's docstring."""
    found = app
    for word in words:
        found = found[word]
    return found.default_command.__doc__ or ""


SHOWN = sorted(
    {
        example
        for path in ("README.md", "docs/OPERATIONS.md")
        for block in re.findall(r"```\n(.*?)```", (ROOT / path).read_text(), re.DOTALL)
        for example in examples(block)
    }
    | {example for words in COMMANDS for example in examples(documented(words))}
)


@pytest.mark.parametrize("example", SHOWN)
def test_every_example_can_be_typed_as_it_stands(example: str) -> None:
    app.parse_args(shlex.split(example), exit_on_error=False, print_error=False)


async def test_help_groups_the_commands_and_says_the_exit_codes(types: Types) -> None:
    said = await types("--help")

    assert said.code == 0
    assert [said.out.index(f"─ {group} ─") for group in GROUPS] == sorted(
        said.out.index(f"─ {group} ─") for group in GROUPS
    )
    assert "Exit codes: 0 done · 1 the answer is no · 2 not understood · 3 cannot start" in said.out


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
async def test_every_command_teaches_with_examples(types: Types, words: tuple[str, ...]) -> None:
    said = await types(*words, "--help")

    assert said.code == 0
    assert "Examples" in said.out
    assert f"velvetrope {' '.join(words)}" in said.out.partition("Examples")[2]
    assert "Exit codes" in said.out


@pytest.mark.parametrize(
    "words", [("nope",), ("drop", "pause"), ("drop", "pause", "x"), ("audit", "x")]
)
async def test_what_is_not_understood_is_code_2(types: Types, words: tuple[str, ...]) -> None:
    said = await types(*words)

    assert (said.code, said.out) == (2, "")
    assert "Traceback" not in said.err


async def test_settings_show_every_knob_and_no_secret(types: Types) -> None:
    said = await types(
        "settings",
        JWT_SECRET="s3cret" * 8,
        DATABASE_URL="postgresql://ann:pa55@db/shop?sslpassword=pa55",
        REDIS_URL="redis://:pa55@cache/0",
        PORT="9000",
    )

    assert said.code == 0
    assert all(name.upper() in said.out for name in FIELDS)
    assert "set, 48 bytes" in said.out
    assert "not set" in said.out
    assert "postgresql://ann:***@db/shop" in said.out
    assert "* 9000" in said.out
    assert "s3cret" not in said.out
    assert "pa55" not in said.out


async def test_settings_for_a_program_have_a_reason_each(types: Types) -> None:
    rows = (await types("settings", "--json")).json

    assert [row["name"] for row in rows] == [name.upper() for name in FIELDS]
    assert all(row["reason"] for row in rows)
    assert {row["name"]: row["unit"] for row in rows}["SWEEPER_POLL_MS"] == "ms"


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("PORT", "abc", "want a whole number from 0 to 65535"),
        ("WORKERS", "0", "want a whole number from 1 to 1024"),
        ("REAPER_MS", "-1", "want a whole number of 0 or more"),
        ("RECOUNT_SECONDS", "soon", "want a number"),
        ("AUTH", "none", "want open or required"),
        ("COMPAT_MOUNTS", "perhaps", "want 1 or 0"),
        ("JWT_EXPIRES_IN", "7w", "want 3600, 15m, 12h or 7d"),
    ],
)
async def test_a_bad_setting_is_one_line_that_says_what_is_wanted(
    types: Types, name: str, value: str, wanted: str
) -> None:
    said = await types("settings", **{name: value})

    assert (said.code, said.err) == (3, f"velvetrope: {name}={value}: {wanted}\n")


async def test_migrate_says_what_it_applies_and_check_what_is_pending(
    types: Types, settings: Settings, postgres_server: object
) -> None:
    connection = await asyncpg.connect(settings.database_url)
    await connection.execute("DROP SCHEMA public CASCADE")
    await connection.execute("CREATE SCHEMA public")

    pending = await types("migrate", "--check")
    applied = await types("migrate")

    assert pending.code == 1
    assert "pending: 0001_engine" in pending.out
    assert "applying 0001_engine\napplying 0002_sale\n" in applied.out
    assert (await types("migrate", "--check")).code == 0
    await connection.execute("DROP FUNCTION release_holds")
    lost = await types("migrate", "--check")
    assert (lost.code, lost.out) == (1, "pending: release_holds\n")
    assert await migrate(settings) == 0
    assert (await types("migrate", "--check")).code == 0
    await connection.close()


async def test_seed_says_what_it_made(types: Types) -> None:
    first, second = (await types("seed")).out, (await types("seed")).out

    assert "made 20 drops (3 to 22) and 10 purchases" in first
    assert "20 slots (drop 2) and 120 seats (drop 23)" in first
    assert "opens in 60 s" in second
    assert "slots" not in second


async def test_the_demo_has_slots_and_seats_that_are_taken_and_all_of_it_adds_up(
    types: Types, settings: Settings
) -> None:
    await types("seed")

    shown = (await types("freezer", "show", "--json")).json

    assert [slot["name"] for slot in shown] == [f"F{n}-{s}" for n in range(1, 6) for s in "ABCD"]
    statuses = [slot["status"] for slot in shown]
    assert [statuses.count(word) for word in ("OCCUPIED", "RESERVED", "AVAILABLE")] == [5, 3, 12]
    assert all(len(slot["history"]) == 12 for slot in shown)
    assert all(-72 <= slot["temperature"] <= -68 for slot in shown)
    assert {slot["booking"]["userId"] for slot in shown if slot["booking"]} == {
        "manager@cryovault.io",
        "auditor@cryovault.io",
    }
    assert "F1-A" in (await types("freezer", "show")).out
    assert (await types("audit", "1")).code == (await types("audit", "22")).code == 0
    async with runtime.database(settings) as postgres:
        verdict = await verify(postgres, keys.ring(settings))
    assert verdict.valid
    assert verdict.entries >= 10 + 5, "all of it is sealed: purchases, bookings and seats"


async def test_a_freezer_is_made_of_names(types: Types, tmp_path: Path) -> None:
    (tmp_path / "names").write_text("C1\n\n C2 \n")

    made = await types("freezer", "create", "B1", "--file", str(tmp_path / "names"), "--json")
    twice = await types("freezer", "create", "B1", "B1")
    none = await types("freezer", "create")
    lost = await types("freezer", "create", "--file", str(tmp_path / "nothing"))

    assert made.json["slots"] == 3
    assert (twice.code, none.code, lost.code) == (2, 2, 2)
    shown = (await types("freezer", "show", "--json")).json
    assert [slot["name"] for slot in shown] == ["B1", "C1", "C2"]


async def test_a_live_stack_in_this_folder_is_found_unless_a_database_is_named(
    types: Types, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("stack")
    told = {name: str(getattr(settings, name.lower())) for name in stack.TOLD}
    nowhere = {"DATABASE_URL": "", "REDIS_URL": "", "DATA_DIR": str(folder)}

    with stack.announce(folder, told):
        assert (await types("drop", "list", **nowhere)).code == 0
        elsewhere = nowhere | {"DATABASE_URL": "postgresql://127.0.0.1:1/none", "REDIS_URL": "x"}
        assert (await types("drop", "list", **elsewhere)).code == 3
    gone = await types("drop", "list", **nowhere)

    assert gone.code == 3
    assert "DATABASE_URL and REDIS_URL are needed here, or a `make run`" in gone.err


def test_the_reasons_stand_beside_the_fields() -> None:
    for field in msgspec.inspect.type_info(Settings).fields:  # type: ignore[attr-defined]
        assert isinstance(field.type, msgspec.inspect.Metadata), field.name
