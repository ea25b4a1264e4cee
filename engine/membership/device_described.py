"""What the document says of devices: what each route wants, answers and refuses."""

from __future__ import annotations

from engine.infra.describe import PAGED, About, Body, BuyerId, Query
from engine.infra.errors import NotFound
from engine.infra.lists import Listing
from engine.membership.device_bodies import ChallengeBody, DeviceBody, LinkBody, ReforgeBody
from engine.membership.device_views import BegunView, ChallengeView, ConfirmedView, DeviceView
from engine.membership.errors import AlreadyRegistered, Failed, LinkExpired, NotTheirs, Unreadable

PRINTED = (NotTheirs, Unreadable, Failed)
CHALLENGE = About(
    "Membership",
    "membership",
    counted="write",
    body=Body(ChallengeBody),
    answers={200: ChallengeView},
    refusals=PRINTED,
)
REGISTER = About(
    "Membership",
    "membership",
    counted="write",
    keyed=True,
    body=Body(DeviceBody, ("deviceId", "publicKey", "challenge", "signature")),
    answers={201: DeviceView, 200: DeviceView},
    refusals=(AlreadyRegistered, *PRINTED),
)
DEVICES = About(
    "Membership",
    "membership",
    query=(Query("userId", BuyerId, "Whose membership it is; a token says it."), *PAGED),
    answers={200: Listing[DeviceView]},
    refusals=PRINTED,
)
BEGIN = About(
    "Membership",
    "membership",
    counted="write",
    keyed=True,
    body=Body(
        ReforgeBody, ("membershipId", "userId", "oldDeviceId", "newDeviceId", "newPublicKey")
    ),
    answers={202: BegunView},
    refusals=(NotFound, *PRINTED),
)
CONFIRM = About(
    "Membership",
    "anybody",
    counted="write",
    keyed=True,
    body=Body(LinkBody, ("token",)),
    answers={200: ConfirmedView},
    refusals=(NotFound, LinkExpired, *PRINTED),
)
