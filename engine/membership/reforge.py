"""Reforge: a membership moves to another device, for who can read the mails of its account.

    begun: pending ─▶ postman: its link, by mail ─▶ confirmed: the old key is dead
             │ another one is begun: superseded
             │ 24 hours are over: expired

The link is derived from the reforge's id (HMAC) when it is mailed. What is kept is its digest, by
which it is found: it opens after HMAC_SECRET was rotated, and nothing that opens it is at rest.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
from functools import cached_property

import msgspec

from engine.identity import user_store
from engine.identity.postman import Letter, Writer
from engine.identity.resets import base_of
from engine.identity.user_store import Mail, User
from engine.infra.errors import NotFound, RateLimited
from engine.infra.ids import new_id, parse_id
from engine.infra.postgres import Postgres, Session
from engine.infra.settings import Settings
from engine.membership import device_store as store
from engine.membership.device_store import Device, Wanted
from engine.membership.errors import LinkExpired, NotTheirs, Unreadable
from engine.record import keys

LIFE_SECONDS = 86_400.0
BEGUN_MAX, BEGUN_SECONDS = 3, 3_600.0  # of one membership
SUBJECT = "Confirm your new device"
TEXT = """Hello {name},

somebody, you we hope, wants to move your membership {tier} {year} #{number} to another device:
{device}

If it was you, confirm it here:

{link}

This link confirms once, until {until} UTC. With the confirmation {device}
signs for your membership, and the old device's key is worth nothing. Until then nothing changes: if
it was not you, there is nothing to do, and your membership stays where it is.
"""
# Whoever has a stolen token names the device: what programs for mail make a link of is not mailed.
NO_NAME = re.compile(r"[^\w ,()'#+-]")
NO_SUCH_DEVICE = "Active device not found for this membership"
SAME = "This device signs for the membership with this very key: there is nothing to move"
NO_SUCH_REFORGE = "Reforge request not found or already processed"
NO_MAIL = (
    "This member has no account with an e-mail, and the link is mailed: mint for the id of an"
    " account that has one, or give this account its e-mail (PUT /users/{id})"
)


class Move(msgspec.Struct, frozen=True):
    """Which membership is to move, from which device to which."""

    membership: str | None  # None: what was named can be none
    buyer: str
    old_device: str
    new_device: str
    new_key: str


class Links:
    """Makes links, and their digests."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._base = settings, base_of(settings)

    @cached_property
    def _secrets(self) -> list[bytes]:
        return keys.in_order(self._settings)

    def digest(self, id: str) -> bytes:
        """What is kept of a new reforge's token."""
        return digest(_token(self._secrets[0], id))

    def link(self, id: str, kept: bytes) -> str | None:
        """The page where a reforge is confirmed; None if the secret that made it is gone."""
        for token in (_token(secret, id) for secret in self._secrets):
            if hmac.compare_digest(digest(token), kept):
                return f"{self._base}/reforge/confirm?token={token}"
        return None


def _token(secret: bytes, id: str) -> str:
    mac = hmac.new(secret, f"velvetrope reforge\0{id}".encode(), "sha256").hexdigest()
    return f"vrf_{id.replace('-', '')}_{mac}"


def digest(token: str) -> bytes:
    """By what a token is found."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


async def begin(session: Session, links: Links, move: Move) -> str:
    """Have a link mailed to the account whose membership it is; the reforge's id. Raises
    `NotTheirs`, `NotFound`, `Unreadable`, `RateLimited`."""
    member = move.membership and await store.lock_member(session, move.membership)
    if not move.membership or not member or member.buyer != move.buyer or member.revoked:
        raise NotTheirs("Membership not found or not owned by user")
    active = await store.find_active_device(session, move.membership)
    if active is None or active.device_id != move.old_device:
        raise NotFound(NO_SUCH_DEVICE)
    if (active.device_id, active.public_key) == (move.new_device, move.new_key):
        raise Unreadable(SAME)
    account = await _account(session, member.buyer)
    if account is None or account.email is None:
        raise Unreadable(NO_MAIL)
    begun, wait = await store.count_reforges(session, move.membership, BEGUN_SECONDS)
    if begun >= BEGUN_MAX:
        seconds = max(math.ceil(wait), 1)
        raise RateLimited(
            f"A membership can begin {BEGUN_MAX} reforges an hour",
            seconds=seconds,
            policy="reforges-per-membership",
            retrySeconds=seconds,
        )
    await store.supersede_reforges(session, move.membership)
    id = new_id()
    wanted = Wanted(
        id=id,
        mail=new_id(),
        membership=move.membership,
        buyer=member.buyer,
        address=account.email,
        old_device=move.old_device,
        new_device=move.new_device,
        new_key=move.new_key,
        hash=links.digest(id),
    )
    await store.want_reforge(session, wanted, LIFE_SECONDS)
    return id


async def _account(session: Session, buyer: str) -> User | None:
    """The active account of a buyer, if he is called by its id. Nobody changes its e-mail, suspends
    or erases it until we commit."""
    if parse_id(buyer) != buyer:
        return None
    found = await user_store.lock_user(session, buyer)
    return found if found is not None and found.is_active else None


async def confirm(session: Session, id: str, membership: str) -> Device:
    """Use a link: the new device is its membership's from now on. Raises `LinkExpired`,
    `NotTheirs`, `NotFound`."""
    member = await store.lock_member(session, membership)
    account = member and await _account(session, member.buyer)
    found = await store.lock_reforge(session, id)  # after the account: as who erases it does
    if found is None or member is None or account is None:
        raise NotFound(NO_SUCH_REFORGE)
    if found.expired:
        raise LinkExpired
    if found.state != "pending":
        raise NotFound(NO_SUCH_REFORGE)
    if member.revoked:
        raise NotTheirs("Membership has been revoked")
    active = await store.find_active_device(session, membership)
    if active is None or active.device_id != found.old_device_id:
        raise NotFound(NO_SUCH_DEVICE)
    await store.revoke_device(session, active.id)
    await store.confirm_reforge(session, id)
    return await store.insert_device(
        session, new_id(), membership, found.new_device_id, found.new_public_key
    )


def letters(postgres: Postgres, settings: Settings) -> Writer:
    """Who writes to those who move to another device: to the account as it is now, if its e-mail is
    still the one that the mail was meant for."""
    links = Links(settings)

    async def write(mail: Mail) -> Letter | None:
        told = await store.read_reforge(postgres, mail.subject_id)
        account = told and await user_store.find_user(postgres, told.buyer)
        link = told and links.link(mail.subject_id, told.token_hash)
        if not told or not account or not account.is_active or not link:
            return None
        if account.email is None or account.email != mail.address:
            return None
        text = TEXT.format(
            name=account.username or account.email,
            tier=told.tier,
            year=told.year,
            number=told.number,
            device=NO_NAME.sub("·", told.new_device_id),
            link=link,
            until=f"{mail.gives_up_at:%d %B %H:%M}",
        )
        return Letter(account.email, SUBJECT, text)

    return write
