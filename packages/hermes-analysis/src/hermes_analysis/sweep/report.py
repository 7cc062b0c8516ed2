"""A sweep as one HTML page: heat maps, parallel coordinates, a table to sort. Needs the extra "report"."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from hermes_analysis.output import write_text
from hermes_analysis.points import HIGHER_IS_BETTER, UNITS
from hermes_analysis.report.charts import Chart, Figure, figure_of, line, short
from hermes_analysis.report.page import render
from hermes_analysis.sweep.axes import Axis
from hermes_analysis.sweep.folder import SweepFolder
from hermes_analysis.sweep.results import Combination, combinations
from hermes_analysis.sweep.space import Space
from hermes_analysis.sweep.terminal import DEFAULT_COLUMNS, estimate_text, seeds_note

MOST_ROWS: Final = 2_000
"""Combinations in the table and in the parallel coordinates; heat maps are over all."""
MAPPED: Final = (
    "ttft.p99",
    "tpot.p99",
    "slo_attainment",
    "goodput_per_s",
    "usd_per_million_tokens",
    "joules_per_token",
)
_SHARES: Final = frozenset({"slo_attainment"})
"""Of these a heat map shows the whole range: where all is well, all is bright."""
_MOST_ERRORS: Final = 20
_MOST_CELLS: Final = 60
"""Values of an axis that a heat map can show."""


def write_sweep_report(folder: SweepFolder, target: Path, *, force: bool = False) -> Path:
    """Write the report of a sweep. Raises AnalysisError, MissingExtraError."""
    write_text(target, sweep_html(folder), force=force)
    return target


def sweep_html(folder: SweepFolder) -> str:
    """Return a sweep as one HTML page that needs nothing else."""
    about, space = folder.about(), folder.space()
    maps = [_Map(space, metric) for metric in MAPPED]
    kept: list[Combination] = []
    errors: list[str] = []
    done = 0
    # Of many, every so-manieth: a sample that covers the whole space.
    every = max(math.ceil(space.combinations / MOST_ROWS), 1)
    for combination in combinations(folder, space):
        done += 1
        for each in maps:
            each.add(combination)
        if combination.metrics and combination.number % every == 0:
            kept.append(combination)
        if combination.error and len(errors) < _MOST_ERRORS:
            errors.append(f"{' '.join(combination.values)}: {combination.error}")
    charts = [chart for each in maps if (chart := each.chart()) is not None]
    if kept and space.axes:
        charts.append(parallel_coordinates(space.axes, [c.values for c in kept], [_means(c) for c in kept]))
    seeds = f", {len(space.seeds)} seeds each" if len(space.seeds) > 1 else ""
    return render(
        "sweep.html.j2",
        charts,
        title=f"{about.get('name', 'sweep')}: sweep",
        text="",
        notes=[
            f"{done:,} of {space.combinations:,} combinations{seeds}: {', '.join(axis.path for axis in space.axes)}.",
            *seeds_note(space),
        ],
        headings=[("map", "Over the space"), ("parallel", "All together")],
        columns=[*(axis.path for axis in space.axes), *DEFAULT_COLUMNS],
        rows=[_row(combination, space) for combination in kept],
        left_out=max(done - len(kept) - len(errors), 0),
        errors=errors,
    )


_LINES: Final = [[0.0, "#0072b2"], [0.5, "#009e73"], [1.0, "#d55e00"]]
"""From little to much, in colours that can be told from a white and from a black page (Okabe and Ito, 2008)."""


def parallel_coordinates(
    axes: Sequence[Axis], values: Sequence[Sequence[str]], metrics: Sequence[dict[str, float]]
) -> Chart:
    """Return a figure with an upright axis for each thing that is varied and each metric, and a line for each point."""
    dimensions: list[dict[str, Any]] = []
    for place, axis in enumerate(axes):
        texts = list(dict.fromkeys(row[place] for row in values))
        numbers = axis.numbers()
        if axis.values and numbers is not None and len(set(texts)) > 1:
            known = dict(zip(axis.values, numbers, strict=True))
            dimensions.append({"label": axis.path, "values": short([known.get(row[place], 0.0) for row in values])})
            continue
        ticks = {"tickvals": list(range(len(texts))), "ticktext": texts}
        dimensions.append({"label": axis.path, "values": [texts.index(row[place]) for row in values], **ticks})
    for metric in DEFAULT_COLUMNS:
        column = [row.get(metric, math.nan) for row in metrics]
        finite = [value for value in column if math.isfinite(value)]
        if finite:
            # What is infinite stands at the end of its axis.
            column = [value if math.isfinite(value) else max(finite) for value in column]
            unit = UNITS[metric]
            dimensions.append({"label": f"{metric}, {unit}" if unit else metric, "values": short(column)})
    trace = {
        "type": "parcoords",
        "dimensions": dimensions,
        "line": {"color": dimensions[-1]["values"], "colorscale": _LINES, "showscale": False},
        "labelangle": -20,
        # Room for the names above, the first axis' figures at its side, and the last axis' name.
        "domain": {"x": [0.03, 0.93], "y": [0.0, 0.78]},
    }
    figure: Figure = {"data": [trace], "layout": {"height": 460, "showlegend": False}}
    label = "Parallel coordinates: a line for each point through what was varied and what came of it"
    return Chart("parallel", "parallel", "Drag along an axis to choose", label, figure)


class _Map:
    """A metric over the two axes with most values; of what else is varied, the best."""

    def __init__(self, space: Space, metric: str) -> None:
        self._space = space
        self._metric = metric
        order = sorted(range(len(space.axes)), key=lambda at: (-len(space.axes[at].values), at))
        usable = [at for at in order if 1 < len(space.axes[at].values) <= _MOST_CELLS]
        self._places = [] if space.sobol else sorted(usable[:2])
        self._best: dict[tuple[str, ...], float] = {}
        self._rest = len([axis for axis in space.axes if len(axis.values) > 1]) > len(self._places)

    def add(self, combination: Combination) -> None:
        """Take one combination."""
        found = combination.metrics.get(self._metric)
        if found is None or not math.isfinite(found.mean) or not self._places:
            return
        key = tuple(combination.values[place] for place in self._places)
        before = self._best.get(key)
        better = max if self._metric in HIGHER_IS_BETTER else min
        self._best[key] = found.mean if before is None else better(before, found.mean)

    def chart(self) -> Chart | None:
        """Return the heat map, a line where one thing is varied, or None where there is nothing to show."""
        if not self._best:
            return None
        axes = [self._space.axes[place] for place in self._places]
        unit = UNITS[self._metric]
        name = f"{self._metric}{f', {unit}' if unit else ''}{' (best of the rest)' if self._rest else ''}"
        if len(axes) == 1:
            found = [(value, self._best[value,]) for value in axes[0].values if (value,) in self._best]
            numbers = axes[0].numbers()
            heights = np.array([y for _, y in found])
            trace = line(name, heights, heights, 0)
            known = dict(zip(axes[0].values, numbers, strict=True)) if numbers else {}
            trace["x"] = [known.get(value, value) for value, _ in found]
            trace["mode"] = "lines+markers"
            figure = figure_of([trace], axes[0].path, name)
        else:
            figure = self._heat(axes)
        return Chart(
            self._metric.replace(".", "_"), "map", name, f"{name} over {' and '.join(a.path for a in axes)}", figure
        )

    def _heat(self, axes: Sequence[Axis]) -> Figure:
        rows, columns = axes
        cells = [[self._best.get((row, column)) for column in columns.values] for row in rows.values]
        good = self._metric in HIGHER_IS_BETTER
        trace = {
            "type": "heatmap",
            "x": list(columns.values),
            "y": list(rows.values),
            "z": [[None if cell is None else short([cell])[0] for cell in row] for row in cells],
            "colorscale": "Viridis",
            "reversescale": not good,
            **({"zmin": 0, "zmax": 1} if self._metric in _SHARES else {}),
            "hovertemplate": f"{columns.path} %{{x}}<br>{rows.path} %{{y}}<br>%{{z}}<extra></extra>",
        }
        figure = figure_of([trace], columns.path, rows.path)
        figure["layout"]["xaxis"]["type"] = figure["layout"]["yaxis"]["type"] = "category"
        figure["layout"]["yaxis"]["automargin"] = True
        return figure


def _means(combination: Combination) -> dict[str, float]:
    return {name: estimate.mean for name, estimate in combination.metrics.items()}


def _row(combination: Combination, space: Space) -> list[tuple[str, float | None]]:
    cells: list[tuple[str, float | None]] = []
    for axis, text in zip(space.axes, combination.values, strict=True):
        numbers = axis.numbers()
        known = dict(zip(axis.values, numbers, strict=True)) if numbers else {}
        cells.append((text, known.get(text)))
    for metric in DEFAULT_COLUMNS:
        estimate = combination.metrics[metric]
        value = estimate.mean if not math.isnan(estimate.mean) else None
        cells.append((estimate_text(metric, estimate) if value is not None else "", _sortable(value)))
    return cells


def _sortable(value: float | None) -> float | None:
    """Return a number that a page can sort by: what is infinite comes last."""
    return 1e300 if value is not None and math.isinf(value) else value


__all__ = ["parallel_coordinates", "sweep_html", "write_sweep_report"]
