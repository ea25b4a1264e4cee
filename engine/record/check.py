"""Check: is a chain what was sealed? Link by link, in a memory that does not grow with it, from
wherever it comes: Postgres (verify.py) or an exported file (transcript.py).

What is wrong is named by the first record where it shows, and why:

    changed        what it says is not what was sealed   reordered   it is genuine, its place is not
    removed        something was there                   inserted    nothing was there
    truncated      the head is further than the rows     wrong_nonce its nonce is not the least
    bad_head       the head does not belong to this chain, or nobody signed it
    bad_keys       the list of keys is not what the chain says of them
    other_history  a head that was kept elsewhere is not of this chain

Without the secret of a link's key its HMAC is not checked: whoever could rewrite rows and sign a
head could then have made another chain. `unchecked` says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import NoReturn

import msgspec

from engine.record import ledger
from engine.record.keys import Keyring, is_signed, public_id
from engine.record.merkle import Tree
from engine.record.models import Head, Key, Link, Reason, Record


class Flaw(Exception):
    """A chain is broken: at which record, and why."""

    def __init__(self, sequence: int | None, reason: Reason, subject: str | None = None) -> None:
        self.sequence, self.reason, self.subject = sequence, reason, subject
        super().__init__(f"{reason} at {sequence}")


class _Rotation(msgspec.Struct, rename="camel"):
    hmac_key: str
    signing_key: str
    public_key: str
    previous_signing_key: str


class Checker:
    """A walk along one chain. Every method raises `Flaw`.

    For each link: `begin`, `record` for each of its records, `end`; at last `close`.
    """

    def __init__(self, ring: Keyring, keys: Iterable[Key], witness: Head | None = None) -> None:
        self._ring, self._witness = ring, witness
        self._listed = list(keys)
        self._keys = {key.signing_key: key.public_key for key in self._listed}
        self._turns: list[tuple[int, _Rotation, bytes]] = []  # height, what it says, as it says it
        self._first_key = ""
        self._history = Tree()
        self.previous = ledger.GENESIS  # hash of the last link that was found good
        self._key: str | None = None  # in force
        self._signing_key: str | None = None  # likewise, once a rotation named one
        self._link: Link | None = None
        self._following: Link | None = None
        self._block = Tree()
        self._doubt: tuple[int, Reason] | None = None
        self._content = b""
        self.sequence = 0  # of the last record that was checked
        self.unchecked: set[str] = set()

    @property
    def height(self) -> int:
        """Links that were found good."""
        return self._history.size

    def begin(self, link: Link, following: Link | None) -> None:
        """A link, and the one after it, which tells what is wrong with this one."""
        if link.height > self.height + 1:
            raise Flaw(self.sequence + 1, "removed")
        due = self.sequence + 1
        if link.first != due and following is not None and following.first == due:
            raise Flaw(due, "reordered")
        if link.first != due or not 1 <= link.records <= ledger.BLOCK_MAX:
            raise Flaw(due, "changed")
        self._link, self._following = link, following
        self._block, self._doubt = Tree(), None

    def record(self, record: Record) -> None:
        """The next record of the link."""
        link, due = self._link, self.sequence + 1
        assert link is not None
        if record.sequence > due:
            raise Flaw(due, "removed")
        if record.height != link.height:
            raise Flaw(due, "reordered")
        content = record.content
        if sha256(b"\0" + content).digest() != record.leaf:
            raise Flaw(due, "changed")
        if link.is_block and not content.startswith(b'{"sequence":%d,' % due):
            raise Flaw(due, "reordered")
        if not _is_called(content, record.action, is_block=link.is_block):
            raise Flaw(due, "changed")  # nobody would look for the row that it tells of
        if record.doubt is not None and self._doubt is None:
            self._doubt = due, record.doubt
        self._block.append(record.leaf)
        self._content = content
        self.sequence = due

    def end(self) -> None:
        """All records of the link were there."""
        link = self._link
        assert link is not None
        if self._block.size != link.records:
            raise Flaw(self.sequence + 1, "removed")
        if self._block.root() != link.root:
            # Of many records under one root it is the one whose row tells something else; if all
            # rows agree, they were changed together, and nobody can say which.
            raise Flaw(self._doubt[0] if self._doubt else link.first, "changed")
        self._check_hash(link)
        completed = self._history.grow(ledger.link_leaf(link))
        if link.node is not None and link.node != b"".join(node.hash for node in completed):
            least = ledger.nonce_of(link.data_hash)
            raise Flaw(link.first, "changed" if link.nonce == least else "wrong_nonce")
        if self._doubt is not None:
            raise Flaw(*self._doubt)
        self.previous = link.data_hash
        self._turn_key(link)
        witness = self._witness
        if witness and witness.height == self.height and witness.root != self._history.root():
            raise Flaw(None, "other_history")

    def _check_hash(self, link: Link) -> None:
        content = self._content
        if link.is_block:
            content = ledger.block_content(
                link.first, link.records, link.root, link.sealed_at, link.previous_hash
            )
        elif not content.endswith(b'"previousHash":"%b"}' % link.previous_hash.encode()):
            raise Flaw(link.first, "changed")
        is_genuine = self._is_genuine(link, content)
        is_next = link.previous_hash == self.previous
        if not is_next or is_genuine is False:
            self._explain(link, is_next, is_genuine is not False)
        if not ledger.is_nonce(link.data_hash, link.nonce):
            raise Flaw(link.first, "wrong_nonce")

    def _is_genuine(self, link: Link, content: bytes) -> bool | None:
        """Whether the link was sealed with the key in force; None if we have not got it."""
        if self._key is None:
            self._key = self._first_key = link.key
        elif link.key != self._key:
            # Of keys that were lost nobody vouches for the next: but ours were not lost.
            told = None if link.is_block else _rotation(content)
            if told is None or told.hmac_key != link.key or self._key in self._ring.secrets:
                return False
            self._key = link.key
        secret = self._ring.secrets.get(link.key)
        if secret is None:
            self.unchecked.add(link.key)
            return None
        return ledger.data_hash(secret, content) == link.data_hash

    def _explain(self, link: Link, is_next: bool, is_genuine: bool) -> NoReturn:
        """Of a link that does not belong here: what was done?"""
        following = self._following
        is_followed = following is not None and following.previous_hash == self.previous
        if is_followed:  # whoever is next belongs here
            raise Flaw(link.first, "inserted" if is_next or not is_genuine else "reordered")
        raise Flaw(link.first, "changed" if is_next or not is_genuine else "removed")

    def _turn_key(self, link: Link) -> None:
        told = None if link.is_block else _rotation(self._content)
        if told is None:
            return
        self._key, self._signing_key = told.hmac_key, told.signing_key
        self._turns.append((self.height, told, self._content))
        if self._keys.get(told.signing_key, b"").hex() != told.public_key:
            self._keys[told.signing_key] = bytes.fromhex(told.public_key)

    def stranger(self, head: Head) -> str | None:
        """The public key of a head that was believed since the list names it; None: it is ours."""
        key = None if self._ring.signers else self._keys.get(head.signing_key or "")
        return None if key is None else key.hex()

    def _check_keys(self, head: Head) -> None:
        """Is the list of keys, of which the public learns whom to trust, the chain's?"""
        listed = [key for key in self._listed if key.since <= self.height]
        due = [(1, self._first_key)] + [(at, told.hmac_key) for at, told, _ in self._turns]
        names = [public_id(key.public_key) for key in listed]
        if [(key.since, key.hmac_key) for key in listed] != due or names != [
            key.signing_key for key in listed
        ]:
            raise Flaw(None, "bad_keys")
        for before, key, (_, told, content) in zip(listed, listed[1:], self._turns, strict=False):
            is_next = (before.signing_key, key.signing_key) == (
                told.previous_signing_key,
                told.signing_key,
            )
            if not is_next or not (
                key.voucher is None or is_signed(before.public_key, key.voucher, content)
            ):
                raise Flaw(None, "bad_keys")
        if head.signing_key != names[-1]:
            raise Flaw(None, "bad_keys")

    def close(self, head: Head) -> None:
        """The chain ended: is this its head?"""
        if self.height < head.height:
            raise Flaw(self.sequence + 1, "truncated")
        if self.height > head.height:
            raise Flaw(head.sequence + 1, "inserted")
        if self._witness is not None and self._witness.height > self.height:
            raise Flaw(self.sequence + 1, "truncated")
        if head.height == 0:
            return
        told = head.sequence, head.data_hash, head.root
        if told != (self.sequence, self.previous, self._history.root()):
            raise Flaw(None, "bad_head")
        if head.peaks is not None and head.peaks != self._history.peaks:
            raise Flaw(None, "bad_head")
        secrets = self._ring.secrets
        if not self._is_signed(head) or (secrets and self._key not in secrets):
            raise Flaw(None, "bad_head")
        if self._witness is not None and not self._is_signed(self._witness):
            raise Flaw(None, "other_history")
        self._check_keys(head)

    def _is_signed(self, head: Head) -> bool:
        """By a key of ours. Of old heads, and where we have none, by one that the list names, if no
        link of the chain names another."""
        id, is_old = head.signing_key or "", head is self._witness
        public_key = self._ring.public(id)
        if public_key is None and (is_old or not self._ring.signers):
            public_key = self._keys.get(id)
        if public_key is None or (not is_old and self._signing_key not in (None, id)):
            return False
        return is_signed(public_key, head.signature, ledger.head_statement(head))


def _rotation(content: bytes) -> _Rotation | None:
    if not content.startswith(b'{"action":"%b",' % ledger.ROTATION.encode()):
        return None
    try:
        return msgspec.json.decode(content, type=_Rotation)
    except msgspec.DecodeError:
        return None  # somebody wrote it who was none of ours


def _is_called(content: bytes, action: str, *, is_block: bool) -> bool:
    """Whether what is shown as a record's action is the one that it says. In what is hashed, a
    quote in a name is written with a backslash."""
    name = b'"action":"%b",' % action.encode()
    if '"' in action:
        return False
    if is_block:
        return content.startswith(name, content.index(b",") + 1)
    return content.startswith(b"{" + name) or b'",%b"timestamp":"' % name in content
