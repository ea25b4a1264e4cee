"""How identity refuses.

Refusal
├── Unauthorized      no, bad or revoked credential (401)
│   ├── TokenExpired  (401)
│   └── SessionEnded  (401)
├── Forbidden         a known caller may not (403)
└── SessionOver       what is to be changed has ended (410)
"""

from __future__ import annotations

from engine.infra.errors import Refusal, Unauthorized


class TokenExpired(Unauthorized):
    """The token has expired."""


class SessionEnded(Unauthorized):
    """This session has ended: log in again."""


class SessionOver(Refusal):
    """This session has ended: nothing changes it any more."""

    code = "EXPIRED"
    status = 410
