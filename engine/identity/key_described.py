"""Bodies and answers of the routes of API keys, and what the document says of them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, UnsetType, field

from engine.identity.apikeys import DAYS_MAX, NAME_LENGTH_MAX, Issued
from engine.identity.store import ListedKey
from engine.infra.describe import PAGED, About, Body, Id, Moment, shown
from engine.infra.errors import NotFound
from engine.infra.http import decoder, either, invalid, iso
from engine.infra.lists import Listing

GRACE_SECONDS_MAX = 2_592_000  # thirty days

Scope = Literal["sale:read", "sale:write", "identity", "membership", "metrics", "admin"]
Days = Annotated[
    int | None | UnsetType,
    shown("It ends after so many days.", minimum=1, maximum=DAYS_MAX, examples=[90]),
]


class KeyBody(msgspec.Struct):
    """A key to be made."""

    name: Annotated[
        str | UnsetType,
        shown(
            "Whose it is, for people.",
            minLength=1,
            maxLength=NAME_LENGTH_MAX,
            format="printable",
            examples=["my shop"],
        ),
    ] = UNSET
    scopes: Annotated[
        list[Scope] | UnsetType, shown(minItems=1, examples=[["sale:read", "sale:write"]])
    ] = UNSET
    expires_in_days: Days = field(name="expiresInDays", default=UNSET)
    expires_in_days_snake: int | None | UnsetType = field(name="expires_in_days", default=UNSET)
    must_sign: Annotated[
        bool | UnsetType, shown("Its every request must be signed: see docs/SIGNING.md.")
    ] = field(name="mustSign", default=UNSET)
    must_sign_snake: bool | UnsetType = field(name="must_sign", default=UNSET)

    @property
    def terms(self) -> tuple[str, list[str], int | None, bool]:
        """Name, scopes, days and whether it must sign."""
        if self.name is UNSET:
            raise invalid("name", "required")
        if self.scopes is UNSET or not self.scopes:
            raise invalid("scopes", "required: want at least one")
        days: int | None = either("expiresInDays", self.expires_in_days, self.expires_in_days_snake)
        signs: bool | None = either("mustSign", self.must_sign, self.must_sign_snake)
        return self.name, list(dict.fromkeys(self.scopes)), days, bool(signs)


class RotateBody(msgspec.Struct):
    """How a key is exchanged for a new one."""

    grace_seconds: Annotated[
        int | UnsetType,
        shown("How long both work.", minimum=0, maximum=GRACE_SECONDS_MAX, default=0),
    ] = field(name="graceSeconds", default=UNSET)
    grace_seconds_snake: int | UnsetType = field(name="grace_seconds", default=UNSET)
    expires_in_days: Annotated[
        Days, shown("Without it the new one ends when the old one would have.")
    ] = field(name="expiresInDays", default=UNSET)
    expires_in_days_snake: int | None | UnsetType = field(name="expires_in_days", default=UNSET)

    @property
    def terms(self) -> tuple[int, int | None]:
        """Grace and days."""
        grace: int = either("graceSeconds", self.grace_seconds, self.grace_seconds_snake) or 0
        if not 0 <= grace <= GRACE_SECONDS_MAX:
            raise invalid("graceSeconds", f"want 0 to {GRACE_SECONDS_MAX}")
        days: int | None = either("expiresInDays", self.expires_in_days, self.expires_in_days_snake)
        return grace, days


class ApiKeyView(msgspec.Struct, rename="camel"):
    """A key without its secret. It is `live` until `revokedAt` or `expiresAt`, if there is one."""

    id: Id
    name: str
    prefix: Annotated[str, shown("The readable part: vr_<prefix>_…", examples=["1f2e3d4c5b6a"])]
    scopes: list[Scope]
    must_sign: bool
    created_at: Moment
    expires_at: Moment | None
    revoked_at: Moment | None
    live: bool


class IssuedView(msgspec.Struct, rename="camel"):
    """A new key. `apiKey` and `signingSecret` are shown this once."""

    id: Id
    name: str
    prefix: str
    scopes: list[Scope]
    must_sign: bool
    created_at: Moment
    expires_at: Moment | None
    api_key: Annotated[
        str,
        shown(
            "Sent as `X-API-Key`.",
            pattern="^vr_[0-9a-f]{12}_[0-9a-f]{64}$",
            examples=[f"vr_1f2e3d4c5b6a_{'5fec' * 16}"],
        ),
    ]
    signing_secret: Annotated[
        str | UnsetType,
        shown("Signs its requests.", pattern="^[0-9a-f]{64}$", examples=["c0de" * 16]),
    ] = UNSET


class RotatedView(IssuedView, rename="camel"):
    """A new key in place of another, and when that one ends."""

    old_ends_at: Annotated[Moment | UnsetType, shown("When the old one ends.")] = UNSET


def api_key_view(key: ListedKey) -> ApiKeyView:
    """A key as it is listed."""
    return ApiKeyView(
        key.id,
        key.name,
        key.prefix,
        key.scopes,  # type: ignore[arg-type]  # they were checked when it was made
        key.must_sign,
        iso(key.created_at),
        _iso(key.expires_at),
        _iso(key.revoked_at),
        key.live,
    )


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else iso(moment)


def issued_view(
    made: Issued, secret: str | None, old_ends_at: datetime | None = None
) -> RotatedView:
    """A key as it is shown once; also when the one ends whose place it takes."""
    return RotatedView(
        made.id,
        made.name,
        made.prefix,
        made.scopes,  # type: ignore[arg-type]  # they were checked
        made.must_sign,
        iso(made.created_at),
        _iso(made.expires_at),
        made.key,
        secret or UNSET,
        UNSET if old_ends_at is None else iso(old_ends_at),
    )


key_body = decoder(KeyBody)
rotate_body = decoder(RotateBody)

LIST_KEYS = About(
    "Operators", "admin", counted="admin", query=PAGED, answers={200: Listing[ApiKeyView]}
)
CREATE_KEY = About(
    "Operators",
    "admin",
    counted="admin",
    body=Body(KeyBody, ("name", "scopes")),
    answers={201: IssuedView},
    leads_to=("rotate_api_key", "revoke_api_key"),
)
ROTATE_KEY = About(
    "Operators",
    "admin",
    counted="admin",
    body=Body(RotateBody),
    answers={201: RotatedView},
    refusals=(NotFound,),
)
REVOKE_KEY = About("Operators", "admin", counted="admin", keyed=True, answers={200: ApiKeyView})
