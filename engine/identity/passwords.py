"""Passwords: hashed one at a time on a machine, by a thread that yields to everybody who buys.

    hash, verify ─▶ bounded queue ─▶ one thread a worker, niced ─▶ one lock a machine ─▶ the work

A hash takes 19 MiB and tens of milliseconds by design, so a crowd at the login must wait in a line
and not in front of those who buy (decision 0029). Whoever waits too long is told so, and what
nobody waits for any more is not begun.

However a login ends, one hash was verified: for an address that no account has, for an account
without a password and for one that is suspended it is a hash that no password has.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import sys
import threading
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

import bcrypt
import msgspec
import structlog
from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from engine.infra.errors import Retryable
from engine.infra.http import invalid

log = structlog.get_logger()

# OWASP's least for argon2id. Memory is in KiB.
MEMORY_KIB, ROUNDS, LANES = 19_456, 2, 1
SALT_BYTES, HASH_BYTES = 16, 32
LENGTH_MIN, LENGTH_MAX = 8, 256  # characters
BCRYPT_BYTES = 72  # it never looked at more
BCRYPT_COST_MAX = 14  # dearer ones would keep everybody else waiting for seconds
WAITING_MAX = 64  # in one worker
WAITING_OF_ONE = 16  # of one address: nobody fills the line alone
NICE = 19
ANSWER_SECONDS = 1.0  # of a request's deadline, for what comes after its hash
LOCK = "hash.lock"  # in DATA_DIR, which all workers of a machine share
WELL_KNOWN = "123456"

T = TypeVar("T")


class Busy(Retryable):
    """Too many log in at this moment. Nothing was done: please try again."""


class Verdict(msgspec.Struct, frozen=True):
    """Whether a password is right, and the hash to keep instead of the one it was compared to."""

    ok: bool
    rehash: str | None = None


def check(password: str, field: str = "password") -> bytes:
    """A password as it is hashed. Raises `Invalid` for what can be none."""
    if "\0" in password or len(password) > LENGTH_MAX:
        raise invalid(field, f"want at most {LENGTH_MAX} characters, none of them NUL")
    return password.encode("utf-8", "surrogatepass")


def choose(password: str, *names: str | None, field: str = "password") -> None:
    """Whether somebody may have this password from now on. Raises `Invalid`. `names` are what
    everybody knows of him."""
    check(password, field)
    if password == WELL_KNOWN:
        raise invalid(
            field,
            f"everybody knows {WELL_KNOWN}: only the demo's own accounts have it, which the engine "
            f"makes (DEMO_ACCOUNTS=1 with AUTH=open); want {LENGTH_MIN} to {LENGTH_MAX} characters",
        )
    if len(password) < LENGTH_MIN:
        raise invalid(field, f"want {LENGTH_MIN} to {LENGTH_MAX} characters")
    if password.casefold() in {name.casefold() for name in names if name}:
        raise invalid(field, "must not be the e-mail or the username")


class _Wish:
    """A hash that somebody waits for. `skip` is read by the thread just before it begins."""

    __slots__ = ("future", "skip", "until", "work")

    def __init__(self, work: Callable[[], object], until: float) -> None:
        self.work, self.until, self.skip = work, until, False
        self.future: asyncio.Future[object] = asyncio.get_running_loop().create_future()


class Passwords:
    """The hashes of one worker."""

    def __init__(self, data_dir: Path, deadline_seconds: float) -> None:
        self._path = data_dir / LOCK
        self._patience_seconds = max(deadline_seconds - ANSWER_SECONDS, 0.1)
        self._hasher = PasswordHasher(ROUNDS, MEMORY_KIB, LANES, HASH_BYTES, SALT_BYTES)
        self._nobodys = _hash_of_nobody()
        self._queue: SimpleQueue[_Wish | None] = SimpleQueue()
        self._waiting = 0
        self._waiting_of = Counter[str]()
        self._thread: threading.Thread | None = None
        self.hashes = 0  # begun; written by the thread alone

    def until(self) -> float:
        """When whoever comes now has waited long enough, by the monotonic clock."""
        return time.monotonic() + self._patience_seconds

    async def hash(self, password: str, who: str | None = None, until: float | None = None) -> str:
        """The hash to keep of a password. `who` is the address that asks for it. Raises `Busy`."""
        raw = check(password)
        return await self._do(lambda: self._make(raw), who, until or self.until())

    async def verify(
        self, password: str, hash: str | None, who: str | None = None, until: float | None = None
    ) -> Verdict:
        """Whether a password has this hash; of None never, by as much work. Raises `Busy`."""
        raw = check(password)
        return await self._do(lambda: self._compare(raw, hash), who, until or self.until())

    async def _do(self, work: Callable[[], T], who: str | None, until: float) -> T:
        crowd = "" if who is None else who
        if self._waiting >= WAITING_MAX or (crowd and self._waiting_of[crowd] >= WAITING_OF_ONE):
            raise Busy
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="passwords", daemon=True)
            self._thread.start()
        wish = _Wish(work, until)
        self._waiting += 1
        self._waiting_of[crowd] += 1
        self._queue.put(wish)
        try:
            await asyncio.wait([wish.future], timeout=max(until - time.monotonic(), 0))
            if not wish.future.done():
                raise Busy
            return wish.future.result()  # type: ignore[return-value]  # its own work's
        finally:
            wish.skip = True
            self._waiting -= 1
            self._waiting_of[crowd] -= 1
            if not self._waiting_of[crowd]:
                del self._waiting_of[crowd]

    def close(self) -> None:
        """Let the thread end after the work at hand."""
        self._queue.put(None)

    # ── in the thread ────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        if sys.platform == "linux":  # elsewhere that id may be somebody's process
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        while (wish := self._queue.get()) is not None:
            if not wish.skip and time.monotonic() < wish.until:
                self._serve(wish)

    def _serve(self, wish: _Wish) -> None:
        result: object = None
        error: Exception | None = None
        try:
            with self._machine():
                if wish.skip or time.monotonic() >= wish.until:  # nobody waits for it any more
                    return
                result = wish.work()
        except Exception as wrong:  # it is the caller's to hear
            error = wrong
        with suppress(RuntimeError):  # its loop is gone, and so is whoever waited
            wish.future.get_loop().call_soon_threadsafe(_tell, wish.future, result, error)

    def _machine(self) -> _Lock:
        return _Lock(self._path)

    def _make(self, raw: bytes) -> str:
        self.hashes += 1
        return self._hasher.hash(raw)

    def _compare(self, raw: bytes, hash: str | None) -> Verdict:
        self.hashes += 1
        if hash is not None and hash.startswith("$2"):
            return (
                Verdict(True, self._hasher.hash(raw)) if _bcrypt_has(raw, hash) else Verdict(False)
            )
        try:
            self._hasher.verify(self._nobodys if hash is None else hash, raw)
        except InvalidHashError:
            log.warning("passwords.unreadable_hash")
            return Verdict(False)
        except Argon2Error:
            return Verdict(False)
        if hash is None:
            return Verdict(False)
        is_old = self._hasher.check_needs_rehash(hash)
        return Verdict(True, self._hasher.hash(raw) if is_old else None)


class _Lock:
    """The one hash of this machine. The kernel lets go of it when a process dies."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, -1

    def __enter__(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._file)


def _tell(future: asyncio.Future[object], result: object, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
        future.exception()  # whoever waited may be gone


def _bcrypt_has(raw: bytes, hash: str) -> bool:
    """Whether a bcrypt hash is of this password: of its first 72 bytes, as it always was."""
    try:
        if int(hash.split("$")[2]) > BCRYPT_COST_MAX:
            log.warning("passwords.bcrypt_too_dear", most=BCRYPT_COST_MAX)
            return False
        return bcrypt.checkpw(raw[:BCRYPT_BYTES], hash.encode())
    except (ValueError, IndexError):
        log.warning("passwords.unreadable_hash")
        return False


def _hash_of_nobody() -> str:
    """A hash as costly as any other, of which nobody knows the password."""
    salt, digest = (
        b64encode(secrets.token_bytes(count)).decode().rstrip("=")
        for count in (SALT_BYTES, HASH_BYTES)
    )
    return f"$argon2id$v=19$m={MEMORY_KIB},t={ROUNDS},p={LANES}${salt}${digest}"
