"""Postgres for the ledger: one function a query of sql/queries/ledger.sql."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from engine.infra import sql
from engine.infra.errors import NotFound
from engine.infra.http import iso
from engine.infra.postgres import Postgres, Session
from engine.record.merkle import HASH_BYTES, Node
from engine.record.models import (
    Ends,
    Head,
    Key,
    Link,
    Progress,
    Reason,
    Record,
    Shown,
    Waiting,
)

_queries = sql.load("ledger")
Caller = Session | Postgres
NOBODY = "00000000-0000-0000-0000-000000000000"  # no id is before it


def _head(row: Any) -> Head:
    return Head(
        row["height"],
        row["sequence"],
        row["data_hash"],
        row["root"],
        row["peaks"],
        row["hmac_key"],
        row["signing_key"],
        row["signature"],
        iso(row["sealed_at"]),
    )


def _link(row: Any, node: bytes | None = None) -> Link:
    return Link(
        row["height"],
        row["is_block"],
        row["first_sequence"],
        row["records"],
        row["root"],
        row["previous_hash"],
        row["data_hash"],
        row["nonce"],
        row["key_id"],
        iso(row["sealed_at"]),
        node,
    )


# ── sealing ──────────────────────────────────────────────────────────────────────────────────────


async def newest_waiting(caller: Caller) -> int | None:
    """The number of the newest record that waits to be sealed; None: nothing does."""
    row = await caller.call(_queries["find_waiting"])
    return row and int(row["id"])


async def lock_head(session: Session) -> tuple[Head, datetime] | None:
    """The end of the chain, ours until the transaction ends, and what time it is; None while
    another sealer has it."""
    row = await session.call(_queries["lock_head"])
    return row and (_head(row), row["now"])


async def read_waiting(session: Session, most: int, weight: int) -> list[Waiting]:
    """What is to be sealed next, in order; an entry counts as so many records."""
    rows = await session.call(_queries["read_waiting"], most=most, weight=weight)
    return [
        Waiting(
            row["id"],
            row["action"],
            row["count"],
            row["made_at"],
            row["subjects"] and [str(id) for id in row["subjects"]],
            row["slots"],
            row["manifests"],
            row["buyers"],
        )
        for row in rows
    ]


async def seal_records(
    session: Session, rows: Sequence[int], skip: int, take: int, height: int, first: int
) -> list[bytes]:
    """Write the records of one block; their leaves, in order."""
    words = {"rows": rows, "skip": skip, "take": take, "height": height, "first": first}
    row = await session.call(_queries["seal_records"], **words)
    leaves = row["leaves"] or b""
    assert len(leaves) == row["sealed"] * HASH_BYTES
    return [leaves[i : i + HASH_BYTES] for i in range(0, len(leaves), HASH_BYTES)]


async def salt_buyers(session: Session, buyers: Sequence[str], first: int) -> dict[str, str]:
    """What the ledger calls these buyers, from that sequence on where it is new."""
    rows = await session.call(_queries["salt_buyers"], buyers=buyers, first=first)
    return {row["buyer"]: row["subject"] for row in rows}


async def append_entries(
    session: Session, entries: Sequence[tuple[Record, str | None, str, datetime]]
) -> None:
    """Write entries: each with the id that it is about, its subject and its moment."""
    if not entries:
        return
    await session.call(
        _queries["append_entries"],
        sequences=[entry.sequence for entry, *_ in entries],
        heights=[entry.height for entry, *_ in entries],
        actions=[entry.action for entry, *_ in entries],
        ids=[id for _, id, _, _ in entries],
        subjects=[subject for _, _, subject, _ in entries],
        times=[at for *_, at in entries],
        leaves=[entry.leaf for entry, *_ in entries],
        contents=[entry.content.decode() for entry, *_ in entries],
    )


async def append_links(
    session: Session, links: Sequence[Link], nodes: Sequence[Node], at: datetime
) -> None:
    """Write links that were sealed at that moment, and the subtrees that they complete."""
    await session.call(
        _queries["append_links"],
        heights=[link.height for link in links],
        blocks=[link.is_block for link in links],
        firsts=[link.first for link in links],
        records=[link.records for link in links],
        roots=[link.root for link in links],
        previous=[link.previous_hash for link in links],
        hashes=[link.data_hash for link in links],
        nonces=[link.nonce for link in links],
        keys=[link.key for link in links],
        times=[at] * len(links),
        levels=[node.level for node in nodes],
        places=[node.place for node in nodes],
        nodes=[node.hash for node in nodes],
    )


async def end_sealing(session: Session, head: Head, at: datetime, rows: Sequence[int]) -> None:
    """Move the head; forget what waited; tell."""
    moved = await session.call(
        _queries["end_sealing"],
        rows=rows,
        height=head.height,
        sequence=head.sequence,
        data_hash=head.data_hash,
        peaks=head.peaks or [],
        root=head.root,
        hmac_key=head.hmac_key,
        signing_key=head.signing_key,
        signature=head.signature,
        sealed_at=at,
    )
    assert moved["gone"] == len(rows), "what is sealed was deleted by somebody else"


async def keep_key(session: Session, key: Key) -> None:
    """Note keys that are in force from now on."""
    await session.call(
        _queries["keep_key"],
        hmac_key=key.hmac_key,
        signing_key=key.signing_key,
        public_key=key.public_key,
        since=key.since,
        voucher=key.voucher,
    )


# ── reading ──────────────────────────────────────────────────────────────────────────────────────


async def ends(caller: Caller) -> Ends:
    """The head, and where the rows end. Raises `NotFound` if somebody took the head away."""
    row = await caller.call(_queries["read_head"])
    if row is None:
        raise NotFound("The ledger's head is gone: bring its tables back from a backup")
    return Ends(_head(row), row["last_height"], row["last_sequence"], row["has_strays"], row["now"])


async def keys(caller: Caller) -> list[Key]:
    """All keys there were, in order."""
    return [
        Key(
            row["hmac_key"],
            row["signing_key"],
            row["public_key"],
            row["since"],
            row["voucher"],
            iso(row["made_at"]),
        )
        for row in await caller.call(_queries["list_keys"])
    ]


async def links(caller: Caller, after: int, count: int) -> list[Link]:
    """The links after a height, each with what the history tree has of it."""
    rows = await caller.call(_queries["read_links"], after=after, count=count)
    return [_link(row, row["node"] or b"") for row in rows]


async def is_elsewhere(caller: Caller, previous: str, due: int) -> bool:
    """Whether the link that follows a hash stands elsewhere than at the height where it is due."""
    words = {"previous": previous, "due": due}
    return await caller.call(_queries["find_successor"], **words) is not None


async def records(caller: Caller, first: int, last: int) -> list[Record]:
    """Records of a stretch, compared with the rows that they tell of."""
    rows = await caller.call(_queries["read_records"], first=first, last=last)
    return [
        Record(
            row["sequence"],
            row["height"],
            row["action"],
            row["content"].encode(),
            row["leaf"],
            row["doubt"],
        )
        for row in rows
    ]


async def as_it_is(caller: Caller, sequence: int) -> tuple[str, str | None] | None:
    """What a record says, and what it would say now; None where its row is gone."""
    row = await caller.call(_queries["explain_record"], sequence=sequence)
    return row and (row["content"], row["present"])


async def missing(
    caller: Caller, first: str, count: int
) -> tuple[str | None, list[tuple[str, Reason]]]:
    """The last of the purchases from one on that were looked at, None if there are none; and those
    whose facts have not exactly one record, and why. A booking counts without its purchase, too."""
    rows = await caller.call(_queries["list_missing"], first=first, count=count)
    faults = [(str(row["subject"]), row["reason"]) for row in rows if row["reason"] is not None]
    last = [str(row["subject"]) for row in rows if row["reason"] is None]
    return (last[0] if last else None), faults


async def shown(caller: Caller, before: int, count: int) -> list[Shown]:
    """Records before a sequence, newest first."""
    rows = await caller.call(_queries["list_records"], before=before, count=count)
    return [_shown(row) for row in rows]


def _shown(row: Any) -> Shown:
    return Shown(
        row["sequence"],
        row["action"],
        row["subject"],
        row["recorded_at"],
        row["height"],
        row["is_block"],
        row["first_sequence"],
        row["records"],
        row["previous_hash"],
        row["data_hash"],
        row["nonce"],
    )


async def find_entry(caller: Caller, subject_id: str, action: str) -> Shown | None:
    """What the ledger has of what was done to a subject; None until it is sealed."""
    words = {"subject_id": subject_id, "action": action}
    row = await caller.call(_queries["find_entry"], **words)
    return row and _shown(row)


async def find_record(caller: Caller, sequence: int) -> tuple[Record, Link, list[bytes]] | None:
    """One record, its link, and the leaves of its link."""
    row = await caller.call(_queries["find_record"], sequence=sequence)
    if row is None:
        return None
    record = Record(sequence, row["height"], row["action"], row["content"].encode(), row["leaf"])
    joined = row["leaves"]
    leaves = [joined[i : i + HASH_BYTES] for i in range(0, len(joined), HASH_BYTES)]
    return record, _link(row), leaves


async def nodes(caller: Caller, wanted: Sequence[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
    """Roots of perfect subtrees, by level and place."""
    rows = await caller.call(
        _queries["find_nodes"],
        levels=[level for level, _ in wanted],
        places=[place for _, place in wanted],
    )
    return {(row["level"], row["place"]): row["hash"] for row in rows}


async def sequences(caller: Caller, ids: Sequence[str]) -> dict[str, int]:
    """Where purchases stand in the ledger; those that are not sealed yet are absent."""
    rows = await caller.call(_queries["find_sequences"], ids=ids)
    return {str(row["id"]): row["sequence"] for row in rows}


async def forget_salt(caller: Caller, buyer: str) -> bool:
    """Erase a buyer from the ledger; whether he was in it."""
    return await caller.call(_queries["forget_salt"], buyer=buyer) is not None


async def signs(caller: Caller) -> dict[str, float]:
    """How the ledger is, by metric; what nobody knows is left out."""
    row = await caller.call(_queries["ledger_signs"])
    return {name: float(value) for name, value in row.items() if value is not None}


# ── looks at the whole chain ─────────────────────────────────────────────────────────────────────


async def progress(caller: Caller) -> Progress:
    """The last look of any worker, and the one under way."""
    row = await caller.call(_queries["read_check"])
    return Progress(
        row["runner"] and str(row["runner"]),
        row["beat_at"],
        row["checked"],
        row["entries"],
        row["ended_at"],
        row["verdict"],
        row["mac"],
        row["now"],
    )


async def claim_check(
    caller: Caller, runner: str, silent_seconds: float, fresh_seconds: float
) -> bool:
    """Begin a look, unless one is under way or ended a moment ago."""
    words = {"silent_seconds": silent_seconds, "fresh_seconds": fresh_seconds}
    return await caller.call(_queries["claim_check"], runner=runner, **words) is not None


async def beat_check(caller: Caller, runner: str, checked: int, entries: int) -> bool:
    """A sign of life; False if another took it for dead and looks now."""
    words = {"checked": checked, "entries": entries}
    return await caller.call(_queries["beat_check"], runner=runner, **words) is not None


async def end_check(
    caller: Caller, runner: str, verdict: str | None, mac: str | None, ended_at: datetime | None
) -> None:
    """What a look found; None: it was broken off."""
    words = {"verdict": verdict, "mac": mac, "ended_at": ended_at}
    await caller.call(_queries["end_check"], runner=runner, **words)
