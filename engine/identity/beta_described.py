"""What the document says of the routes of the private beta."""

from __future__ import annotations

from typing import Final

from engine.identity.beta_bodies import (
    BetaKeyView,
    BulkBody,
    BulkView,
    DebugView,
    EmailBody,
    KeyBody,
    ToldKeyView,
    ValidityView,
    VerifyBody,
)
from engine.identity.errors import EmailRegistered, KeyUnknown, KeyUsed
from engine.infra.describe import PAGED, About, Body
from engine.infra.errors import NotFound
from engine.infra.lists import Listing

TAG: Final = "Private beta"
CREATE = About(TAG, "identity", counted="admin", keyed=True, answers={201: ToldKeyView})
CREATE_MANY = About(
    TAG,
    "identity",
    counted="admin",
    keyed=True,
    body=Body(BulkBody, ("count",)),
    answers={201: BulkView},
)
UNUSED = About(TAG, "identity", query=PAGED, answers={200: Listing[BetaKeyView]})
USERS = About(TAG, "admin", query=PAGED, answers={200: Listing[BetaKeyView]})
DEBUG = About(TAG, "admin", query=PAGED, answers={200: DebugView})
VERIFY = About(
    TAG,
    "anybody",
    counted="write",
    keyed=True,
    body=Body(VerifyBody, ("referralKey", "userEmail")),
    answers={200: ToldKeyView},
    refusals=(KeyUnknown, KeyUsed, EmailRegistered),
)
CHECK = About(
    TAG,
    "anybody",
    counted="write",
    body=Body(KeyBody, ("referralKey",)),
    answers={200: ValidityView},
    refusals=(KeyUnknown,),
)
STATUS = About(
    TAG,
    "identity",
    counted="write",
    body=Body(EmailBody, ("userEmail",)),
    answers={200: ToldKeyView},
    refusals=(NotFound,),
)
