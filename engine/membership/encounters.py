"""Encounters: two members who met, by a token (JWT, ES256) that the initiator's device signed.

sub   the initiator's membership        jti       its own name; it counts once
aud   the receiver's (first of a list)  iat       when; 300 seconds long
exp   nbf  honoured, if there           lat  lng  where, both or neither

The key is read each time: one that was moved away by a reforge opens nothing any more.
"""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from engine.infra.ids import new_id, parse_id
from engine.infra.postgres import Session
from engine.membership import encounter_store as store
from engine.membership import p256
from engine.membership.encounter_store import Encounter, Judged, Meeting
from engine.membership.errors import NotTheirs, Replayed

TOKEN_MAX = 4_096  # characters
AGE_SECONDS = 300.0
AHEAD_SECONDS = 5.0  # that another's clock may be
FORM = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
MISSING = re.compile(r"Object missing required field `(\w+)`.*")
JTI_MAX = 200
YEAR_9999 = 253_402_300_799.0

Seconds = Annotated[float, Meta(ge=0, le=YEAR_9999)]


class _Header(msgspec.Struct):
    alg: str
    crit: msgspec.Raw | UnsetType = UNSET


class _Claims(msgspec.Struct):
    jti: Annotated[str, Meta(min_length=1, max_length=JTI_MAX)]
    sub: str
    aud: str | Annotated[list[str], Meta(min_length=1)]
    iat: Seconds
    exp: Seconds = YEAR_9999
    nbf: Seconds = 0.0
    lat: Annotated[float, Meta(ge=-90, le=90)] | None = None
    lng: Annotated[float, Meta(ge=-180, le=180)] | None = None


_header, _claims = msgspec.json.Decoder(_Header).decode, msgspec.json.Decoder(_Claims).decode


class Token(msgspec.Struct, frozen=True):
    """A token that can be read; whether it is signed is not known yet."""

    meeting: Meeting
    expires: float
    begins: float
    signed: bytes
    signature: bytes


def read(token: str) -> Token:
    """What a token says. Raises `NotTheirs`."""
    form = FORM.fullmatch(token) if len(token) <= TOKEN_MAX else None
    parts = [p256.unpacked(part) for part in form.groups()] if form else []
    if form is None or None in parts:
        raise _failed("not a token")
    header, claims, signature = (part or b"" for part in parts)
    try:
        head = _header(header)
        if head.alg != "ES256" or head.crit is not UNSET or len(signature) != p256.RAW_BYTES:
            raise _failed("not signed by ES256")
        said = _claims(claims)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as wrong:
        raise _failed(_told(wrong)) from None
    return Token(
        _meeting(said),
        said.exp,
        said.nbf,
        token.rpartition(".")[0].encode(),
        signature,
    )


def _told(wrong: Exception) -> str:
    if not isinstance(wrong, msgspec.ValidationError):
        return "not JSON"
    missing = MISSING.fullmatch(str(wrong))
    return f"the claim {missing[1]} is missing" if missing else f"a claim is wrong: {wrong}"


def _meeting(said: _Claims) -> Meeting:
    aud = said.aud if isinstance(said.aud, str) else said.aud[0]
    initiator, receiver = parse_id(said.sub), parse_id(aud)
    if not said.jti.isprintable():
        raise _failed("jti cannot be printed")
    if initiator is None or receiver is None:
        raise _failed("sub and aud name memberships")
    if initiator == receiver:
        raise _failed("nobody meets himself")
    if (said.lat is None) != (said.lng is None):
        raise _failed("lat and lng come together")
    return Meeting(
        jti=said.jti,
        initiator=initiator,
        receiver=receiver,
        iat=said.iat,
        latitude=said.lat,
        longitude=said.lng,
    )


async def verify(session: Session, token: Token, server_key: str, buyer: str | None) -> Encounter:
    """Record what a token says. `server_key` is the key of members without a device, `buyer` who
    must be one of the two (None: anybody). Raises `NotTheirs`, `Replayed`."""
    meeting = token.meeting
    known = await store.find_encounter_key(session, meeting.initiator)
    key = known.public_key or server_key
    if not key:
        raise _failed("the initiator has no active device")
    if not p256.is_signed(key, token.signature, token.signed):
        raise _failed("the signature is not the initiator's device's")
    _check_age(token, known.now.timestamp())
    return _judge(await store.record_encounter(session, new_id(), meeting, known.device, buyer))


def _check_age(token: Token, now: float) -> None:
    issued = token.meeting.iat
    if issued > now + AHEAD_SECONDS:
        raise _failed("issued in the future")
    if now - issued > AGE_SECONDS:
        raise _failed(f"older than {AGE_SECONDS:g} seconds")
    if token.expires <= now:
        raise _failed("expired")
    if token.begins > now + AHEAD_SECONDS:
        raise _failed("not valid yet")


def _judge(judged: Judged) -> Encounter:
    if judged.encounter is not None:
        return judged.encounter
    if not judged.theirs:
        raise NotTheirs("This encounter is neither of your memberships'")
    if judged.known:
        raise Replayed
    if not judged.initiator_lives:
        raise NotTheirs("Initiator membership not found or revoked")
    if not judged.same_device:  # it moved while we looked
        raise _failed("the signature is not the initiator's device's")
    if not judged.receiver_lives:
        raise NotTheirs("Receiver membership not found or revoked")
    raise Replayed  # by one that was recorded while we looked


def _failed(reason: str) -> NotTheirs:
    return NotTheirs(f"Encounter verification failed: {reason}")
