"""Seal: put what was recorded into the chain. One transaction takes what waits, in order, and moves
the head; who has the head's row is the sealer, so that any number of keepers makes one chain.

    records ─▶ entries, one link each (bookings)          ─┐
            ─▶ blocks of up to 4,096 (purchases, refunds)  ├─▶ links, history, signed head
                                       records deleted ────┘    one commit: all of it, or nothing
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import datetime
from itertools import groupby

import structlog
from msgspec.structs import replace

from engine.infra.errors import Misconfigured, Retryable
from engine.infra.http import iso
from engine.infra.postgres import Postgres, Session
from engine.record import books, ledger
from engine.record.keys import Keyring, is_signed
from engine.record.merkle import Node, Tree, leaf_hash, root_of
from engine.record.models import Head, Key, Link, Record, Waiting

log = structlog.get_logger()

RECORDS_MAX = 4 * ledger.BLOCK_MAX  # in one transaction, but for what one row says more
ENTRY_WEIGHT = 32  # what an entry costs, in records of a block: half a ms, most of it its nonce
BREATH = 16  # entries, after which others of this process are served
AGAIN_SECONDS, TRIES = 0.05, 400  # to be the one who has the head


class WrongKeys(Misconfigured):
    """The ledger was sealed with another HMAC_SECRET: give that one as HMAC_SECRET_PREVIOUS."""

    def __init__(self, key: str | None) -> None:
        super().__init__(
            f"the ledger is sealed with the key {key}, which is not ours: give its secret as "
            "HMAC_SECRET_PREVIOUS (and LEDGER_SIGNING_KEY_PREVIOUS, if there is one), or, if it is "
            "lost, run `velvetrope ledger rotate --lost`"
        )


class BrokenHead(Misconfigured):
    """The end of the chain is not what was sealed: signed once more, a forgery would be ours."""

    def __init__(self) -> None:
        super().__init__(
            "the end of the ledger was changed by somebody else, so nothing is sealed after it: "
            "`velvetrope ledger verify` says where; bring the ledger's tables back from a backup"
        )


async def seal(postgres: Postgres, ring: Keyring, most: int = RECORDS_MAX) -> int:
    """Seal what waits, about `most` records of it; how many. 0 also while another does it. Raises
    `WrongKeys`, `BrokenHead`."""
    if await books.newest_waiting(postgres) is None:
        return 0
    async with postgres.transaction() as session:
        found = await books.lock_head(session)
        if found is None:
            return 0
        head, now = found
        chain = _Chain(session, head, ring, now)
        await chain.take_keys(lost=False)
        waiting = await books.read_waiting(session, most, ENTRY_WEIGHT)
        for is_entry, group in groupby(waiting, key=lambda row: row.slots is not None):
            rows = list(group)
            await (chain.add_entries(rows) if is_entry else chain.add_blocks(rows))
        await chain.end([row.id for row in waiting])
        return sum(row.count for row in waiting)


async def rotate(postgres: Postgres, ring: Keyring, *, lost: bool) -> bool:
    """Put the keys of this ring in force now, instead of with the next record; waits while another
    seals. With `lost` nobody vouches for them. False if there is nothing to do: they are in force,
    or nothing is sealed, and so no others are. Raises `WrongKeys`, `BrokenHead`, and `Retryable` if
    that other does not come to an end."""
    for _ in range(TRIES):
        turned = await _rotate(postgres, ring, lost=lost)
        if turned is not None:
            return turned
        await asyncio.sleep(AGAIN_SECONDS)
    raise Retryable("Somebody has the ledger's end in his hands all the time: try again")


async def _rotate(postgres: Postgres, ring: Keyring, *, lost: bool) -> bool | None:
    """The same at once; None while another seals."""
    async with postgres.transaction() as session:
        found = await books.lock_head(session)
        if found is None:
            return None
        head, now = found
        if head.hmac_key is None or (head.hmac_key, head.signing_key) == _of(ring):
            return False
        chain = _Chain(session, head, ring, now)
        await chain.take_keys(lost=lost)
        await chain.end([])
        return True


def _of(ring: Keyring) -> tuple[str, str]:
    return ring.hmac_key, ring.signing_key


class _Chain:
    """The chain's end while it grows, in one transaction."""

    def __init__(self, session: Session, head: Head, ring: Keyring, now: datetime) -> None:
        self._session, self._ring = session, ring
        self._head, self._now, self._at = head, now, iso(now)
        self._sequence, self._previous = head.sequence, head.data_hash
        self._key = head.hmac_key or ring.hmac_key
        self._history = Tree(head.height, head.peaks or ())
        self._nodes: list[Node] = []
        self._entries: list[tuple[Record, str | None, str, datetime]] = []
        self.links: list[Link] = []

    async def take_keys(self, *, lost: bool) -> None:
        """See to it that our keys are in force. They follow others by a link of their own, sealed
        with the old HMAC key and signed with the old signing key; `lost`: without those."""
        ring, head = self._ring, self._head
        known = ring.public(head.signing_key or "")
        if known is not None and not (
            self._history.root() == head.root
            and is_signed(known, head.signature, ledger.head_statement(head))
        ):
            raise BrokenHead
        if (head.hmac_key, head.signing_key) == _of(ring):
            return
        public_key = ring.public(ring.signing_key)
        assert public_key is not None
        if head.hmac_key is None:
            await self._keep(public_key, 1, None)
            return
        signer = ring.signers.get(head.signing_key or "")
        if not lost and (head.hmac_key not in ring.secrets or signer is None):
            raise WrongKeys(head.hmac_key)
        if any((k.hmac_key, k.signing_key) == _of(ring) for k in await books.keys(self._session)):
            # Retired by somebody who has newer ones: a keeper that was not restarted yet.
            raise WrongKeys(head.hmac_key)
        keys = {
            "hmacKey": ring.hmac_key,
            "signingKey": ring.signing_key,
            "publicKey": public_key.hex(),
            "previousSigningKey": head.signing_key or "",
        }
        content = ledger.rotation_content(keys, self._at, self._previous)
        if lost and head.hmac_key not in ring.secrets:
            self._key = ring.hmac_key
        self._add_entry(ledger.ROTATION, content, None, "", self._now)
        voucher = None if signer is None else signer.sign(content)
        await self._keep(public_key, self._history.size, voucher)
        self._key = ring.hmac_key
        log.warning("ledger.rotated", key=ring.hmac_key, signing_key=ring.signing_key)

    async def _keep(self, public_key: bytes, since: int, voucher: bytes | None) -> None:
        key = Key(*_of(self._ring), public_key, since, voucher, self._at)
        await books.keep_key(self._session, key)

    async def add_entries(self, rows: list[Waiting]) -> None:
        """Link by link."""
        buyers = sorted({buyer for row in rows for buyer in row.buyers or ()})
        names = await books.salt_buyers(self._session, buyers, self._sequence + 1)
        for row in rows:
            at = iso(row.made_at)
            for id, slot, manifest, buyer in _told(row):
                if not self._sequence % BREATH:
                    await asyncio.sleep(0)
                content = ledger.entry_content(
                    id, str(slot), manifest, names[buyer], row.action, at, self._previous
                )
                self._add_entry(row.action, content, id, names[buyer], row.made_at)

    async def add_blocks(self, rows: list[Waiting]) -> None:
        """4,096 records at a time."""
        ids, total = [row.id for row in rows], sum(row.count for row in rows)
        for skip in range(0, total, ledger.BLOCK_MAX):
            take = min(total - skip, ledger.BLOCK_MAX)
            height, first = self._history.size + 1, self._sequence + 1
            leaves = await books.seal_records(self._session, ids, skip, take, height, first)
            assert len(leaves) == take, f"{take} records, {len(leaves)} leaves"
            root = root_of(leaves)
            content = ledger.block_content(first, take, root, self._at, self._previous)
            self._link(content, root, take, is_block=True)

    def _add_entry(
        self, action: str, content: bytes, id: str | None, subject: str, at: datetime
    ) -> None:
        leaf = leaf_hash(content)
        self._link(content, leaf, 1, is_block=False)
        record = Record(self._sequence, self._history.size, action, content, leaf)
        self._entries.append((record, id, subject, at))

    def _link(self, content: bytes, root: bytes, records: int, *, is_block: bool) -> None:
        hash = ledger.data_hash(self._ring.secrets[self._key], content)
        link = Link(
            self._history.size + 1,
            is_block,
            self._sequence + 1,
            records,
            root,
            self._previous,
            hash,
            ledger.nonce_of(hash),
            self._key,
            self._at,
        )
        self._nodes += self._history.grow(ledger.link_leaf(link))
        self.links.append(link)
        self._sequence += records
        self._previous = hash

    async def end(self, rows: list[int]) -> None:
        """Write links and head; these rows wait no more."""
        head = Head(
            self._history.size,
            self._sequence,
            self._previous,
            self._history.root(),
            self._history.peaks,
            *_of(self._ring),
            None,
            self._at,
        )
        signer = self._ring.signers[self._ring.signing_key]
        head = replace(head, signature=signer.sign(ledger.head_statement(head)))
        await books.append_entries(self._session, self._entries)
        await books.append_links(self._session, self.links, self._nodes, self._now)
        await books.end_sealing(self._session, head, self._now, rows)


def _told(row: Waiting) -> Iterator[tuple[str, int, str, str]]:
    """What a row says: booking, slot, manifest, buyer, one after the other."""
    columns = row.subjects or (), row.slots or (), row.manifests or (), row.buyers or ()
    return zip(*columns, strict=True)
