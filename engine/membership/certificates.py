"""With what passes are signed: the certificate that Apple gave, or a chain of our own.

    WALLET_CERTIFICATE WALLET_KEY WALLET_INTERMEDIATE    every phone takes such a pass
    none of them         DATA_DIR/wallet: root, intermediate, leaf and key, made once; for
                         development, as no phone knows that root

The keys of root and intermediate are thrown away when the leaf is signed: nobody can sign another.
"""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs7,
)
from cryptography.x509.oid import NameOID

from engine.infra.errors import Misconfigured
from engine.infra.settings import Settings

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
OUR_DAYS = 3_650
FOLDER, LEAF, KEY = "wallet", "pass.pem", "pass.key"
INTERMEDIATE, ROOT = "intermediate.pem", "root.pem"


class Signer(msgspec.Struct, frozen=True):
    """What signs passes. `is_ours`: it stands on a root of our own, which no phone knows."""

    certificate: x509.Certificate
    key: Key
    intermediate: x509.Certificate
    is_ours: bool

    @property
    def days_left(self) -> int:
        """Whole days until a certificate of the chain ends."""
        ends = min(self.certificate.not_valid_after_utc, self.intermediate.not_valid_after_utc)
        return (ends - datetime.now(UTC)).days

    def sign(self, data: bytes) -> bytes:
        """A detached PKCS#7 signature of the data, in DER, with certificate and intermediate. As
        Apple wants it, it says when it was made: no two are the same."""
        return (
            pkcs7.PKCS7SignatureBuilder()
            .set_data(data)
            .add_signer(self.certificate, self.key, SHA256())
            .add_certificate(self.intermediate)
            .sign(Encoding.DER, [pkcs7.PKCS7Options.DetachedSignature, pkcs7.PKCS7Options.Binary])
        )


def is_given(settings: Settings) -> bool:
    """Whether somebody gave us a certificate, or a part of what goes with one."""
    return bool(settings.wallet_certificate or settings.wallet_key or settings.wallet_intermediate)


def signer(settings: Settings) -> Signer:
    """What signs passes by these settings; our own is made if need be. Raises `Misconfigured`."""
    if not is_given(settings):
        return _checked(_ours(settings), settings, f"{settings.data_dir / FOLDER}", _anew(settings))
    pem = {}
    for name in ("wallet_certificate", "wallet_key", "wallet_intermediate"):
        if not getattr(settings, name):
            raise Misconfigured(
                f"{name.upper()} is not set: a pass is signed with WALLET_CERTIFICATE, WALLET_KEY "
                "and WALLET_INTERMEDIATE (Apple's WWDR certificate), or with none of them"
            )
        pem[name] = _pem(name.upper(), getattr(settings, name))
    given = Signer(
        _certificate("WALLET_CERTIFICATE", pem["wallet_certificate"]),
        _key(pem["wallet_key"], settings.wallet_key_passphrase),
        _certificate("WALLET_INTERMEDIATE", pem["wallet_intermediate"]),
        False,
    )
    mend = "give the certificate that Apple issued for it, or mend WALLET_TYPE_ID"
    return _checked(given, settings, "WALLET_CERTIFICATE", mend)


# ── what is given ────────────────────────────────────────────────────────────────────────────────


def _pem(name: str, given: str) -> bytes:
    """PEM text, in which a line's end may be written as \\n, or what a file holds."""
    if "-----BEGIN" in given:
        return given.replace("\\n", "\n").encode()
    try:
        return Path(given).read_bytes()
    except (OSError, ValueError) as wrong:
        said = wrong.strerror if isinstance(wrong, OSError) else "not a path"
        raise Misconfigured(f"{name}: want PEM text, or the path of a PEM file: {said}") from None


def _certificate(name: str, pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError:
        mend = "a .cer file of Apple's becomes one by: openssl x509 -inform DER -in it.cer"
        raise Misconfigured(f"{name} is no certificate in PEM: {mend}") from None


def _key(pem: bytes, passphrase: str) -> Key:
    try:
        key = load_pem_private_key(pem, passphrase.encode() or None)
    except TypeError:
        said = "has no passphrase: unset it" if passphrase else "has a passphrase: set it"
        raise Misconfigured(f"WALLET_KEY_PASSPHRASE: the key {said}") from None
    except ValueError:
        mend = "want the PEM of the private key, and its WALLET_KEY_PASSPHRASE if it has one"
        raise Misconfigured(f"WALLET_KEY cannot be read: {mend}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise Misconfigured("WALLET_KEY: want an RSA or EC key, as the certificate was asked with")
    return key


def _checked(found: Signer, settings: Settings, name: str, mend: str) -> Signer:
    """The same, if it can sign passes of these settings: a wallet would refuse it without a word
    of why."""
    if found.certificate.public_key() != found.key.public_key():
        raise Misconfigured(
            f"{name} is not of WALLET_KEY: want the key that the certificate was asked with"
        )
    try:
        found.certificate.verify_directly_issued_by(found.intermediate)
    except (InvalidSignature, ValueError, TypeError):
        raise Misconfigured(
            f"WALLET_INTERMEDIATE did not issue {name}: want the certificate of "
            f"{found.certificate.issuer.rfc4514_string()}"
        ) from None
    now = datetime.now(UTC)
    for each, what in ((found.certificate, name), (found.intermediate, "WALLET_INTERMEDIATE")):
        if not each.not_valid_before_utc <= now <= each.not_valid_after_utc:
            first, last = each.not_valid_before_utc.date(), each.not_valid_after_utc.date()
            raise Misconfigured(f"{what} is good from {first} to {last}: get a new one")
    # Apple writes into it whose passes of which kind it is for.
    for oid, setting in (
        (NameOID.USER_ID, "wallet_type_id"),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, "wallet_team_id"),
    ):
        named = [each.value for each in found.certificate.subject.get_attributes_for_oid(oid)]
        wanted = getattr(settings, setting)
        if wanted not in named:
            said = ", ".join(map(str, named)) or "none"
            raise Misconfigured(
                f"{name} is not for {setting.upper()}={wanted}, but for {said}: {mend}"
            )
    return found


# ── our own ──────────────────────────────────────────────────────────────────────────────────────


def _anew(settings: Settings) -> str:
    return f"remove {settings.data_dir / FOLDER}, and another chain is made"


def _ours(settings: Settings) -> Signer:
    folder = settings.data_dir / FOLDER
    try:
        if not (folder / KEY).exists():
            _publish(folder, _chain(settings.wallet_type_id, settings.wallet_team_id))
        return Signer(
            x509.load_pem_x509_certificate((folder / LEAF).read_bytes()),
            _key((folder / KEY).read_bytes(), ""),
            x509.load_pem_x509_certificate((folder / INTERMEDIATE).read_bytes()),
            True,
        )
    except FileNotFoundError:
        raise Misconfigured(f"{folder} is not whole: {_anew(settings)}") from None
    except OSError as wrong:
        raise Misconfigured(
            f"{folder}: {wrong.strerror}; set DATA_DIR to a writable folder, or WALLET_CERTIFICATE"
        ) from None
    except ValueError:
        raise Misconfigured(f"{folder} cannot be read: {_anew(settings)}") from None


def _publish(folder: Path, files: dict[str, bytes]) -> None:
    """Put the files there, all at once. A folder has its name whole or not at all: of two workers
    that make a chain, one wins, and both read what is there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}")
    unfinished.mkdir(mode=0o700)
    try:
        for name, data in files.items():
            made = os.open(unfinished / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(made, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        with suppress(OSError):  # it is there by now; or what is wrong shows when it is read
            unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _chain(type_id: str, team_id: str) -> dict[str, bytes]:
    """Root, intermediate and leaf, as Apple's are built."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)]
    names = [
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Velvetrope development {what}")])
        for what in ("root", "intermediate")
    ]
    try:
        leaf = x509.Name(
            [
                x509.NameAttribute(NameOID.USER_ID, type_id),
                x509.NameAttribute(NameOID.COMMON_NAME, f"Pass Type ID: {type_id}"[:64]),
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, team_id),
            ]
        )
    except ValueError as wrong:
        raise Misconfigured(f"WALLET_TYPE_ID, WALLET_TEAM_ID: {wrong}") from None
    made = [
        _issued(name, key, issuer, signer, path_length)
        for name, key, issuer, signer, path_length in (
            (names[0], keys[0], names[0], keys[0], 1),
            (names[1], keys[1], names[0], keys[0], 0),
            (leaf, keys[2], names[1], keys[1], None),
        )
    ]
    files = {
        name: each.public_bytes(Encoding.PEM)
        for name, each in zip((ROOT, INTERMEDIATE, LEAF), made, strict=True)
    }
    files[KEY] = keys[2].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return files


def _issued(
    name: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    signer: ec.EllipticCurvePrivateKey,
    path_length: int | None,
) -> x509.Certificate:
    """A certificate; with a path length it may issue others."""
    is_authority, now = path_length is not None, datetime.now(UTC)
    uses = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
    )
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # clocks of others may be behind
        .not_valid_after(now + timedelta(days=OUR_DAYS))
        .add_extension(x509.BasicConstraints(is_authority, path_length), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not is_authority,
                key_cert_sign=is_authority,
                crl_sign=is_authority,
                encipher_only=False,
                decipher_only=False,
                **uses,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .sign(signer, SHA256())
    )
