"""Private beta: invitations. A key is used once, by one e-mail, and an e-mail uses one.

A key is 60 random bits, so that it cannot be found by trying: with 10,000 keys out and a thousand
guesses a second it takes some 3,600 years to hit one, and an address has one guess a second
(RATE_FAILED_AUTH_PER_ADDRESS). Its letters are those that nobody takes for each other (Crockford's
base 32); however it is written, with dashes or without, in capitals or not, it is the same.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from engine.identity import beta_store as store
from engine.identity.beta_store import BetaKey
from engine.identity.errors import EmailRegistered, InvitationNeeded, KeyUnknown, KeyUsed
from engine.infra.errors import Problem, RateLimited
from engine.infra.http import Call
from engine.infra.ids import new_id
from engine.infra.postgres import Session, Undone

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # without I, L, O, U
LENGTH, GROUP = 12, 4
COUNT_MAX = 100  # keys in one request
UNIQUE_VIOLATION = "23505"
_ALIKE = str.maketrans("ILO", "110")
_KEY = re.compile(f"[{ALPHABET}]{{{LENGTH}}}")


def new_key() -> str:
    """A key as it is kept: without dashes."""
    return "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))


def as_key(text: str) -> str | None:
    """A key from what somebody typed; None for what can be none."""
    key = "".join(text.split()).replace("-", "").upper().translate(_ALIKE)
    return key if _KEY.fullmatch(key) else None


def readable(key: str) -> str:
    """A key in groups, as people are shown it."""
    return "-".join(key[at : at + GROUP] for at in range(0, LENGTH, GROUP))


async def create(caller: store.Caller, count: int) -> list[BetaKey]:
    """So many new keys."""
    return await store.insert_beta_keys(caller, [(new_id(), new_key()) for _ in range(count)])


async def use(session: Session, email: str, given: str) -> tuple[BetaKey, bool]:
    """Use a key for an e-mail, in the caller's transaction: the key, and whether it was used now.
    The same pair again is no mistake. Raises `KeyUnknown`, `KeyUsed`, `EmailRegistered`."""
    key = as_key(given)
    if key is None:
        raise KeyUnknown
    try:
        used = await store.use_beta_key(session, key, email)
    except Undone as undone:
        if undone.sqlstate == UNIQUE_VIOLATION:
            raise EmailRegistered from None
        raise
    if used is not None:
        return used, True
    found = await store.find_beta_key(session, key)
    if found is None:
        raise KeyUnknown
    if found.user_email is None or found.user_email.lower() != email.lower():
        raise KeyUsed
    return found, False


async def admit(session: Session, email: str, given: str | None) -> BetaKey:
    """Let an e-mail register, in the transaction of its registration: it has used a key, or uses
    this one up. Who registers wraps this in `guessing`. Raises `InvitationNeeded`, `KeyUnknown`,
    `KeyUsed`, `EmailRegistered`."""
    known = await store.find_beta_key_of(session, email)
    if known is not None:
        return known
    if given is None:
        raise InvitationNeeded
    return (await use(session, email, given))[0]


@contextmanager
def guessing(call: Call, keyed: bool = False, wrong: type[Problem] = KeyUnknown) -> Iterator[None]:
    """A key is looked up in here: not for an address that tried too many that are none. `wrong`
    is what tells that it is none.

    `keyed`: the operation honours Idempotency-Key. Then a request that carries one may have been
    done, and is told `call.over` if it was not: make its `Request` in here."""
    budgets = call.budgets
    if budgets is None:
        yield
        return
    try:
        budgets.check_guesser(call)
    except RateLimited as refusal:
        if not keyed or call.idempotency_key() is None:
            raise
        call.over = call.over or refusal
    try:
        yield
    except wrong:
        budgets.failed(call)
        raise
