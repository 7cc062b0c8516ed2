"""Figures of the studies, as SVG written by hand: panels with points, error bars and lines. `panels_svg` makes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, isfinite, log10

WIDTH, HEIGHT, LEFT, GAP = 330, 220, 58, 34
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C", "#B5A600")
STYLE = """
text { font: 11px system-ui, sans-serif; fill: #333 } .title { font-size: 13px; font-weight: 600 }
.axis { stroke: #888; fill: none } .grid { stroke: #ddd }
@media (prefers-color-scheme: dark) { text { fill: #ccc } .grid { stroke: #444 } }
"""
Point = tuple[str, float, float]
"""Where on the axis, mean, and half width of the 95 % interval."""


@dataclass(frozen=True)
class Panel:
    """Lines by name over places of one axis."""

    title: str
    unit: str
    lines: Mapping[str, Sequence[Point]]
    joined: bool = True
    """Whether points are joined: places that have an order."""


def panels_svg(panels: Sequence[Panel], columns: int = 2) -> str:
    """Return the panels in a grid, with one legend below."""
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    columns = min(columns, len(panels))
    rows = ceil(len(panels) / columns)
    step_x, step_y = LEFT + WIDTH + GAP, HEIGHT + GAP + 40
    width, height = columns * step_x, rows * step_y + 20 * ceil(len(names) / 3) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f"<style>{STYLE}</style>",
    ]
    for at, panel in enumerate(panels):
        x, y = LEFT + (at % columns) * step_x, GAP + (at // columns) * step_y
        parts.append(f'<g transform="translate({x},{y})">{_panel(panel, names)}</g>')
    for at, name in enumerate(names):
        x, y = LEFT + at % 3 * (width - LEFT) / 3, rows * step_y + 10 + 20 * (at // 3)
        colour = COLOURS[at % len(COLOURS)]
        parts.append(f'<circle cx="{x:.0f}" cy="{y}" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{x + 10:.0f}" y="{y + 4}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, names: Sequence[str]) -> str:
    places = list(dict.fromkeys(place for line in panel.lines.values() for place, _, _ in line))
    tops = [mean + half for line in panel.lines.values() for _, mean, half in line if isfinite(mean + half)]
    tops += [mean for line in panel.lines.values() for _, mean, _ in line if isfinite(mean)]
    top, ticks = _axis(max(tops, default=1.0))
    parts = [f'<text class="title" x="0" y="-10">{escape(panel.title)}, {escape(panel.unit)}</text>']
    for tick in ticks:
        y = HEIGHT * (1 - tick / top)
        parts.append(f'<line class="grid" x1="0" y1="{y:.1f}" x2="{WIDTH}" y2="{y:.1f}"/>')
        parts.append(f'<text x="-6" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for at, place in enumerate(places):
        x = (at + 0.5) * WIDTH / len(places)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT + 16}" text-anchor="middle">{escape(place)}</text>')
    parts.append(f'<rect class="axis" width="{WIDTH}" height="{HEIGHT}"/>')
    slot = WIDTH / max(len(places), 1)
    for name, line in panel.lines.items():
        number = names.index(name)
        shift = (list(panel.lines).index(name) - (len(panel.lines) - 1) / 2) * slot * 0.6 / max(len(panel.lines), 1)
        dots = []
        for place, mean, half in line:
            if isfinite(mean):
                x = (places.index(place) + 0.5) * slot + shift
                dots.append((x, HEIGHT * (1 - mean / top), HEIGHT * (half if isfinite(half) else 0.0) / top))
        parts += _line(dots, COLOURS[number % len(COLOURS)], joined=panel.joined)
    return "\n".join(parts)


def _line(dots: Sequence[tuple[float, float, float]], colour: str, *, joined: bool) -> list[str]:
    parts = []
    if joined and len(dots) > 1:
        way = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in dots)
        parts.append(f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    for x, y, half in dots:
        up, down = max(y - half, 0.0), min(y + half, HEIGHT)
        parts.append(f'<line x1="{x:.1f}" y1="{up:.1f}" x2="{x:.1f}" y2="{down:.1f}" stroke="{colour}"/>')
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>')
    return parts


def _axis(most: float) -> tuple[float, list[float]]:
    """Return the top of an axis from 0, and ticks of 1, 2 or 5 times a power of ten."""
    if most <= 0:
        return 1.0, [0.0, 1.0]
    power = 10.0 ** floor(log10(most / 4))
    step = next(part * power for part in (1, 2, 5, 10) if most / (part * power) <= 5)  # noqa: PLR2004 - ticks
    number = ceil(most / step)
    return number * step, [step * tick for tick in range(number + 1)]
