"""`velvetrope user …`: accounts from the terminal, the first admin among them."""

from __future__ import annotations

import secrets
import sys
from getpass import getpass
from typing import TYPE_CHECKING, Annotated

import cyclopts
from cyclopts import Parameter

from engine.infra.settings import Settings
from engine.ops import terminal

if TYPE_CHECKING:
    from engine.identity.user_store import Caller, User

user = cyclopts.App(
    name="user",
    help="""Accounts: create, list, role, password, erase.

Whoever has the database makes the first admin here; from then on admins make others by
PUT /users/{id}. A shop whose login is its own needs no accounts.""",
)

Named = Annotated[str, Parameter(help="the account's id or e-mail")]
AsJson = Annotated[bool, Parameter(help="for programs")]
GENERATED_BYTES = 18


@user.command(name="create")
def user_create(
    email: Annotated[str, Parameter(help="its e-mail")],
    /,
    *,
    username: Annotated[str | None, Parameter(help="what others see of it")] = None,
    admin: Annotated[bool, Parameter(help="an admin instead of a user")] = False,
) -> None:
    """Make an account, and print its id.

    The password is asked for, or read from a pipe; where neither is there, one is made and printed
    once. Make the first admin like this, then log in at /account or POST /users/login.

    **Examples**

        velvetrope user create ops@example.com --username ops --admin
        velvetrope user create ann@example.com
    """
    from engine.identity import passwords, user_bodies, users
    from engine.identity.user_store import NewUser
    from engine.infra.ids import new_id
    from engine.runtime import database

    async def work(given: Settings) -> str:
        address = user_bodies.email_of(email)
        name = user_bodies.username_of(username)
        password, is_made = _password()
        passwords.choose(password, address, name)
        hash = await passwords.Passwords(given.data_dir, 60).hash(password)
        role = "admin" if admin else "user"
        made = NewUser(id=new_id(), email=address, username=name, password_hash=hash, role=role)
        async with database(given) as postgres, postgres.transaction() as session:
            await users.create(session, made)
        print(made.id)
        if is_made:
            terminal.note(f"password, shown this once: {password}")
        return made.id

    terminal.run(work, deed="create_user", role="admin" if admin else "user")


@user.command(name="list")
def user_list(
    *,
    limit: Annotated[int, Parameter(help="how many, the newest first (100)")] = 100,
    json: AsJson = False,
) -> None:
    """Show accounts, the newest first: id, e-mail, username, role, status.

    **Examples**

        velvetrope user list
        velvetrope user list --limit 1000 --json
    """
    from engine.identity.user_store import list_users
    from engine.identity.user_views import user_view
    from engine.runtime import database

    async def look(given: Settings) -> None:
        async with database(given) as postgres:
            found = await list_users(postgres, None, max(limit, 1))
        if json:
            terminal.show_json([user_view(each) for each in found])
            return
        rows = [(u.id, u.email, u.username, u.role, u.status, u.created_at) for u in found]
        columns = ("id", "e-mail", "username", "role", "status", "created")
        terminal.show(columns, rows, ("created", "username"))

    terminal.run(look)


@user.command(name="role")
def user_role(account: Named, role: Annotated[str, Parameter(help="user or admin")], /) -> None:
    """Make an account an admin's, or a user's again; every worker knows within a second.

    The last admin stays one: make another one first.

    **Examples**

        velvetrope user role ann@example.com admin
    """
    from engine.identity import users
    from engine.runtime import database

    if role not in ("user", "admin"):
        terminal.refuse(f"{role}: want user or admin", terminal.MISUSED)

    async def work(given: Settings) -> str:
        async with database(given) as postgres:
            found = await _find(postgres, account)
            async with postgres.transaction() as session:
                await users.change(session, found.id, None, {"role": role})
        terminal.say(f"{found.id} is {'an admin' if role == 'admin' else 'a user'} now")
        return found.id

    terminal.run(work, deed="change_role", role=role)


@user.command(name="password")
def user_password(account: Named, /) -> None:
    """Give an account another password, and end its session.

    For who cannot read his mails; others use the link that POST /users/password/reset sends. The
    password is asked for, or read from a pipe; else one is made and printed once.

    **Examples**

        velvetrope user password ann@example.com
    """
    from engine.identity import passwords, user_store
    from engine.identity.sessions import end_all
    from engine.runtime import database

    async def work(given: Settings) -> str:
        async with database(given) as postgres:
            found = await _find(postgres, account)
            password, is_made = _password()
            passwords.choose(password, found.email, found.username)
            hash = await passwords.Passwords(given.data_dir, 60).hash(password)
            async with postgres.transaction() as session:
                if not await user_store.put_password(session, found.id, hash):
                    terminal.refuse("the account is suspended or deleted", terminal.NO)
                await end_all(session, found.id, "password_reset")
        terminal.say(f"{found.id} has another password")
        if is_made:
            terminal.note(f"password, shown this once: {password}")
        return found.id

    terminal.run(work, deed="set_password")


@user.command(name="erase")
def user_erase(account: Named, /) -> None:
    """Delete an account and all that is personal of it, for good.

    Its purchases stay, in the name of an id that is nobody's; the ledger stays valid, and no record
    of it tells any more who it was. It cannot be undone.

    **Examples**

        velvetrope user erase ann@example.com
    """
    from engine.identity import users
    from engine.runtime import database

    async def work(given: Settings) -> str:
        async with database(given) as postgres:
            found = await _find(postgres, account)
            async with postgres.transaction() as session:
                await users.erase(session, found.id)
        terminal.say(f"{found.id} is forgotten")
        return found.id

    terminal.run(work, deed="erase_user")


async def _find(caller: Caller, named: str) -> User:
    """The account that somebody means."""
    from engine.identity import user_store, users
    from engine.infra.ids import parse_id

    id = parse_id(named)
    find = user_store.find_user_by_email(caller, named) if id is None else None
    found = await (find if find is not None else user_store.find_user(caller, id or ""))
    if found is None:
        raise users.missing()
    return found


def _password() -> tuple[str, bool]:
    """The password that somebody types or pipes; else one that is made here."""
    if sys.stdin is not None and sys.stdin.isatty():
        typed = getpass("password (empty: one is made): ", stream=sys.stderr)
    else:
        typed = "" if sys.stdin is None else sys.stdin.readline().rstrip("\r\n")
    return (typed, False) if typed else (secrets.token_urlsafe(GENERATED_BYTES), True)
