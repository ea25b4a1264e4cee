"""The demo's people: an admin, four who buy, and ten purchases of theirs. Made once.

With AUTH=open, where everybody is trusted anyway, their password is the one that everybody knows;
else each has a random one, which is told once and kept nowhere.
"""

from __future__ import annotations

import secrets

import msgspec

from engine.identity import user_store, users
from engine.identity.errors import UserExists
from engine.identity.passwords import WELL_KNOWN, Passwords
from engine.infra.ids import new_id, request_identity
from engine.infra.postgres import Postgres, Session
from engine.infra.settings import Settings
from engine.sale import store
from engine.sale.models import Claim, Confirm

HASH_SECONDS = 60.0  # nobody waits for an answer
PASSWORD_BYTES = 15


class Person(msgspec.Struct, frozen=True):
    """Somebody of the demo, and how many of its purchases are his."""

    email: str
    username: str
    bought: int = 0
    role: str = "user"


PEOPLE = (
    Person("admin@techzu.com", "admin", role="admin"),
    Person("john@example.com", "johndoe", 3),
    Person("sarah@example.com", "sarah_k", 3),
    Person("mike@example.com", "mike92", 2),
    Person("emma@example.com", "emma_w", 2),
)


class Made(msgspec.Struct, frozen=True):
    """An account that was made, and its password."""

    email: str
    password: str


async def plant(settings: Settings, postgres: Postgres, drops: list[int]) -> list[Made]:
    """Make those of the accounts that are not there, and their purchases of these drops."""
    missing = [
        each for each in PEOPLE if await user_store.find_user_by_email(postgres, each.email) is None
    ]
    passwords = Passwords(settings.data_dir, HASH_SECONDS)
    try:
        made = [await _account(settings, postgres, passwords, each, drops) for each in missing]
    finally:
        passwords.close()
    return [each for each in made if each is not None]


async def _account(
    settings: Settings, postgres: Postgres, passwords: Passwords, person: Person, drops: list[int]
) -> Made | None:
    """The account of a person; None if somebody else just made it, or has its name."""
    is_open = settings.auth == "open"
    password = WELL_KNOWN if is_open else secrets.token_urlsafe(PASSWORD_BYTES)
    user = user_store.NewUser(
        id=new_id(),
        email=person.email,
        username=person.username,
        role=person.role,
        password_hash=await passwords.hash(password),
    )
    try:
        async with postgres.transaction() as session:
            await users.create(session, user)
            for drop_id in drops[: person.bought]:
                await buy(session, postgres.epoch, drop_id, user.id)
    except UserExists:
        return None
    return Made(person.email, password)


async def buy(session: Session, epoch: int, drop_id: int, buyer: str) -> None:
    """A purchase by the same claim and confirm that a buyer's would take."""
    request = request_identity(f"seed:{buyer}", "reserve", new_id())
    claim = Claim(request, 1, new_id(), buyer, 1)
    await store.claim_units(session, drop_id, epoch, [claim])
    confirm = Confirm(
        claim.id, buyer, None, request_identity(f"seed:{buyer}", "purchase", claim.id), False
    )
    await store.purchase_units(session, [(confirm, new_id())])
