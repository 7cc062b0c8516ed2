"""The charts of a report, as plotly figures in plain dicts. Points are few however large the record.

Colours are those of Okabe and Ito, "Color Universal Design" (2008), which people with any colour vision can tell apart.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from hermes_analysis.metrics.distribution import Floats
from hermes_analysis.metrics.requests import Group
from hermes_analysis.metrics.series import ClientSeries, Series
from hermes_analysis.metrics.stages import StagePart
from hermes_analysis.metrics.summarise import Prepared
from hermes_analysis.render import TIME_UNITS, duration
from hermes_analysis.summary import CriticalPath

COLOURS: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C8C8C", "#B5A600")
_LEVELS: Final = np.concatenate(
    [np.linspace(0, 0.9, 121), np.linspace(0.9, 0.99, 37)[1:], np.linspace(0.99, 1, 41)[1:]]
)
_MOST_GROUPS: Final = 6
_MOST_LINKS: Final = 8
_DIGITS: Final = 5
_WIDE: Final = 8
"""An axis from some time to this many times it is logarithmic."""
_FEW_DECADES: Final = 4
_MOST_TICKS: Final = 6
_MARGIN: Final = 0.02
_MOST_LEVELS: Final = 3
_FAR_BEYOND: Final = 3.0
"""A bound this many times above all that was measured would squeeze the curve."""
TIME: Final = "time, s"
Figure = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure under a heading of the page. `label` says in words what it shows."""

    name: str
    section: str
    title: str
    label: str
    figure: Figure


def all_charts(ready: Prepared, series: Series, stages: tuple[StagePart, ...]) -> list[Chart]:
    """Return the charts of a run, in the order of the page."""
    charts = [*_latency_charts(ready), *_load_charts(series), *_client_charts(series.clients, series)]
    for name, title, unit, values in (
        ("links", "Links", "bytes/s", series.links),
        ("link_shares", "Links, of what they can carry", "share of bandwidth", series.link_shares),
        ("link_waiting", "Links, transfers held back", "transfers", series.link_waiting),
    ):
        if values:
            busiest = sorted(values, key=lambda pair: -float(pair[1].sum()))[:_MOST_LINKS]
            lines = [line(link, series.middles_s, rate, number) for number, (link, rate) in enumerate(busiest)]
            label = f"{unit} of each link and memory, over time"
            charts.append(Chart(name, "links", title, label, figure_of(lines, TIME, unit)))
    if stages:
        charts.append(_stage_chart(stages))
    return charts


LATENCIES: Final = (
    ("ttft", "Time to first token", "ttft_s"),
    ("itl", "Time between tokens (ITL)", None),
    ("tpot", "Time per output token (TPOT)", "tpot_s"),
    ("e2e", "End to end", "e2e_s"),
)
"""Name, title, and field of the per-request values; gaps between tokens have none."""


def curve(ready: Prepared, group: Group, field: str | None) -> tuple[Floats, Floats]:
    """Return points of the cumulative distribution of a latency over a group; none when there is nothing."""
    metrics = ready.requests
    if field is not None:
        values = getattr(metrics, field)[group.rows[metrics.measured[group.rows]]]
        return quantile_points(values[~np.isnan(values)])
    if ready.gaps is None:
        return np.empty(0), np.empty(0)
    return thinned(*ready.gaps.cumulated(ready.jobs_of(group)))


def latency_chart(name: str, title: str, field: str | None, lines: list[Figure]) -> Chart:
    """Return cumulative distributions of a latency as a chart; its axis is logarithmic where times differ much."""
    figure = figure_of(lines, "", "share of requests" if field is not None else "share of gaps")
    figure["layout"]["xaxis"] |= _time_axis([value for trace in lines for value in trace["x"]])
    figure["layout"]["yaxis"]["range"] = [0, 1.02]
    return Chart(name, "latency", title, f"Cumulative distribution of {title.lower()}", figure)


def _time_axis(seconds: list[float]) -> Figure:
    """Return range and ticks of an axis of time: 1, 2, 5 of each decade when it spans much, otherwise even ones."""
    low, high = min(seconds), max(seconds)
    if high < _WIDE * low:
        edge = _MARGIN * (high - low) or _MARGIN * high
        ticks = _even_ticks(low, high)
        places = [float(f"{tick:.9g}") for tick in ticks]
        return {"range": [low - edge, high + edge], "tickvals": places, "ticktext": _even_names(ticks), "tickangle": 0}
    first, last = math.log10(low), math.log10(high)
    edge = _MARGIN * (last - first)
    decades = range(math.floor(first), math.ceil(last) + 1)
    mantissas = (1.0, 2.0, 5.0) if len(decades) <= _FEW_DECADES else (1.0,)
    ticks = [mantissa * 10.0**decade for decade in decades for mantissa in mantissas]
    ticks = [tick for tick in ticks if low <= tick <= high]
    names = [duration(tick).replace(".00", "").replace(".0 ", " ") for tick in ticks]
    ends = {"type": "log", "range": [first - edge, last + edge]}
    return {**ends, "tickvals": short(ticks), "ticktext": names, "tickangle": 0}


def _even_ticks(low: float, high: float) -> list[float]:
    """Return multiples of 1, 2 or 5 times a power of ten between two times, six at the most; one time alone is one."""
    if high <= low:
        return [low]
    decade = 10.0 ** math.floor(math.log10((high - low) / _MOST_TICKS))
    step = next(decade * m for m in (1, 2, 5, 10, 20) if (high - low) / (decade * m) <= _MOST_TICKS - 1)
    return [step * n for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _even_names(ticks: list[float]) -> list[str]:
    """Name even ticks in the one unit that suits the largest."""
    unit, name = next((unit for unit in TIME_UNITS if ticks[-1] >= unit[0]), TIME_UNITS[-1])
    return [f"{tick / unit:.6g} {name}" for tick in ticks]


def _latency_charts(ready: Prepared) -> list[Chart]:
    """Return the cumulative distributions of TTFT, ITL, TPOT and end to end, by pipeline where there are several."""
    groups = [g for g in ready.groups if g.kind in {"all", "pipeline"}][: _MOST_GROUPS + 1]
    charts = []
    for name, title, field in LATENCIES:
        lines = []
        for number, group in enumerate(groups):
            points, shares = curve(ready, group, field)
            if len(points):
                label = "all" if group.kind == "all" else group.name
                lines.append(line(label, points, shares, number, dash="solid" if number == 0 else "dot"))
        if lines:
            charts.append(latency_chart(name, title, field, [*lines, *_bounds(ready, name, lines)]))
    return charts


def _bounds(ready: Prepared, name: str, lines: list[Figure]) -> Iterator[Figure]:
    """Yield the bounds of the service levels on a latency as upright lines."""
    longest = max(value for trace in lines for value in trace["x"])
    levels = [level for level in ready.run.manifest.service_levels if getattr(level, f"{name}_ns", 0) > 0]
    for number, level in enumerate(levels[:_MOST_LEVELS]):
        bound = getattr(level, f"{name}_ns") * 1e-9
        if bound <= _FAR_BEYOND * longest:
            of = "" if level.name in {"", "*"} else f" of {level.name}"
            upright = line(
                f"SLO{of}: {duration(bound)}", np.full(2, bound), np.array([0.0, 1.0]), 5 + number, dash="dash"
            )
            yield upright | {"hoverinfo": "skip"}


def quantile_points(values: Floats) -> tuple[Floats, Floats]:
    """Return some 200 points of the cumulative distribution, dense in the tail. A logarithmic axis has no 0."""
    if not len(values):
        return values, values
    points = np.quantile(values, _LEVELS)
    positive = points > 0
    return points[positive], _LEVELS[positive]


def thinned(points: Floats, shares: Floats) -> tuple[Floats, Floats]:
    """Return those of many points of a cumulative distribution that are nearest to the levels."""
    if not len(points):
        return points, shares
    chosen = np.unique(np.minimum(np.searchsorted(shares, _LEVELS), len(shares) - 1))
    return points[chosen], shares[chosen]


def _load_charts(series: Series) -> list[Chart]:
    at = series.middles_s
    rates = [line("arrived", at, series.arrivals_per_s, 0), line("ended", at, series.finished_per_s, 1)]
    return [
        Chart(
            "load",
            "load",
            "Requests per second",
            "Arrivals and ends over time",
            figure_of(rates, TIME, "requests/s"),
        ),
        Chart(
            "in_system",
            "load",
            "Requests in the system",
            "Requests that had arrived and not ended, over time",
            figure_of([line("in system", at, series.in_system, 2)], TIME, "requests"),
        ),
        Chart(
            "tokens",
            "load",
            "Output tokens per second",
            "Output tokens delivered per second, over time",
            figure_of([line("output tokens", at, series.tokens_per_s, 3)], TIME, "tokens/s"),
        ),
    ]


_ONE_KIND: Final = frozenset({"decode_seqs", "batch", "kv_share"})
"""What engines have, or clients of service stages, and the others not."""


def _client_charts(clients: tuple[ClientSeries, ...], series: Series) -> list[Chart]:
    charts = []
    for name, title, unit in (
        ("utilisation", "Utilisation", "share of time"),
        ("decode_seqs", "Decode seqs", "sequences"),
        ("batch", "Jobs in a batch", "jobs"),
        ("waiting", "Waiting", "jobs"),
        ("kv_share", "KV blocks in use", "share of blocks"),
    ):
        lines = [
            line(client.name, series.middles_s, getattr(client, name), number)
            for number, client in enumerate(clients)
            if name not in _ONE_KIND or getattr(client, name).any()
        ]
        if lines:
            figure = figure_of(lines, TIME, unit)
            charts.append(Chart(name, "resources", title, f"{title} of each client, over time", figure))
    return charts


def _stage_chart(stages: tuple[StagePart, ...]) -> Chart:
    """Return the shares of end-to-end time as bars, largest on top."""
    shown = [part for part in stages if part.share >= 0.0005][::-1]  # noqa: PLR2004 - thinner bars cannot be seen
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": short([part.share * 100 for part in shown]),
        "y": [f"{part.stage} {part.part}".strip() for part in shown],
        "marker": {"color": COLOURS[0]},
        "hovertemplate": "%{y}: %{x:.2f} %<extra></extra>",
    }
    figure = figure_of([bars], "per cent of all end-to-end time", "")
    figure["layout"]["yaxis"]["automargin"] = True
    figure["layout"]["height"] = 120 + 28 * len(shown)
    return Chart("stages", "stages", "By stage and part", "Share of end-to-end time by stage and part", figure)


_PATH_COLOURS: Final = {"queue": COLOURS[5], "transfer": COLOURS[3], "compute": COLOURS[0], "outside": COLOURS[6]}


def path_chart(path: CriticalPath) -> Chart:
    """Return the critical path as one bar for each stage, of its parts by kind of wait."""
    stages = list(dict.fromkeys(part.stage for part in path.parts))[::-1]
    bars = []
    for wait, colour in _PATH_COLOURS.items():
        shares = [
            sum(part.share for part in path.parts if (part.stage, part.wait) == (stage, wait)) for stage in stages
        ]
        if any(shares):
            bars.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "name": wait,
                    "x": short([share * 100 for share in shares]),
                    "y": stages,
                    "marker": {"color": colour},
                    "hovertemplate": f"%{{y}}, {wait}: %{{x:.2f}} %<extra></extra>",
                }
            )
    figure = figure_of(bars, "per cent of all end-to-end time", "")
    figure["layout"] |= {"barmode": "stack", "height": 140 + 28 * len(stages)}
    figure["layout"]["yaxis"]["automargin"] = True
    label = "Share of end-to-end time on the critical path, by stage and kind of wait"
    return Chart("critical_path", "path", "What requests waited for", label, figure)


def line(name: str, x: Floats, y: Floats, number: int, *, dash: str = "solid") -> Figure:
    """Return a line of a chart in the colour of its number."""
    colour = COLOURS[number % len(COLOURS)]
    style = {"color": colour, "width": 1.8, "dash": dash}
    return {"type": "scatter", "mode": "lines", "name": name, "x": short(x), "y": short(y), "line": style}


def figure_of(traces: list[Figure], x: str, y: str) -> Figure:
    """Return a figure with titled axes, and a legend when it has several traces."""
    layout = {
        "xaxis": {"title": {"text": x}} | ({"rangemode": "tozero"} if x == TIME else {}),
        "yaxis": {"title": {"text": y}, "rangemode": "tozero"},
        "showlegend": len(traces) > 1,
    }
    return {"data": traces, "layout": layout}


def short(values: Any) -> list[float]:
    """Return numbers with five digits: more cannot be seen, and would only make the file larger."""
    return [float(f"{value:.{_DIGITS}g}") for value in np.asarray(values, dtype=np.float64).tolist()]
