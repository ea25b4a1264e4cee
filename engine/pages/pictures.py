"""Sneakers drawn by the engine, so that a shop page needs no photographs and no network.

`draw` promises one self-contained SVG: no script, nothing from outside, the same text for the
same seed. The first twenty seeds look different from each other.

A shoe is painted in the order it is built: lining and tongue, upper, panels clipped to the
upper, stitches, laces, sole. Toe to the right, floor at y = 392, all in a box of 640 by 480.
"""

from __future__ import annotations

import math
from xml.sax.saxutils import escape

import msgspec

Point = tuple[float, float]


class Silhouette(msgspec.Struct, frozen=True, kw_only=True):
    """The lines of one kind of shoe. Panels are cut to the upper, so they may run over it."""

    upper: str
    lining: str
    tongue: str
    panels: tuple[tuple[str, str], ...]  # (paint, path), painted in this order
    stitches: str
    sole: str
    outsole: str  # cut to the sole
    grooves: str  # in the sole's side
    badge: str  # where the accent sits
    throat: tuple[Point, ...] = ()  # Bézier the laces cross, ankle to toe; empty: no laces
    laces: int = 0


class Colourway(msgspec.Struct, frozen=True):
    """Six colours that go together."""

    sky: str
    floor: str
    upper: str
    panel: str
    accent: str
    sole: str


RUNNER = Silhouette(
    upper="M122 346C106 306 100 262 108 214C112 190 132 186 146 200C166 226 206 240 246 226"
    "L282 198C318 226 356 250 402 266C462 282 534 288 556 330L558 352Z",
    lining="M112 210C130 184 150 196 166 204C200 214 232 208 262 190L276 214L236 244L150 240Z",
    tongue="M236 236C242 204 250 176 270 158C286 150 304 160 302 178L316 226L262 262Z",
    panels=(
        ("mesh", "M90 180H580V360H90Z"),
        ("panel", "M90 180C150 200 172 246 176 290C180 320 196 340 214 360H90Z"),
        ("panel", "M284 190L420 268Q390 286 372 326L330 360H262C300 320 316 286 300 262L236 226Z"),
        ("deep", "M600 270C548 262 500 288 470 334L456 360H600Z"),
        ("accent", "M96 208C112 200 138 200 152 212L144 240C128 230 112 230 100 236Z"),
    ),
    stitches="M182 244C196 300 214 330 232 352M462 330C486 296 520 278 560 280",
    throat=((284, 204), (316, 228), (356, 252), (404, 270)),
    laces=6,
    sole="M104 340C100 366 106 390 134 392L498 392C546 390 580 376 584 350C584 340 572 334 556 338"
    "C500 354 440 352 380 350C290 346 200 326 134 328C116 330 106 332 104 340Z",
    outsole="M90 378C200 384 420 384 520 376C556 372 574 362 590 350V400H90Z",
    grooves="M132 350C220 346 300 364 390 368C450 370 500 368 548 358M126 364Q220 360 300 376",
    badge="232 304",
)
HIGH_TOP = Silhouette(
    upper="M128 352C118 300 130 250 122 190C116 150 116 122 126 92C168 108 226 104 268 82"
    "C284 128 300 176 334 210C364 240 404 254 446 262C514 272 548 300 552 352Z",
    lining="M126 96C150 72 226 62 268 84L262 104L140 120Z",
    tongue="M232 108C234 82 246 58 268 50C286 46 298 56 298 72L326 190L300 190Z",
    panels=(
        ("panel", "M270 76Q304 270 452 262L430 296C370 286 316 258 288 214Q256 166 244 90Z"),
        ("panel", "M100 250C150 244 176 280 184 360H100Z"),
        ("deep", "M100 84C150 112 220 110 270 80L276 106C220 134 150 132 112 116Z"),
        ("sole", "M600 262C520 254 468 296 462 360H600Z"),
        ("accent", "M112 110H140C136 170 146 230 144 262H112Z"),
    ),
    stitches="M238 110C246 170 268 226 312 262Q350 290 424 302M190 352Q180 250 128 242",
    throat=((268, 92), (286, 168), (324, 242), (440, 270)),
    laces=9,
    sole="M110 352Q106 346 118 346H560Q570 346 570 356L566 382Q564 392 550 392H120L114 380Z",
    outsole="M90 382H600V400H90Z",
    grooves="M114 360H568",
    badge="194 176",
)
SLIP_ON = Silhouette(
    upper="M124 352C112 312 112 268 122 238C128 220 146 220 160 234C200 268 266 268 318 238"
    "C336 220 352 214 370 222C446 250 536 284 556 330L558 354Z",
    lining="M126 234C150 210 180 214 226 214C280 214 316 208 352 216L318 250L220 276L150 252Z",
    tongue="M300 244C308 214 326 196 348 196C366 196 380 210 378 228L360 250Z",
    panels=(
        ("mesh", "M330 190H600V360H330Z"),
        ("panel", "M100 220H196C214 290 222 330 226 360H100Z"),
        ("deep", "M236 250L318 240L282 322C276 334 266 334 260 322Z"),
        ("panel", "M600 296C540 276 490 312 474 360H600Z"),
        ("accent", "M104 214H152L146 268C132 262 118 262 108 268Z"),
    ),
    stitches="M206 262C220 312 228 332 234 352M228 262L256 326Q268 344 286 326L326 244",
    sole="M108 348Q106 338 118 338Q340 356 556 340Q576 338 574 354L568 380L556 392H122L112 378Z",
    outsole="M90 380H600V400H90Z",
    grooves="M114 358C260 366 440 368 572 360",
    badge="400 292",
)
CHUNKY = Silhouette(
    upper="M118 322C100 282 96 240 106 190C112 160 136 156 150 174C168 206 208 216 246 200"
    "L288 164C320 196 356 220 404 236C478 254 548 266 562 316L564 340L120 340Z",
    lining="M110 186C130 152 154 162 172 178C204 188 236 180 266 158L282 182L240 220L150 214Z",
    tongue="M238 206C240 168 250 136 274 122C294 114 314 124 312 144L326 200L266 236Z",
    panels=(
        ("mesh", "M90 150H600V350H90Z"),
        ("panel", "M90 160C156 170 184 220 188 262L214 350H90Z"),
        ("deep", "M290 156L424 240Q390 264 388 296L340 296C312 268 276 240 236 200Z"),
        ("panel", "M600 236C540 240 484 262 452 304L440 350H600Z"),
        ("accent", "M194 296C270 304 340 282 396 292C440 300 500 296 600 282V350H194Z"),
    ),
    stitches="M196 232C204 280 216 300 230 312M444 304C474 268 524 248 560 250",
    throat=((290, 170), (322, 200), (358, 224), (408, 242)),
    laces=6,
    sole="M92 318C84 352 88 384 108 392H186C206 392 210 376 232 376C254 376 256 392 278 392"
    "L508 392C560 392 600 372 598 334C596 314 576 310 560 318C520 338 470 326 420 330"
    "C350 338 300 346 240 336C190 326 150 308 118 306C102 304 96 308 92 318Z",
    outsole="M80 374C200 386 400 384 510 376C560 370 584 354 604 334V400H80Z",
    grooves="M108 336C200 340 220 366 300 362Q480 356 572 344M430 342l-6 24M478 344l-2 24",
    badge="252 252",
)
SILHOUETTES = (RUNNER, HIGH_TOP, SLIP_ON, CHUNKY)
PALETTE = """
    ffd9c0 ff9a76 fff6ec 2b2d42 ff5a36 ffffff  c7d8ff 7b93db 1d2a5b 31448f ffd23f f7f3e8
    e6f2dd a9c99a dfe8d2 5d7a52 f08a5d fbf7ef  e9defc a98bdc f4efff 7a4fc0 2ee6c5 ffffff
    f3e4c8 d3ac6b f6f0e4 8a5a34 20603d efe0c2  cdeff0 5fb8c2 0f4c5c e36414 fb8b24 fdf6ec
    2b2f4a 12142a e8e9f3 6c63ff ff4d8d f5f5ff  dfe3e8 98a3b1 3a4048 23272d c6ff3d f2f4f6
    fff1b8 f7c948 fffdf5 f7b500 1f2933 fffdf5  ffd6e0 f48fb1 e63961 9d1b3f ffe8ee fffaf3
    d5f5e3 58c48d f2fbf6 0b8457 ffb400 e9dcc1  ffe0d1 e58e6b b5452c 7c2a1a ffc48c fff4e8
    d8ecff 7ab8f5 f0f7ff 2274d9 ff7f11 ffffff  3c4a3e 1c2620 6b7d53 3f4d31 f2a541 d9c9a3
    f8e1ff d48ae8 ffffff f2b8ff 5b2a86 fdf3ff  e7dccf b39c82 8c6a4f c9ab8b 3e2c20 f3e8d8
    d2f7ff 6fd3ef ffffff 00a6c8 ff3864 e8fbff  40304d 1d1526 1e1e24 3a3a45 b48cff 2a2a31
    ffe9a8 ffb037 ff7b00 c44900 2d1e2f fff5dc  f0f0ee c9c9c4 fafaf8 d6d6cf d4af37 ffffff
"""
DYES = [f"#{dye}" for dye in PALETTE.split()]
COLOURWAYS = [Colourway(*DYES[first : first + 6]) for first in range(0, len(DYES), 6)]
# Drawn around (0, 0), then moved to the badge: path, width of its stroke, opacity of its fill.
ACCENTS = (
    ("M-6-30h62M-30-14h104M-12 2h74M-40 18h92M-20 34h48", 8, 0),
    ("M-6 0a16 16 0 1 0 32 0a16 16 0 1 0-32 0M-24 0a34 34 0 1 0 68 0a34 34 0 1 0-68 0", 7, 0),
    ("".join(f"M{14 * x - 44} {15 * y - 36}h0" for x in range(8) for y in range(6)), 9, 0),
    ("M-44 44l46-92 16 92zM12-40l50 84h-34z", 1, 0.85),
    ("".join(f"M-46 {y}q13-16 26 0t26 0 26 0 26 0" for y in (-26, -7, 12, 31)), 7, 0),
)
# Behind the shoe: path, opacity.
BACKDROPS = (
    ("M144 232a176 176 0 1 0 352 0a176 176 0 1 0-352 0", 0.34),
    ("M140 400V236a180 180 0 0 1 360 0V400zM180 400V236a140 140 0 0 1 280 0V400z", 0.2),
    ("M180 0h70L80 480H10zM330 0h70L230 480h-70zM630 0h70L530 480h-70z", 0.14),
    ("M0 300H640V480H0zM392 130a84 84 0 1 0 168 0a84 84 0 1 0-168 0", 0.26),
)
STATIC_DEFINITIONS = (
    '<linearGradient id="light" x2=".2" y2="1"><stop stop-color="#fff" stop-opacity=".3"/>'
    '<stop offset=".45" stop-color="#fff" stop-opacity="0"/><stop offset=".6" stop-opacity="0"/>'
    '<stop offset="1" stop-opacity=".22"/></linearGradient><radialGradient id="dark">'
    '<stop stop-opacity=".55"/><stop offset="1" stop-opacity="0"/></radialGradient>'
    '<pattern id="mesh" width="9" height="9" patternUnits="userSpaceOnUse"'
    ' patternTransform="rotate(32)"><path d="M1 1h3v3H1zM6 6h3v3H6z" fill-opacity=".14"/></pattern>'
)


def draw(seed: int, name: str) -> str:
    """One sneaker as an SVG document of about 6 kB; `name` becomes its accessible title."""
    turn, kind = divmod(seed, len(SILHOUETTES))
    shoe, paint = SILHOUETTES[kind], COLOURWAYS[seed % len(COLOURWAYS)]
    accent = ACCENTS[(kind + turn) % len(ACCENTS)]  # each kind meets every accent before any again
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 480" role="img">'
        f'<title>{escape(name)}</title><defs>{STATIC_DEFINITIONS}<linearGradient id="sky" x2="0" '
        f'y2="1"><stop stop-color="{paint.sky}"/><stop offset="1" stop-color="{paint.floor}"/>'
        f'</linearGradient><clipPath id="shell"><path d="{shoe.upper}"/></clipPath>'
        f'<clipPath id="base"><path d="{shoe.sole}"/></clipPath></defs>'
        f"{_backdrop(*BACKDROPS[(kind + turn) % len(BACKDROPS)])}{_upper(shoe, paint, accent)}"
        f"{_laces(shoe, paint)}{_sole(shoe, paint)}</svg>"
    )


def _backdrop(path: str, opacity: float) -> str:
    return (
        f'<path d="M0 0H640V480H0z" fill="url(#sky)"/><path d="{path}" fill="#fff" '
        f'fill-opacity="{opacity}"/><ellipse cx="340" cy="394" rx="270" ry="18" fill="url(#dark)"/>'
    )


def _upper(shoe: Silhouette, paint: Colourway, accent: tuple[str, float, float]) -> str:
    deep = _mix(paint.panel, "#000000", 0.22)
    paints = msgspec.structs.asdict(paint) | {"deep": deep, "mesh": "url(#mesh)"}
    thread = _mix(paint.accent, paint.sole, 0.4)
    path, width, filled = accent
    panels = "".join(f'<path d="{line}" fill="{paints[role]}"/>' for role, line in shoe.panels)
    return (
        f'<g stroke="#000" stroke-opacity=".2" stroke-width="2">'
        f'<path d="{shoe.lining}" fill="{_mix(deep, "#000000", 0.35)}"/>'
        f'<path d="{shoe.tongue}" fill="{_mix(paint.upper, paint.panel, 0.35)}"/></g>'
        f'<g clip-path="url(#shell)"><path d="{shoe.upper}" fill="{paint.upper}"/>'
        f'<path transform="translate({shoe.badge})" d="{path}" stroke-width="{width}" '
        f'stroke-linecap="round" stroke="{paint.accent}" fill="{paint.accent}" '
        f'fill-opacity="{filled}"/><g stroke="#000" stroke-opacity=".18">{panels}</g>'
        f'<path d="{shoe.stitches}" fill="none" stroke="{thread}" stroke-width="1.5" '
        f'stroke-dasharray="5 3.5"/><path d="{shoe.upper}" fill="url(#light)" stroke="#000" '
        f'stroke-opacity=".3" stroke-width="3"/></g>'
    )


def _laces(shoe: Silhouette, paint: Colourway) -> str:
    """Laces lie across the throat at right angles, each from an eyelet to over the edge."""
    ink = _mix(paint.sole, paint.accent, 0.12)
    dark, parts = _mix(ink, "#000000", 0.4), []
    for lace in range(shoe.laces):
        (x, y), (dx, dy) = _along(shoe.throat, (lace + 0.55) / shoe.laces)
        eye = f"M{x - 25 * dy:.1f} {y + 25 * dx:.1f}"
        line = f"{eye}L{x + 9 * dy:.1f} {y - 9 * dx:.1f}"
        for path, colour, width in ((f"{eye}h0", dark, 12), (line, dark, 9.5), (line, ink, 7)):
            parts.append(f'<path d="{path}" stroke="{colour}" stroke-width="{width}"/>')
    return f'<g stroke-linecap="round" fill="none">{"".join(parts)}</g>'


def _sole(shoe: Silhouette, paint: Colourway) -> str:
    treads = "".join(f"M{x} 386l5 9h-10z" for x in range(100, 600, 17))
    return (
        f'<path d="{shoe.sole}" fill="{paint.sole}"/><g clip-path="url(#base)">'
        f'<path d="{shoe.outsole}" fill="{paint.accent}"/><path d="{treads}" fill-opacity=".35"/>'
        f'<path d="{shoe.grooves}" fill="none" stroke="{_mix(paint.sole, paint.panel, 0.42)}" '
        f'stroke-width="3"/><path d="{shoe.sole}" fill="url(#light)" stroke="#000" '
        f'stroke-opacity=".3" stroke-width="3"/></g>'
    )


def _along(curve: tuple[Point, ...], t: float) -> tuple[Point, Point]:
    """The point at `t` on a cubic Bézier, and the direction of unit length there."""
    a, b, c, d = curve
    u = 1 - t
    x, y = (u**3 * a[i] + 3 * u * t * (u * b[i] + t * c[i]) + t**3 * d[i] for i in (0, 1))
    dx, dy = (
        u * u * (b[i] - a[i]) + 2 * u * t * (c[i] - b[i]) + t * t * (d[i] - c[i]) for i in (0, 1)
    )
    length = math.hypot(dx, dy)
    return (x, y), (dx / length, dy / length)


def _mix(one: str, other: str, share: float) -> str:
    """`one` with a share of `other` stirred in."""
    pairs = zip(bytes.fromhex(one[1:]), bytes.fromhex(other[1:]), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)
