"""What clients and wallets send about passes: names, checks, and what a path may hold."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType, field

from engine.infra.describe import shown
from engine.infra.errors import NotFound
from engine.infra.http import Call, decoder, either, invalid
from engine.sale.bodies import Name, Text

WORD, PUSH_TOKEN_MAX = "[A-Za-z0-9_.-]{1,128}", 200
UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
SERIAL = f"vr-[A-Za-z0-9_-]{{1,32}}-[A-Za-z0-9_-]{{1,32}}-{UUID}"
TAG = "[0-9]{1,17}[.][0-9a-f]{8}"
ID_LENGTH = 36

Word = Annotated[str, shown(pattern=f"^{WORD}$")]
Serial = Annotated[str, shown(pattern=f"^{SERIAL}$")]
Tag = Annotated[str, shown(pattern=f"^({TAG})?$")]
_word, _serial, _tag = re.compile(WORD), re.compile(SERIAL), re.compile(TAG)


class IssueBody(msgspec.Struct):
    """Whose pass of which membership."""

    membership_id: Annotated[Text, shown(format="uuid")] = field(name="membershipId", default=UNSET)
    membership_id_snake: Text = field(name="membership_id", default=UNSET)
    user_id: Name = field(name="userId", default=UNSET)
    user_id_snake: Name = field(name="user_id", default=UNSET)

    @property
    def membership(self) -> str:
        """The membership's id, whatever it looks like."""
        given: str | None = either("membershipId", self.membership_id, self.membership_id_snake)
        if given is None:
            raise invalid("membershipId", "required")
        return given

    @property
    def buyer(self) -> str | int | None:
        """The user it names, under either name."""
        named: str | int | None = either("userId", self.user_id, self.user_id_snake)
        return named


class RegisterBody(msgspec.Struct):
    """Where a device would hear that its pass has changed."""

    push_token: Annotated[
        Text, shown(minLength=1, maxLength=PUSH_TOKEN_MAX, format="printable")
    ] = field(name="pushToken", default=UNSET)
    push_token_snake: Text = field(name="push_token", default=UNSET)

    @property
    def push(self) -> str:
        """The token for Apple's push service."""
        given: str | None = either("pushToken", self.push_token, self.push_token_snake)
        if not given or len(given) > PUSH_TOKEN_MAX or not given.isprintable():
            raise invalid("pushToken", f"want 1 to {PUSH_TOKEN_MAX} printable characters")
        return given


class LogBody(msgspec.Struct):
    """What a wallet has to complain of."""

    logs: list[str] | UnsetType = UNSET

    @property
    def lines(self) -> list[str]:
        """Its lines."""
        if self.logs is UNSET:
            raise invalid("logs", "required")
        return self.logs


issue_body = decoder(IssueBody)
register_body = decoder(RegisterBody)
log_body = decoder(LogBody)


def word_in_path(call: Call, name: str) -> str:
    """What a device calls itself, or a kind of pass; a malformed one is a 404."""
    if _word.fullmatch(call.params[name]) is None:
        raise NotFound(f"There is no such {name}")
    return call.params[name]


def membership_in_path(call: Call) -> str | None:
    """The membership of the serial in the path; None for what is no serial of ours."""
    serial = call.params["id"]
    return serial[-ID_LENGTH:] if _serial.fullmatch(serial) else None


def since(call: Call) -> str:
    """`passesUpdatedSince`: the `lastUpdated` of the answer before, or nothing."""
    given = call.query.get("passesUpdatedSince") or ""
    if given and _tag.fullmatch(given) is None:
        raise invalid("passesUpdatedSince", "want `lastUpdated` of the answer before")
    return given
