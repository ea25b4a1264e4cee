"""Merkle trees as Certificate Transparency has them (RFC 6962, 2.1): a leaf's hash begins with a 0
byte, a node's with a 1, and a tree of n leaves is split at the largest power of two below n.

A tree is kept as its peaks, the roots of its perfect subtrees from the largest to the smallest, one
for each bit of its size: to append costs two hashes on average, whatever the size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import msgspec

HASH_BYTES = 32
EMPTY = hashlib.sha256(b"").digest()

_sha256 = hashlib.sha256


class Step(msgspec.Struct, frozen=True):
    """One hash of a path, and on which side of ours it stands."""

    side: Literal["left", "right"]
    hash: str


class Node(msgspec.Struct, frozen=True):
    """The root of a perfect subtree: 2^level leaves, the place-th of that size."""

    level: int
    place: int
    hash: bytes


def leaf_hash(content: bytes) -> bytes:
    """The hash of a leaf."""
    return _sha256(b"\0" + content).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of two subtrees side by side."""
    return _sha256(b"\1" + left + right).digest()


class Tree:
    """A tree that grows at its right end."""

    __slots__ = ("peaks", "size")

    def __init__(self, size: int = 0, peaks: Iterable[bytes] = ()) -> None:
        self.size, self.peaks = size, list(peaks)

    def append(self, leaf: bytes) -> None:
        """One more leaf, by its hash."""
        peaks, full = self.peaks, self.size
        while full & 1:
            leaf = _sha256(b"\1" + peaks.pop() + leaf).digest()
            full >>= 1
        peaks.append(leaf)
        self.size += 1

    def grow(self, leaf: bytes) -> list[Node]:
        """The same; the perfect subtrees that it completes, itself first."""
        peaks, place, level = self.peaks, self.size, 0
        made = [Node(0, place, leaf)]
        while place & 1:
            leaf = node_hash(peaks.pop(), leaf)
            place, level = place >> 1, level + 1
            made.append(Node(level, place, leaf))
        peaks.append(leaf)
        self.size += 1
        return made

    def root(self) -> bytes:
        """The hash of it all."""
        return folded(self.peaks)


def folded(peaks: Sequence[bytes]) -> bytes:
    """The root over peaks, from the smallest to the largest."""
    if not peaks:
        return EMPTY
    root = peaks[-1]
    for peak in reversed(peaks[:-1]):
        root = node_hash(peak, root)
    return root


def root_of(leaves: Iterable[bytes]) -> bytes:
    """The root over hashes of leaves."""
    tree = Tree()
    for leaf in leaves:
        tree.append(leaf)
    return tree.root()


def siblings(index: int, size: int) -> list[tuple[int, int, Literal["left", "right"]]]:
    """The subtrees beside the way from a leaf to the root: (first leaf, end, side), leaf first."""
    low, high = 0, size
    found: list[tuple[int, int, Literal["left", "right"]]] = []
    while high - low > 1:
        middle = low + (1 << (high - low - 1).bit_length() - 1)
        if index < middle:
            found.append((middle, high, "right"))
            high = middle
        else:
            found.append((low, middle, "left"))
            low = middle
    return found[::-1]


def perfect(low: int, high: int) -> list[tuple[int, int]]:
    """The perfect subtrees (level, place) that a subtree of `siblings` consists of."""
    found = []
    while low < high:
        level = (high - low).bit_length() - 1
        found.append((level, low >> level))
        low += 1 << level
    return found


def path(index: int, size: int, of: Callable[[int, int], bytes]) -> list[Step]:
    """The way from a leaf to the root; `of(level, place)` is the root of a perfect subtree."""
    return [
        Step(side, folded([of(level, place) for level, place in perfect(low, high)]).hex())
        for low, high, side in siblings(index, size)
    ]


def path_among(leaves: Sequence[bytes], index: int) -> list[Step]:
    """The way from one of these leaves to their root."""

    def of(level: int, place: int) -> bytes:
        return root_of(leaves[place << level : (place + 1) << level])

    return path(index, len(leaves), of)


def climb(leaf: bytes, steps: Iterable[Step]) -> bytes:
    """The root that a leaf and its path lead to."""
    for step in steps:
        beside = bytes.fromhex(step.hash)
        leaf = node_hash(beside, leaf) if step.side == "left" else node_hash(leaf, beside)
    return leaf
