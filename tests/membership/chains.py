"""Certificates as Apple would issue them, and passes taken apart."""

from __future__ import annotations

import io
import json
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from engine.infra.settings import Settings

TYPE, TEAM = "pass.example.club", "TEAM123456"


def unpacked(data: bytes) -> dict[str, bytes]:
    """The files of a pass."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def content(data: bytes) -> dict[str, Any]:
    """pass.json of a pass."""
    told: dict[str, Any] = json.loads(unpacked(data)["pass.json"])
    return told


def wallet_of(made: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """Where a wallet asks for a pass, and what it shows, by the pass's own words."""
    return (
        f"/wallet/v1/passes/{made['passTypeIdentifier']}/{made['serialNumber']}",
        {"authorization": f"ApplePass {made['authenticationToken']}"},
    )


class Given(msgspec.Struct, frozen=True):
    """A root, and what it gave somebody: PEM, all of it."""

    root: str
    intermediate: str
    certificate: str
    key: str

    def settings(self, settings: Settings, **more: Any) -> Settings:
        """Settings with all of it."""
        words = {
            "wallet_certificate": self.certificate,
            "wallet_key": self.key,
            "wallet_intermediate": self.intermediate,
            "wallet_type_id": TYPE,
            "wallet_team_id": TEAM,
        }
        return msgspec.structs.replace(settings, **{**words, **more})


def give(days: float = 365, type_id: str = TYPE, passphrase: str = "") -> Given:
    """A chain of RSA keys with a leaf for a kind of pass, good for so many days from yesterday."""
    keys = [rsa.generate_private_key(65_537, 2_048) for _ in range(3)]
    names = [
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("Root", "WWDR")
    ]
    names.append(
        x509.Name(
            [
                x509.NameAttribute(NameOID.USER_ID, type_id),
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, TEAM),
            ]
        )
    )
    first = datetime.now(UTC) - timedelta(days=1)
    made = []
    for place, (name, key) in enumerate(zip(names, keys, strict=True)):
        above = max(place - 1, 0)
        made.append(
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(names[above])
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(first)
            .not_valid_after(first + timedelta(days=days if place == 2 else 365))
            .add_extension(x509.BasicConstraints(place < 2, None), critical=True)
            .sign(keys[above], SHA256())
            .public_bytes(Encoding.PEM)
            .decode()
        )
    closed = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    key_pem = keys[2].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, closed).decode()
    root, intermediate, certificate = made
    return Given(root, intermediate, certificate, key_pem)


def written(folder: Path, files: dict[str, bytes | str]) -> dict[str, Path]:
    """Files in a folder."""
    paths = {name: folder / name for name in files}
    for name, data in files.items():
        paths[name].write_bytes(data.encode() if isinstance(data, str) else data)
    return paths
