"""Plots for notebooks: the charts of the pages as plotly figures. Needs plotly (extra "report")."""

from typing import TYPE_CHECKING, Any

from hermes_analysis.errors import AnalysisError
from hermes_analysis.metrics.details import details
from hermes_analysis.metrics.series import series
from hermes_analysis.metrics.summarise import Prepared, summarise
from hermes_analysis.optional import optional
from hermes_analysis.report.charts import COLOURS, Chart, all_charts, figure_of, path_chart, short

if TYPE_CHECKING:
    from hermes_analysis.compare import Comparison
    from hermes_analysis.load import RunRecord


def run_plot(run: "RunRecord", name: str) -> Any:
    """Return one chart of a run's report. Raises AnalysisError, with the names there are, for another."""
    ready = Prepared.of(run)
    charts = {chart.name: chart for chart in all_charts(ready, series(run, ready.index), details(run, ready).stages)}
    path = summarise(run, ready).path
    if path is not None:
        charts["critical_path"] = path_chart(path)
    if name not in charts:
        raise AnalysisError(f"there is no chart {name!r} of this run; there are {', '.join(charts)}")
    return plotly_figure(charts[name])


def comparison_plot(comparison: "Comparison") -> Any:
    """Return the relative change of every metric against the baseline, bars beside one another for several runs."""
    traces = []
    for number, run in enumerate(comparison.runs):
        known = [d for d in run.differences if d.change is not None][::-1]
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": run.source,
                "x": short([d.change * 100 for d in known if d.change is not None]),
                "y": [d.metric for d in known],
                "marker": {"color": COLOURS[number % len(COLOURS)]},
            }
        )
    title = f"Change against {comparison.baseline_source}"
    return plotly_figure(Chart("changes", "changes", title, title, figure_of(traces, "change, per cent", "")))


def plotly_figure(chart: Chart) -> Any:
    """Return a chart as a plotly Figure. Raises MissingExtraError without plotly."""
    objects = optional("plotly.graph_objects", "A plot", "report")
    made = objects.Figure(data=chart.figure["data"], layout=chart.figure["layout"])
    made.update_layout(title=chart.title, template="plotly_white")
    return made
