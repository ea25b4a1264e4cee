"""What clients send about sessions: every name a field goes by, and every check it must pass."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType, field

from engine.identity.models import Device
from engine.infra.describe import shown
from engine.infra.errors import Invalid
from engine.infra.http import Call, decoder, either, invalid

PLATFORMS = ("ios", "android", "web")
TEXT_MAX, PUSH_TOKEN_MAX, KEY_MAX = 200, 4_096, 128
DAYS_MAX = 365
USER_MISSING = "User ID is required and must be a string"
DEVICE_MISSING = "Device ID is required and must be a string"
PLATFORM_WRONG = 'Platform must be either "ios", "android", or "web"'
PUSH_MISSING = "Push token is required and must be a string"

Given = str | None | UnsetType
Note = Annotated[Given, shown(minLength=1, maxLength=TEXT_MAX, format="printable")]
Push = Annotated[Given, shown(minLength=1, maxLength=PUSH_TOKEN_MAX, format="printable")]
Days = Annotated[int | None | UnsetType, shown(minimum=1, maximum=DAYS_MAX, default=30)]


def text_of(name: str, *given: Any, most: int = TEXT_MAX) -> str | None:
    """A short text under one of its names. Raises `Invalid`."""
    text: str | None = either(name, *given)
    if text is not None and not (1 <= len(text) <= most and text.isprintable()):
        raise invalid(name, f"want 1 to {most} printable characters")
    return text


def _days(name: str, *given: Any) -> int | None:
    days: int | None = either(name, *given)
    if days is not None and not 1 <= days <= DAYS_MAX:
        raise invalid(name, f"want 1 to {DAYS_MAX}, whole days")
    return days


def _said(field: str, sentence: str) -> Invalid:
    return Invalid(sentence, fields=[{"field": field, "problem": sentence}])


class ChangeBody(msgspec.Struct):
    """What a device says of itself; what is not said stays."""

    device_name: Note = field(name="deviceName", default=UNSET)
    device_name_snake: Given = field(name="device_name", default=UNSET)
    device_model: Note = field(name="deviceModel", default=UNSET)
    device_model_snake: Given = field(name="device_model", default=UNSET)
    os_version: Note = field(name="osVersion", default=UNSET)
    os_version_snake: Given = field(name="os_version", default=UNSET)
    app_version: Note = field(name="appVersion", default=UNSET)
    app_version_snake: Given = field(name="app_version", default=UNSET)
    push_token: Push = field(name="pushToken", default=UNSET)
    push_token_snake: Given = field(name="push_token", default=UNSET)

    @property
    def changes(self) -> dict[str, str | None]:
        """By column; None: nothing new."""
        return {
            "device_name": text_of("deviceName", self.device_name, self.device_name_snake),
            "device_model": text_of("deviceModel", self.device_model, self.device_model_snake),
            "os_version": text_of("osVersion", self.os_version, self.os_version_snake),
            "app_version": text_of("appVersion", self.app_version, self.app_version_snake),
            "push_token": self.push,
        }

    @property
    def push(self) -> str | None:
        """The push token."""
        given = self.push_token, self.push_token_snake
        return text_of("pushToken", *given, most=PUSH_TOKEN_MAX)

    @property
    def pushed(self) -> dict[str, str | None]:
        """The push token alone, which has to be there."""
        if (push := self.push) is None:
            raise _said("pushToken", PUSH_MISSING)
        return {**NOTHING, "push_token": push}


NOTHING: dict[str, str | None] = dict.fromkeys(
    ("device_name", "device_model", "os_version", "app_version", "push_token")
)


class EnterBody(ChangeBody):
    """Whose session it is to be, and on which device."""

    user_id: Annotated[Given, shown(format="uuid")] = field(name="userId", default=UNSET)
    user_id_snake: Given = field(name="user_id", default=UNSET)
    device_id: Note = field(name="deviceId", default=UNSET)
    device_id_snake: Given = field(name="device_id", default=UNSET)
    platform: Annotated[Given, shown(enum=list(PLATFORMS))] = UNSET
    idempotency_key: Annotated[Given, shown(minLength=1, maxLength=KEY_MAX, format="printable")] = (
        field(name="idempotencyKey", default=UNSET)
    )
    idempotency_key_snake: Given = field(name="idempotency_key", default=UNSET)
    expires_in_days: Days = field(name="expiresInDays", default=UNSET)
    expires_in_days_snake: int | None | UnsetType = field(name="expires_in_days", default=UNSET)

    @property
    def named(self) -> str | None:
        """The user that it names."""
        named: str | None = either("userId", self.user_id, self.user_id_snake)
        return named

    @property
    def days(self) -> int | None:
        """How long it lives; None: as long as any."""
        return _days("expiresInDays", self.expires_in_days, self.expires_in_days_snake)

    @property
    def key(self) -> str | None:
        """Its own name of the request; the header says the same."""
        return text_of(
            "idempotencyKey", self.idempotency_key, self.idempotency_key_snake, most=KEY_MAX
        )

    def device(self, address: str | None) -> Device:
        """The device, at an address."""
        id = text_of("deviceId", self.device_id, self.device_id_snake)
        if id is None:
            raise _said("deviceId", DEVICE_MISSING)
        if self.platform not in PLATFORMS:
            raise _said("platform", PLATFORM_WRONG)
        return Device(id, str(self.platform), ip_address=address, **self.changes)


class ExtendBody(msgspec.Struct):
    """By how much a session is to live longer."""

    additional_days: Days = field(name="additionalDays", default=UNSET)
    additional_days_snake: int | None | UnsetType = field(name="additional_days", default=UNSET)

    @property
    def days(self) -> int:
        """Whole days."""
        return _days("additionalDays", self.additional_days, self.additional_days_snake) or 30


class EndBody(msgspec.Struct):
    """Why a session ends, in a word."""

    reason: Annotated[Given, shown(minLength=1, maxLength=TEXT_MAX, format="printable")] = UNSET

    def why(self, otherwise: str) -> str:
        """The word, or another."""
        return text_of("reason", self.reason) or otherwise


def body_key(call: Call, body: EnterBody) -> str | None:
    """The key that the body names; what the header names must be the same."""
    key, header = body.key, call.idempotency_key()
    if key is not None and header is not None and key != header:
        raise invalid("idempotencyKey", "the header Idempotency-Key says another one")
    return key


enter_body = decoder(EnterBody)
change_body = decoder(ChangeBody)
extend_body = decoder(ExtendBody)
end_body = decoder(EndBody)
