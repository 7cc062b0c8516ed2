"""Runs beside one another as one HTML page."""

from collections.abc import Sequence
from pathlib import PurePath

from hermes_analysis.compare import Comparison, unlike
from hermes_analysis.load import RunRecord
from hermes_analysis.metrics.series import series
from hermes_analysis.metrics.summarise import Prepared
from hermes_analysis.render import change_text, metric_value, shows
from hermes_analysis.report.charts import LATENCIES, TIME, Chart, Figure, curve, figure_of, latency_chart, line
from hermes_analysis.report.page import render


def comparison_html(runs: Sequence[RunRecord], comparison: Comparison) -> str:
    """Return a comparison of `runs`, the baseline first, as one HTML page: differences, latencies and load together."""
    names = labels([run.manifest.name or "run" for run in runs], [run.source for run in runs])
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
        change_text=change_text,
        shows=shows,
        notes=unlike(runs, names),
    )


def labels(names: Sequence[str], sources: Sequence[object]) -> list[str]:
    """Return a label for each run: its name; of several of one name where it lies, or a number where that is alike."""
    places = [PurePath(str(source)).name for source in sources]
    told_apart = len(set(places)) == len(places)
    return [
        name if names.count(name) == 1 else place if told_apart else f"{name} #{number}"
        for number, (name, place) in enumerate(zip(names, places, strict=True), 1)
    ]
