"""What is kept of an answered request, and the words of the ledger."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

# Of a chain that is broken: why, at the first record where it shows.
Reason = Literal[
    "changed", "removed", "inserted", "reordered", "truncated", "wrong_nonce", "bad_head",
    "changed_record", "removed_record", "missing_record", "doubled_record",
    "bad_keys", "other_history",
]  # fmt: skip


class Kept(msgspec.Struct, frozen=True):
    """The first answer to a request: its fingerprint, status and body."""

    fingerprint: bytes
    status: int
    body: bytes


class Link(msgspec.Struct, frozen=True):
    """A link of the chain: an entry, or a block of records. Times are ISO 8601."""

    height: int
    is_block: bool
    first: int  # sequence of its first record
    records: int
    root: bytes
    previous_hash: str
    data_hash: str
    nonce: int
    key: str  # id of the HMAC key
    sealed_at: str
    # what the history tree has of it, its leaf and the subtrees that it completes; None: not asked
    node: bytes | None = None


class Record(msgspec.Struct, frozen=True):
    """What is known of one fact. `doubt`: the row that it tells of says something else now."""

    sequence: int
    height: int
    action: str
    content: bytes
    leaf: bytes
    doubt: Reason | None = None


class Head(msgspec.Struct, frozen=True):
    """Where the chain ends, signed. Keys by id; None of a ledger that is empty."""

    height: int
    sequence: int
    data_hash: str
    root: bytes
    peaks: list[bytes] | None  # None: of a file, which has none
    hmac_key: str | None
    signing_key: str | None
    signature: bytes | None
    sealed_at: str


class Key(msgspec.Struct, frozen=True):
    """Keys in force from a link on. `voucher`: the signature of the one before over that link."""

    hmac_key: str
    signing_key: str
    public_key: bytes
    since: int
    voucher: bytes | None
    made_at: str


class Waiting(msgspec.Struct, frozen=True):
    """A row that waits to be sealed. Arrays run in parallel; None: sealed in a block."""

    id: int
    action: str
    count: int
    made_at: datetime
    subjects: list[str] | None
    slots: list[int] | None
    manifests: list[str] | None
    buyers: list[str] | None


class Shown(msgspec.Struct, frozen=True):
    """A record as everybody may see it, with its link."""

    sequence: int
    action: str
    subject: str
    recorded_at: datetime
    height: int
    is_block: bool
    first: int
    records: int
    previous_hash: str
    data_hash: str
    nonce: int


class Ends(msgspec.Struct, frozen=True):
    """A head, and the last rows there were in the same moment."""

    head: Head
    last_height: int
    last_sequence: int
    has_strays: bool  # rows before the first, or of the tree beyond the last
    now: datetime


class Verdict(msgspec.Struct, frozen=True):
    """What a look at the whole chain found. `subject`: a row without its record."""

    valid: bool
    entries: int
    invalid_at: int | None = None
    reason: Reason | None = None
    subject: str | None = None
    unchecked: list[str] = []  # HMAC keys whose links could only be checked as the public can
    signed_by: str | None = None  # the public key that only the file names: whose is it?


class Progress(msgspec.Struct, frozen=True):
    """The last look of any worker, and the one under way."""

    runner: str | None
    beat_at: datetime
    checked: int
    entries: int
    ended_at: datetime
    verdict: str | None
    mac: str | None
    now: datetime
