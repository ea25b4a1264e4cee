"""An Apple of the tests: chains of certificates, good and bad, and what StoreKit 2 would sign."""

from __future__ import annotations

import json
from base64 import b64encode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA224, SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from engine.membership.storekit import ISSUER_MARK, LEAF_MARK

NOW = 1_800_000_000  # what the clock of these tests says
DAY = 86_400
BUNDLE = "com.example.app"

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
Claims = dict[str, Any]


@cache
def key_of(name: str, curve: str = "secp256r1") -> Key:
    """A key with that name, made once."""
    if curve == "rsa1024":
        return rsa.generate_private_key(65_537, 1_024)
    kinds = {"secp256r1": ec.SECP256R1(), "secp384r1": ec.SECP384R1(), "secp224r1": ec.SECP224R1()}
    return ec.generate_private_key(kinds[curve])


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How a certificate is made. A field that is None leaves its extension out."""

    name: str
    issuer: str
    signer: str = ""  # whose key signs it, if not the issuer's
    curve: str = "secp256r1"
    issuer_curve: str = "secp256r1"
    is_ca: bool | None = False
    path_length: int | None = None
    signs_certificates: bool | None = False
    signs: bool = True
    mark: x509.ObjectIdentifier | None = None
    critical: bool = False  # an extension that nobody knows, and everybody must
    since: int = NOW - 100 * DAY
    until: int = NOW + 100 * DAY
    algorithm: SHA224 | SHA256 = SHA256()

    def make(self) -> x509.Certificate:
        """The certificate."""
        builder = (
            x509.CertificateBuilder()
            .subject_name(_named(self.name))
            .issuer_name(_named(self.issuer))
            .public_key(key_of(self.name, self.curve).public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(moment(self.since))
            .not_valid_after(moment(self.until))
        )
        if self.is_ca is not None:
            basic = x509.BasicConstraints(self.is_ca, self.path_length)
            builder = builder.add_extension(basic, critical=True)
        if self.signs_certificates is not None:
            usage = _usage(self.signs, self.signs_certificates)
            builder = builder.add_extension(usage, critical=True)
        if self.mark is not None:
            mark = x509.UnrecognizedExtension(self.mark, b"\x05\x00")
            builder = builder.add_extension(mark, critical=False)
        if self.critical:
            odd = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
            builder = builder.add_extension(odd, critical=True)
        return builder.sign(key_of(self.signer or self.issuer, self.issuer_curve), self.algorithm)


ROOT = Plan(name="root", issuer="root", is_ca=True, signs_certificates=True, mark=None)
ISSUER = Plan(
    name="issuer",
    issuer="root",
    is_ca=True,
    path_length=0,
    signs_certificates=True,
    mark=ISSUER_MARK,
)
LEAF = Plan(name="leaf", issuer="issuer", mark=LEAF_MARK)


def but(plan: Plan, **other: Any) -> x509.Certificate:
    """That plan's certificate, with something else about it."""
    return msgspec.structs.replace(plan, **other).make()


def moment(seconds: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _usage(signs: bool, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def packed(raw: bytes) -> str:
    """As base64url."""
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def x5c(*chain: x509.Certificate) -> list[str]:
    """As a header carries them."""
    return [b64encode(each.public_bytes(Encoding.DER)).decode() for each in chain]


def claims(**other: Any) -> Claims:
    """What Apple says of a purchase; None leaves a claim out."""
    said = {
        "transactionId": "2000000000000002",
        "originalTransactionId": "2000000000000001",
        "bundleId": BUNDLE,
        "productId": "genesis",
        "type": "Non-Consumable",
        "environment": "Production",
        "purchaseDate": (NOW - DAY) * 1_000,
        "signedDate": (NOW - 60) * 1_000,
    } | other
    return {name: value for name, value in said.items() if value is not None}


def signed(head: object, body: object, key: str = "leaf", curve: str = "secp256r1") -> str:
    """A JWS of these, each an object or its bytes."""
    parts = [
        packed(each if isinstance(each, bytes) else json.dumps(each).encode())
        for each in (head, body)
    ]
    signer = key_of(key, curve)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    made = signer.sign(".".join(parts).encode(), ec.ECDSA(SHA256()))
    raw = b"".join(number.to_bytes(32) for number in decode_dss_signature(made))
    return ".".join((*parts, packed(raw)))
