"""`velvetrope apikey …` and `velvetrope token …`: credentials, from the terminal."""

from __future__ import annotations

from typing import Annotated

import cyclopts
from cyclopts import Parameter

from engine.infra.settings import SECRET_BYTES_MIN, Settings, seconds_of, too_short
from engine.ops import deeds, terminal

apikey = cyclopts.App(
    name="apikey",
    help="""Keys of shops' servers: create, list, rotate, revoke.

A shop's server sends its key as `X-API-Key` and acts for any buyer it names, as far as the key's
scopes go. A key is shown once and kept as a hash; a revoked one is refused within a second.""",
)
token = cyclopts.App(
    name="token",
    help="""Tokens of buyers and admins.

In production your own login issues them, signed with the same JWT_SECRET (HS256); from the
terminal they are for trying things out, and for operators.""",
)

Named = Annotated[str, Parameter(help="the key's id or prefix, as `apikey list` shows them")]
AsJson = Annotated[bool, Parameter(help="for programs")]


@apikey.command(name="create")
def apikey_create(
    name: Annotated[str, Parameter(help="whose key it is, for people")],
    /,
    *,
    scope: Annotated[
        list[str],
        Parameter(help="sale:read, sale:write, identity, membership, metrics or admin; repeatable"),
    ],
    expires_in_days: Annotated[int | None, Parameter(help="it ends after so many days")] = None,
    must_sign: Annotated[
        bool, Parameter(help="its every request must be signed", negative="")
    ] = False,
) -> None:
    """Print a new API key, once.

    One key a server is a good habit: then one can be revoked without the others. Give it the
    scopes it needs; `admin` covers all of them. With --must-sign a second line is the secret that
    its requests are signed with (docs/SIGNING.md); that needs the HMAC_SECRET of the service.

    **Examples**

        velvetrope apikey create "my shop" --scope sale:read --scope sale:write
        velvetrope apikey create "back office" --scope admin --expires-in-days 90 --must-sign
    """
    from engine.identity.apikeys import issue
    from engine.identity.signing import secret_of
    from engine.runtime import database

    async def make(given: Settings) -> None:
        if must_sign and len(given.hmac_secret.encode()) < SECRET_BYTES_MIN:
            mend = "it must be the one the service has"
            terminal.refuse(f"{too_short('hmac_secret')}; {mend}")
        async with database(given) as postgres:
            made = await issue(postgres, name, scope, expires_in_days, must_sign)
        print(made.key)
        if must_sign:
            print(secret_of(given.hmac_secret, made.id))
        if made.expires_at is not None:
            terminal.note(f"it ends at {terminal.shown(made.expires_at)} UTC")

    terminal.run(
        make,
        deed="create_key",
        name=name,
        scopes=scope,
        expires_in_days=expires_in_days,
        must_sign=must_sign,
    )


@apikey.command(name="list")
def apikey_list(*, json: AsJson = False) -> None:
    """Show all keys: id, name, prefix, scopes, created, end. Never a secret.

    Use it to find a key's prefix, which is also the readable part of the key itself:
    `vr_<prefix>_…`.

    **Examples**

        velvetrope apikey list
        velvetrope apikey list --json
    """
    from engine.identity.store import list_api_keys
    from engine.runtime import database

    async def look(given: Settings) -> None:
        async with database(given) as postgres:
            keys = await list_api_keys(postgres)
        if json:
            terminal.show_json(keys)
            return
        rows = [
            (
                key.prefix,
                key.name,
                " ".join(key.scopes),
                key.created_at,
                min((end for end in (key.revoked_at, key.expires_at) if end), default=None),
                "live" if key.live else "ended",
                "signs" if key.must_sign else "",
                key.id,
            )
            for key in keys
        ]
        terminal.show(("prefix", "name", "scopes", "created", "ends", "", "", "id"), rows)

    terminal.run(look)


@apikey.command(name="rotate")
def apikey_rotate(
    key: Named,
    /,
    *,
    grace: Annotated[str, Parameter(help="how long both work: 90s, 15m, 12h or 7d (0s)")] = "0s",
) -> None:
    """Print a new key with the same name, scopes and end; the old one ends after the grace.

    Rotate on a schedule, or when somebody who knew the key leaves. With a grace you can put the
    new key in place without a gap; without one the old key ends at once.

    **Examples**

        velvetrope apikey rotate 1f2e3d4c5b6a --grace 1h
        velvetrope apikey rotate 1f2e3d4c5b6a
    """
    from engine.identity.apikeys import rotate
    from engine.identity.signing import secret_of
    from engine.runtime import database

    grace_seconds = seconds_of(grace)
    if grace_seconds is None:
        terminal.refuse(f"--grace {grace}: want 90s, 15m, 12h or 7d", terminal.MISUSED)

    async def work(given: Settings) -> None:
        async with database(given) as postgres:
            made, ends_at = await rotate(postgres, key, grace_seconds)
        print(made.key)
        if made.must_sign:
            print(secret_of(given.hmac_secret, made.id))
        terminal.note(f"the old key ends at {terminal.shown(ends_at)} UTC")

    terminal.run(work, deed="rotate_key", key=_shown(key), grace_seconds=grace_seconds)


@apikey.command(name="revoke")
def apikey_revoke(key: Named, /) -> None:
    """End a key now.

    Use it when a key has leaked. Workers hear of it within a second, so that is how long it may
    still be honoured. Revoking twice is revoking once.

    **Examples**

        velvetrope apikey revoke 1f2e3d4c5b6a
    """
    from engine.identity.apikeys import revoke
    from engine.runtime import database

    async def work(given: Settings) -> None:
        async with database(given) as postgres:
            ended = await revoke(postgres, key)
        terminal.say(f"{ended.prefix} ({ended.name}) has ended; workers forget it within a second")

    terminal.run(work, deed="revoke_key", key=_shown(key))


@token.command(name="create")
def token_create(
    buyer: Annotated[str, Parameter(help="the buyer's id, 1 to 128 characters")],
    /,
    *,
    admin: Annotated[bool, Parameter(help="an admin's token instead of a buyer's")] = False,
) -> None:
    """Print a token for a buyer: send it as `Authorization: Bearer <token>`.

    Needs the JWT_SECRET of the service, and no server. It lives for JWT_EXPIRES_IN (7d). A token
    made here cannot be revoked: keep admins' short (JWT_EXPIRES_IN=1h); a new JWT_SECRET ends all.

    **Examples**

        velvetrope token create ann
        JWT_EXPIRES_IN=1h velvetrope token create ops --admin
    """
    from engine.identity.tokens import create
    from engine.infra.errors import Problem

    given = terminal.given()
    if len(given.jwt_secret.encode()) < SECRET_BYTES_MIN:
        terminal.refuse(f"{too_short('jwt_secret')}; it must be the one the service has")
    terminal.log_to_stderr(given)
    role = "admin" if admin else "buyer"
    try:
        made = create(given.jwt_secret, buyer, given.jwt_expires_seconds, role)
        if admin:
            deeds.note(given, "create_admin_token", subject=buyer)
        print(made)
    except Problem as problem:
        terminal.refuse(problem.message, terminal.MISUSED)


def _shown(key: str) -> str:
    """A key as somebody named it, without the secret of one that was pasted whole."""
    return key.strip().removeprefix("vr_").partition("_")[0]
