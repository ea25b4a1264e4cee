"""`velvetrope beta …`: invitations, from the terminal."""

from __future__ import annotations

from typing import Annotated

import cyclopts
from cyclopts import Parameter
from cyclopts.validators import Number

from engine.infra.settings import Settings
from engine.ops import terminal

beta = cyclopts.App(
    name="beta",
    help="""Invitations of a private beta: create, list.

With PRIVATE_BETA=1 who registers needs one of these keys. A key is used once, by one e-mail;
however it is written, with dashes or without, in capitals or not, it is the same.""",
)

COUNT_MAX = 10_000
AsJson = Annotated[bool, Parameter(help="for programs")]


@beta.command
def create(
    *,
    count: Annotated[int, Parameter(help="how many", validator=Number(gte=1, lte=COUNT_MAX))] = 1,
) -> None:
    """Print new keys, one a line.

    **Examples**

        velvetrope beta create
        velvetrope beta create --count 500 > keys.txt
    """
    from engine.identity import beta as invitations
    from engine.runtime import database

    async def make(given: Settings) -> None:
        async with database(given) as postgres:
            for key in await invitations.create(postgres, count):
                print(invitations.readable(key.key))

    terminal.run(make, deed="create_beta_keys", count=count)


@beta.command(name="list")
def show(
    *,
    unused: Annotated[bool, Parameter(help="only those that nobody has used")] = False,
    json: AsJson = False,
) -> None:
    """Show keys, newest first: who used each, and when.

    **Examples**

        velvetrope beta list
        velvetrope beta list --unused --json
    """
    from engine.identity import beta as invitations
    from engine.identity import beta_bodies, beta_store
    from engine.runtime import database

    async def look(given: Settings) -> None:
        found: list[beta_store.BetaKey] = []
        status = "pending" if unused else None
        async with database(given) as postgres:
            while page := await beta_store.list_beta_keys(
                postgres, status, found[-1].id if found else None, 1_000
            ):
                found += page
        if json:
            terminal.show_json([beta_bodies.key_view(key) for key in found])
            return
        terminal.show(
            ("key", "", "e-mail", "created", "used (UTC)"),
            [
                (
                    invitations.readable(key.key),
                    key.status,
                    key.user_email,
                    key.created_at,
                    key.activated_at,
                )
                for key in found
            ],
        )

    terminal.run(look)
