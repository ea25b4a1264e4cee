"""What the QR code of a pass says, so that a door without a network can tell who comes.

    VR1:<key>:<tier>:<year>:<number>:<membership>:<minted, yyyymmdd>:<signature>

The signature is Ed25519 over all before its colon, in base64url. Keys are HMAC_SECRET's by HKDF:
with HMAC_SECRET_PREVIOUS older codes hold as well. A door knows the public halves
(`velvetrope pass key`), and which memberships have ended since (`velvetrope pass revoked`).
docs/check_pass.py does the same in a few lines, for whoever builds a door.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Mapping

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from engine.infra.settings import Settings
from engine.membership.models import Membership
from engine.record import keys

VERSION, ALGORITHM = "VR1", "Ed25519"
_FORM = re.compile(
    rf"({VERSION}:([0-9a-f]{{16}}):([\w-]{{1,32}}):([\w-]{{1,32}}):([1-9][0-9]{{0,9}})"
    r":([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}):([0-9]{8})):([\w-]{86})",
    re.ASCII,
)


class PublicKey(msgspec.Struct, frozen=True, rename="camel"):
    """A key that signed barcodes, for whoever checks them. `publicKey` is in hex."""

    id: str
    public_key: str


class PublicKeys(msgspec.Struct, frozen=True, rename="camel"):
    """All of them, the one in force first."""

    version: str
    algorithm: str
    keys: list[PublicKey]


class Shown(msgspec.Struct, frozen=True, rename="camel"):
    """Whose a barcode is."""

    membership_id: str
    tier: str
    year: str
    number: int
    minted_on: str  # yyyy-mm-dd


class Refused(Exception):
    """Why a barcode lets nobody in."""


class Barcodes:
    """Makes the messages of passes. Raises `Misconfigured` without a secret."""

    def __init__(self, settings: Settings) -> None:
        self._keys = [_derived(secret) for secret in keys.in_order(settings)]
        self._ids = [keys.public_id(key.public_key().public_bytes_raw()) for key in self._keys]

    def public(self) -> PublicKeys:
        """What doors must know."""
        told = [
            PublicKey(id, key.public_key().public_bytes_raw().hex())
            for id, key in zip(self._ids, self._keys, strict=True)
        ]
        return PublicKeys(VERSION, ALGORITHM, told)

    def message(self, membership: Membership) -> str:
        """What the pass of a membership says; always the same with one key."""
        said = ":".join(
            (
                *(VERSION, self._ids[0], membership.tier, membership.year),
                *(str(membership.number), membership.id, f"{membership.minted_at:%Y%m%d}"),
            )
        )
        return f"{said}:{_text(self._keys[0].sign(said.encode()))}"


def by_id(public: PublicKeys) -> dict[str, bytes]:
    """The keys as `check` wants them. Raises `ValueError` for what is none."""
    return {each.id: bytes.fromhex(each.public_key) for each in public.keys}


def check(message: str, known: Mapping[str, bytes], revoked: Collection[str] = ()) -> Shown:
    """Whose barcode this is. Raises `Refused`: it is none, a forged one, or one that has ended."""
    form = _FORM.fullmatch(message)
    if form is None:
        raise Refused("this is no barcode of a pass")
    said, key, tier, year, number, id, minted, text = form.groups()
    if key not in known:
        raise Refused(f"it is signed with the key {key}, which is not among ours")
    signature = base64.urlsafe_b64decode(f"{text}==")
    # The last letter has bits to spare: one signature is written in one way.
    if text != _text(signature) or not keys.is_signed(known[key], signature, said.encode()):
        raise Refused("the signature is not ours: it is forged, or was changed")
    if id in revoked:
        raise Refused(f"membership {id} has been revoked")
    return Shown(id, tier, year, int(number), f"{minted[:4]}-{minted[4:6]}-{minted[6:]}")


def _derived(secret: bytes) -> Ed25519PrivateKey:
    """A key of its own: what the ledger's signs says nothing at a door."""
    seed = HKDF(SHA256(), keys.SEED_BYTES, None, b"velvetrope pass barcode key").derive(secret)
    return Ed25519PrivateKey.from_private_bytes(seed)


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
