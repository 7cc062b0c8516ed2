"""The answer of a search as one HTML page: the front, all that was run, a table to sort. Needs the extra "report"."""

import math
from typing import Any, Final

from hermes_analysis.optimize.answer import Answer
from hermes_analysis.optimize.evaluate import Measured
from hermes_analysis.optimize.terminal import answer_text
from hermes_analysis.points import UNITS
from hermes_analysis.report.charts import COLOURS, Chart, Figure, figure_of, short
from hermes_analysis.report.page import render
from hermes_analysis.sweep.terminal import DEFAULT_COLUMNS, estimate_text

_MOST_ROWS: Final = 1_000


def search_html(answer: Answer, title: str) -> str:
    """Return the answer as a page that needs nothing else."""
    judge = answer.judge
    metrics = list(
        dict.fromkeys([*(o.metric for o in judge.objectives), *(c.metric for c in judge.constraints), *DEFAULT_COLUMNS])
    )
    run = [one for one in answer.measured if one.metrics]
    rows = [_row(answer, one, metrics) for one in [answer.best, *(one for one in run if one is not answer.best)]]
    return render(
        "sweep.html.j2",
        [_scatter(answer, run)],
        title=f"{title}: search",
        notes=[],
        text=answer_text(answer),
        headings=[("front", "What was run")],
        columns=["deployment", "limits", *metrics],
        rows=rows[:_MOST_ROWS],
        left_out=max(len(rows) - _MOST_ROWS, 0),
        errors=[f"{one.candidate.label}: {one.error}" for one in answer.measured if one.error][:20],
    )


def _scatter(answer: Answer, run: list[Measured]) -> Chart:
    """Return objectives against one another; of one objective, it against the tightest limit (or the price)."""
    first = answer.judge.objectives[0].metric
    others = [o.metric for o in answer.judge.objectives[1:]] + [limit.constraint.metric for limit in answer.limits]
    second = next((metric for metric in [*others, "ttft.p99", "usd_per_h"] if metric != first), first)
    kept = [one for one in run if answer.judge.feasible(one)]
    broken = [one for one in run if not answer.judge.feasible(one)]
    traces = [_points("breaks a limit", broken, first, second, 6), _points("keeps the limits", kept, first, second, 0)]
    front = sorted(answer.front, key=lambda one: one.value(first))
    chosen = _points("front" if len(front) > 1 else "answer", front, first, second, 5)
    chosen |= {"mode": "lines+markers", "line": {"color": COLOURS[5], "shape": "hv"}}
    traces.append(chosen)
    figure = figure_of([trace for trace in traces if trace["x"]], _axis(first), _axis(second))
    figure["layout"]["height"] = 420
    return Chart("front", "front", f"{second} against {first}", f"{second} against {first} of each deployment", figure)


def _points(name: str, found: list[Measured], first: str, second: str, number: int) -> Figure:
    shown = [one for one in found if math.isfinite(one.value(first)) and math.isfinite(one.value(second))]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": short([one.value(first) for one in shown]),
        "y": short([one.value(second) for one in shown]),
        "text": [one.candidate.label for one in shown],
        "hovertemplate": "%{text}<br>%{x}, %{y}<extra></extra>",
        "marker": {"color": COLOURS[number], "size": 7},
    }


def _axis(metric: str) -> str:
    return f"{metric}, {UNITS[metric]}" if UNITS[metric] else metric


def _row(answer: Answer, one: Measured, metrics: list[str]) -> list[tuple[str, Any]]:
    cells: list[tuple[str, Any]] = [(one.candidate.label, None)]
    cells.append(("kept" if answer.judge.feasible(one) else "broken", None))
    for metric in metrics:
        estimate = one.metrics[metric]
        if math.isnan(estimate.mean):
            cells.append(("", None))
        else:
            value = 1e300 if math.isinf(estimate.mean) else estimate.mean
            cells.append((estimate_text(metric, estimate), value))
    return cells
