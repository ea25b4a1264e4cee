"""Keys of the ledger. Two are in force at a time: the HMAC key of the links, which whoever verifies
the whole chain must know, and the Ed25519 key of the head, whose public half anybody may have.

Both are HMAC_SECRET's, the second by HKDF, unless LEDGER_SIGNING_KEY is set. A key's id is a hash
of it. Keys follow keys by a link that says so (seal.py); retired ones stay in HMAC_SECRET_PREVIOUS
and LEDGER_SIGNING_KEY_PREVIOUS for as long as what they sealed is to be verified.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from engine.infra.errors import Misconfigured
from engine.infra.settings import SECRET_BYTES_MIN, Settings, too_short

SEED_BYTES = 32
ID_LENGTH = 16
OPEN_SECRET = "ledger.secret"  # noqa: S105  # the file's name


class Keyring(msgspec.Struct, frozen=True):
    """The keys that this process has, by id, and which of them are in force."""

    hmac_key: str
    signing_key: str
    secrets: Mapping[str, bytes]
    signers: Mapping[str, Ed25519PrivateKey]

    def public(self, id: str) -> bytes | None:
        """The public half of a signing key that we have."""
        signer = self.signers.get(id)
        return None if signer is None else signer.public_key().public_bytes_raw()


NO_KEYS = Keyring("", "", {}, {})  # of who checks as the public can


def ring(settings: Settings) -> Keyring:
    """The keys of these settings. Raises `Misconfigured`."""
    current = secret_of(settings)
    previous = several(settings.hmac_secret_previous)
    for name, secret in (
        ("hmac_secret", current),
        *(("hmac_secret_previous", p) for p in previous),
    ):
        if len(secret.encode()) < SECRET_BYTES_MIN:
            raise Misconfigured(too_short(name))
    known = {hmac_id(secret.encode()): secret.encode() for secret in (current, *previous)}
    signers = [_seeded("LEDGER_SIGNING_KEY", settings.ledger_signing_key)]
    signers += [
        _seeded("LEDGER_SIGNING_KEY_PREVIOUS", seed)
        for seed in settings.ledger_signing_key_previous.split()
    ]
    found = [each for each in signers if each is not None]
    found += [_derived(secret) for secret in known.values()]
    by_id = {public_id(each.public_key().public_bytes_raw()): each for each in found}
    in_force = signers[0] or _derived(current.encode())
    return Keyring(
        hmac_id(current.encode()),
        public_id(in_force.public_key().public_bytes_raw()),
        known,
        by_id,
    )


def secret_of(settings: Settings) -> str:
    """HMAC_SECRET, or what AUTH=open has in its place. Raises `Misconfigured`."""
    return settings.hmac_secret or _open_secret(settings)


def in_order(settings: Settings) -> list[bytes]:
    """HMAC_SECRET, then those before it: what they made still holds. Raises `Misconfigured`."""
    previous = several(settings.hmac_secret_previous)
    return [each.encode() for each in (secret_of(settings), *previous) if each]


def hmac_id(secret: bytes) -> str:
    """The name of an HMAC key, which tells nothing of it."""
    return hashlib.sha256(b"velvetrope ledger hmac\0" + secret).hexdigest()[:ID_LENGTH]


def public_id(public_key: bytes) -> str:
    """The name of a signing key."""
    return hashlib.sha256(public_key).hexdigest()[:ID_LENGTH]


def is_signed(public_key: bytes, signature: bytes | None, statement: bytes) -> bool:
    """Whether a statement was signed by that key."""
    with suppress(InvalidSignature, ValueError):
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature or b"", statement)
        return True
    return False


def several(text: str) -> list[str]:
    """Secrets with a space between; or one that has spaces in it."""
    parts = text.split()
    return parts if all(len(part.encode()) >= SECRET_BYTES_MIN for part in parts) else [text]


def _derived(secret: bytes) -> Ed25519PrivateKey:
    seed = HKDF(SHA256(), SEED_BYTES, None, b"velvetrope ledger signing key").derive(secret)
    return Ed25519PrivateKey.from_private_bytes(seed)


def _seeded(name: str, text: str) -> Ed25519PrivateKey | None:
    if not text:
        return None
    with suppress(ValueError):
        seed = bytes.fromhex(text)
        if len(seed) == SEED_BYTES:
            return Ed25519PrivateKey.from_private_bytes(seed)
    raise Misconfigured(f'{name}: want 64 hex digits: export {name}="$(openssl rand -hex 32)"')


def _open_secret(settings: Settings) -> str:
    """AUTH=open asks for no secrets, and a constant would prove nothing: one is made for this
    DATA_DIR, once, whoever needs it first."""
    if settings.auth != "open":
        raise Misconfigured(too_short("hmac_secret"))
    path = settings.data_dir / OPEN_SECRET
    with suppress(FileNotFoundError):
        return path.read_text().strip()
    try:
        return _made(path)
    except OSError as wrong:
        raise Misconfigured(
            f"{path}: {wrong.strerror}; set DATA_DIR to a writable folder, or HMAC_SECRET"
        ) from None


def _made(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(SEED_BYTES) + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:  # a link has its name at once and whole, or not at all: of two that make one, one wins
        os.link(unfinished, path)
    except FileExistsError:
        pass
    finally:
        unfinished.unlink()
    return path.read_text().strip()
