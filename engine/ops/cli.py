"""The command line: `velvetrope` or `python -m engine`."""

from __future__ import annotations

import sys
from collections.abc import Coroutine
from typing import Annotated, Any, NoReturn

import cyclopts
import uvloop
from cyclopts import Parameter

from engine.infra import log, settings
from engine.infra.errors import Misconfigured, Problem
from engine.infra.settings import Settings, require_secrets

REFUSED_START = 3  # a supervisor must not start it again

app = cyclopts.App(
    name="velvetrope",
    help="Reservations for moments when far more people want something than there is of it.",
    version_flags=["--version"],
)
token = cyclopts.App(name="token", help="Credentials of buyers and admins.")
apikey = cyclopts.App(name="apikey", help="Credentials of shops' servers.")
app.command(token)
app.command(apikey)


@app.command
def dev() -> None:
    """Run everything: Postgres and Valkey of its own, migrations, demo data, workers and keeper.

    Honours HOST PORT WORKERS AUTH DATABASE_URL REDIS_URL DATA_DIR; with your own URLs it starts no
    server. This is what `make run` does.
    """
    from engine.ops.supervisor import run_dev

    sys.exit(run_dev(_settings()))


@app.command
def serve() -> None:
    """Run one API worker on HOST:PORT. Start as many as you like: they share the port."""
    from engine.ops.serve import serve as work

    _run(work, "worker")


@app.command
def keep() -> None:
    """Run the keepers: sweeper, bell, reaper, reconciler, filler, pruner. Any number may run."""
    from engine.ops.serve import keep as work

    _run(work, "keeper")


@app.command
def migrate() -> None:
    """Bring the database at DATABASE_URL to the present. Running it twice is running it once."""
    from engine.ops.migrate import migrate as work

    async def apply(given: Settings) -> None:
        count = await work(given)
        print(f"applied {count} migration{'s' if count != 1 else ''}: the database is up to date")

    _run(apply, "migrate")


@app.command
def seed() -> None:
    """Put the demo on show: 20 sneaker drops, ten past purchases, one drop starting in a minute."""
    from engine.ops.seed import seed as work

    _run(work, "seed")


@token.command(name="create")
def token_create(
    buyer: Annotated[str, Parameter(help="the buyer's id, 1 to 128 characters")],
    *,
    admin: Annotated[bool, Parameter(help="an admin's token instead of a buyer's")] = False,
) -> None:
    """Print a token for a buyer: send it as `Authorization: Bearer <token>`.

    Needs the JWT_SECRET of the service. It lives for JWT_EXPIRES_IN (7d).
    """
    from engine.identity.tokens import create

    given = _settings()
    with_secret(given)
    role = "admin" if admin else "buyer"
    try:
        print(create(given.jwt_secret, buyer, given.jwt_expires_seconds, role))
    except Problem as problem:
        _refuse(problem.message)


@apikey.command(name="create")
def apikey_create(
    name: Annotated[str, Parameter(help="whose key it is, for people")],
    *,
    scope: Annotated[list[str], Parameter(help="sale:read sale:write admin …; repeatable")],
) -> None:
    """Print a new API key: send it as `X-API-Key: <key>`. It is shown once and kept as a hash."""
    from engine.identity.apikeys import create
    from engine.runtime import ground

    async def make(given: Settings) -> None:
        async with ground(given) as base:
            print(await create(base.postgres, name, scope))

    _run(make, "apikey")


def with_secret(given: Settings) -> None:
    """Refuse to sign with a secret anybody could guess."""
    try:
        require_secrets(Settings(jwt_secret=given.jwt_secret, hmac_secret=given.jwt_secret))
    except Misconfigured as why:
        _refuse(str(why))


def _settings() -> Settings:
    try:
        return settings.read()
    except Misconfigured as why:
        _refuse(str(why))


def _run(work: Any, process: str) -> None:
    """Run a coroutine function with the settings; a refused start is one line and exit code 3."""
    given = _settings()
    log.configure(given, process)
    try:
        coroutine: Coroutine[Any, Any, None] = work(given)
        uvloop.run(coroutine)
    except Misconfigured as why:
        _refuse(str(why))
    except Problem as problem:
        _refuse(problem.message)


def _refuse(why: str) -> NoReturn:
    print(f"velvetrope: {why}", file=sys.stderr)
    sys.exit(REFUSED_START)


def run() -> None:
    """Entry point."""
    app()
