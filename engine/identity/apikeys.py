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

from engine.identity import store
from engine.identity.models import SCOPES, Caller
from engine.infra.combiner import Crew
from engine.infra.errors import Invalid, NotFound, OutcomeUnknown, Unauthorized
from engine.infra.ids import new_id
from engine.infra.postgres import Postgres

FORM = re.compile(r"vr_([0-9a-f]{12})_([0-9a-f]{64})")
NAME_LENGTH_MAX = 200
ANSWER_SECONDS = 4.0  # then the caller is told that we do not know
REMEMBERED_SECONDS = 5.0  # a key's end that was set ahead comes so much later, at most


async def create(caller: store.Caller, name: str, scopes: list[str]) -> str:
    """Make a key and return it: the only time it can be seen."""
    if not (1 <= len(name) <= NAME_LENGTH_MAX and name.isprintable()):
        raise Invalid(f"name: want 1 to {NAME_LENGTH_MAX} printable characters")
    if unknown := sorted(set(scopes) - set(SCOPES)):
        raise Invalid(f"unknown scope {unknown[0]!r}: the scopes are {', '.join(SCOPES)}")
    prefix, secret = secrets.token_hex(6), secrets.token_hex(32)
    key = f"vr_{prefix}_{secret}"
    row = store.ApiKey(new_id(), name, _hash(key), frozenset(scopes))
    await store.insert_api_key(caller, row, prefix)
    return key


async def rotate(postgres: Postgres, named: str, grace_seconds: float) -> tuple[str, datetime]:
    """A new key in place of a live one: the key, and when the old one ends."""
    async with postgres.transaction() as session:
        old = await find(session, named)
        if not old.live:
            raise NotFound(f"Key {old.prefix} has ended: create a new one instead")
        key = await create(session, old.name, old.scopes)
        ends_at = await store.revoke_api_key(session, old.id, grace_seconds)
    assert ends_at is not None, "its row is ours: nothing deletes keys"
    return key, ends_at


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


class ApiKeys:
    """Verifies keys, and remembers the answer for a few seconds."""

    def __init__(self, postgres: Postgres, crew: Crew) -> None:
        self._postgres, self._crew = postgres, crew
        self._known: dict[str, tuple[Caller, float]] = {}
        self._forgettings = 0

    def forget(self, ids: Collection[str] | None) -> None:
        """These keys are not what they were; None: none may be."""
        self._forgettings += 1
        subjects = None if ids is None else {f"key:{id}" for id in ids}
        for key, (caller, _) in list(self._known.items()):
            if subjects is None or caller.subject in subjects:
                del self._known[key]

    def remembered(self, key: str) -> Caller | None:
        """Whose key this is, if it was good seconds ago."""
        known = self._known.get(key)
        return known[0] if known is not None and time.monotonic() < known[1] else None

    async def caller(self, key: str) -> Caller:
        """Whose key this is, as Postgres says now. Raises `Unauthorized`."""
        form = FORM.fullmatch(key)
        if form is None:
            raise Unauthorized("The API key is not valid")
        turn, finding = self._forgettings, store.find_api_key(self._postgres, form[1])
        row = await self._crew.within(finding, ANSWER_SECONDS, OutcomeUnknown)
        if not row or not hmac.compare_digest(row.hash, _hash(key)):
            raise Unauthorized("The API key is not valid")
        caller = Caller("shop", f"key:{row.id}", row.scopes)
        if len(self._known) >= 10_000:
            self._known.clear()
        if turn == self._forgettings:  # else it may have ended while we looked
            self._known[key] = caller, time.monotonic() + REMEMBERED_SECONDS
        return caller
