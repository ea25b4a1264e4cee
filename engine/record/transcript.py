"""Transcript: the ledger as a file, and a file checked with no server.

    {"type": "key", …}                       all keys there were
    {"type": "link", …}                      a link,
    {"type": "record", "content": "…", …}    and its records
    {"type": "head", …}                      at the end, signed

One line, one JSON object. A file without its last line is truncated.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import suppress

import msgspec

from engine.infra.errors import Refusal
from engine.infra.postgres import Postgres
from engine.record import books
from engine.record.check import Checker, Flaw
from engine.record.keys import Keyring, is_signed
from engine.record.ledger import BLOCK_MAX, head_statement
from engine.record.models import Head, Key, Link, Record, Verdict
from engine.record.verify import Chain, Pace
from engine.record.views import SignedHead

MEDIA_TYPE = b"application/x-ndjson"


class _Line(msgspec.Struct, rename="camel", tag_field="type"):
    pass


class KeyLine(_Line, tag="key"):
    """Keys in force from a link on."""

    hmac_key: str
    signing_key: str
    public_key: str
    since: int
    voucher: str | None
    made_at: str


class LinkLine(_Line, tag="link"):
    """A link, and what the history tree has of it."""

    height: int
    is_block: bool
    first_sequence: int
    records: int
    root: str
    previous_hash: str
    data_hash: str
    nonce: int
    key: str
    timestamp: str
    node: str


class RecordLine(_Line, tag="record"):
    """A record, its content as it was hashed."""

    sequence: int
    action: str
    content: str
    leaf: str


class HeadLine(_Line, tag="head"):
    """The end of the chain."""

    height: int
    sequence: int
    data_hash: str
    root: str
    hmac_key: str
    signing_key: str
    signature: str
    timestamp: str


Line = KeyLine | LinkLine | RecordLine | HeadLine
_decode = msgspec.json.Decoder(Line).decode
_encode = msgspec.json.Encoder().encode_lines


class Unreadable(Refusal):
    """The file is no export of a ledger."""


async def lines(postgres: Postgres, pace: Pace) -> AsyncGenerator[bytes, None]:
    """The whole ledger up to its head of this moment, about a thousand lines in each piece."""
    head = (await books.ends(postgres)).head
    yield _encode([_key_line(key) for key in await books.keys(postgres)]) or b"\n"
    chain = Chain(postgres, head, pace)
    piece: list[_Line] = []
    async for link, _ in chain.links():
        piece.append(_link_line(link))
        async for record in chain.records(link.first + link.records - 1):
            piece.append(
                RecordLine(
                    record.sequence, record.action, record.content.decode(), record.leaf.hex()
                )
            )
            if len(piece) >= 1_000:
                yield _encode(piece)
                piece.clear()
    yield _encode([*piece, head_line(head)])


def verify_lines(
    told: Iterable[bytes],
    ring: Keyring,
    witness: Head | None = None,
    progress: Callable[[int], object] = lambda _: None,
    pinned: bytes | None = None,
) -> Verdict:
    """Check an exported file. `pinned`: the public key that its head must be signed with, whatever
    keys it names. Raises `Unreadable`."""
    keys: list[Key] = []
    checker: Checker | None = None
    held: tuple[Link, list[Record]] | None = None
    verdict: Verdict | None = None
    try:
        for number, text in enumerate(told, 1):
            line = _read(number, text)
            if line is not None and verdict is not None:
                raise Flaw(verdict.entries + 1, "inserted")
            match line:
                case None:
                    continue
                case KeyLine():
                    keys.append(_key(line))
                    continue
                case LinkLine():
                    checker = checker or Checker(ring, keys, witness)
                    link = _link(line)
                    _walk(checker, held, link)
                    held = link, []
                    progress(checker.sequence)
                case RecordLine():
                    if held is None:
                        raise Flaw(line.sequence, "inserted")
                    held[1].append(_record(line, held[0].height))
                    if len(held[1]) > min(held[0].records, BLOCK_MAX):
                        raise Flaw(line.sequence, "inserted")
                case HeadLine():
                    checker = checker or Checker(ring, keys, witness)
                    _walk(checker, held, None)
                    head = head_of(line)
                    checker.close(head)
                    if pinned and not is_signed(pinned, head.signature, head_statement(head)):
                        raise Flaw(None, "bad_head")
                    unchecked = sorted(checker.unchecked)
                    stranger = None if pinned else checker.stranger(head)
                    verdict = Verdict(
                        True, checker.sequence, unchecked=unchecked, signed_by=stranger
                    )
        if verdict is not None:
            return verdict
        raise Flaw((held[0].first + len(held[1])) if held else 1, "truncated")
    except Flaw as flaw:
        checked = checker.sequence if checker else 0
        return Verdict(False, checked, flaw.sequence, flaw.reason, flaw.subject)


def _walk(checker: Checker, held: tuple[Link, list[Record]] | None, following: Link | None) -> None:
    if held is None:
        return
    link, records = held
    checker.begin(link, following)
    for record in records:
        checker.record(record)
    checker.end()


def _read(number: int, text: bytes) -> Line | None:
    if not text.strip():
        return None
    try:
        line: Line = _decode(text)
        return line
    except (msgspec.DecodeError, UnicodeDecodeError) as wrong:
        raise Unreadable(f"line {number} is no line of an exported ledger: {wrong}") from None


def _bytes(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""  # which is no hash of anything


def _key_line(key: Key) -> KeyLine:
    voucher = None if key.voucher is None else key.voucher.hex()
    return KeyLine(
        key.hmac_key, key.signing_key, key.public_key.hex(), key.since, voucher, key.made_at
    )


def _key(line: KeyLine) -> Key:
    voucher = None if line.voucher is None else _bytes(line.voucher)
    return Key(
        line.hmac_key,
        line.signing_key,
        _bytes(line.public_key),
        line.since,
        voucher,
        line.made_at,
    )


def _link_line(link: Link) -> LinkLine:
    return LinkLine(
        link.height,
        link.is_block,
        link.first,
        link.records,
        link.root.hex(),
        link.previous_hash,
        link.data_hash,
        link.nonce,
        link.key,
        link.sealed_at,
        (link.node or b"").hex(),
    )


def _link(line: LinkLine) -> Link:
    return Link(
        line.height,
        line.is_block,
        line.first_sequence,
        line.records,
        _bytes(line.root),
        line.previous_hash,
        line.data_hash,
        line.nonce,
        line.key,
        line.timestamp,
        _bytes(line.node),
    )


def _record(line: RecordLine, height: int) -> Record:
    return Record(line.sequence, height, line.action, line.content.encode(), _bytes(line.leaf))


def head_line(head: Head) -> HeadLine:
    """A head as a line of a file."""
    return HeadLine(
        head.height,
        head.sequence,
        head.data_hash,
        head.root.hex(),
        head.hmac_key or "",
        head.signing_key or "",
        (head.signature or b"").hex(),
        head.sealed_at,
    )


def head_of(line: HeadLine) -> Head:
    """A head from a line of a file."""
    return Head(
        line.height,
        line.sequence,
        line.data_hash,
        _bytes(line.root),
        None,
        line.hmac_key or None,
        line.signing_key or None,
        _bytes(line.signature),
        line.timestamp,
    )


def witness_of(text: bytes) -> Head:
    """A head that `velvetrope ledger head` printed, or GET /ledger/head answered. Raises
    `Unreadable`."""
    with suppress(msgspec.DecodeError, UnicodeDecodeError):
        answer = msgspec.json.decode(text, type=SignedHead)
        told = answer.head
        return Head(
            told.height,
            told.sequence,
            told.data_hash,
            _bytes(told.root),
            None,
            None,
            told.key,
            _bytes(answer.signature),
            told.timestamp,
        )
    try:
        line = _read(1, text)
    except Unreadable:
        line = None
    if not isinstance(line, HeadLine):
        raise Unreadable("this is no head: `velvetrope ledger head` and GET /ledger/head give one")
    return head_of(line)
