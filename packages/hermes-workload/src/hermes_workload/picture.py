"""A survey as a picture (SVG): rate over time, sizes, burstiness by window."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

import numpy as np

from hermes_workload.batch import Ints
from hermes_workload.errors import WorkloadError
from hermes_workload.sizes import Floats
from hermes_workload.survey import NS_PER_S, Survey

WIDTH, HEIGHT, MARGIN, GAP = 720, 150, 60, 46
RATE_POINTS: Final = 240
SIZE_BINS: Final = 60
WINDOWS_S: Final = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600, 1800, 3600)
COLOURS: Final = ("#1f5fa8", "#c2571a")


def draw(found: Survey, title: str) -> str:
    """Return the picture as the text of an SVG file."""
    rates = found.rates_per_s(RATE_POINTS)
    seconds = np.linspace(0, found.span_s, RATE_POINTS)
    sizes = [_histogram(counts) for counts in (found.prompt_counts, found.output_counts)]
    bursts = [(window, found.dispersion(round(window * NS_PER_S))) for window in WINDOWS_S]
    bursts = [(window, value) for window, value in bursts if not math.isnan(value) and value > 0]
    panels = [
        _panel(0, "requests per second, over seconds", [(seconds, rates)], log=False),
        _panel(1, "tokens (log): prompts blue, outputs orange, share of requests", sizes, log=True),
    ]
    if bursts:
        windows, values = (np.array(column, dtype=np.float64) for column in zip(*bursts, strict=True))
        label = "index of dispersion, by window in seconds (log); Poisson is 1"
        panels.append(_panel(2, label, [(windows, values)], log=True))
    height = MARGIN + len(panels) * (HEIGHT + GAP)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH + 2 * MARGIN}" height="{height}" '
        'font-family="sans-serif" font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n'
        f'<text x="{MARGIN}" y="24" font-size="15">{escape(title)}: {found.requests:,} requests</text>\n'
    )
    return head + "".join(panels) + "</svg>\n"


def save(found: Survey, title: str, path: Path, *, force: bool = False) -> None:
    """Write the picture.

    Raises:
        WorkloadError: The file is there already, or cannot be written.
    """
    if path.exists() and not force:
        raise WorkloadError("there is such a file already", file=str(path), remedy="give another name, or --force")
    try:
        path.write_text(draw(found, title), encoding="utf-8")
    except OSError as fault:
        raise WorkloadError(f"cannot be written: {fault.strerror}", file=str(path)) from None


def _histogram(counts: Ints) -> tuple[Floats, Floats]:
    """Return the middles of bins of equal width in the logarithm, and the share of the requests in each."""
    present = np.flatnonzero(counts)
    edges = np.geomspace(max(int(present[0]), 1), int(present[-1]) + 1, SIZE_BINS + 1)
    total = np.concatenate([np.zeros(1), np.cumsum(counts)])
    inside = np.diff(total[np.minimum(np.ceil(edges).astype(np.int64), len(total) - 1)])
    return np.sqrt(edges[1:] * edges[:-1]), inside / counts.sum()


def _panel(place: int, label: str, lines: Sequence[tuple[Floats, Floats]], *, log: bool) -> str:
    top = MARGIN + place * (HEIGHT + GAP)
    across = [np.log10(xs) if log else xs for xs, _ in lines]
    low, high = min(float(one[0]) for one in across), max(float(one[-1]) for one in across)
    peak = max(float(ys.max()) for _, ys in lines) or 1.0
    parts = [
        f'<text x="{MARGIN}" y="{top - 6}">{escape(label)}</text>\n',
        f'<rect x="{MARGIN}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#999"/>\n',
        f'<text x="{MARGIN - 6}" y="{top + 10}" text-anchor="end">{peak:.3g}</text>\n',
    ]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        value = low + share * (high - low)
        shown = f"{10**value:.3g}" if log else f"{value:.4g}"
        x = MARGIN + share * WIDTH
        parts.append(f'<text x="{x:.1f}" y="{top + HEIGHT + 16}" text-anchor="middle">{shown}</text>\n')
    for (_, ys), xs, colour in zip(lines, across, COLOURS, strict=False):
        at = MARGIN + (xs - low) / ((high - low) or 1.0) * WIDTH
        up = top + HEIGHT * (1 - ys / peak)
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(at.tolist(), up.tolist(), strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>\n')
    return "".join(parts)
