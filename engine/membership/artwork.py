"""What a pass looks like: two posts and a velvet rope, drawn by the engine in every size that a
wallet asks for, so that nothing comes from elsewhere.

Everything is a stroke with round ends, and a pixel's cover follows from its distance to it: edges
are smooth at 29 pixels as at 150.
"""

from __future__ import annotations

import math
import struct
import zlib
from functools import cache

WINE, GOLD = (86, 16, 38), (240, 205, 128)
# In a square of 1 by 1: posts, their knobs and feet, as lines with the half of their width.
STROKES = (
    ((0.22, 0.36), (0.22, 0.78), 0.035),
    ((0.78, 0.36), (0.78, 0.78), 0.035),
    ((0.22, 0.24), (0.22, 0.24), 0.075),
    ((0.78, 0.24), (0.78, 0.24), 0.075),
    ((0.14, 0.80), (0.30, 0.80), 0.035),
    ((0.70, 0.80), (0.86, 0.80), 0.035),
)
ROPE_CENTRE, ROPE_RADIUS, ROPE_HALF = (0.5, 0.24), 0.315, 0.05  # the lower part of a ring
ROPE_TOP = 0.38
SIZES = {  # file: width and height, and whether it has a ground
    **{f"icon{at}.png": (29 * by, True) for at, by in (("", 1), ("@2x", 2), ("@3x", 3))},
    **{f"logo{at}.png": (50 * by, False) for at, by in (("", 1), ("@2x", 2), ("@3x", 3))},
}


@cache
def pictures() -> dict[str, bytes]:
    """The PNG files of every pass, by name. Takes a moment the first time: not on the loop."""
    return {name: _png(size, ground) for name, (size, ground) in SIZES.items()}


def _png(size: int, has_ground: bool) -> bytes:
    """The mark in a square of so many pixels; without a ground all but the mark is clear."""
    rows = bytearray()
    for y in range(size):
        rows.append(0)  # no filter
        for x in range(size):
            cover = _cover((x + 0.5) / size, (y + 0.5) / size, size)
            if has_ground:
                rows += bytes(
                    round(low + (high - low) * cover) for low, high in zip(WINE, GOLD, strict=True)
                )
                rows.append(255)
            else:
                rows += bytes((*GOLD, round(255 * cover)))
    header = struct.pack(">IIBBBBB", size, size, 8, 6, 0, 0, 0)  # 8 bits each of RGBA
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(rows, 9)), _chunk(b"IEND", b""))
    )


def _cover(x: float, y: float, size: int) -> float:
    """How much of the pixel around a point the mark covers, 0 to 1."""
    nearest = min(_distance(x, y, *stroke) for stroke in STROKES)
    if y > ROPE_TOP:
        ring = math.hypot(x - ROPE_CENTRE[0], y - ROPE_CENTRE[1]) - ROPE_RADIUS
        nearest = min(nearest, abs(ring) - ROPE_HALF)
    return min(max(0.5 - nearest * size, 0.0), 1.0)


def _distance(
    x: float, y: float, one: tuple[float, float], other: tuple[float, float], half: float
) -> float:
    """From a point to the edge of a line with round ends; less than nothing within it."""
    across, down = other[0] - one[0], other[1] - one[1]
    length = across * across + down * down
    along = ((x - one[0]) * across + (y - one[1]) * down) / length if length else 0.0
    along = min(max(along, 0.0), 1.0)
    return math.hypot(x - one[0] - along * across, y - one[1] - along * down) - half


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
