"""Storable: text and JSON as Postgres takes them, whatever somebody sent.

Two things that JSON and headers may hold and Postgres may not: a NUL, and half of a surrogate pair.
One of them in a log would refuse the statement, and with it everybody else's line in the batch.
"""

from __future__ import annotations

from typing import Any

import msgspec

DEPTH_MAX = 32  # of what is kept as JSON
_encode = msgspec.json.Encoder(enc_hook=str).encode


def text(given: str, length_max: int) -> str:
    """The same, at most so many characters, with a question mark for what cannot be stored."""
    cut = given[:length_max].replace("\0", "?")
    return cut if cut.isascii() else cut.encode("utf-8", "replace").decode()


def document(given: Any, bytes_max: int) -> str | None:
    """What was given as JSON text that Postgres can keep; None for what is none, or is too long."""
    try:
        told = _encode(_plain(given, DEPTH_MAX))
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError):
        return None
    return told.decode() if len(told) <= bytes_max else None


def _plain(given: Any, depth: int) -> Any:
    if isinstance(given, str):
        return text(given, len(given))
    if depth == 0:
        return "…"
    if isinstance(given, dict):
        return {
            text(str(name), len(str(name))): _plain(value, depth - 1)
            for name, value in given.items()
        }
    if isinstance(given, (list, tuple)):
        return [_plain(each, depth - 1) for each in given]
    return given
