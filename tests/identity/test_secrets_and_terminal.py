"""A service that could be guessed does not start; the terminal issues what the service accepts."""

from __future__ import annotations

import asyncio
import os
import sys

import msgspec
import pytest

from engine import runtime
from engine.identity.tokens import Tokens
from engine.infra.errors import Misconfigured
from engine.infra.settings import Settings, require_secrets
from engine.ops.serve import serve
from tests.identity.conftest import HMAC_SECRET, JWT_SECRET
from tests.support.shop import Shop

LONG = "x" * 32


@pytest.mark.parametrize(
    ("jwt_secret", "hmac_secret", "named"),
    [
        ("", LONG, "JWT_SECRET"),
        (LONG, "", "HMAC_SECRET"),
        ("x" * 31, LONG, "JWT_SECRET"),
        (LONG, "x" * 31, "HMAC_SECRET"),
    ],
)
def test_a_short_secret_is_refused_by_name(jwt_secret: str, hmac_secret: str, named: str) -> None:
    given = Settings(jwt_secret=jwt_secret, hmac_secret=hmac_secret)

    with pytest.raises(Misconfigured, match=f"^{named} ") as refused:
        require_secrets(given)

    assert "x" * 31 not in str(refused.value)


@pytest.mark.parametrize("name", ["jwt_secret_previous", "hmac_secret_previous"])
def test_an_old_secret_that_can_be_guessed_is_refused_as_a_new_one_is(name: str) -> None:
    given = Settings(jwt_secret=LONG, hmac_secret=LONG)

    with pytest.raises(Misconfigured, match=f"^{name.upper()} "):
        require_secrets(msgspec.structs.replace(given, **{name: "x" * 31}))
    require_secrets(msgspec.structs.replace(given, **{name: LONG}))


@pytest.mark.parametrize("secret", [LONG, "é" * 16])
def test_thirty_two_bytes_are_enough(secret: str) -> None:
    require_secrets(Settings(jwt_secret=secret, hmac_secret=secret))


def test_the_open_mode_needs_no_secret() -> None:
    require_secrets(Settings(auth="open"))


async def test_a_worker_does_not_start_without_secrets(settings: Settings) -> None:
    bare = msgspec.structs.replace(settings, jwt_secret="", hmac_secret="")

    with pytest.raises(Misconfigured):
        async with runtime.worker(bare):
            pass


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
async def test_the_open_mode_listens_on_loopback_only(settings: Settings, host: str) -> None:
    with pytest.raises(Misconfigured, match="loopback"):
        await serve(msgspec.structs.replace(settings, auth="open", host=host))


async def _types(settings: Settings, *words: str, **environment: str) -> tuple[int, str, str]:
    """The real command in a process of its own: exit code, what it said, what it complained."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "engine",
        *words,
        env=os.environ
        | {"DATABASE_URL": settings.database_url, "REDIS_URL": settings.redis_url}
        | {"JWT_SECRET": JWT_SECRET, "HMAC_SECRET": HMAC_SECRET}
        | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_a_token_from_the_terminal_is_a_buyers(settings: Settings, shop: Shop) -> None:
    code, out, err = await _types(settings, "token", "create", "ann")

    assert (code, err) == (0, "")
    headers = {"authorization": f"Bearer {out.strip()}"}
    assert (await shop.send("GET", "/reservations", headers=headers)).json["data"] == []
    body = {"name": "Aurora", "price": 1, "totalStock": 1}
    assert (await shop.send("POST", "/drops", body, headers)).status == 403


async def test_a_token_with_admin_is_an_admins_and_lives_as_long_as_the_settings_say(
    settings: Settings, shop: Shop
) -> None:
    code, out, _ = await _types(settings, "token", "create", "root", "--admin", JWT_EXPIRES_IN="2h")

    assert code == 0
    headers = {"authorization": f"Bearer {out.strip()}"}
    body = {"name": "Aurora", "price": 1, "totalStock": 1}
    assert (await shop.send("POST", "/drops", body, headers)).status == 201
    known = Tokens(JWT_SECRET)
    known.caller(out.strip())
    import time

    assert 7_100 < known._known[out.strip()][1] - time.time() <= 7_200


async def test_no_token_is_signed_with_a_guessable_secret(settings: Settings) -> None:
    code, out, err = await _types(settings, "token", "create", "ann", JWT_SECRET="short")

    assert (code, out) == (3, "")
    assert "JWT_SECRET" in err
    assert "Traceback" not in err


async def test_an_api_key_from_the_terminal_is_accepted_with_its_scopes(
    settings: Settings, shop: Shop
) -> None:
    code, out, _ = await _types(
        settings, "apikey", "create", "the shop", "--scope", "sale:read", "--scope", "admin"
    )

    assert code == 0
    headers = {"x-api-key": out.strip()}
    body = {"name": "Aurora", "price": 1, "totalStock": 1}
    assert (await shop.send("POST", "/drops", body, headers)).status == 201


async def test_an_unknown_scope_is_told_which_there_are(settings: Settings) -> None:
    code, out, err = await _types(settings, "apikey", "create", "the shop", "--scope", "everything")

    assert code != 0
    assert out == ""
    assert "sale:read" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("buyer", ["", "a" * 129, "ann\nbob", "ann\x1b[2J"])
async def test_no_token_is_made_for_who_cannot_be_a_buyer(settings: Settings, buyer: str) -> None:
    code, out, err = await _types(settings, "token", "create", buyer)

    assert code != 0, f"made {out!r}"
    assert "Traceback" not in err
