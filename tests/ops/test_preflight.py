"""The preflight on real servers with something wrong, in full and at the start of a process."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import msgspec
import pytest
import redis
from structlog.testing import capture_logs

from engine.infra.errors import Misconfigured
from engine.infra.settings import Settings
from engine.ops import devstack, findings, preflight, probes
from engine.ops.findings import Finding
from tests.ops.conftest import Types
from tests.support.wait import wait_until

# What a test's servers lack on purpose, and what says something about this machine.
EXPECTED = {"fsync", "full_page_writes", "synchronous_commit", "open files", "processors"}


def trouble(found: list[Finding]) -> dict[str, Finding]:
    """What is not ok and was not expected, by name."""
    return {f.check: f for f in found if f.verdict != "ok" and f.check not in EXPECTED}


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    opened = await asyncpg.connect(settings.database_url)
    yield opened
    await opened.close()


@pytest.fixture
def valkey(settings: Settings) -> Iterator[redis.Redis]:
    """The Valkey of all tests; what a test sets is set back."""
    names = ("maxmemory-policy", "maxmemory", "notify-keyspace-events")
    with redis.Redis.from_url(settings.redis_url, decode_responses=True) as client:
        before = {name: client.config_get(name)[name] for name in names}
        yield client
        for name, value in before.items():
            client.config_set(name, value)


@pytest.mark.usefixtures("keeping")
async def test_sound_servers_have_nothing_to_mend(settings: Settings) -> None:
    async def keeper_beats() -> bool:
        return "keepers" not in trouble(await preflight.everything(settings))

    await wait_until(keeper_beats, "a keeper's first sign of life")

    assert trouble(await preflight.everything(settings)) == {}


async def test_an_evicting_redis_fails_with_the_mend(
    types: Types, settings: Settings, valkey: redis.Redis
) -> None:
    valkey.config_set("maxmemory-policy", "allkeys-lru")

    said = await types("preflight")

    assert said.code == 3
    (line,) = [each for each in said.out.splitlines() if "maxmemory-policy" in each]
    assert line.startswith("fail")
    assert "allkeys-lru" in line
    assert "CONFIG SET maxmemory-policy noeviction" in line
    with pytest.raises(Misconfigured, match="maxmemory-policy: allkeys-lru: CONFIG SET"):
        await preflight.at_start(settings, secrets=False)


@pytest.mark.parametrize("command", ["serve", "keep"])
async def test_a_start_that_would_hurt_is_one_line_and_code_3(
    settings: Settings, valkey: redis.Redis, command: str
) -> None:
    valkey.config_set("maxmemory-policy", "allkeys-lru")
    given = {"DATABASE_URL": settings.database_url, "REDIS_URL": settings.redis_url}

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "engine", command),
        env=os.environ | given | {"AUTH": "open", "PORT": "0"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 20)

    assert (process.returncode, out) == (3, b"")
    assert len(err.splitlines()) == 1
    assert err.startswith(b"velvetrope: maxmemory-policy: allkeys-lru: CONFIG SET")


async def test_a_full_redis_and_one_without_events_are_named(
    settings: Settings, valkey: redis.Redis
) -> None:
    valkey.config_set("maxmemory", "1200000")
    valkey.config_set("notify-keyspace-events", "")

    found = trouble(await preflight.everything(settings))

    assert found.keys() == {"maxmemory", "keyspace events", "keepers"}


async def test_a_dropped_index_is_named(
    types: Types, settings: Settings, connection: asyncpg.Connection
) -> None:
    await connection.execute("DROP INDEX units_free_by_position")

    found = trouble(await preflight.everything(settings))

    assert found["indexes"].found == "missing or invalid: units_free_by_position"
    with capture_logs() as logs:
        await preflight.at_start(settings, secrets=False)
    assert [each for each in logs if each["check"] == "indexes"]


async def test_an_invalid_index_is_as_good_as_none(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    await connection.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'purchases_by_drop'::regclass"
    )

    assert "purchases_by_drop" in trouble(await preflight.everything(settings))["indexes"].found


async def test_a_changed_function_and_a_lost_one_are_named(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    await connection.execute("DROP FUNCTION release_holds")
    await connection.execute(
        "CREATE OR REPLACE FUNCTION bump_epoch(p_seen bigint) RETURNS bigint"
        " LANGUAGE sql AS $$ SELECT 7::bigint $$"
    )

    found = trouble(await preflight.everything(settings))["functions"]

    assert found.found == "missing or of another version: bump_epoch, release_holds"
    assert found.mend == "velvetrope migrate"
    with pytest.raises(Misconfigured, match="functions"):
        await preflight.at_start(settings, secrets=False)


async def test_a_database_without_migrations_refuses_every_start(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    await connection.execute("DROP SCHEMA public CASCADE")
    await connection.execute("CREATE SCHEMA public")

    with pytest.raises(
        Misconfigured, match=r"migrations: not run: 0001_engine, .*velvetrope migrate"
    ):
        await preflight.at_start(settings, secrets=False)


async def test_a_database_of_a_newer_program_is_only_a_warning(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    await connection.execute("INSERT INTO schema_migrations VALUES ('0999_later', 'x')")

    with capture_logs() as logs:
        await preflight.at_start(settings, secrets=False)

    assert [each for each in logs if "0999_later" in each["found"]]


async def test_a_role_without_rights_is_told_what_to_grant(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    role = f"clerk_{connection.get_server_pid()}"
    await connection.execute(f"CREATE ROLE {role} LOGIN")
    await connection.execute(f"ALTER ROLE {role} SET statement_timeout = '1s'")
    await connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    url = settings.database_url.replace("postgres@", f"{role}@")
    try:
        with_role = msgspec.structs.replace(settings, database_url=url)
        found = trouble(await preflight.everything(with_role))
    finally:
        await connection.execute(f"DROP OWNED BY {role}")
        await connection.execute(f"DROP ROLE {role}")

    assert found["tables"].found.startswith("no rights: activity_logs, allowances, ")
    assert "GRANT SELECT, INSERT, UPDATE, DELETE" in found["tables"].mend
    assert f"ALTER ROLE {role} RESET" in found["statement_timeout"].mend


async def test_a_schema_of_its_own_is_looked_at(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    elsewhere = msgspec.structs.replace(settings, schema="sales")

    assert "migrations" in trouble(await preflight.everything(elsewhere))


@pytest.mark.parametrize("secrets", [True, False])
async def test_a_redis_that_is_away_refuses_no_start(settings: Settings, secrets: bool) -> None:
    away = msgspec.structs.replace(settings, redis_url="redis://me:s3cret@127.0.0.1:1/0")

    with capture_logs() as logs:
        await preflight.at_start(away, secrets=secrets)

    (line,) = [each for each in logs if each["check"] == "REDIS_URL"]
    assert line["event"] == "preflight.warning"
    assert "s3cret" not in str(line)


async def test_a_postgres_that_is_away_refuses_with_its_address_and_no_password(
    settings: Settings,
) -> None:
    away = msgspec.structs.replace(settings, database_url="postgresql://me:s3cret@127.0.0.1:1/x")

    with pytest.raises(
        Misconfigured, match=r"no Postgres at postgresql://me:\*\*\*@127"
    ) as refused:
        await preflight.at_start(away, secrets=False)

    assert "s3cret" not in str(refused.value)


async def test_servers_that_never_answer_are_given_up(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "PROBE_SECONDS", 0.2)
    gone = asyncio.Event()

    async def hold(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gone.wait()
        writer.close()

    async with await asyncio.start_server(hold, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        urls = {"database_url": f"postgresql://127.0.0.1:{port}/x"}
        urls |= {"redis_url": f"redis://127.0.0.1:{port}/0"}
        began = time.monotonic()
        found = trouble(await preflight.everything(msgspec.structs.replace(settings, **urls)))
        took = time.monotonic() - began
        gone.set()
        await asyncio.sleep(0)

    assert found.keys() == {"DATABASE_URL", "REDIS_URL"}
    assert "no answer within 0.2 s" in found["DATABASE_URL"].found
    assert took < 2


async def test_a_start_is_looked_at_in_a_moment(settings: Settings) -> None:
    async def took() -> float:
        began = time.monotonic()
        await preflight.at_start(settings, secrets=True)
        return time.monotonic() - began

    assert min([await took() for _ in range(3)]) < 0.3


async def test_weak_secrets_refuse_a_worker_and_no_keeper(settings: Settings) -> None:
    weak = msgspec.structs.replace(
        settings, auth="required", jwt_secret="change-me" * 8, hmac_secret="x" * 64
    )

    await preflight.at_start(weak, secrets=False)
    with pytest.raises(Misconfigured, match=r"JWT_SECRET: .*openssl rand -hex 32"):
        await preflight.at_start(weak, secrets=True)


async def test_warnings_count_only_when_asked_and_programs_get_json(
    types: Types, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def everything(_settings: Settings) -> list[Finding]:
        return [Finding("a", "ok", "fine"), Finding("b", "warn", "so so", "mend it")]

    monkeypatch.setattr(preflight, "everything", everything)

    said = await types("preflight", "--json")

    assert (said.code, said.json[1]["mend"]) == (0, "mend it")
    assert (await types("preflight", "--strict")).code == 1


def test_a_redis_that_hides_its_settings_is_only_a_warning(tmp_path: Path) -> None:
    server = devstack.start_valkey(tmp_path, durable=False)
    with redis.Redis.from_url(server.url) as client:
        client.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all", "-info")
    given = Settings(redis_url=server.url.replace("//", "//app:pw@"))

    (warning,) = asyncio.run(preflight.given_servers(given))

    assert "hides INFO" in warning
    server.stop()


async def test_the_clocks_of_this_machine_agree(settings: Settings) -> None:
    seen, heard = await probes.postgres(settings), await probes.bouncer(settings)

    assert heard.clock is not None
    for clock in (seen.clock, heard.clock):
        found = findings.clock("it", clock.skew_seconds, clock.round_trip_seconds)
        assert found.verdict == "ok", found
