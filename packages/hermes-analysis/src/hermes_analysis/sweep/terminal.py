"""The table of a sweep on the screen, and the same as JSON."""

import math
from collections.abc import Sequence
from typing import Any, Final

from hermes_analysis.errors import one_line
from hermes_analysis.points import UNITS
from hermes_analysis.render import duration, number, percent
from hermes_analysis.replicate import Estimate, noted, too_few
from hermes_analysis.summary import plain
from hermes_analysis.sweep.results import Combination
from hermes_analysis.sweep.space import Space

DEFAULT_COLUMNS: Final = (
    "ttft.p50",
    "ttft.p99",
    "tpot.p99",
    "slo_attainment",
    "goodput_per_s",
    "output_tokens_per_s",
    "usd_per_h",
    "usd_per_million_tokens",
)
SHARES: Final = frozenset(
    {"unserved", "slo_attainment", "slo_met", "utilisation", "waiting_share", "kv_peak", "extrapolated_share"}
)


def shown(metric: str, value: float) -> str:
    """Return a metric as a person reads it."""
    if math.isinf(value):
        return "never" if UNITS[metric] == "s" else "inf"
    if metric in SHARES:
        return percent(value)
    return duration(value) if UNITS[metric] == "s" else number(value)


def estimate_text(metric: str, estimate: Estimate) -> str:
    """Return an estimate with half the width of its 95 % interval, where there are seeds enough for one."""
    text = shown(metric, estimate.mean)
    return text if math.isnan(estimate.half_width) else f"{text} ±{shown(metric, estimate.half_width)}"


def table_text(found: Sequence[Combination], space: Space, columns: Sequence[str]) -> str:
    """Return combinations as a table of text; one that failed has its error in place of metrics."""
    head = [*(axis.path for axis in space.axes), *columns]
    body = []
    errors = []
    for combination in found:
        if combination.metrics:
            cells = [estimate_text(name, combination.metrics[name]) for name in columns]
        else:
            errors.append(f"  {' '.join(combination.values)}: {one_line(combination.error)}")
            cells = ["failed", *[""] * (len(columns) - 1)] if columns else []
        body.append([*combination.values, *cells])
    wide = [max(len(row[place]) for row in [head, *body]) for place in range(len(head))]
    left = len(space.axes)

    def line(row: Sequence[str]) -> str:
        cells = (
            cell.ljust(w) if at < left else cell.rjust(w) for at, (cell, w) in enumerate(zip(row, wide, strict=True))
        )
        return "  ".join(cells).rstrip()

    lines = [line(head), "─" * len(line(head)), *map(line, body)]
    return "\n".join([*lines, *errors[:5], *seeds_note(space)]) + "\n"


def seeds_note(space: Space) -> list[str]:
    """Return what is to be said of a sweep's intervals: something where several seeds are too few for them."""
    seeds = len(space.seeds)
    return [f"means of {seeds} seeds: {too_few(seeds)}"] if seeds > 1 and too_few(seeds) else []


def as_values(found: Sequence[Combination], space: Space) -> list[dict[str, Any]]:
    """Return combinations as JSON values: means, with half widths where there are several seeds (null of too few)."""
    answers = []
    for combination in found:
        answer: dict[str, Any] = {
            "values": dict(zip((axis.path for axis in space.axes), combination.values, strict=True)),
            "metrics": {name: _mean(estimate) for name, estimate in combination.metrics.items()},
        }
        if len(space.seeds) > 1:
            answer["half_widths"] = {name: plain(e.half_width) for name, e in combination.metrics.items()}
            answer |= noted(len(space.seeds))
        if combination.failed:
            answer |= {"failed": combination.failed, "error": combination.error}
        answers.append(answer)
    return answers


def _mean(estimate: Estimate) -> float | str | None:
    """Return a mean that JSON can hold; "inf" stands for infinite."""
    if math.isinf(estimate.mean):
        return "inf"
    value: float | None = plain(estimate.mean)
    return value
