"""What clients see of devices and encounters: Structs in camelCase."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, UnsetType

from engine.infra.describe import Id, Moment, shown
from engine.infra.http import iso
from engine.membership.device_store import Device
from engine.membership.encounter_store import Encounter


class ChallengeView(msgspec.Struct, rename="camel"):
    """What a device signs to prove that it has its key."""

    challenge: Annotated[str, shown(examples=["vrd_1767225600000_…"])]
    expires_at: Moment


class DeviceView(msgspec.Struct, rename="camel"):
    """A device of a membership; the active one was not revoked."""

    id: Id
    membership_id: Id
    device_id: str
    public_key: str
    registered_at: Moment
    revoked_at: Moment | None


class BegunView(msgspec.Struct, rename="camel"):
    """A reforge that waits for its link to be used. Only the mail has that."""

    status: Literal["PENDING"]
    reforge_id: Id
    message: str


class ConfirmedView(msgspec.Struct, rename="camel"):
    """A membership that moved."""

    status: Literal["CONFIRMED"]
    membership_id: Id
    new_device_id: str


class EncounterView(msgspec.Struct, rename="camel"):
    """Two members who met. Where, in lists alone."""

    id: Id
    initiator_id: Id
    receiver_id: Id
    encountered_at: Moment
    verified_at: Moment
    lat: Annotated[float | None | UnsetType, shown(minimum=-90, maximum=90)] = UNSET
    lng: Annotated[float | None | UnsetType, shown(minimum=-180, maximum=180)] = UNSET


class VerifiedView(msgspec.Struct, rename="camel"):
    """An encounter that was recorded."""

    status: Literal["VERIFIED"]
    encounter: EncounterView


def device_view(device: Device) -> DeviceView:
    """One device."""
    return DeviceView(
        device.id,
        device.membership_id,
        device.device_id,
        device.public_key,
        iso(device.registered_at),
        None if device.revoked_at is None else iso(device.revoked_at),
    )


def confirmed_view(device: Device) -> ConfirmedView:
    """The one that a membership moved to."""
    return ConfirmedView("CONFIRMED", device.membership_id, device.device_id)


def encounter_view(encounter: Encounter) -> EncounterView:
    """One encounter."""
    return EncounterView(
        encounter.id,
        encounter.initiator_id,
        encounter.receiver_id,
        iso(encounter.encountered_at),
        iso(encounter.verified_at),
    )


def listed_view(encounter: Encounter) -> EncounterView:
    """One in a list of its members' own."""
    place = {"lat": encounter.latitude, "lng": encounter.longitude}
    return msgspec.structs.replace(encounter_view(encounter), **place)
