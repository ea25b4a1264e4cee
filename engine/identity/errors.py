"""How identity refuses.

Refusal
├── Unauthorized      no, bad or revoked credential (401)
│   ├── TokenExpired  (401)
│   └── SessionEnded  (401)
├── Forbidden         a known caller may not (403)
├── InvitationNeeded  PRIVATE_BETA=1, and no key (403)
├── KeyUsed           an invitation that somebody used (409)
├── EmailRegistered   an e-mail that used another invitation (409)
└── NotFound
    └── KeyUnknown    no such invitation (404)
"""

from __future__ import annotations

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
