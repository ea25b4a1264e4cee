"""What is kept of an answered request."""

from __future__ import annotations

import msgspec


class Kept(msgspec.Struct, frozen=True):
    """The first answer to a request: its fingerprint, status and body."""

    fingerprint: bytes
    status: int
    body: bytes
