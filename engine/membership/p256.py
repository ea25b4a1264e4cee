"""Keys of members' devices: P-256, as other systems write them, and signatures made with them."""

from __future__ import annotations

import base64
import binascii
import re
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from engine.infra.errors import Invalid, Misconfigured

PEM_MAX = 1_000  # characters; one as we write it has 178
SENTENCE = "Invalid public key PEM format"
RAW_BYTES = 64  # of a signature as browsers make it: r, then s
PEM = re.compile(r"-----BEGIN (EC )?PUBLIC KEY-----([^-]*)-----END (EC )?PUBLIC KEY-----")
WRITTEN = re.compile(r"\\[rn]")  # breaks of lines as files of settings write them
URL_SAFE = re.compile(r"[A-Za-z0-9_-]+={0,2}")


def read(text: str, field: str = "publicKey") -> str:
    """A public key as it is kept: PEM (SPKI) of a point on P-256, whatever breaks its lines had.
    Raises `Invalid`."""
    plain = WRITTEN.sub("\n", text).strip() if len(text) <= PEM_MAX else ""
    form = PEM.fullmatch(plain)
    try:
        if form is None:
            raise ValueError
        der = base64.b64decode("".join(form[2].split()), validate=True)
        key = serialization.load_der_public_key(der)
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
            raise ValueError
    except (ValueError, binascii.Error, UnsupportedAlgorithm):
        raise Invalid(SENTENCE, fields=[{"field": field, "problem": SENTENCE}]) from None
    kept = key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return kept.decode()


def of_settings(name: str, given: str) -> str:
    """A key of the settings: the PEM itself, or its file; empty for none. Raises `Misconfigured`:
    a wrong one must not look like a member's fault."""
    if not given:
        return ""
    try:
        return read(given if "-----" in given else Path(given).read_text())
    except (Invalid, OSError, UnicodeError) as wrong:
        raise Misconfigured(f"{name}: want a P-256 public key in PEM, or its file") from wrong


def is_signed(pem: str, signature: bytes, message: bytes) -> bool:
    """Whether a key that was read made this signature (ES256: P-256 with SHA-256), raw or DER."""
    if len(signature) == RAW_BYTES:
        r, s = signature[:32], signature[32:]
        signature = encode_dss_signature(int.from_bytes(r), int.from_bytes(s))
    try:
        _key(pem).verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


@lru_cache(4096)
def _key(pem: str) -> ec.EllipticCurvePublicKey:
    key = serialization.load_pem_public_key(pem.encode())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key


def unpacked(text: str) -> bytes | None:
    """The bytes of base64url, with or without its padding; None if it is none."""
    if URL_SAFE.fullmatch(text) is None:
        return None
    plain = text.rstrip("=")
    try:
        return base64.urlsafe_b64decode(plain + "=" * (-len(plain) % 4))
    except (ValueError, binascii.Error):
        return None
