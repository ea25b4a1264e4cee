"""API keys of shops: `vr_<prefix>_<secret>`, shown once, kept as a hash.

The secret is 32 random bytes, so a plain SHA-256 is enough; the prefix finds the row, so that no
comparison's time tells how much of a secret was right.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Collection
from datetime import datetime

import msgspec

from engine.identity import store
from engine.identity.models import SCOPES, Caller
from engine.identity.store import Term
from engine.infra.combiner import Combiner, Crew, Seat
from engine.infra.errors import Forbidden, NotFound, Unauthorized
from engine.infra.http import invalid
from engine.infra.ids import new_id
from engine.infra.postgres import Postgres

FORM = re.compile(r"vr_([0-9a-f]{12})_([0-9a-f]{64})")
NAME_LENGTH_MAX = 200
DAYS_MAX = 3_650
ANSWER_SECONDS = 4.0  # then the caller is told that we do not know
REMEMBERED_SECONDS = 5.0  # a key's end that was set ahead comes so much later, at most


class Issued(msgspec.Struct, frozen=True):
    """A new key, as it is seen only once."""

    id: str
    key: str
    name: str
    prefix: str
    scopes: list[str]
    must_sign: bool
    created_at: datetime
    expires_at: datetime | None


class Giver(msgspec.Struct, frozen=True):
    """What who issues a key may give at most. A person: anything. A key: scopes of its own, until
    its own end, and what it must sign itself is to be signed."""

    scopes: frozenset[str] = frozenset({"admin"})
    ends_at: datetime | None = None
    must_sign: bool = False

    def check(self, scopes: list[str]) -> None:
        """Refuse scopes that the giver lacks."""
        lacking = set() if "admin" in self.scopes else set(scopes) - self.scopes
        if lacking:
            raise Forbidden(f"A key gives no scope it has not: {sorted(lacking)[0]}")


ANYTHING = Giver()


async def giver(caller: store.Caller, who: Caller) -> Giver:
    """What a caller may give."""
    if who.kind != "shop":
        return ANYTHING
    key = await find(caller, who.subject.removeprefix("key:"))
    if not key.live:
        raise Unauthorized("The API key is not valid")
    ends = [end for end in (key.revoked_at, key.expires_at) if end is not None]
    return Giver(frozenset(key.scopes), min(ends, default=None), key.must_sign)


async def create(caller: store.Caller, name: str, scopes: list[str]) -> str:
    """Make a key and return it: the only time it can be seen."""
    return (await issue(caller, name, scopes)).key


async def issue(
    caller: store.Caller,
    name: str,
    scopes: list[str],
    days: int | None = None,
    must_sign: bool = False,
    by: Giver = ANYTHING,
) -> Issued:
    """Make a key that ends after so many days; None: never. Raises `Forbidden` for more than who
    gives it has."""
    if not (1 <= len(name) <= NAME_LENGTH_MAX and name.isprintable()):
        raise invalid("name", f"want 1 to {NAME_LENGTH_MAX} printable characters")
    if unknown := sorted(set(scopes) - set(SCOPES)):
        raise invalid("scopes", f"unknown {unknown[0]!r}: the scopes are {', '.join(SCOPES)}")
    if days is not None and not 1 <= days <= DAYS_MAX:
        raise invalid("expiresInDays", f"want 1 to {DAYS_MAX}")
    by.check(scopes)
    return await _issue(caller, name, scopes, must_sign or by.must_sign, Term(by.ends_at, days))


async def _issue(
    caller: store.Caller, name: str, scopes: list[str], must_sign: bool, term: Term
) -> Issued:
    prefix, secret = secrets.token_hex(6), secrets.token_hex(32)
    key = f"vr_{prefix}_{secret}"
    row = store.ApiKey(new_id(), name, _hash(key), frozenset(scopes), must_sign)
    created_at, expires_at = await store.insert_api_key(caller, row, prefix, term)
    return Issued(row.id, key, name, prefix, sorted(scopes), must_sign, created_at, expires_at)


async def rotate(postgres: Postgres, named: str, grace_seconds: float) -> tuple[Issued, datetime]:
    """A new key in place of a live one, and when the old one ends."""
    async with postgres.transaction() as session:
        return await exchange(session, await find(session, named), grace_seconds)


async def exchange(
    session: store.Caller,
    old: store.ListedKey,
    grace_seconds: float,
    days: int | None = None,
    by: Giver = ANYTHING,
) -> tuple[Issued, datetime]:
    """A new key with the terms of a live one, and when that one ends. With `days` it ends so long
    from now, else when the old one would have by itself."""
    if not old.live:
        raise NotFound(f"Key {old.prefix} has ended: create a new one instead")
    if days is not None and not 1 <= days <= DAYS_MAX:
        raise invalid("expiresInDays", f"want 1 to {DAYS_MAX}")
    by.check(old.scopes)
    ends = [by.ends_at] if days is not None else [by.ends_at, old.expires_at]
    term = Term(min((end for end in ends if end is not None), default=None), days)
    made = await _issue(session, old.name, old.scopes, old.must_sign or by.must_sign, term)
    ends_at = await store.revoke_api_key(session, old.id, grace_seconds)
    assert ends_at is not None, "its row is ours: nothing deletes keys"
    return made, ends_at


async def revoke(postgres: Postgres, named: str) -> store.ListedKey:
    """End a key now; every worker forgets it within a second. Twice is once."""
    async with postgres.transaction() as session:
        key = await find(session, named)
        await store.revoke_api_key(session, key.id, 0)
    return key


async def find(caller: store.Caller, named: str) -> store.ListedKey:
    """The key that somebody means by its id, its prefix, or the part of a key before its secret."""
    word = named.strip().lower().removeprefix("vr_").partition("_")[0]
    found = await store.find_api_keys_named(caller, word)
    if len(found) != 1:
        raise NotFound("There is no such key: `velvetrope apikey list` shows ids and prefixes")
    return found[0]


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


class Known(msgspec.Struct, frozen=True):
    """A key that was good, until when this worker believes it, and whether it must sign."""

    caller: Caller
    until: float
    id: str
    must_sign: bool


class ApiKeys:
    """Verifies keys, and remembers the answer for a few seconds, never past a key's end."""

    def __init__(self, postgres: Postgres, crew: Crew) -> None:
        self._postgres = postgres
        # One look for all who come at once: a worker that stood still for a second has forgotten
        # every key, and the requests of that second are all there.
        self._finding: Combiner[str, store.ApiKey | None] = Combiner(
            crew, "keys", self._find, deadline_seconds=ANSWER_SECONDS
        )
        self._known: dict[str, Known] = {}
        self._forgettings = 0

    def forget(self, ids: Collection[str] | None) -> None:
        """These keys are not what they were; None: none may be."""
        self._forgettings += 1
        for key, known in list(self._known.items()):
            if ids is None or known.id in ids:
                del self._known[key]

    def remembered(self, key: str) -> Known | None:
        """Whose key this is, if it was good seconds ago."""
        known = self._known.get(key)
        return known if known is not None and time.monotonic() < known.until else None

    async def caller(self, key: str) -> Known:
        """Whose key this is, as Postgres says now. Raises `Unauthorized`, or a `Fault`."""
        form = FORM.fullmatch(key)
        if form is None:
            raise Unauthorized("The API key is not valid")
        began, turn = time.monotonic(), self._forgettings
        row = await self._finding.put(form[1])
        if not row or not hmac.compare_digest(row.hash, _hash(key)):
            raise Unauthorized("The API key is not valid")
        left = REMEMBERED_SECONDS if row.seconds_left is None else row.seconds_left
        known = Known(
            Caller("shop", f"key:{row.id}", row.scopes),
            began + min(left, REMEMBERED_SECONDS),
            row.id,
            row.must_sign,
        )
        if len(self._known) >= 10_000:
            self._known.clear()
        if turn == self._forgettings:  # else it may have ended while we looked
            self._known[key] = known
        return known

    async def _find(self, seats: list[Seat[str, store.ApiKey | None]]) -> None:
        found = await store.find_live_keys(self._postgres, {seat.wish for seat in seats})
        for seat in seats:
            seat.answer(found.get(seat.wish))
