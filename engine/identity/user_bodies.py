"""What clients send about accounts: every name a field goes by, and every check it must pass."""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType, field

from engine.identity.user_store import NewUser
from engine.infra.describe import shown
from engine.infra.http import Call, decoder, either, invalid

# What a mail's header takes for one address, and that one: no groups, comments or encoded words.
_ATOM = r"[\w!#$%&'*+/=?^`{|}~-]+"
EMAIL = re.compile(rf"(?!.*=\?){_ATOM}(?:\.{_ATOM})*@[\w-]+(?:\.[\w-]+)+")
USERNAME = re.compile(r"[A-Za-z0-9_.-]{3,30}")
WALLET = re.compile(r"0x[0-9a-fA-F]{40}")
IF_MATCH = re.compile(rb'(?:W/)?"?([0-9]{1,9})"?')
EMAIL_MAX, NAME_MAX, PRIVY_MAX, PHONE_MAX = 254, 64, 200, 32
VERSION_MAX = (1 << 31) - 1
NO_VERSION = (
    "required, in the body or as If-Match: the `version` of the user that this changes, so that "
    "nobody's change is lost"
)

Words = str | None | UnsetType
Email = Annotated[Words, shown(format="email", maxLength=EMAIL_MAX, examples=["ann@example.com"])]
Name = Annotated[Words, shown(minLength=1, maxLength=NAME_MAX, format="printable")]
Username = Annotated[Words, shown(pattern="^[A-Za-z0-9_.-]{3,30}$", examples=["ann_k"])]
Phone = Annotated[Words, shown(minLength=1, maxLength=PHONE_MAX, format="printable")]
Wallet = Annotated[
    Words,
    shown(pattern="^0x[0-9a-fA-F]{40}$", examples=["0x52908400098527886E0F7030069857D2E4169EE7"]),
]
Snake = Words


def email_of(given: str | None, name: str = "email") -> str | None:
    """An e-mail that can be one. Raises `Invalid`, in the words that others use for it."""
    if given is None:
        return None
    text = given.strip()
    if len(text) > EMAIL_MAX or not text.isprintable() or EMAIL.fullmatch(text) is None:
        raise invalid(name, "Invalid email format")
    return text


def name_of(given: str | None, name: str, most: int = NAME_MAX) -> str | None:
    """A name that others can read. Raises `Invalid`."""
    if given is not None and not (
        1 <= len(given) <= most and given.isprintable() and given == given.strip()
    ):
        raise invalid(name, f"want 1 to {most} printable characters, no space around them")
    return given


def username_of(given: str | None) -> str | None:
    """A name that everybody sees, and that cannot pass for another's, or for a pseudonym. Raises
    `Invalid`."""
    if given is not None and USERNAME.fullmatch(given) is None:
        raise invalid("username", "want 3 to 30 of: letters a to z, digits, _ . -")
    return given


def wallet_of(given: str | None) -> str | None:
    """A wallet's address. Raises `Invalid`."""
    if given is not None and WALLET.fullmatch(given) is None:
        raise invalid("walletAddress", "want 0x and 40 hex digits")
    return given


class NewUserBody(msgspec.Struct):
    """An account that somebody else vouches for: it has no password."""

    privy_id: Annotated[
        str | UnsetType, shown(minLength=1, maxLength=PRIVY_MAX, format="printable")
    ] = field(name="privyId", default=UNSET)
    privy_id_snake: str | UnsetType = field(name="privy_id", default=UNSET)
    email: Email = UNSET
    phone: Phone = UNSET
    username: Username = UNSET
    display_name: Name = field(name="displayName", default=UNSET)
    display_name_snake: Snake = field(name="display_name", default=UNSET)
    wallet_address: Wallet = field(name="walletAddress", default=UNSET)
    wallet_address_snake: Snake = field(name="wallet_address", default=UNSET)

    def user(self, id: str) -> NewUser:
        """The account, each part checked."""
        privy_id = name_of(
            either("privyId", self.privy_id, self.privy_id_snake), "privyId", PRIVY_MAX
        )
        if privy_id is None:
            raise invalid("privyId", "required")
        return NewUser(
            id=id,
            privy_id=privy_id,
            email=email_of(self.email or None),
            phone=name_of(self.phone or None, "phone", PHONE_MAX),
            username=username_of(self.username or None),
            display_name=name_of(
                either("displayName", self.display_name, self.display_name_snake), "displayName"
            ),
            wallet_address=wallet_of(
                either("walletAddress", self.wallet_address, self.wallet_address_snake)
            ),
        )


class UserChangeBody(msgspec.Struct):
    """What is to be another from now on; null takes it away. Role and status are for admins."""

    version: Annotated[int | UnsetType, shown(minimum=0, maximum=VERSION_MAX)] = UNSET
    email: Email = UNSET
    phone: Phone = UNSET
    username: Username = UNSET
    display_name: Name = field(name="displayName", default=UNSET)
    display_name_snake: Snake = field(name="display_name", default=UNSET)
    wallet_address: Wallet = field(name="walletAddress", default=UNSET)
    wallet_address_snake: Snake = field(name="wallet_address", default=UNSET)
    status: Annotated[str | UnsetType, shown(enum=["active", "suspended"])] = UNSET
    role: Annotated[str | UnsetType, shown(enum=["user", "admin"])] = UNSET
    current_password: Annotated[
        str | UnsetType, shown("Of who changes his own e-mail.", examples=["correct horse"])
    ] = field(name="currentPassword", default=UNSET)
    current_password_snake: str | UnsetType = field(name="current_password", default=UNSET)

    @property
    def proof(self) -> str | None:
        """The password that its owner knows."""
        given: str | None = either(
            "currentPassword", self.current_password, self.current_password_snake
        )
        return given

    def changes(self) -> dict[str, Any]:
        """What was sent, by its names in the API, each part checked."""
        given: dict[str, Any] = {
            "email": self.email,
            "phone": self.phone,
            "username": self.username,
            "displayName": _one_of("displayName", self.display_name, self.display_name_snake),
            "walletAddress": _one_of(
                "walletAddress", self.wallet_address, self.wallet_address_snake
            ),
            "status": self.status,
            "role": self.role,
        }
        given = {name: value for name, value in given.items() if value is not UNSET}
        if "email" in given:
            given["email"] = email_of(given["email"])
        name_of(given.get("phone"), "phone", PHONE_MAX)
        username_of(given.get("username"))
        name_of(given.get("displayName"), "displayName")
        wallet_of(given.get("walletAddress"))
        if given.get("status", "active") not in ("active", "suspended"):
            raise invalid("status", "want active or suspended; DELETE deletes")
        if given.get("role", "user") not in ("user", "admin"):
            raise invalid("role", "want user or admin")
        return given

    def of_version(self, call: Call) -> int:
        """Which version it changes. Raises `Invalid` if nobody says."""
        match = call.headers.get(b"if-match")
        if match is not None:
            found = IF_MATCH.fullmatch(match.strip())
            if found is None:
                raise invalid("If-Match", 'want the version, as in "4"')
            if self.version not in (UNSET, int(found[1])):
                raise invalid("version", "If-Match says another one")
            return int(found[1])
        if self.version is UNSET:
            raise invalid("version", NO_VERSION)
        if not 0 <= self.version <= VERSION_MAX:
            raise invalid("version", f"want 0 to {VERSION_MAX}")
        return self.version


class WalletBody(msgspec.Struct):
    """The wallet of an account."""

    wallet_address: Annotated[
        str | UnsetType,
        shown(
            pattern="^0x[0-9a-fA-F]{40}$", examples=["0x52908400098527886E0F7030069857D2E4169EE7"]
        ),
    ] = field(name="walletAddress", default=UNSET)
    wallet_address_snake: str | UnsetType = field(name="wallet_address", default=UNSET)

    @property
    def wallet(self) -> str:
        """Its address."""
        given = wallet_of(either("walletAddress", self.wallet_address, self.wallet_address_snake))
        if given is None:
            raise invalid("walletAddress", "required")
        return given


def _one_of(name: str, *values: Words) -> Words:
    """The one that was sent, null being a value."""
    sent = [value for value in values if value is not UNSET]
    if len(sent) > 1:
        raise invalid(name, "given twice, under two names")
    return sent[0] if sent else UNSET


new_user_body = decoder(NewUserBody)
change_body = decoder(UserChangeBody)
wallet_body = decoder(WalletBody)
