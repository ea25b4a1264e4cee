"""The ledger's formulas, which know of no database: what is hashed, and how.

    record ── leaf ──┐
    record ── leaf ──┴─ root ─┐                          block: up to 4,096 records
    previousHash ─────────────┴─ HMAC ─ dataHash ─ nonce      = a link
                                 link ─ leaf ──┐
                                 link ─ leaf ──┴─ root ─ Ed25519 = the head

An entry is a link of its own: its content, with previousHash in it, is what the HMAC is made over.
Who has the secret can check each link. Who has not can check that a record is under a signed head.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

from engine.record.merkle import leaf_hash
from engine.record.models import Head, Link

GENESIS = "0" * 64
BLOCK_MAX = 4_096  # records of a block
ROTATION = "KEY_ROTATED"


def canonical(payload: dict[str, Any]) -> bytes:
    """Compact JSON in the order of the keys, UTF-8: what JavaScript's JSON.stringify writes."""
    return json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()


def entry_content(
    booking: str, slot: str, manifest: str, subject: str, action: str, at: str, previous: str
) -> bytes:
    """What an entry says. Its keys and their order are a contract with other systems' verifiers."""
    return canonical(
        {
            "bookingId": booking,
            "slotId": slot,
            "manifestId": manifest,
            "userId": subject,
            "action": action,
            "timestamp": at,
            "previousHash": previous,
        }
    )


def block_content(first: int, records: int, root: bytes, at: str, previous: str) -> bytes:
    """What a block says of all its records together."""
    return canonical(
        {
            "firstSequence": first,
            "records": records,
            "root": root.hex(),
            "timestamp": at,
            "previousHash": previous,
        }
    )


def rotation_content(keys: dict[str, str], at: str, previous: str) -> bytes:
    """What is said when keys follow keys."""
    return canonical({"action": ROTATION, **keys, "timestamp": at, "previousHash": previous})


def data_hash(secret: bytes, content: bytes, digits: int = 64) -> str:
    """HMAC-SHA256 in hex. Some systems keep the first 16 digits only."""
    return hmac.digest(secret, content, "sha256").hex()[:digits]


def nonce_of(hash: str) -> int:
    """The least n for which SHA-256 of the hash and n in decimal begins with `00`. 256 tries on
    average, so the hash of what they have in common is made once."""
    begun = hashlib.sha256(hash.encode())
    n = 0
    while True:
        tried = begun.copy()
        tried.update(b"%d" % n)
        if not tried.digest()[0]:
            return n
        n += 1


def is_nonce(hash: str, n: int) -> bool:
    """Whether n is one, the least or not."""
    return not hashlib.sha256(b"%b%d" % (hash.encode(), n)).digest()[0]


def link_statement(link: Link) -> bytes:
    """What the history tree has of a link: all that anybody may know of it."""
    return canonical(
        {
            "height": link.height,
            "kind": "block" if link.is_block else "entry",
            "firstSequence": link.first,
            "records": link.records,
            "root": link.root.hex(),
            "timestamp": link.sealed_at,
            "previousHash": link.previous_hash,
            "dataHash": link.data_hash,
            "nonce": link.nonce,
            "key": link.key,
        }
    )


def link_leaf(link: Link) -> bytes:
    """The leaf of a link in the history tree."""
    return leaf_hash(link_statement(link))


def head_statement(head: Head) -> bytes:
    """What is signed: how long the chain is, and the root of its history."""
    return canonical(
        {
            "type": "velvetrope-ledger-head",
            "height": head.height,
            "sequence": head.sequence,
            "root": head.root.hex(),
            "dataHash": head.data_hash,
            "timestamp": head.sealed_at,
            "key": head.signing_key,
        }
    )
