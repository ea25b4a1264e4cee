"""What Apple's StoreKit 2 signs: a JWS (ES256) that carries its own chain of certificates.

The chain must be Apple's shape exactly: a leaf that signs receipts, an intermediate that issues
such leaves, both with Apple's marks, and a root that is one of ours or was issued by one of ours.
It must hold twice. When the receipt was signed: else who signed had no right to. And now: nobody
is asked here whether a certificate was revoked, so its end is what ends a stolen key, which could
name any day it likes. Whoever has an older receipt lets StoreKit sign it again.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode, b64encode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512

from engine.infra.errors import Misconfigured
from engine.membership.errors import InvalidReceipt

LEAF_MARK = x509.ObjectIdentifier("1.2.840.113635.100.6.11.1")  # signs receipts
ISSUER_MARK = x509.ObjectIdentifier("1.2.840.113635.100.6.2.1")  # Apple Worldwide Developer Rel.
KNOWN = (  # critical extensions that are looked at, or ask for nothing
    x509.BasicConstraints.oid,
    x509.KeyUsage.oid,
    x509.CertificatePolicies.oid,
    LEAF_MARK,
    ISSUER_MARK,
)
CHAIN_LENGTH = 3
PARTS = 3  # of a JWS: header, payload, signature
SIGNATURE_BYTES = 64
RSA_BITS_MIN = 2_048
AHEAD_SECONDS = 300  # by which another's clock may be before ours
TIME_MAX = 1e15  # milliseconds; whatever is later overflows somewhere
REMEMBERED_MAX = 256  # chains; Apple has a few leaves at a time
MEND = (
    "RECEIPT_ROOTS: want a PEM file of roots, as in openssl x509 -inform der "
    "-in AppleRootCA-G3.cer -out roots.pem (https://www.apple.com/certificateauthority/)"
)
# What certificates raise that somebody made to be odd; the library reads most of one when asked.
ODD = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


class Chain(msgspec.Struct, frozen=True):
    """A verified chain: the leaf's key, and the seconds since 1970 from and until which all of its
    certificates hold."""

    key: ec.EllipticCurvePublicKey
    since: float
    until: float


class StoreKit:
    """Verifies such a JWS. A chain is verified once, and remembered until its first certificate
    ends. Callable from several threads at once."""

    def __init__(self, roots: Sequence[x509.Certificate], clock: Callable[[], float]) -> None:
        self._roots, self._clock = roots, clock
        self._known: dict[bytes, Chain] = {}

    @classmethod
    def of(cls, path: str, clock: Callable[[], float]) -> StoreKit:
        """With the roots in that PEM file. Raises `Misconfigured`."""
        try:
            roots = x509.load_pem_x509_certificates(Path(path).read_bytes())
            for root in roots:
                _check_issuer(root, 1)
        except (OSError, *ODD, InvalidReceipt):
            raise Misconfigured(MEND) from None
        return cls(roots, clock)

    def claims(self, text: str) -> dict[str, Any]:
        """The payload that Apple signed. Raises `InvalidReceipt`."""
        parts = text.split(".")
        if len(parts) != PARTS:
            raise invalid("it is not three parts with dots between")
        head, body, signature = (unpacked(part) for part in parts)
        chain = self._chain(_certificates(object_of(head)))
        if len(signature) != SIGNATURE_BYTES:
            raise invalid("its signature is not one of ES256")
        r, s = (int.from_bytes(half) for half in (signature[:32], signature[32:]))
        try:
            signed = ".".join(parts[:2]).encode()
            chain.key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(SHA256()))
        except InvalidSignature:
            raise invalid("its signature is not that of its certificate") from None
        claims = object_of(body)
        self._check_time(time_of(claims, "signedDate", 1_000), chain)
        return claims

    def _check_time(self, seconds: float | None, chain: Chain) -> None:
        if seconds is None:
            raise invalid("it does not say when it was signed")
        if seconds > self._clock() + AHEAD_SECONDS:
            raise invalid("it is from the future")
        if not chain.since <= seconds <= chain.until:
            raise invalid("it was signed while its certificate was not valid")

    def _chain(self, encoded: list[bytes]) -> Chain:
        digests = b"".join(hashlib.sha256(each).digest() for each in encoded)
        chain = self._known.get(digests) or self._verified(encoded)
        if not chain.since <= self._clock() <= chain.until:
            self._known.pop(digests, None)
            raise invalid("a certificate of it is not valid now")
        if len(self._known) >= REMEMBERED_MAX:
            self._known.clear()
        self._known[digests] = chain
        return chain

    def _verified(self, encoded: list[bytes]) -> Chain:
        """The chain, of whatever time."""
        try:
            chain = [x509.load_der_x509_certificate(each) for each in encoded]
            leaf, issuer, root = chain
            chain += self._above(root)
            # From the top down: a key is used when it is known whose it is, and not before.
            for below, (one, above) in reversed(list(enumerate(pairwise(chain)))):
                _check_issuer(above, below)
                _check_issued(one, above)
            _check_leaf(leaf)
            issuer.extensions.get_extension_for_oid(ISSUER_MARK)
            leaf.extensions.get_extension_for_oid(LEAF_MARK)
            key = leaf.public_key()
        except x509.ExtensionNotFound:
            raise invalid("its certificates are not for receipts") from None
        except ODD:
            raise invalid("its certificates cannot be read") from None
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
            raise invalid("its certificate has no P-256 key")
        return Chain(
            key,
            max(each.not_valid_before_utc.timestamp() for each in chain),
            min(each.not_valid_after_utc.timestamp() for each in chain),
        )

    def _above(self, root: x509.Certificate) -> list[x509.Certificate]:
        """Nothing, if the chain's root is one of ours; else that of ours which issued it."""
        if root in self._roots:
            return []
        for ours in self._roots:
            try:
                root.verify_directly_issued_by(ours)
            except (InvalidSignature, *ODD):
                continue
            return [ours]
        raise invalid("it does not stand on a root that we trust")


def invalid(why: str) -> InvalidReceipt:
    """The refusal, in the words of the README."""
    return InvalidReceipt(f"Invalid receipt: {why}")


def unpacked(part: str) -> bytes:
    """What base64url says, in its one way to say it. Raises `InvalidReceipt`."""
    try:
        raw = urlsafe_b64decode(part.encode("ascii") + b"=" * (-len(part) % 4))
    except ValueError:
        raw = b""
    if not raw or urlsafe_b64encode(raw).rstrip(b"=") != part.encode(errors="replace"):
        raise invalid("it is not base64url")
    return raw


def object_of(raw: bytes) -> dict[str, Any]:
    """A JSON object in which no name stands twice: readers would differ on which of them counts.
    Raises `InvalidReceipt`."""
    try:
        found = json.loads(raw.decode(), object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise invalid("it is not a JSON object")
    return found


def time_of(claims: dict[str, Any], name: str, units: int = 1) -> float | None:
    """A time that a receipt may name, in seconds since 1970. Raises `InvalidReceipt`."""
    given = claims.get(name)
    if given is None:
        return None
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    if not is_number or not 0 <= given < TIME_MAX:
        raise invalid(f"its {name} is not a time")
    return float(given / units)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError
    return made


def _no_number(_: str) -> NoReturn:
    raise ValueError


def _certificates(head: dict[str, Any]) -> list[bytes]:
    """The chain in a header, leaf first. Whatever else the header names (`kid`, `jwk`, `jku`) is
    never used: it could only lead elsewhere."""
    if head.get("alg") != "ES256":
        raise invalid("it is not signed by ES256")
    if "crit" in head or "b64" in head:
        raise invalid("it asks for what we do not understand")
    chain = head.get("x5c")
    if not isinstance(chain, list) or len(chain) != CHAIN_LENGTH:
        raise invalid(f"it does not bring its {CHAIN_LENGTH} certificates")
    return [_certificate(each) for each in chain]


def _certificate(text: object) -> bytes:
    try:
        raw = b64decode(str(text).encode("ascii"), validate=True)
    except ValueError:
        raw = b""
    if not raw or b64encode(raw).decode() != text:
        raise invalid("its certificates are not base64")
    return raw


def _check_issued(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    """Refuse a certificate that this issuer did not sign, or not well."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, *ODD):
        raise invalid("its certificates do not issue each other") from None
    if not isinstance(certificate.signature_hash_algorithm, SHA256 | SHA384 | SHA512):
        raise invalid("its certificates are signed by a broken algorithm")
    _check_extensions(certificate)


def _check_extensions(certificate: x509.Certificate) -> None:
    if any(each.critical and each.oid not in KNOWN for each in certificate.extensions):
        raise invalid("its certificates ask for what we do not understand")


def _check_issuer(certificate: x509.Certificate, below: int) -> None:
    """Refuse what may not issue certificates, with so many other issuers `below` it."""
    _check_extensions(certificate)
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    if not basic.ca or not usage.key_cert_sign:
        raise invalid("its certificates may not issue any")
    if basic.path_length is not None and basic.path_length < below:
        raise invalid("its chain is longer than its certificates allow")
    key = certificate.public_key()
    is_strong = (isinstance(key, rsa.RSAPublicKey) and key.key_size >= RSA_BITS_MIN) or (
        isinstance(key, ec.EllipticCurvePublicKey) and key.key_size >= SHA256.digest_size * 8
    )
    if not is_strong:
        raise invalid("its certificates have weak keys")


def _check_leaf(leaf: x509.Certificate) -> None:
    """Refuse what may not sign receipts."""
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    try:
        basic = leaf.extensions.get_extension_for_class(x509.BasicConstraints).value
        is_issuer = basic.ca
    except x509.ExtensionNotFound:
        is_issuer = False
    if is_issuer or not usage.digital_signature:
        raise invalid("its certificate may not sign receipts")
