"""How identity refuses.

Refusal
├── Unauthorized      no, bad or revoked credential (401)
│   ├── TokenExpired  (401)
│   └── SessionEnded  (401)
├── Forbidden         a known caller may not (403)
├── SessionOver       what is to be changed has ended (410)
├── UserExists        a name of an account is another's (409)
│   └── UserTaken     the same where a shop makes accounts (400)
├── VersionConflict   somebody else changed it since (409)
├── LastAdmin         nobody could let anybody in again (409)
├── LinkExpired       a link was used or is too old (410)
├── InvitationNeeded  PRIVATE_BETA=1, and no key (403)
├── KeyUsed           an invitation that somebody used (409)
├── EmailRegistered   an e-mail that used another invitation (409)
└── NotFound
    └── KeyUnknown    no such invitation (404)
"""

from __future__ import annotations

from typing import Any, ClassVar

from engine.infra.errors import NotFound, Refusal, Unauthorized


class TokenExpired(Unauthorized):
    """The token has expired."""


class InvitationNeeded(Refusal):
    """Registration is by invitation: send the referralKey that you were given"""

    code = "INVITATION_NEEDED"
    status = 403


class KeyUnknown(NotFound):
    """Referral code not found"""


class KeyUsed(Refusal):
    """Referral code has already been used"""

    code = "KEY_USED"
    status = 409


class EmailRegistered(Refusal):
    """Email already registered"""

    code = "EMAIL_REGISTERED"
    status = 409


class SessionEnded(Unauthorized):
    """This session has ended: log in again."""


class SessionOver(Refusal):
    """This session has ended: nothing changes it any more."""

    code = "EXPIRED"
    status = 410


class UserExists(Refusal):
    """A user with this email already exists"""

    code = "USER_EXISTS"
    status = 409
    example: ClassVar[dict[str, Any]] = {
        "fields": [{"field": "email", "problem": "A user with this email already exists"}]
    }


class UserTaken(UserExists):
    """User with this Privy ID already exists"""

    status = 400
    example: ClassVar[dict[str, Any]] = {
        "fields": [{"field": "privyId", "problem": "User with this Privy ID already exists"}]
    }


class VersionConflict(Refusal):
    """User has been modified by another request. Please retry."""

    code = "VERSION_CONFLICT"
    status = 409
    retryable = True
    retry_after_seconds = 1
    example: ClassVar[dict[str, Any]] = {"version": 4}


class LastAdmin(Refusal):
    """This is the last admin: make another one first."""

    code = "LAST_ADMIN"
    status = 409


class LinkExpired(Refusal):
    """This link was used or is too old: ask for another one."""

    code = "EXPIRED"
    status = 410
