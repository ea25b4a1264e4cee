"""Members for tests, put straight into the database, and their telephones."""

from __future__ import annotations

import base64
import json
from typing import Any

import asyncpg
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from engine.infra.ids import new_id

MAKE = """
WITH made AS (
    INSERT INTO drops (name, price_cents, currency, starts_at, hold_seconds, max_hold_seconds,
                       max_per_order, total_stock, pick, listed)
    SELECT 'Genesis', 0, 'USD', clock_timestamp(), 60, 60, 1, 999, 'minted', false
     WHERE NOT EXISTS (SELECT FROM membership_drops WHERE (tier, year) = ($3, $4))
    RETURNING id
), stocked AS (
    INSERT INTO stock (drop_id) SELECT id FROM made
), opened AS (
    INSERT INTO membership_drops (drop_id, tier, year) SELECT id, $3, $4 FROM made
    RETURNING drop_id
), its AS (
    SELECT drop_id FROM opened
    UNION SELECT drop_id FROM membership_drops WHERE (tier, year) = ($3, $4)
), receipt AS (
    INSERT INTO receipts (id, drop_id, buyer, state, membership_id)
    SELECT gen_random_uuid(), drop_id, $2, 'fulfilled', $1::uuid FROM its
    RETURNING id, drop_id
)
INSERT INTO memberships (id, receipt_id, drop_id, number, buyer, minted_at, changed_at)
SELECT $1, r.id, r.drop_id,
       1 + coalesce((SELECT max(m.number) FROM memberships AS m WHERE m.drop_id = r.drop_id), 0),
       $2, clock_timestamp(), clock_timestamp()
  FROM receipt AS r
"""


async def make_member(
    database: str, buyer: str, tier: str = "genesis", year: str = "2025", device: str = ""
) -> str:
    """A membership, the next number of its tier; with a device whose key is that PEM, if one is
    given. Its id."""
    id = new_id()
    await run(database, MAKE, id, buyer, tier, year)
    if device:
        add = (
            "INSERT INTO membership_devices (id, membership_id, device_id, public_key)"
            " VALUES ($1, $2, 'phone', $3)"
        )
        await run(database, add, new_id(), id, device)
    return id


async def run(database: str, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """Any statement's rows."""
    connection = await asyncpg.connect(database)
    try:
        return [tuple(row) for row in await connection.fetch(statement, *values)]
    finally:
        await connection.close()


async def somebody_waits(database: str) -> bool:
    """Whether a statement of this database stands before a lock."""
    look = (
        "SELECT FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    return bool(await run(database, look))


def packed(raw: bytes) -> str:
    """base64url, without its padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Phone:
    """A device with a key, which signs as WebCrypto does."""

    def __init__(self, curve: ec.EllipticCurve | None = None) -> None:
        self.private = ec.generate_private_key(curve or ec.SECP256R1())
        self.pem = pem_of(self.private.public_key())

    def der(self, message: bytes) -> bytes:
        """A signature as OpenSSL writes it."""
        return self.private.sign(message, ec.ECDSA(hashes.SHA256()))

    def sign(self, message: bytes) -> bytes:
        """r and s, 32 bytes each."""
        r, s = decode_dss_signature(self.der(message))
        return r.to_bytes(32) + s.to_bytes(32)

    def token(self, claims: dict[str, Any], header: dict[str, Any] | None = None) -> str:
        """A JWT."""
        head = {"alg": "ES256", "typ": "JWT"} if header is None else header
        signed = f"{packed(json.dumps(head).encode())}.{packed(json.dumps(claims).encode())}"
        return f"{signed}.{packed(self.sign(signed.encode()))}"


def pem_of(key: Any) -> str:
    """A public key in PEM."""
    raw: bytes = key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return raw.decode()
