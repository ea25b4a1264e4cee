"""What clients send and see of the private beta."""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, field

from engine.identity import beta
from engine.identity.beta_store import BetaKey
from engine.infra.describe import HIDDEN, Id, Moment, shown
from engine.infra.errors import Invalid
from engine.infra.http import decoder, either, iso
from engine.infra.lists import Listing

EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
EMAIL_LENGTH_MAX = 254
COUNT_WANTED = f"Count must be between 1 and {beta.COUNT_MAX}"
# Whatever stands there: a sentence of ours says what is wrong with it.
KeyText = Annotated[
    Any, shown(type="string", minLength=beta.LENGTH, maxLength=100, examples=["K7QD-M2XH-9TBR"])
]
Email = Annotated[Any, shown(type="string", format="email", examples=["ann@example.com"])]
Hidden = Annotated[Any, HIDDEN]
Status = Annotated[str, shown(enum=["pending", "active"])]


class KeyBody(msgspec.Struct):
    """An invitation."""

    referral_key: KeyText = field(name="referralKey", default=UNSET)
    referral_key_snake: Hidden = field(name="referral_key", default=UNSET)

    @property
    def given(self) -> str:
        """The key as it was typed."""
        sentence = "Referral key is required and must be a string"
        return _text("referralKey", sentence, self.referral_key, self.referral_key_snake)


class EmailBody(msgspec.Struct):
    """Whose invitation it is."""

    user_email: Email = field(name="userEmail", default=UNSET)
    user_email_snake: Hidden = field(name="user_email", default=UNSET)

    @property
    def email(self) -> str:
        """The e-mail, without what stands around it."""
        return _email(self.user_email, self.user_email_snake)


class VerifyBody(KeyBody):
    """An invitation, and whose it is to be."""

    user_email: Email = field(name="userEmail", default=UNSET)
    user_email_snake: Hidden = field(name="user_email", default=UNSET)

    @property
    def email(self) -> str:
        """The e-mail, without what stands around it."""
        return _email(self.user_email, self.user_email_snake)


class BulkBody(msgspec.Struct):
    """How many invitations to make."""

    count: Annotated[
        Any, shown(type="integer", minimum=1, maximum=beta.COUNT_MAX, examples=[10])
    ] = UNSET

    @property
    def wanted(self) -> int:
        """1 to 100."""
        count = self.count
        if isinstance(count, float) and count.is_integer():
            count = int(count)  # to JSON 10.0 is 10
        if type(count) is not int or not 1 <= count <= beta.COUNT_MAX:
            raise _refused("count", COUNT_WANTED)
        return count


def _refused(name: str, sentence: str) -> Invalid:
    return Invalid(sentence, fields=[{"field": name, "problem": sentence}])


def _text(name: str, sentence: str, *values: Any) -> str:
    text = either(name, *values)
    if not isinstance(text, str) or not text.strip():
        raise _refused(name, sentence)
    return text


def _email(*values: Any) -> str:
    email = _text("userEmail", "User email is required and must be a string", *values).strip()
    if not (len(email) <= EMAIL_LENGTH_MAX and email.isprintable() and EMAIL.fullmatch(email)):
        raise _refused("userEmail", "Please provide a valid email address")
    return email


class BetaKeyView(msgspec.Struct, rename="camel"):
    """An invitation: `active` once somebody used it."""

    id: Id
    referral_key: str
    status: Status
    user_email: str | None
    created_at: Moment
    updated_at: Moment


class ToldKeyView(BetaKeyView, rename="camel"):
    """An invitation, and what became of it."""

    message: str


class BulkView(msgspec.Struct):
    """Invitations that were made."""

    message: str
    data: list[BetaKeyView]


class ValidityView(msgspec.Struct):
    """Whether an invitation can still be used."""

    valid: bool
    status: Status
    message: str


class DebugView(Listing[BetaKeyView], rename="camel"):
    """All invitations, and how many there are."""

    message: str = ""
    count: int = 0


def key_view(key: BetaKey) -> BetaKeyView:
    """An invitation for operators."""
    return BetaKeyView(*_parts(key))


def told_key_view(key: BetaKey, message: str) -> ToldKeyView:
    """An invitation with a sentence."""
    return ToldKeyView(*_parts(key), message)


def _parts(key: BetaKey) -> tuple[str, str, str, str | None, str, str]:
    created_at, updated_at = key.created_at, key.activated_at or key.created_at
    shown_key = beta.readable(key.key)
    return key.id, shown_key, key.status, key.user_email, iso(created_at), iso(updated_at)


key_body = decoder(KeyBody)
email_body = decoder(EmailBody)
verify_body = decoder(VerifyBody)
bulk_body = decoder(BulkBody)
