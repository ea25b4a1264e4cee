"""What the document says of the routes of login: what each wants, answers and refuses."""

from __future__ import annotations

from engine.identity.errors import (
    EmailRegistered,
    InvitationNeeded,
    KeyUnknown,
    KeyUsed,
    LinkExpired,
    UserExists,
)
from engine.identity.login_bodies import (
    ForgottenBody,
    LoginBody,
    PasswordBody,
    RefreshBody,
    RegisterBody,
    ResetBody,
)
from engine.identity.user_described import FULL
from engine.identity.user_views import EnteredView, ToldView
from engine.infra.describe import About, Body, BuyerId, Query
from engine.infra.errors import Forbidden, NotFound, Unauthorized

REGISTER = About(
    "Accounts",
    "anybody",
    counted="write",
    keyed=True,
    body=Body(RegisterBody, ("username", "email", "password")),
    answers={201: EnteredView},
    refusals=(UserExists, InvitationNeeded, KeyUnknown, KeyUsed, EmailRegistered),
)
LOGIN = About(
    "Accounts",
    "anybody",
    counted="write",
    body=Body(LoginBody, ("email", "password")),
    answers={200: EnteredView},
    refusals=(Unauthorized,),
)
REFRESH = About(
    "Accounts",
    counted="write",
    body=Body(RefreshBody, ("refreshToken",)),
    answers={200: EnteredView},
    refusals=(Unauthorized,),
)
LOGOUT = About("Accounts", "sale:read", counted="write", answers={200: ToldView})
ME = About(
    "Accounts",
    "sale:read",
    query=(Query("userId", BuyerId, "Whose account; a token says it."),),
    answers={200: FULL},
    refusals=(NotFound,),
)
PASSWORD = About(
    "Accounts",
    "sale:read",
    counted="write",
    body=Body(PasswordBody, ("currentPassword", "newPassword")),
    answers={200: EnteredView, 204: None},
    refusals=(NotFound, Forbidden),
)
FORGOTTEN = About(
    "Accounts",
    "anybody",
    counted="write",
    keyed=True,
    body=Body(ForgottenBody, ("email",)),
    answers={202: ToldView},
)
RESET = About(
    "Accounts",
    "anybody",
    counted="write",
    keyed=True,
    body=Body(ResetBody, ("token", "password")),
    answers={200: ToldView},
    refusals=(LinkExpired,),
)
