"""What the document says of the routes of users: what each wants, answers and refuses."""

from __future__ import annotations

from typing import Annotated

from engine.identity.errors import LastAdmin, UserExists, UserTaken, VersionConflict
from engine.identity.user_bodies import NewUserBody, UserChangeBody, WalletBody
from engine.identity.user_views import SeenView, ToldView, UserView
from engine.infra.describe import PAGED, About, Body, Query, Reply, shown
from engine.infra.errors import Forbidden, NotFound
from engine.infra.lists import Listing

FULL = Reply(UserView, headers={"ETag": 'The version, for If-Match: `"4"`.'})
PrivyId = Annotated[str, shown(minLength=1, maxLength=200, examples=["did:privy:ann"])]
WalletId = Annotated[
    str,
    shown(pattern="^0x[0-9a-fA-F]{40}$", examples=["0x52908400098527886E0F7030069857D2E4169EE7"]),
]
IF_MATCH = Query(
    "If-Match",
    Annotated[str, shown(pattern='^(W/)?"?[0-9]{1,9}"?$', examples=['"4"'])],
    "The version, instead of one in the body.",
    place="header",
)
ERASE = Query(
    "erase",
    Annotated[str, shown(enum=["true", "false", "1", "0"])],
    "true: and take out whatever is personal, for good.",
)

LIST = About("Accounts", "identity", query=PAGED, answers={200: Listing[UserView]})
FIRST = About("Accounts", "identity", answers={200: UserView}, refusals=(NotFound,))
CREATE = About(
    "Accounts",
    "identity",
    counted="admin",
    keyed=True,
    body=Body(NewUserBody, ("privyId",)),
    answers={201: FULL},
    refusals=(UserTaken,),
    leads_to=("show_user", "change_user", "delete_user"),
)
SHOW = About(
    "Accounts",
    "sale:read",
    answers={200: Reply(SeenView, headers={f"{it}?": said for it, said in FULL.headers.items()})},
    refusals=(NotFound,),
)
BY_PRIVY = About("Accounts", "identity", id=PrivyId, answers={200: FULL})
BY_WALLET = About("Accounts", "identity", id=WalletId, answers={200: FULL})
CHANGE = About(
    "Accounts",
    "identity",
    counted="admin",
    keyed=True,
    query=(IF_MATCH,),
    body=Body(UserChangeBody),
    answers={200: FULL},
    refusals=(VersionConflict, UserExists, LastAdmin, Forbidden),
)
WALLET = About(
    "Accounts",
    "identity",
    counted="admin",
    keyed=True,
    body=Body(WalletBody, ("walletAddress",)),
    answers={200: FULL},
    refusals=(UserExists,),
)
ACTIVITY = About("Accounts", "identity", counted="admin", keyed=True, answers={200: ToldView})
DELETE = About(
    "Accounts",
    "identity",
    counted="admin",
    keyed=True,
    query=(ERASE,),
    answers={200: ToldView},
    refusals=(LastAdmin,),
)
