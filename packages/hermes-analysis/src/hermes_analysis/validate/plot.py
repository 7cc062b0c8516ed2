"""Predicted against measured as an SVG, written by hand: logarithmic axes, the diagonal, and a band around it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from typing import Final

from hermes_analysis.validate.folder import FolderReport
from hermes_analysis.validate.steplog import FINE
from hermes_analysis.validate.table import TableReport

SIDE: Final = 300
MARGIN: Final = 52
GAP: Final = 26
BAND: Final = 0.10
MOST_NAMED: Final = 300
"""Points of a panel that tell their names: more would make the file large, and nobody could point at one."""
COLOURS: Final = ("#2a6fbb", "#d1662a", "#3c8d54", "#8a4fa3", "#b03060", "#666666", "#b08d00", "#1b998b")
_STYLE: Final = """
text { font: 11px system-ui, sans-serif; fill: #333 } .title { font-size: 13px; font-weight: 600 }
.axis { stroke: #888; fill: none } .grid { stroke: #ddd } .even { stroke: #333 }
.band { fill: #000; fill-opacity: 0.06 }
@media (prefers-color-scheme: dark) { text { fill: #ccc } .grid { stroke: #444 } .even { stroke: #bbb }
.band { fill: #fff; fill-opacity: 0.09 } }
"""


@dataclass(frozen=True, slots=True)
class Point:
    """One comparison."""

    name: str
    group: str
    measured: float
    predicted: float


def folder_plot(report: FolderReport) -> str:
    """Return the plot of the stable experiments of a folder; of all where none is stable. Colours tell devices.

    Where steps were logged, two panels have the quantiles of their sequences and prompt tokens.
    """
    stable = [score for score in report.scores if score.regime == "stable"] or list(report.scores)
    panels = {
        title: points_of(
            (score.name, score.device, score.measured[metric], score.predicted[metric]) for score in stable
        )
        for metric, title in (
            ("ttft_mean", "mean TTFT, ms"),
            ("tpot_mean", "mean TPOT, ms"),
            ("e2e_mean", "mean E2E, ms"),
            ("e2e_p99", "p99 of E2E, ms"),
        )
    }
    for comparison in report.steps:
        for one in comparison.distributions:
            if one.name in {"sequences", "prompt tokens, where there are any"}:
                pairs = zip(FINE, one.logged, one.simulated, strict=True)
                panels[f"{one.name}: quantiles of steps"] = points_of(
                    (f"p{100 * quantile:.0f}", f"steps of {comparison.name}", logged, ours)
                    for quantile, logged, ours in pairs
                )
    return svg(panels)


def table_plot(report: TableReport) -> str:
    """Return the plot of the rows of a file. Colours tell categories."""
    panels = {}
    for metric in report.metrics:
        unit = "W" if metric == "power" else "ms"
        panels[f"{metric}, {unit}"] = points_of(
            (score.name, score.category, score.measured[metric], score.predicted[metric]) for score in report.scores
        )
    return svg(panels)


def points_of(values: Iterable[tuple[str, str, float | None, float | None]]) -> list[Point]:
    """Return the points with both coordinates known and positive."""
    return [Point(name, group, m, p) for name, group, m, p in values if m and p and m > 0 and p > 0]


def svg(panels: Mapping[str, Sequence[Point]]) -> str:
    """Return an SVG with a square panel for each title; points of one group share a colour, and tell their name."""
    groups = list(dict.fromkeys(point.group for points in panels.values() for point in points))
    colours = {group: COLOURS[at % len(COLOURS)] for at, group in enumerate(sorted(groups))}
    columns = min(2, len(panels)) or 1
    rows = ceil(len(panels) / columns)
    step = SIDE + MARGIN + GAP
    width, height = columns * step + GAP, rows * step + GAP + 18 * ceil(len(groups) / columns)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f"<style>{_STYLE}</style>",
    ]
    for at, (title, points) in enumerate(panels.items()):
        x, y = MARGIN + (at % columns) * step, GAP + (at // columns) * step
        parts.append(f'<g transform="translate({x},{y})">{_panel(title, points, colours)}</g>')
    for at, (group, colour) in enumerate(colours.items()):
        x, y = MARGIN + (at % columns) * step, rows * step + GAP + 18 * (at // columns)
        parts.append(f'<circle cx="{x}" cy="{y}" r="4" fill="{colour}"/><text x="{x + 9}" y="{y + 4}">')
        parts.append(f"{escape(group)}</text>")
    return "\n".join([*parts, "</svg>", ""])


def _panel(title: str, points: Sequence[Point], colours: Mapping[str, str]) -> str:
    values = [value for point in points for value in (point.measured, point.predicted)] or [1.0, 10.0]
    low, high = log10(min(values)) - 0.05, log10(max(values)) + 0.05

    def place(value: float) -> float:
        return (min(max(log10(value), low), high) - low) / (high - low) * SIDE

    up, down = log10(1 + BAND) / (high - low) * SIDE, -log10(1 - BAND) / (high - low) * SIDE
    band = f"0,{SIDE} 0,{SIDE - up:.1f} {SIDE - up:.1f},0 {SIDE},0 {SIDE},{down:.1f} {down:.1f},{SIDE}"
    parts = [
        f'<text class="title" x="0" y="-8">{escape(title)}</text>',
        f'<polygon class="band" points="{band}"/>',
    ]
    for tick in _ticks(low, high):
        at = place(tick)
        label = f"{tick:g}"
        parts.append(f'<line class="grid" x1="{at:.1f}" y1="0" x2="{at:.1f}" y2="{SIDE}"/>')
        parts.append(f'<line class="grid" x1="0" y1="{SIDE - at:.1f}" x2="{SIDE}" y2="{SIDE - at:.1f}"/>')
        parts.append(f'<text x="{at:.1f}" y="{SIDE + 14}" text-anchor="middle">{label}</text>')
        parts.append(f'<text x="-6" y="{SIDE - at + 4:.1f}" text-anchor="end">{label}</text>')
    parts.append(f'<line class="even" x1="0" y1="{SIDE}" x2="{SIDE}" y2="0"/>')
    parts.append(f'<rect class="axis" width="{SIDE}" height="{SIDE}"/>')
    parts.append(f'<text x="{SIDE}" y="{SIDE + 28}" text-anchor="end">measured; upwards: predicted</text>')
    dense = len(points) > MOST_NAMED
    for point in points:
        at, up = place(point.measured), SIDE - place(point.predicted)
        told = "" if dense else f"<title>{_told(point)}</title>"
        look = f'r="{1.6 if dense else 3.5}" fill="{colours[point.group]}" fill-opacity="{0.5 if dense else 0.75}"'
        parts.append(f'<circle cx="{at:.1f}" cy="{up:.1f}" {look}>{told}</circle>')
    return "\n".join(parts)


def _told(point: Point) -> str:
    error = 100 * (point.predicted / point.measured - 1)
    return escape(f"{point.name}: measured {point.measured:.4g}, predicted {point.predicted:.4g} ({error:+.1f}%)")


def _ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten between the bounds (logarithms); powers alone over many decades."""
    steps = (1, 2, 5) if high - low < 3 else (1,)  # noqa: PLR2004 - decades
    candidates = [step * 10.0**power for power in range(floor(low), ceil(high) + 1) for step in steps]
    return [value for value in candidates if low <= log10(value) <= high]
