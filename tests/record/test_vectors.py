"""The formulas of the ledger: what other systems' verifiers compute, the same function must."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.record import ledger, merkle

SECRET = b"test-secret"
FIRST = ("b1", "s1", "MAN-1", "u1", "BOOKING_CONFIRMED", "2025-12-12T10:00:00.000Z", "0" * 16)
SECOND = (
    *("b2", "s2", "MAN-é/2", "u1", "BOOKING_CONFIRMED", "2025-12-12T10:00:01.250Z"),
    "2f22376e51ae6106",
)


@pytest.mark.parametrize(
    ("told", "whole", "nonce"),
    [
        (FIRST, "2f22376e51ae6106bb17d4cee60fec4b2745c34fe680bf4cdb66cf1a1909a212", 364),
        (SECOND, "2265d289ba0ee0d57a04456dbfc054562fe82a087092934666fd402d8056a655", 73),
    ],
)
def test_an_entry_has_the_hash_and_the_nonce_of_the_vectors(
    told: tuple[str, ...], whole: str, nonce: int
) -> None:
    content = ledger.entry_content(*told)

    assert ledger.data_hash(SECRET, content) == whole
    assert ledger.data_hash(SECRET, content, 16) == whole[:16]
    assert ledger.nonce_of(whole[:16]) == nonce
    assert ledger.is_nonce(whole[:16], nonce)
    assert not any(ledger.is_nonce(whole[:16], n) for n in range(nonce))


def test_the_hash_is_what_the_standard_library_makes_of_it_in_the_long_way() -> None:
    told = ledger.entry_content(*FIRST)

    assert ledger.data_hash(SECRET, told) == hmac.new(SECRET, told, hashlib.sha256).hexdigest()
    assert told.startswith(b'{"bookingId":"b1","slotId":"s1","manifestId":"MAN-1","userId":"u1",')


def _by_the_book(leaves: list[bytes]) -> bytes:
    """RFC 6962, 2.1, word by word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    left, right = _by_the_book(leaves[:k]), _by_the_book(leaves[k:])
    return hashlib.sha256(b"\x01" + left + right).digest()


@given(st.integers(0, 70), st.data())
def test_a_tree_that_grows_has_the_root_of_the_rfc_and_proves_each_leaf(
    size: int, data: st.DataObject
) -> None:
    leaves = [merkle.leaf_hash(b"%d" % n) for n in range(size)]
    tree = merkle.Tree()
    nodes = {(node.level, node.place): node.hash for leaf in leaves for node in tree.grow(leaf)}

    assert tree.root() == _by_the_book(leaves) == merkle.root_of(leaves)
    if size:
        index = data.draw(st.integers(0, size - 1))
        by_nodes = merkle.path(index, size, lambda level, place: nodes[level, place])
        assert by_nodes == merkle.path_among(leaves, index)
        assert merkle.climb(leaves[index], by_nodes) == tree.root()
        other = (index + 1) % size
        assert other == index or merkle.climb(leaves[other], by_nodes) != tree.root()
