"""Members of VYRIS: an account with an e-mail, a membership, and a telephone with a key."""

from __future__ import annotations

import email
import email.policy
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from engine.infra.ids import new_id
from engine.membership.devices import proof
from tests.membership.people import Phone, packed
from tests.support.wait import wait_until

Ask = Callable[[str, str, Any], Awaitable[Any]]  # what a request answers; it must succeed
LINK = re.compile(r"http\S+/reforge/confirm\?token=(\S+)")


class Member(msgspec.Struct, frozen=True):
    """Somebody who minted, and whose telephone is known."""

    user: str
    email: str
    membership: str
    phone: Phone

    def meets(self, other: Member, **claims: Any) -> str:
        """The token of an encounter, of now."""
        said = {
            "jti": new_id(),
            "sub": self.membership,
            "aud": other.membership,
            "iat": int(time.time()),
        }
        return self.phone.token(said | claims)

    def moves(self, to: Phone) -> dict[str, str]:
        """What its README wants for a device transfer."""
        return {
            "membership_id": self.membership,
            "user_id": self.user,
            "old_device_id": "phone",
            "new_device_id": "tablet",
            "new_public_key": to.pem,
        }


async def join(ask: Ask) -> Member:
    """A new member."""
    name = new_id()
    new = {"privyId": name, "email": f"{name}@example.com"}
    user = (await ask("POST", "/users", new))["id"]
    minted = await ask("POST", "/mint", {"receipt_data": f"receipt of {name}", "user_id": user})
    membership, phone = minted["membership"]["id"], Phone()
    devices = f"/memberships/{membership}/devices"
    challenge = (await ask("POST", f"{devices}/challenge", {"user_id": user}))["challenge"]
    first = {
        "user_id": user,
        "device_id": "phone",
        "public_key": phone.pem,
        "challenge": challenge,
        "signature": packed(phone.sign(proof(membership, "phone", challenge))),
    }
    await ask("POST", devices, first)
    return Member(user, new["email"], membership, phone)


async def link_to(member: Member, data_dir: Path) -> tuple[str, str]:
    """The link of the newest mail to a member, and its token."""

    async def mailed() -> Any:
        for path in sorted((data_dir / "mail").glob("*.eml"), reverse=True):
            mail = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
            body = mail.get_body()
            if mail["To"] == member.email and body is not None:
                return LINK.search(body.get_content())
        return None

    found = await wait_until(mailed, f"{member.email} has mail", seconds=20, pause=0.1)
    return found[0], found[1]
