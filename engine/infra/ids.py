"""Identifiers: time-ordered UUIDs, and the identity of a request."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import uuid

import msgspec
import uuid_utils

_PLAIN = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
_UUID = re.compile(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")
_process, _counter = secrets.token_hex(6), 0


def _born() -> None:
    """A fork is a process of its own: what it calls its exchanges no other may."""
    global _process
    _process = secrets.token_hex(6)


os.register_at_fork(after_in_child=_born)


def new_id() -> str:
    """A UUID version 7 as text."""
    return str(uuid_utils.uuid7())


def parse_id(text: str) -> str | None:
    """A UUID from a path as we write it, or None: a malformed id names nothing."""
    if _PLAIN.fullmatch(text):  # as nearly always: they are ours
        return text
    return str(uuid.UUID(text)) if _UUID.fullmatch(text) else None


class Request(msgspec.Struct, frozen=True):
    """A request's identity, and whether its key is the client's: then it may be a repetition.
    `over`: its caller asked too much, so this is the answer unless it is a repetition."""

    id: str
    keyed: bool
    over: Exception | None = None


def request_identity(subject: str, operation: str, key: str) -> str:
    """The id of a request, 32 hex digits: who asks, for what, under which Idempotency-Key.

    The parts are length-prefixed, so that no two different triples read the same.
    """
    parts = f"{len(subject)}:{subject}{len(operation)}:{operation}{key}"
    return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()


def trace_id() -> str:
    """A short unique name for one HTTP exchange."""
    global _counter
    _counter += 1
    return f"{_process}{_counter:08x}"
