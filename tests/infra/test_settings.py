"""Settings come from the environment, other systems' names included; a bad one names itself."""

from __future__ import annotations

import pytest

from engine.infra.errors import Misconfigured
from engine.infra.settings import Settings, read

URL = "postgresql://ann:secret@db:5433/shop"


def test_nothing_set_is_the_defaults() -> None:
    assert read({}) == Settings()


def test_a_setting_is_its_name_in_capitals_and_an_empty_one_is_none() -> None:
    given = read({"PORT": "9000", "WORKERS": "4", "AUTH": "open", "COMPAT_MOUNTS": "0", "HOST": ""})

    assert (given.port, given.workers, given.auth) == (9_000, 4, "open")
    assert given.compat_mounts is False
    assert given.host == "127.0.0.1"


def test_the_process_environment_is_read_when_none_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PORT", "9001")

    assert read().port == 9_001


def test_prismas_parameters_are_taken_out_of_the_url_and_understood() -> None:
    given = read(
        {
            "DATABASE_URL": f"{URL}?schema=sales&connection_limit=5&connect_timeout=10"
            "&pgbouncer=true&pool_timeout=20&socket_timeout=5&sslaccept=strict"
            "&statement_cache_size=0&sslmode=require"
        }
    )

    assert given.database_url == f"{URL}?sslmode=require"
    assert (given.schema, given.pool_size) == ("sales", 5)


@pytest.mark.parametrize(
    "url",
    [
        URL,
        f"{URL}?sslmode=disable",
        "postgresql:///sale?host=/run/postgresql",
        "postgresql://ann@/sale?host=/run/postgresql&port=5433",
    ],
)
def test_a_url_without_prismas_parameters_stays_as_it_is(url: str) -> None:
    assert read({"DATABASE_URL": url}).database_url == url


def test_a_database_in_parts_is_a_url() -> None:
    parts = {
        "DB_HOST": "db",
        "DB_PORT": "5433",
        "DB_NAME": "shop",
        "DB_USER": "ann@shop",
        "DB_PASSWORD": "p@ss/w:rd?",
        "DB_SSL": "true",
    }

    url = read(parts).database_url

    assert url == "postgresql://ann%40shop:p%40ss%2Fw%3Ard%3F@db:5433/shop?sslmode=require"


def test_a_host_alone_gets_the_usual_rest_and_no_ssl() -> None:
    assert read({"DB_HOST": "db"}).database_url == "postgresql://postgres@db:5432/postgres"
    assert "ssl" not in read({"DB_HOST": "db", "DB_SSL": "false"}).database_url


def test_a_host_that_is_a_folder_is_a_sockets() -> None:
    parts = {"DB_HOST": "/run/postgresql", "DB_USER": "ann", "DB_NAME": "shop"}

    url = read(parts).database_url

    assert url == "postgresql://ann@/shop?host=/run/postgresql&port=5432"


def test_a_whole_url_goes_before_parts() -> None:
    assert read({"DATABASE_URL": URL, "DB_HOST": "elsewhere"}).database_url == URL


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "eighty"),
        ("PORT", "-1"),
        ("PORT", "65536"),
        ("WORKERS", "0"),
        ("WORKERS", "many"),
        ("POOL_SIZE", "0"),
        ("AUTH", "none"),
        ("AUTH", "OPEN"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
        ("BELL", "maybe"),
        ("COMPAT_MOUNTS", "perhaps"),
        ("SWEEPER_POLL_MS", "1.5"),
        ("RETENTION_HOURS", "23"),
        ("JWT_EXPIRES_IN", "soon"),
        ("JWT_EXPIRES_IN", "7w"),
        ("JWT_EXPIRES_IN", "d"),
        ("JWT_EXPIRES_IN", "-1d"),
        ("JWT_EXPIRES_IN", "1.5h"),
    ],
)
def test_a_bad_value_names_its_variable(name: str, value: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        read({name: value})

    assert str(refused.value).startswith(name)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3600", 3_600), ("90s", 90), ("15m", 900), ("12h", 43_200), ("7d", 604_800)],
)
def test_the_life_of_a_token_is_a_number_and_a_unit(text: str, seconds: int) -> None:
    assert read({"JWT_EXPIRES_IN": text}).jwt_expires_seconds == seconds


def test_what_other_systems_call_a_setting_is_understood_unless_ours_is_there() -> None:
    theirs = {
        "PKPASS_CERTIFICATE": "pass.pem",
        "PKPASS_KEY": "pass.key",
        "PKPASS_PASSPHRASE": "hush",
        "REFORGE_FROM_EMAIL": "noreply@vyris.example",
        "REFORGE_BASE_URL": "https://vyris.example",
    }

    told = read(theirs)
    both = read(theirs | {"MAIL_FROM": "shop@vyris.example", "WALLET_KEY": ""})

    assert (told.wallet_certificate, told.wallet_key) == ("pass.pem", "pass.key")
    assert told.wallet_key_passphrase == "hush"
    assert (told.mail_from, told.public_url) == ("noreply@vyris.example", "https://vyris.example")
    assert (both.mail_from, both.wallet_key) == ("shop@vyris.example", "pass.key")
