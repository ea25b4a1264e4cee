"""Keys from the terminal: made, listed without their secret, rotated with a grace, revoked."""

from __future__ import annotations

import pytest

from engine.identity import apikeys
from engine.identity.apikeys import ApiKeys
from engine.identity.signing import secret_of
from engine.infra.combiner import Crew
from engine.infra.errors import Unauthorized
from engine.runtime import Ground
from tests.ops.conftest import Types

SCOPES = ("--scope", "sale:read", "--scope", "sale:write")


async def honoured(ground: Ground, key: str) -> bool:
    crew = Crew()
    try:
        await ApiKeys(ground.postgres, crew).caller(key.strip())
    except Unauthorized:
        return False
    finally:
        await crew.drain(1)
    return True


async def made(types: Types) -> tuple[str, str]:
    """A key and its prefix."""
    key = (await types("apikey", "create", "my shop", *SCOPES, REDIS_URL="")).out.strip()
    return key, key.split("_")[1]


async def test_a_key_is_made_without_redis_and_listed_without_its_secret(
    types: Types, ground: Ground
) -> None:
    key, prefix = await made(types)

    said = await types("apikey", "list", REDIS_URL="")
    (row,) = (await types("apikey", "list", "--json")).json

    assert await honoured(ground, key)
    assert prefix in said.out
    assert "my shop" in said.out
    assert "sale:read sale:write" in said.out
    assert key not in said.out
    assert key.split("_")[2] not in said.out
    assert (row["prefix"], row["live"], row["revokedAt"]) == (prefix, True, None)
    assert "hash" not in row


async def test_a_key_may_end_by_itself_and_may_have_to_sign(types: Types, ground: Ground) -> None:
    made = await types("apikey", "create", "brief", *SCOPES, "--expires-in-days", "90")
    assert "it ends at " in made.err
    assert await honoured(ground, made.out)
    unsafe = await types("apikey", "create", "signs", *SCOPES, "--must-sign", HMAC_SECRET="")
    assert (unsafe.code, unsafe.out) == (3, "")
    assert "HMAC_SECRET" in unsafe.err

    secret = {"HMAC_SECRET": "h" * 32}
    signs = await types("apikey", "create", "signs", *SCOPES, "--must-sign", **secret)
    key, signing_secret = signs.out.split()
    signer, brief = (await types("apikey", "list", "--json")).json
    assert signing_secret == secret_of("h" * 32, signer["id"])
    assert (signer["mustSign"], signer["expiresAt"], brief["mustSign"]) == (True, None, False)
    assert brief["expiresAt"] > brief["createdAt"]
    assert "signs" in (await types("apikey", "list")).out
    again = await types("apikey", "rotate", key.split("_")[1], **secret)
    assert len(again.out.split()) == 2, "the new one's secret as well"
    assert (await types("apikey", "create", "x", *SCOPES, "--expires-in-days", "0")).code == 2


async def test_a_rotated_key_works_on_through_its_grace_beside_the_new_one(
    types: Types, ground: Ground
) -> None:
    key, prefix = await made(types)

    said = await types("apikey", "rotate", prefix, "--grace", "1h")

    assert "the old key ends at " in said.err
    assert await honoured(ground, key)
    assert await honoured(ground, said.out)
    new, old = (await types("apikey", "list", "--json")).json
    assert (new["name"], new["scopes"]) == (old["name"], old["scopes"])
    assert old["live"]
    assert old["revokedAt"]
    assert (await types("apikey", "revoke", old["id"])).code == 0
    assert not await honoured(ground, key)


async def test_without_a_grace_the_old_key_ends_at_once_and_cannot_be_rotated_again(
    types: Types, ground: Ground
) -> None:
    key, prefix = await made(types)

    said = await types("apikey", "rotate", f"vr_{prefix}")
    again = await types("apikey", "rotate", prefix)

    assert not await honoured(ground, key)
    assert await honoured(ground, said.out)
    assert (again.code, again.out) == (1, "")
    assert "has ended" in again.err


async def test_an_end_can_come_sooner_and_never_later(types: Types, ground: Ground) -> None:
    _, prefix = await made(types)
    await types("apikey", "revoke", prefix)
    (before,) = (await types("apikey", "list", "--json")).json

    assert (await types("apikey", "revoke", prefix)).code == 0

    (after,) = (await types("apikey", "list", "--json")).json
    assert after["revokedAt"] == before["revokedAt"]
    assert after["live"] is False


async def test_an_unknown_key_is_told_where_to_look(types: Types) -> None:
    for verb in ("revoke", "rotate"):
        said = await types("apikey", verb, "000000000000")
        assert said.code == 1
        assert "velvetrope apikey list" in said.err


@pytest.mark.parametrize("name", ["", "a" * 201, "two\nlines", "\x1b[2J"])
async def test_a_name_that_would_spoil_the_list_is_refused(ground: Ground, name: str) -> None:
    with pytest.raises(Exception, match="printable"):
        await apikeys.create(ground.postgres, name, ["sale:read"])


async def test_a_bad_grace_is_refused_before_anything_happens(types: Types) -> None:
    _, prefix = await made(types)

    said = await types("apikey", "rotate", prefix, "--grace", "soon")

    assert (said.code, said.out) == (2, "")
    assert len((await types("apikey", "list", "--json")).json) == 1


async def test_a_token_needs_the_services_secret_and_no_advice_about_open_access(
    types: Types,
) -> None:
    for secret in ("", "short"):
        said = await types("token", "create", "ann", JWT_SECRET=secret, DATABASE_URL="")

        assert (said.code, said.out) == (3, "")
        assert "JWT_SECRET is missing or shorter than 32 bytes" in said.err
        assert "AUTH=open" not in said.err


async def test_invitations_are_made_and_listed(types: Types) -> None:
    made = (await types("beta", "create", "--count", "3", REDIS_URL="")).out.split()
    none = await types("beta", "create", "--count", "0")

    listed = (await types("beta", "list", "--json")).json
    unused = await types("beta", "list", "--unused")

    assert none.code == 2
    assert len(made) == 3
    assert [row["referralKey"] for row in listed] == made[::-1]
    assert all(key in unused.out for key in made)
