"""Bands over seeds as text."""

import math
from collections.abc import Sequence

from hermes_analysis.points import UNITS
from hermes_analysis.render import change_text, duration, number, percent
from hermes_analysis.replicate import Estimate, too_few
from hermes_analysis.replicates.comparing import BandDifference
from hermes_analysis.replicates.folder import Replicates

_SHARES = frozenset({"unserved", "slo_attainment", "utilisation", "waiting_share", "kv_peak", "extrapolated_share"})


def band_text(name: str, estimate: Estimate) -> tuple[str, str]:
    """Return mean and half width of a metric in its unit; a request that was never served makes a latency "never"."""
    return _one(name, estimate.mean), _one(name, estimate.half_width)


def replicates_text(runs: Replicates) -> str:
    """Return every metric over the seeds, one a line: mean, 95 % interval, least and most."""
    seeds = ", ".join(str(seed) for seed in runs.seeds)
    few = too_few(len(runs.seeds))
    rows = [["metric", "mean", *([] if few else ["+-"]), "least", "most"]]
    for name, estimate in runs.metrics.items():
        if not all(math.isnan(value) for value in estimate.values):
            ends = (min(estimate.values), max(estimate.values))
            band = band_text(name, estimate)[: 1 if few else 2]
            rows.append([name, *band, *(_one(name, value) for value in ends)])
    sure = few or "+- is half of the 95 % interval of the mean (Student's t)"
    head = f"{runs.name}: {len(runs.seeds)} seed{'s' * (len(runs.seeds) > 1)} ({seeds}); {sure}"
    return "\n".join([head, "", *_aligned(rows)]) + "\n"


def differences_text(names: list[str], baseline: Replicates, others: list[tuple[BandDifference, ...]]) -> str:
    """Return scenarios beside the baseline; "~" marks a change within chance."""
    rows = [["metric", names[0], *(cell for name in names[1:] for cell in (name, "change"))]]
    for place, first in enumerate(others[0]):
        row = [first.metric, _band(first.metric, first.baseline)]
        for found in others:
            one = found[place]
            mark = " ~" if one.sure is False else " ?" if one.sure is None else ""
            change = "" if one.change is None else f"{change_text(one.change)}{mark}"
            row += [_band(one.metric, one.value), f"{change}{' BROKEN' if one.broken else ''}"]
        rows.append(row)
    head = f"{len(baseline.seeds)} seed{'s' * (len(baseline.seeds) > 1)}; {marks_text(others)}"
    return "\n".join([head, "", *_aligned(rows)]) + "\n"


def marks_text(others: Sequence[Sequence[BandDifference]]) -> str:
    """Say what the marks beside changes mean."""
    fewest = min((one.seeds for found in others for one in found), default=0)
    if few := too_few(fewest):
        return f"? marks a change that may be chance: {few}"
    return "~ marks a change within the 95 % interval of the difference"


def _band(name: str, estimate: Estimate) -> str:
    mean, half = band_text(name, estimate)
    return mean if math.isnan(estimate.half_width) else f"{mean} +- {half}"


def _one(name: str, value: float) -> str:
    if math.isinf(value):
        return "never"
    if name in _SHARES:
        return percent(value)
    return duration(value) if UNITS[name] == "s" else number(value)


def _aligned(rows: list[list[str]]) -> list[str]:
    wide = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, wide, strict=True)).rstrip() for row in rows]
