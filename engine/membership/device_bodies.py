"""What clients send for devices and encounters: every name of a field, and every check."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType, field

from engine.infra.describe import shown
from engine.infra.errors import Invalid
from engine.infra.http import decoder, either, invalid
from engine.infra.ids import parse_id
from engine.membership import p256
from engine.membership.encounters import TOKEN_MAX
from engine.sale.bodies import Name, Text

DEVICE_MAX = 200
CHALLENGE_MAX = 100
SIGNATURE_MAX = 100
LINK_MAX = 200
DeviceName = Annotated[
    Text,
    shown(
        "What the device calls itself.",
        minLength=1,
        maxLength=DEVICE_MAX,
        format="printable",
        examples=["6f1c-phone"],
    ),
]
EXAMPLE = (
    "-----BEGIN PUBLIC KEY-----\n"
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt\n"
    "6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q==\n"
    "-----END PUBLIC KEY-----\n"
)
PublicKey = Annotated[
    Text,
    shown("PEM (SPKI) of a P-256 key.", minLength=100, maxLength=p256.PEM_MAX, examples=[EXAMPLE]),
]


class ChallengeBody(msgspec.Struct):
    """For whose membership."""

    user_id: Name = field(name="userId", default=UNSET)
    user_id_snake: Name = field(name="user_id", default=UNSET)

    @property
    def buyer(self) -> str | int | None:
        """The user it names, under either name."""
        named: str | int | None = either("userId", self.user_id, self.user_id_snake)
        return named


class DeviceBody(ChallengeBody):
    """A device, its key, and the proof that it has it."""

    device_id: DeviceName = field(name="deviceId", default=UNSET)
    device_id_snake: Text = field(name="device_id", default=UNSET)
    public_key: PublicKey = field(name="publicKey", default=UNSET)
    public_key_snake: Text = field(name="public_key", default=UNSET)
    challenge: Annotated[
        Text, shown(minLength=1, maxLength=CHALLENGE_MAX, examples=["vrd_1767225600000_…"])
    ] = UNSET
    signature: Annotated[
        Text,
        shown(
            "ES256 in base64url: r and s, 64 bytes, or DER.",
            minLength=1,
            maxLength=SIGNATURE_MAX,
            pattern="^[A-Za-z0-9_=-]+$",
            examples=["MEUCIQDx"],
        ),
    ] = UNSET

    @property
    def device(self) -> str:
        """What it calls itself."""
        return _device("deviceId", self.device_id, self.device_id_snake)

    @property
    def key(self) -> str:
        """Its key, as it is kept."""
        return p256.read(_text("publicKey", self.public_key, self.public_key_snake))

    @property
    def proof(self) -> tuple[str, bytes]:
        """The challenge, and its signature."""
        challenge, text = _text("challenge", self.challenge), _text("signature", self.signature)
        if len(challenge) > CHALLENGE_MAX:
            raise invalid("challenge", f"want 1 to {CHALLENGE_MAX} characters")
        signature = p256.unpacked(text) if len(text) <= SIGNATURE_MAX else None
        if signature is None:
            raise invalid("signature", "want base64url")
        return challenge, signature


class ReforgeBody(ChallengeBody):
    """Which membership is to move, and from which device to which."""

    membership_id: Annotated[Text, shown(format="uuid")] = field(name="membershipId", default=UNSET)
    membership_id_snake: Text = field(name="membership_id", default=UNSET)
    old_device_id: DeviceName = field(name="oldDeviceId", default=UNSET)
    old_device_id_snake: Text = field(name="old_device_id", default=UNSET)
    new_device_id: DeviceName = field(name="newDeviceId", default=UNSET)
    new_device_id_snake: Text = field(name="new_device_id", default=UNSET)
    new_public_key: PublicKey = field(name="newPublicKey", default=UNSET)
    new_public_key_snake: Text = field(name="new_public_key", default=UNSET)

    @property
    def membership(self) -> str | None:
        """Which one; None for what can be none."""
        return parse_id(_text("membershipId", self.membership_id, self.membership_id_snake))

    @property
    def devices(self) -> tuple[str, str]:
        """The old one, and the new one."""
        return (
            _device("oldDeviceId", self.old_device_id, self.old_device_id_snake),
            _device("newDeviceId", self.new_device_id, self.new_device_id_snake),
        )

    @property
    def key(self) -> str:
        """The new one's key, as it is kept."""
        given = _text("newPublicKey", self.new_public_key, self.new_public_key_snake)
        return p256.read(given, "newPublicKey")


class LinkBody(msgspec.Struct):
    """What stands in a link that was mailed."""

    token: Annotated[Text, shown(minLength=1, maxLength=LINK_MAX, examples=["vrf_…"])] = UNSET

    @property
    def word(self) -> str:
        """The token."""
        return _one("reforge", self.token, LINK_MAX)


class EncounterBody(msgspec.Struct):
    """An encounter, signed by the initiator's device."""

    token: Annotated[
        Text, shown("A JWT.", minLength=1, maxLength=TOKEN_MAX, examples=["eyJhbGciOiJFUzI1NiJ9.…"])
    ] = UNSET

    @property
    def word(self) -> str:
        """The token."""
        return _one("encounter", self.token, TOKEN_MAX)


def _one(of: str, given: str | UnsetType, most: int) -> str:
    if not given:
        said = [{"field": "token", "problem": "required"}]
        raise Invalid(f"Missing {of} token", fields=said)
    if len(given) > most:
        raise invalid("token", f"want 1 to {most} characters")
    return given


def _text(field: str, *values: str | UnsetType) -> str:
    text: str | None = either(field, *values)
    if not text:
        raise invalid(field, "required")
    return text


def _device(field: str, *values: str | UnsetType) -> str:
    text = _text(field, *values)
    if len(text) > DEVICE_MAX or not text.isprintable():
        raise invalid(field, f"want 1 to {DEVICE_MAX} printable characters")
    return text


challenge_body = decoder(ChallengeBody)
device_body = decoder(DeviceBody)
reforge_body = decoder(ReforgeBody)
link_body = decoder(LinkBody)
encounter_body = decoder(EncounterBody)
