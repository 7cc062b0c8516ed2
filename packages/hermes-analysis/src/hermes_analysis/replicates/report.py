"""Several seeds as one HTML page: every metric with its interval, and distributions as bands."""

from collections.abc import Sequence
from typing import Any

from hermes_analysis.render import change_text, shows
from hermes_analysis.replicate import too_few
from hermes_analysis.replicates.comparing import BandDifference
from hermes_analysis.replicates.folder import LEVELS, Replicates
from hermes_analysis.replicates.terminal import band_text, marks_text
from hermes_analysis.report.charts import COLOURS, Figure, latency_chart, short
from hermes_analysis.report.comparison import labels
from hermes_analysis.report.page import render

_TITLES = (
    ("ttft_s", "Time to first token"),
    ("tpot_s", "Time per output token (TPOT)"),
    ("e2e_s", "End to end"),
)


def replicates_html(
    runs: list[Replicates],
    sources: Sequence[object] = (),
    found: Sequence[tuple[BandDifference, ...]] = (),
) -> str:
    """Return one page for the runs of one scenario under several seeds, or of several such scenarios together.

    `sources` say where they lie, `found` has the differences of each but the first from the first.
    """
    names = labels([one.name for one in runs], sources or range(len(runs)))
    changes = [{difference.metric: difference for difference in differences} for differences in found]
    charts = []
    for name, title in _TITLES:
        traces = [trace for place, one in enumerate(runs) for trace in _band(one, names[place], name, place)]
        if traces:
            charts.append(latency_chart(name, title, name, traces))
    rows = [
        (name, [(*band_text(name, one.metrics[name]),) for one in runs], [change.get(name) for change in changes])
        for name, estimate in runs[0].metrics.items()
        if any(value == value for value in estimate.values)  # noqa: PLR0124 - not NaN
    ]
    heads = [(name, len(one.seeds)) for name, one in zip(names, runs, strict=True)]
    title = " against ".join(names)
    few = too_few(min(number for _, number in heads))
    return render(
        "replicates.html.j2",
        charts,
        title=title,
        heads=heads,
        rows=rows,
        change_text=change_text,
        shows=shows,
        interval=few or "the interval is that of the mean, 95 %, by Student's t",
        marks=marks_text(found) if found else "",
    )


def _band(runs: Replicates, label: str, name: str, place: int) -> list[Figure]:
    """Return the least and the most of the seeds at each share of requests, filled, and the mean as a line."""
    curves = [result.curves[name] for result in runs.results if result.curves[name]]
    if not curves:
        return []
    columns = list(zip(*curves, strict=True))
    kept = [at for at, column in enumerate(columns) if min(column) > 0]
    if not kept:
        return []
    shares = short([LEVELS[at] for at in kept])
    colour = COLOURS[place % len(COLOURS)]
    edge: dict[str, Any] = {"type": "scatter", "mode": "lines", "y": shares, "hoverinfo": "skip", "showlegend": False}
    least = edge | {"x": short([min(columns[at]) for at in kept]), "line": {"width": 0, "color": colour}}
    most = edge | {
        "x": short([max(columns[at]) for at in kept]),
        "line": {"width": 0, "color": colour},
        "fill": "tonextx",
        "fillcolor": f"rgba({', '.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))}, 0.25)",
    }
    mean = {
        "type": "scatter",
        "mode": "lines",
        "name": f"{label}, mean of {len(curves)} seeds",
        "x": short([sum(columns[at]) / len(columns[at]) for at in kept]),
        "y": shares,
        "line": {"color": colour, "width": 1.8},
    }
    return [least, most, mean]
