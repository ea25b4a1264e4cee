"""What clients send to log in: every name a field goes by, and every check it must pass."""

from __future__ import annotations

import hashlib
from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType, field

from engine.identity.models import Device
from engine.identity.session_bodies import PLATFORMS, TEXT_MAX, ChangeBody, Note, text_of
from engine.identity.user_bodies import Username, email_of, username_of
from engine.infra.describe import shown
from engine.infra.errors import Invalid
from engine.infra.http import Call, decoder, either, invalid
from engine.infra.ids import new_id

NO_NUL = r"^[^\u0000]*$"
Text = str | None | UnsetType
Email = Annotated[Text, shown(format="email", maxLength=254, examples=["ann@example.com"])]
Secret = Annotated[
    Text, shown(minLength=8, maxLength=256, pattern=NO_NUL, examples=["correct horse"])
]


class DeviceBody(ChangeBody):
    """The device that logs in; who says nothing is some browser."""

    device_id: Note = field(name="deviceId", default=UNSET)
    device_id_snake: Text = field(name="device_id", default=UNSET)
    platform: Annotated[Text, shown(enum=list(PLATFORMS), default="web")] = UNSET

    def device(self, call: Call, address: str | None, key: str | None = None) -> Device:
        """The device, at that address. One without a name of its own gets one: with a key always
        the same."""
        id = text_of("deviceId", self.device_id, self.device_id_snake)
        if id is None:
            told = new_id() if key is None else hashlib.sha256(key.encode()).hexdigest()
            id = f"web-{told.replace('-', '')[:32]}"
        platform = self.platform or "web"
        if platform not in PLATFORMS:
            raise invalid("platform", f"want {', '.join(PLATFORMS)}")
        agent = call.headers.get(b"user-agent", b"").decode("latin-1")
        seen = "".join(each for each in agent if each.isprintable())[:TEXT_MAX]
        said = self.changes
        said["device_name"] = said["device_name"] or seen or None
        return Device(id, str(platform), ip_address=address, **said)


class RegisterBody(DeviceBody):
    """Who wants an account."""

    username: Username = UNSET
    email: Email = UNSET
    password: Secret = UNSET
    referral_key: Annotated[Text, shown("Where a private beta asks for one.")] = field(
        name="referralKey", default=UNSET
    )
    referral_key_snake: Text = field(name="referral_key", default=UNSET)

    @property
    def names(self) -> tuple[str, str, str]:
        """Username, e-mail and password, the first two checked."""
        if not (self.username and self.email and self.password):
            raise _required(
                "username, email, and password are required",
                username=self.username,
                email=self.email,
                password=self.password,
            )
        username, email = username_of(self.username), email_of(self.email)
        assert username is not None
        assert email is not None
        return username, email, self.password

    @property
    def referral(self) -> str | None:
        """The key of an invitation."""
        given: str | None = either("referralKey", self.referral_key, self.referral_key_snake)
        return given


class LoginBody(DeviceBody):
    """Who wants to come in."""

    email: Email = UNSET
    password: Annotated[
        Text, shown(minLength=1, maxLength=256, pattern=NO_NUL, examples=["correct horse"])
    ] = UNSET

    @property
    def words(self) -> tuple[str, str]:
        """E-mail and password. What can be no e-mail is nobody's."""
        if not (self.email and self.password):
            raise _required(
                "Email and password are required", email=self.email, password=self.password
            )
        return _findable(self.email), self.password


class RefreshBody(msgspec.Struct):
    """A refresh token."""

    refresh_token: Annotated[str | UnsetType, shown(minLength=1, examples=["vrr_…"])] = field(
        name="refreshToken", default=UNSET
    )
    refresh_token_snake: str | UnsetType = field(name="refresh_token", default=UNSET)

    @property
    def token(self) -> str:
        """The token."""
        given: str | None = either("refreshToken", self.refresh_token, self.refresh_token_snake)
        if not given:
            raise invalid("refreshToken", "required")
        return given


class PasswordBody(msgspec.Struct):
    """A password in another's place."""

    current_password: Annotated[
        str | UnsetType,
        shown(minLength=1, maxLength=256, pattern=NO_NUL, examples=["correct horse"]),
    ] = field(name="currentPassword", default=UNSET)
    current_password_snake: str | UnsetType = field(name="current_password", default=UNSET)
    old_password_snake: str | UnsetType = field(name="oldPassword", default=UNSET)
    new_password: Annotated[
        str | UnsetType,
        shown(minLength=8, maxLength=256, pattern=NO_NUL, examples=["correct horse"]),
    ] = field(name="newPassword", default=UNSET)
    new_password_snake: str | UnsetType = field(name="new_password", default=UNSET)

    @property
    def words(self) -> tuple[str, str]:
        """The old one and the new one."""
        old: str | None = either(
            "currentPassword",
            self.current_password,
            self.current_password_snake,
            self.old_password_snake,
        )
        new: str | None = either("newPassword", self.new_password, self.new_password_snake)
        if not old or not new:
            raise invalid("newPassword" if old else "currentPassword", "required")
        return old, new


class ForgottenBody(msgspec.Struct):
    """Whose password is forgotten."""

    email: Annotated[
        str | UnsetType, shown(format="email", maxLength=254, examples=["ann@example.com"])
    ] = UNSET

    @property
    def address(self) -> str:
        """The e-mail."""
        found = email_of(self.email or None)
        if found is None:
            raise invalid("email", "required")
        return found


class ResetBody(msgspec.Struct):
    """A link from a mail, and the password from now on."""

    token: Annotated[str | UnsetType, shown(minLength=1, examples=["vrp_…"])] = UNSET
    password: Annotated[
        str | UnsetType,
        shown(minLength=8, maxLength=256, pattern=NO_NUL, examples=["correct horse"]),
    ] = UNSET

    @property
    def words(self) -> tuple[str, str]:
        """Both."""
        if not self.token or not self.password:
            raise invalid("password" if self.token else "token", "required")
        return self.token, self.password


def _required(sentence: str, **given: Text) -> Invalid:
    missing = [{"field": name, "problem": "required"} for name, value in given.items() if not value]
    return Invalid(sentence, fields=missing)


def _findable(email: str) -> str:
    """An e-mail as it is looked for; Postgres knows no NUL."""
    if not email.isprintable() or len(email) > 1_000:
        raise invalid("email", "Invalid email format")
    return email.strip()


register_body = decoder(RegisterBody)
login_body = decoder(LoginBody)
refresh_body = decoder(RefreshBody)
password_body = decoder(PasswordBody)
forgotten_body = decoder(ForgottenBody)
reset_body = decoder(ResetBody)
