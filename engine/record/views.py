"""What clients see of the ledger: hashes in hex, everything else as it was hashed."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import msgspec
from msgspec import UNSET, UnsetType

from engine.infra.describe import Moment, shown
from engine.infra.http import iso
from engine.record.merkle import Step
from engine.record.models import Head, Key, Link, Reason, Shown

Hash = Annotated[str, shown(pattern="^[0-9a-f]{64}$", examples=["5fec" * 16])]
Signature = Annotated[str, shown(pattern="^[0-9a-f]{128}$", examples=["0a1b" * 32])]
ShownReason = Annotated[str, shown(enum=list(get_args(Reason)))]
Action = Annotated[str, shown(examples=["PURCHASED"])]


class BlockView(msgspec.Struct):
    """The block that a record was sealed in: its link's height, and where in it the record is."""

    height: int
    index: int
    size: int


class EntryView(msgspec.Struct, rename="camel"):
    """A record. `subject` is a salted hash; hashes and nonce are those of its link."""

    sequence: int
    action: Action
    subject: str
    previous_hash: Hash
    data_hash: Hash
    nonce: int
    timestamp: Moment
    block: BlockView | UnsetType = UNSET


class VerdictView(msgspec.Struct, rename="camel"):
    """What the last look at the whole chain found. `subject` (operators only): a purchase or a
    booking without its record."""

    valid: bool
    entries: int
    checked_at: Moment
    invalid_at: int | UnsetType = UNSET
    reason: ShownReason | UnsetType = UNSET
    subject: str | UnsetType = UNSET
    unchecked_keys: list[str] | UnsetType = UNSET


class ProgressView(msgspec.Struct, rename="camel"):
    """A look at the whole chain that is not done yet: ask again."""

    checked: int
    entries: int


class LinkView(msgspec.Struct, rename="camel"):
    """A link, its fields in the order in which they are hashed."""

    height: int
    kind: Literal["block", "entry"]
    first_sequence: int
    records: int
    root: Hash
    timestamp: Moment
    previous_hash: Hash
    data_hash: Hash
    nonce: int
    key: str


class HeadView(msgspec.Struct, rename="camel"):
    """A head, its fields in the order in which they are signed."""

    type: str
    height: int
    sequence: int
    root: Hash
    data_hash: Hash
    timestamp: Moment
    key: str


class SignedHead(msgspec.Struct, rename="camel"):
    """Where the chain ends: keep it, and nobody can take away what was before it."""

    head: HeadView
    signature: Signature
    public_key: Hash


class ProofView(SignedHead):
    """All that it takes to check a record offline: docs/check_proof.py is a page long."""

    sequence: int
    record: str  # as it was hashed
    path: list[Step]
    link: LinkView
    history: list[Step]


class KeyView(msgspec.Struct, rename="camel"):
    """A signing key. `voucher`: the signature of the key before it over the record, `since`, that
    names this one."""

    signing_key: str
    public_key: Hash
    hmac_key: str
    since: int
    made_at: Moment
    voucher: str | None


class KeysView(msgspec.Struct, rename="camel"):
    """The signing key in force, and all there were."""

    signing_key: str
    public_key: Hash
    keys: list[KeyView]


class Sealed(msgspec.Struct):
    """Where something stands in the ledger; not yet, if it is not sealed."""

    sealed: bool
    sequence: int | UnsetType = UNSET


def sealed(sequence: int | None) -> Sealed:
    """Where it stands."""
    return Sealed(False) if sequence is None else Sealed(True, sequence)


def entry_view(record: Shown) -> EntryView:
    """A record for everybody."""
    block = BlockView(record.height, record.sequence - record.first, record.records)
    return EntryView(
        record.sequence,
        record.action,
        record.subject,
        record.previous_hash,
        record.data_hash,
        record.nonce,
        iso(record.recorded_at),
        block if record.is_block else UNSET,
    )


def link_view(link: Link) -> LinkView:
    """A link for everybody."""
    return LinkView(
        link.height,
        "block" if link.is_block else "entry",
        link.first,
        link.records,
        link.root.hex(),
        link.sealed_at,
        link.previous_hash,
        link.data_hash,
        link.nonce,
        link.key,
    )


def head_view(head: Head) -> HeadView:
    """A head for everybody."""
    return HeadView(
        "velvetrope-ledger-head",
        head.height,
        head.sequence,
        head.root.hex(),
        head.data_hash,
        head.sealed_at,
        head.signing_key or "",
    )


def key_view(key: Key) -> KeyView:
    """A key for everybody."""
    return KeyView(
        key.signing_key,
        key.public_key.hex(),
        key.hmac_key,
        key.since,
        key.made_at,
        None if key.voucher is None else key.voucher.hex(),
    )
