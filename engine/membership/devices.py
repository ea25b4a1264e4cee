"""Devices: the first one of a membership proves that it has its key.

    challenge: an HMAC of membership and time ─▶ the device signs it ─▶ registered

Nothing is kept of a challenge. It opens for five minutes, by Postgres's clock.
"""

from __future__ import annotations

import hmac
import re
from datetime import datetime, timedelta
from functools import cached_property

import msgspec

from engine.infra.errors import NotFound
from engine.infra.ids import new_id
from engine.infra.postgres import Session
from engine.infra.settings import Settings
from engine.membership import device_store as store
from engine.membership import p256
from engine.membership.device_store import Device, Member
from engine.membership.errors import AlreadyRegistered, NotTheirs
from engine.record import keys

LIFE = timedelta(minutes=5)
FORM = re.compile(r"vrd_([1-9][0-9]{12,14})_([0-9a-f]{64})")


class Wish(msgspec.Struct, frozen=True):
    """A device that wants to be a membership's."""

    membership: str
    buyer: str | None  # None: for whoever has it
    device: str
    key: str  # as `p256.read` gives it
    challenge: str
    signature: bytes


class Challenges:
    """Makes challenges, and knows its own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def _secrets(self) -> list[bytes]:
        return keys.in_order(self._settings)

    def make(self, membership: str, now: datetime) -> tuple[str, datetime]:
        """A challenge for a membership, and until when it opens."""
        until = now + LIFE
        ms = int(until.timestamp() * 1000)
        return f"vrd_{ms}_{_mac(self._secrets[0], membership, ms)}", until

    def holds(self, challenge: str, membership: str, now: datetime) -> bool:
        """Whether it is one of ours for that membership, and not too old."""
        form = FORM.fullmatch(challenge)
        if form is None or int(form[1]) <= now.timestamp() * 1000:
            return False
        macs = (_mac(secret, membership, int(form[1])) for secret in self._secrets)
        return any(hmac.compare_digest(mac, form[2]) for mac in macs)


def _mac(secret: bytes, membership: str, until_ms: int) -> str:
    text = f"velvetrope device challenge\0{membership}\0{until_ms}"
    return hmac.new(secret, text.encode(), "sha256").hexdigest()


def proof(membership: str, device: str, challenge: str) -> bytes:
    """What a device signs: four lines, none of which can hold a line break."""
    return "\n".join(("velvetrope device v1", membership, device, challenge)).encode()


def check_member(member: Member | None, buyer: str | None) -> Member:
    """Raise `NotFound`, and `NotTheirs` unless a membership is this buyer's, and lives."""
    if member is None:
        raise NotFound("Membership not found")
    if buyer is not None and buyer != member.buyer:
        raise NotTheirs("Membership does not belong to this user")
    if member.revoked:
        raise NotTheirs("Membership has been revoked")
    return member


async def register(session: Session, challenges: Challenges, wish: Wish) -> tuple[Device, bool]:
    """Make a device its membership's first; and whether it was not yet. Raises `NotFound`,
    `NotTheirs`, `AlreadyRegistered`."""
    member = await store.lock_member(session, wish.membership)
    member = check_member(member, wish.buyer)
    if not challenges.holds(wish.challenge, wish.membership, member.now):
        raise NotTheirs("The challenge is not ours for this membership, or is too old")
    signed = proof(wish.membership, wish.device, wish.challenge)
    if not p256.is_signed(wish.key, wish.signature, signed):
        raise NotTheirs("The signature is not this key's over this challenge")
    active = await store.find_active_device(session, wish.membership)
    if active is None:
        made = await store.insert_device(session, new_id(), wish.membership, wish.device, wish.key)
        return made, True
    if (active.device_id, active.public_key) != (wish.device, wish.key):
        raise AlreadyRegistered
    return active, False
