"""A roofline plot as SVG: what bounds each operator of a step."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

_WIDTH: Final = 910
_HEIGHT: Final = 520
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 280, 50, 60
_LABEL: Final = 13
_TWO_DIGITS: Final = 10.0
_COLOURS: Final = {"compute": "#c0392b", "memory": "#2471a3", "latency": "#7d6608", "network": "#6c3483"}


def roofline_svg(
    title: str, operators: Sequence[Mapping[str, Any]], bandwidth_bytes_per_s: float, flops: Mapping[str, float]
) -> str:
    """Return an SVG with the roofs of a device and the operators of a step (keys as `hermes hw price --json` has them).

    Across: FLOPs for each byte; up: FLOPs a second that were reached. Both are logarithmic; an operator's area is its
    share of the step. Operators without FLOPs are listed beside.
    """
    points = [item for item in operators if item["flop"] > 0 and item["bytes"] > 0 and item["duration_s"] > 0]
    total_s = sum(item["duration_s"] for item in operators) or 1.0
    intensity = [item["flop"] / item["bytes"] for item in points]
    reached = [item["flop"] / item["duration_s"] for item in points]
    peak = max(flops.values())
    ridge = peak / bandwidth_bytes_per_s
    x0, x1 = _decades([*intensity, ridge], 0.3, 10.0)
    y0, y1 = _decades([*reached, peak], 0.5, 2.0)

    def x(value: float) -> float:
        return _LEFT + (math.log10(value) - x0) / (x1 - x0) * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (math.log10(value) - y0) / (y1 - y0) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif">',
        "<style>text { font-size: 12px }</style>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="28" style="font-size: 16px">{escape(title)}</text>',
        *_axes(x, y, (x0, x1), (y0, y1)),
    ]
    roofs: dict[float, list[str]] = {}
    for name, roof in flops.items():
        roofs.setdefault(roof, []).append(name)
    for roof, names in sorted(roofs.items()):
        name = ", ".join(sorted(names))
        corner = max(roof / bandwidth_bytes_per_s, 10**x0)
        parts.append(_line(x(corner), y(roof), x(10**x1), y(roof)))
        parts.append(f'<text x="{x(10**x1) + 4:.1f}" y="{y(roof) + 4:.1f}">{escape(name)} {_tera(roof)}</text>')
    start = max(10**x0, 10**y0 / bandwidth_bytes_per_s)
    parts.append(_line(x(start), y(start * bandwidth_bytes_per_s), x(ridge), y(peak)))
    label_y = -math.inf
    for item, across, up in sorted(zip(points, intensity, reached, strict=True), key=lambda point: -point[2]):
        radius = 3 + 22 * math.sqrt(item["duration_s"] / total_s)
        colour = _COLOURS.get(item["bound"], "#555555")
        share = 100 * item["duration_s"] / total_s
        parts.append(
            f'<circle cx="{x(across):.1f}" cy="{y(up):.1f}" r="{radius:.1f}" fill="{colour}" fill-opacity="0.45" '
            f'stroke="{colour}"><title>{escape(item["operator"])}: {share:.1f}% of the step, {item["bound"]}, '
            f"{escape(item['source'])}</title></circle>"
        )
        label_y = max(y(up) + 4, label_y + _LABEL)
        parts.append(f'<text x="{x(across) + radius + 2:.1f}" y="{label_y:.1f}">{escape(item["operator"])}</text>')
    parts.extend(_legend([item for item in operators if item not in points], total_s))
    return "\n".join([*parts, "</svg>\n"])


def _tera(flops: float) -> str:
    """Return FLOP/s in units of 1e12, with two digits where there are fewer before the point."""
    tera = flops / 1e12
    return f"{tera:,.0f} T" if tera >= _TWO_DIGITS else f"{tera:.2g} T"


def _decades(values: Sequence[float], below: float, above: float) -> tuple[int, int]:
    return math.floor(math.log10(min(values) * below)), math.ceil(math.log10(max(values) * above))


def _line(x1: float, y1: float, x2: float, y2: float, colour: str = "#222222", width: float = 1.5) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width:g}"/>'


def _axes(x: Any, y: Any, across: tuple[int, int], up: tuple[int, int]) -> list[str]:
    parts = []
    low, high = y(10 ** up[0]), y(10 ** up[1])
    for power in range(across[0], across[1] + 1):
        place = x(10**power)
        parts.append(_line(place, low, place, high, "#dddddd", 0.7))
        parts.append(f'<text x="{place:.1f}" y="{low + 18:.1f}" text-anchor="middle">1e{power}</text>')
    for power in range(up[0], up[1] + 1):
        place = y(10**power)
        parts.append(_line(x(10 ** across[0]), place, x(10 ** across[1]), place, "#dddddd", 0.7))
        parts.append(f'<text x="{_LEFT - 8}" y="{place + 4:.1f}" text-anchor="end">1e{power}</text>')
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    parts.append(
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 16}" text-anchor="middle">FLOP a byte</text>'
    )
    parts.append(
        f'<text x="22" y="{middle}" text-anchor="middle" transform="rotate(-90 22 {middle})">FLOP/s reached</text>'
    )
    return parts


def _legend(others: Sequence[Mapping[str, Any]], total_s: float) -> list[str]:
    left = _WIDTH - _RIGHT + 110
    parts = []
    for i, (bound, colour) in enumerate(_COLOURS.items()):
        parts.append(f'<circle cx="{left + 6}" cy="{_TOP + 16 * i}" r="5" fill="{colour}" fill-opacity="0.6"/>')
        parts.append(f'<text x="{left + 16}" y="{_TOP + 4 + 16 * i}">{bound}</text>')
    top = _TOP + 16 * len(_COLOURS) + 20
    ranked = sorted(others, key=lambda item: -item["duration_s"])[:12]
    if ranked:
        parts.append(f'<text x="{left}" y="{top}" font-weight="bold">without FLOPs</text>')
    for i, item in enumerate(ranked):
        share = 100 * item["duration_s"] / total_s
        parts.append(f'<text x="{left}" y="{top + 16 * (i + 1)}">{escape(item["operator"])} {share:.1f}%</text>')
    return parts
