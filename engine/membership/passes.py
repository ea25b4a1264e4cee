"""Passes: a membership as a file that Apple's Wallet takes, and checks.

    pass.json, pictures, xx.lproj/pass.strings ─▶ manifest.json (SHA-1 of each) ─▶ signature ─▶ zip

Signing takes milliseconds and zlib more: both happen beside the loop, at most two at once, once for
all who want the same pass.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import io
import zipfile
from collections import OrderedDict
from datetime import datetime
from functools import cached_property
from typing import Any

import msgspec
import structlog
from cryptography.hazmat.primitives.hashes import SHA256

from engine.infra.combiner import Crew
from engine.infra.errors import Misconfigured, Retryable
from engine.infra.settings import Settings
from engine.membership import certificates
from engine.membership.artwork import GOLD, WINE, pictures
from engine.membership.barcode import Barcodes
from engine.membership.models import Membership
from engine.record import keys

log = structlog.get_logger()

MEDIA_TYPE = b"application/vnd.apple.pkpass"
SIGNING_MAX = 2  # at once: the other cores sell
KEPT_MAX = 500  # signed passes of ten kilobytes
DAWN = (1980, 1, 1, 0, 0, 0)  # of zip: a file's time says nothing
# What stands on a pass in pass.json's own words, and in those of its reader.
WORDS = {
    "en": ("Member", "Tier", "Year", "Pass number"),
    "de": ("Mitglied", "Stufe", "Jahr", "Passnummer"),
    "fr": ("Membre", "Niveau", "Année", "Numéro de carte"),
    "es": ("Miembro", "Nivel", "Año", "Número de pase"),
    "it": ("Membro", "Livello", "Anno", "Numero della tessera"),
}
LABELS = ("MEMBER", "TIER", "YEAR", "SERIAL")


class Pass(msgspec.Struct, frozen=True):
    """A signed pass. `etag` is the same for the same content, though no two signatures are."""

    data: bytes
    name: str  # of the file
    etag: bytes
    changed_at: datetime

    @property
    def disposition(self) -> tuple[bytes, bytes]:
        """The header that names the file."""
        return b"content-disposition", f'attachment; filename="{self.name}"'.encode()


class Tokens:
    """What a wallet shows when it asks for a pass anew: an HMAC of the membership's id."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def _secrets(self) -> list[bytes]:
        """The one in force first; those before it are in passes that were given out."""
        return keys.in_order(self._settings)

    def token(self, id: str) -> str:
        """The token that stands in the pass of a membership."""
        return _mac(self._secrets[0], id)

    def opens(self, token: str, id: str) -> bool:
        """Whether a token is that membership's."""
        given = token.encode()
        return any(hmac.compare_digest(_mac(each, id).encode(), given) for each in self._secrets)


def _mac(secret: bytes, id: str) -> str:
    return hmac.new(secret, f"velvetrope pass\0{id}".encode(), "sha256").hexdigest()


class Press:
    """Makes passes, for as long as its settings hold. Raises `Misconfigured`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._signer = certificates.signer(settings)
        self._barcodes, self._tokens = Barcodes(settings), Tokens(settings)

    def make(self, membership: Membership) -> Pass:
        """Its pass: a zip."""
        files = {"pass.json": msgspec.json.encode(self.content(membership)), **pictures()}
        for language, words in WORDS.items():
            lines = (f'"{label}" = "{word}";\n' for label, word in zip(LABELS, words, strict=True))
            files[f"{language}.lproj/pass.strings"] = "".join(lines).encode()
        sums = {name: hashlib.sha1(data).hexdigest() for name, data in sorted(files.items())}
        manifest = files["manifest.json"] = msgspec.json.encode(sums)
        files["signature"] = self._signer.sign(manifest)
        by = self._signer.certificate.fingerprint(SHA256())
        etag = hashlib.sha256(manifest + by).hexdigest()[:32]
        name = f"vr-{membership.tier}-{membership.number}.pkpass"
        return Pass(_zipped(files), name, f'W/"{etag}"'.encode(), membership.changed_at)

    def content(self, membership: Membership) -> dict[str, Any]:
        """pass.json."""
        settings, number = self._settings, f"#{membership.number}"
        told: dict[str, Any] = {
            "formatVersion": 1,
            "passTypeIdentifier": settings.wallet_type_id,
            "teamIdentifier": settings.wallet_team_id,
            "serialNumber": membership.serial,
            "organizationName": settings.wallet_organization,
            "description": f"{settings.wallet_organization} {membership.tier} {number}",
            "logoText": settings.wallet_organization,
            "foregroundColor": "rgb(255, 255, 255)",
            "backgroundColor": f"rgb{WINE}",
            "labelColor": f"rgb{GOLD}",
            "sharingProhibited": True,
            "generic": {
                "primaryFields": [{"key": "member", "label": "MEMBER", "value": number}],
                "secondaryFields": [
                    {"key": "tier", "label": "TIER", "value": membership.tier.upper()},
                    {"key": "year", "label": "YEAR", "value": membership.year},
                ],
                "backFields": [{"key": "serial", "label": "SERIAL", "value": membership.serial}],
            },
            "barcodes": [
                {
                    "format": "PKBarcodeFormatQR",
                    "message": self._barcodes.message(membership),
                    "messageEncoding": "iso-8859-1",
                    "altText": number,
                }
            ],
        }
        if membership.revoked_at is not None:
            told["voided"] = True
        # Wallets refuse a pass whose web service is not https, and so a pass without one is better.
        if settings.public_url.lower().startswith("https://"):
            mount = "" if settings.compat_mounts else "/api/v1"
            told["webServiceURL"] = f"{settings.public_url.rstrip('/')}{mount}/wallet"
            told["authenticationToken"] = self._tokens.token(membership.id)
        return told


class Passes:
    """The passes of one worker, kept while they are wanted."""

    def __init__(self, settings: Settings, crew: Crew) -> None:
        self._settings, self._crew = settings, crew
        self._press: Press | None = None
        self._signing = asyncio.Semaphore(SIGNING_MAX)
        self._made: OrderedDict[tuple[str, datetime], asyncio.Task[Pass | None]] = OrderedDict()

    async def of(self, membership: Membership) -> Pass:
        """The pass of a membership as it is now. Raises `Retryable`."""
        key = membership.id, membership.changed_at
        task = self._made.get(key)
        if task is None:
            task = self._made[key] = self._crew.start(self._make(membership), "pass")
            while len(self._made) > KEPT_MAX:
                self._made.popitem(last=False)
        self._made.move_to_end(key)
        made = await asyncio.shield(task)  # others wait for it too
        if made is None:
            raise Retryable("Passes cannot be signed now")
        return made

    async def _make(self, membership: Membership) -> Pass | None:
        made = None
        try:
            async with self._signing:
                made = await asyncio.to_thread(self._work, membership)
        except Misconfigured as why:  # since the start, where it was looked at
            log.error("passes.misconfigured", why=str(why))  # noqa: TRY400  # it says all there is
        finally:
            if made is None:  # the next one tries again
                self._made.pop((membership.id, membership.changed_at), None)
        return made

    def _work(self, membership: Membership) -> Pass:
        if self._press is None:  # two threads may both do this, and find the same
            self._press = Press(self._settings)
        return self._press.make(membership)


def _zipped(files: dict[str, bytes]) -> bytes:
    """A zip of files, the same for the same."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, data in sorted(files.items()):
            told = zipfile.ZipInfo(name, DAWN)
            told.external_attr = 0o644 << 16
            archive.writestr(told, data, zipfile.ZIP_DEFLATED)
    return made.getvalue()
