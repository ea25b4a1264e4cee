"""The web service that wallets speak with: who wants to hear of which pass, and what changed.

We cannot tell a wallet that a pass changed: that takes Apple's push service. A wallet asks by
itself too, when its owner pulls the pass down, and is told then.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from datetime import datetime
from email.utils import format_datetime, parsedate_to_datetime

import structlog

from engine.infra.errors import NotFound
from engine.infra.postgres import Postgres
from engine.infra.settings import Settings
from engine.membership import pass_store, store
from engine.membership.models import Membership

log = structlog.get_logger()

LATE_MICROS = 10_000_000  # of a change that others overtook; no transaction takes so long
LINES_MAX, LINE_MAX = 20, 300
# Tokens of passes and of Apple's push service are long words; serials have hyphens, and stay.
_SECRET = re.compile(r"(?:ApplePass|Bearer)\s+\S+|[\w+/=.]{32,}", re.IGNORECASE)


class Wallets:
    """The wallets of one worker's callers."""

    def __init__(self, settings: Settings, postgres: Postgres) -> None:
        self._type_id, self._postgres = settings.wallet_type_id, postgres

    async def membership(self, kind: str, serial: str, id: str) -> Membership:
        """The membership of a pass, by its kind, serial and id. Raises `NotFound`."""
        found = await store.find_membership(self._postgres, id)
        if found is None or (kind, serial) != (self._type_id, found.serial):
            raise NotFound("There is no such pass")
        return found

    async def register(self, device: str, membership: Membership, push_token: str) -> bool:
        """A device wants to hear of a pass; whether it did not yet."""
        return await pass_store.register_pass(self._postgres, device, membership.id, push_token)

    async def unregister(self, device: str, membership: Membership) -> None:
        """It does not any more."""
        await pass_store.unregister_pass(self._postgres, device, membership.id)

    async def changed(self, device: str, kind: str, since: str) -> tuple[str, list[str]]:
        """The tag to ask with the next time, and the serials of a device's passes that changed
        since the tag of the last one; none if nothing did."""
        if kind != self._type_id:
            return "", []
        found = await pass_store.find_registered(self._postgres, device)
        tag = _tag(found)
        if not found or tag == since:
            return tag, []
        # What differs may have happened before the last look and been committed after it.
        after = int(since.partition(".")[0]) - LATE_MICROS if since else -1
        return tag, [each.serial for each in found if _micros(each.changed_at) > after]


def _tag(found: Sequence[Membership]) -> str:
    """When the newest of them changed, and a digest that differs if any one did."""
    if not found:
        return ""
    moments = [f"{each.id} {_micros(each.changed_at)}" for each in found]
    newest = max(_micros(each.changed_at) for each in found)
    return f"{newest}.{hashlib.sha256(' '.join(moments).encode()).hexdigest()[:8]}"


def _micros(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000_000 + moment.microsecond


def http_date(moment: datetime) -> bytes:
    """A moment as HTTP writes it, to the second."""
    return format_datetime(moment, usegmt=True).encode()


def is_unchanged(headers: dict[bytes, bytes], etag: bytes, changed_at: datetime) -> bool:
    """Whether a client has what it asks for; a tag says it better than a time."""
    if (tags := headers.get(b"if-none-match")) is not None:
        return tags.strip() == b"*" or etag in {tag.strip() for tag in tags.split(b",")}
    given = headers.get(b"if-modified-since")
    if given is None:
        return False
    try:
        known = parsedate_to_datetime(given.decode("latin-1")).timestamp()
    except (ValueError, OverflowError):  # then it is as if it was not there
        return False
    return int(changed_at.timestamp()) <= known


def complain(lines: Sequence[str]) -> None:
    """Log what a wallet complains of: some of it, and no secret."""
    told = [
        "".join(c if c.isprintable() else " " for c in _SECRET.sub("…", line)[:LINE_MAX])
        for line in lines[:LINES_MAX]
    ]
    log.info("wallet.complained", lines=told, left_out=max(len(lines) - LINES_MAX, 0))
