"""The picture of a run, as SVG: every goal next to its bound, and whose CPU a request took."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from loadtest.bench.goals import RATIO, shown
from loadtest.bench.report import Result, Row, Verdict

WIDTH, MARGIN = 1_060, 24
LABEL, TRACK = 380, 340  # widths of a row's words and of its bar
LINE = 26  # a row's height
BOUND_AT = 0.6  # of a track: where every bound stands
GOOD, BAD, PLAIN, INK, FAINT = "#2b8a5a", "#c4572a", "#7a8796", "#1f2933", "#d9dee4"
COLOURS = {
    "workers": "#33658a",
    "postgres": "#86bbd8",
    "valkey": "#c4572a",
    "keepers": "#8a6fb0",
    "client": "#758e4f",
    "others": "#b9c0c8",
}


def picture(result: Result) -> str:
    """All of it, one panel below the other."""
    judged = [each for each in result.goals if each.met is not None]
    loads = [row for row in result.samples if row.usage is not None]
    lines = [*_head(result)]
    y = 96
    lines += _goals(judged, y)
    y += LINE * len(judged) + 56
    lines += _costs(loads, y)
    y += (LINE * len(loads) + 56) if loads else 0
    body = "\n".join(lines)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" '
        f'font-family="system-ui, sans-serif" font-size="13" fill="{INK}">\n'
        f'<rect width="{WIDTH}" height="{y}" fill="#fff"/>\n{body}\n</svg>\n'
    )


def _head(result: Result) -> list[str]:
    words = [
        f"{result.machine.get('cores', '?')} × {result.machine.get('cpu', 'CPU')}",
        f"Postgres {result.versions.get('postgres', '?')}",
        f"Valkey {result.versions.get('valkey', '?')}",
        f"Python {result.versions.get('python', '?')}",
        f"commit {result.commit}",
        f"median of {result.plan.rounds} by {result.plan.client}",
    ]
    title = "Velvetrope's goals of speed" + (", quick and rough" if result.quick else "")
    return [
        _text(MARGIN, 36, title, size=20, weight="600"),
        _text(MARGIN, 58, " · ".join(words), fill=PLAIN, size=12),
    ]


def _goals(verdicts: Sequence[Verdict], y: int) -> list[str]:
    """Bars of which 60 % of the track is the bound: pass it where at least is asked, stay below
    where at most is."""
    if not verdicts:
        return []
    at = MARGIN + LABEL + TRACK * BOUND_AT
    words = "goal  (≥ is met past the line, ≤ before it)"
    lines = [_text(at, y - 8, words, size=11, fill=PLAIN, anchor="middle")]
    for i, each in enumerate(verdicts):
        top = y + LINE * i
        bound = each.at_least if each.at_least is not None else each.at_most
        assert bound is not None, "a goal that is judged has a bound"
        start, colour = MARGIN + LABEL, GOOD if each.met else BAD
        value = each.value or 0.0
        low, middle, high = (_reach(v / bound) for v in (each.least, value, each.most))
        word = "met" if each.met else "missed"
        known = "unknown" if each.value is None else shown(each.value, each.unit)
        told = f"{known}  (wanted {each.bound}) {word}"
        lines += [
            _text(MARGIN, top + 15, f"{each.id}  {each.title}"),
            _bar(start, top + 4, TRACK, FAINT),
            _bar(start, top + 4, middle, colour),
            f'<line x1="{start + low:.1f}" x2="{start + high:.1f}" y1="{top + 11}" '
            f'y2="{top + 11}" stroke="{INK}" stroke-width="1.5"/>',
            _text(start + TRACK + 12, top + 15, told, fill=colour),
        ]
    lines.append(
        f'<line x1="{at:.0f}" x2="{at:.0f}" y1="{y - 2}" y2="{y + LINE * len(verdicts)}" '
        f'stroke="{INK}" stroke-dasharray="3 3"/>'
    )
    return lines


def _reach(share: float) -> float:
    """Pixels of a value that is this share of its bound; what leaves the track ends with it."""
    return max(0.0, min(share * BOUND_AT, 1.0)) * TRACK


def _costs(rows: Sequence[Row], y: int) -> list[str]:
    """What a request took of the machine's CPU, process by process."""
    if not rows:
        return []
    most = max(row.usage.total for row in rows if row.usage is not None) or 1.0
    # Baselines take ten times as much as anything else: their bars are cut, not all others shrunk.
    scale = min(most, 400.0)
    lines, x = [_text(MARGIN, y - 8, "CPU a request, µs", weight="600")], MARGIN + LABEL
    for part, colour in COLOURS.items():
        lines += [
            f'<rect x="{x}" y="{y - 18}" width="10" height="10" fill="{colour}"/>',
            _text(x + 14, y - 9, part, size=11),
        ]
        x += 90
    for i, row in enumerate(rows):
        assert row.usage is not None
        top, start, left = y + LINE * i, float(MARGIN + LABEL), float(TRACK)
        rate = f"{row.value:,.0f} {row.unit}"
        lines += [
            _text(MARGIN, top + 15, row.name),
            _text(start - 12, top + 15, rate, fill=PLAIN, anchor="end"),
        ]
        for part, micros in row.usage.micros.items():
            width = min(micros / scale * TRACK, left)
            lines.append(_bar(start, top + 4, width, COLOURS.get(part, PLAIN)))
            start, left = start + width, left - width
        told = f"{shown(row.usage.total, RATIO)} µs, {row.usage.idle:.0%} of the machine idle"
        lines.append(_text(MARGIN + LABEL + TRACK + 12, top + 15, told))
    return lines


def _bar(x: float, y: float, width: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="14" fill="{colour}"/>'


def _text(
    x: float,
    y: float,
    words: str,
    *,
    size: int = 13,
    fill: str = INK,
    anchor: str = "start",
    weight: str = "400",
) -> str:
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" fill="{fill}" text-anchor="{anchor}" '
        f'font-weight="{weight}">{escape(words)}</text>'
    )
