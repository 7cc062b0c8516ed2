"""Runs beside one another as one HTML page."""

from collections.abc import Sequence

from hermes_analysis.compare import Comparison, unlike
from hermes_analysis.load import RunRecord
from hermes_analysis.metrics.series import series
from hermes_analysis.metrics.summarise import Prepared
from hermes_analysis.render import metric_value
from hermes_analysis.report.charts import LATENCIES, TIME, Chart, Figure, curve, figure_of, latency_chart, line
from hermes_analysis.report.page import render


def comparison_html(runs: Sequence[RunRecord], comparison: Comparison) -> str:
    """Return a comparison of `runs`, the baseline first, as one HTML page: differences, latencies and load together."""
    names = _names([run.manifest.name or "run" for run in runs])
    curves: dict[str, list[Figure]] = {name: [] for name, _, _ in LATENCIES}
    load: dict[str, list[Figure]] = {"in_system": [], "tokens": []}
    for place, run in enumerate(runs):
        ready = Prepared.of(run)
        for name, _, field in LATENCIES:
            points, shares = curve(ready, ready.groups[0], field)
            if len(points):
                curves[name].append(line(names[place], points, shares, place))
        over_time = series(run, ready.index)
        load["in_system"].append(line(names[place], over_time.middles_s, over_time.in_system, place))
        load["tokens"].append(line(names[place], over_time.middles_s, over_time.tokens_per_s, place))
    charts = [latency_chart(name, title, field, curves[name]) for name, title, field in LATENCIES if curves[name]]
    for name, title, unit in (
        ("in_system", "Requests in the system", "requests"),
        ("tokens", "Output tokens per second", "tokens/s"),
    ):
        charts.append(Chart(name, "load", title, f"{title} of each run, over time", figure_of(load[name], TIME, unit)))
    title = f"{names[0]} against {', '.join(names[1:])}"
    return render(
        "compare.html.j2",
        charts,
        title=title,
        names=names,
        comparison=comparison,
        shown=metric_value,
        notes=unlike(runs, names),
    )


def _names(names: list[str]) -> list[str]:
    """Number runs of the same name."""
    return [f"{name} #{place}" if names.count(name) > 1 else name for place, name in enumerate(names, 1)]
