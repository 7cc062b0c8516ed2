"""Runs side by side: what differs, whether by more than chance, and whether an agreed limit is broken."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from hermes_analysis.errors import AnalysisError
from hermes_analysis.load import RunRecord
from hermes_analysis.metrics.confidence import ConfidenceInterval
from hermes_analysis.metrics.details import details
from hermes_analysis.metrics.summarise import Prepared, summarise
from hermes_analysis.render import duration, percent
from hermes_analysis.summary import LevelSummary, RunSummary, level_bounds, plain

_PER_CENT: Final = 100.0


@dataclass(frozen=True, slots=True)
class Metric:
    """A number that runs are compared by. `interval` names the metric and statistic of its confidence interval."""

    name: str
    unit: str
    lower_is_better: bool
    of: Callable[[RunSummary], float | None]
    interval: tuple[str, str] | None = None


def unlike(runs: Sequence[RunRecord], names: Sequence[object]) -> list[str]:
    """Say in what runs differ from the first beside their figures (models, devices, traffic), and which are partial."""

    def facts(run: RunRecord) -> dict[str, Any]:
        clients = run.manifest.clients
        try:
            workload = json.loads(run.manifest.scenario.canonical_json or "{}").get("workload")
        except ValueError:
            workload = None
        return {
            "models": sorted({client.model for client in clients}),
            "devices": sorted({client.device for client in clients}),
            "pipelines": list(run.manifest.pipelines),
            "workload": workload,
        }

    first = facts(runs[0])
    found = []
    for run, name in zip(runs[1:], names[1:], strict=True):
        other = facts(run)
        unequal = [key for key in first if first[key] != other[key]]
        if unequal:
            found.append(f"{name} and {names[0]} have unlike {', '.join(unequal)}")
    found += [
        f"{name} is partial: {'; '.join(run.missing)}" for run, name in zip(runs, names, strict=True) if run.partial
    ]
    return found


def _unserved(summary: RunSummary) -> float:
    """Return the share of arrivals that did not finish."""
    counts = summary.total.counts
    return (counts.arrived - counts.finished) / counts.arrived if counts.arrived else math.nan


def _latency(field: str, statistic: str, short: str) -> Metric:
    def of(summary: RunSummary) -> float | None:
        distribution = getattr(summary.total, field)
        return None if distribution is None else float(getattr(distribution, statistic))

    interval = None if short == "itl" else (short.upper(), statistic)
    return Metric(f"{short}.{statistic}", "s", lower_is_better=True, of=of, interval=interval)


METRICS: Final[tuple[Metric, ...]] = (
    *(
        _latency(f"{short}_s", statistic, short)
        for short in ("ttft", "itl", "tpot", "e2e")
        for statistic in ("mean", "p50", "p90", "p99")
    ),
    Metric("requests_per_s", "1/s", lower_is_better=False, of=lambda s: s.total.request_throughput_per_s),
    Metric("output_tokens_per_s", "1/s", lower_is_better=False, of=lambda s: s.total.output_token_throughput_per_s),
    Metric("goodput_per_s", "1/s", lower_is_better=False, of=lambda s: s.total.goodput_per_s),
    Metric("slo_attainment", "", lower_is_better=False, of=lambda s: s.total.slo_attainment),
    Metric("unserved", "", lower_is_better=True, of=_unserved),
    Metric("joules_per_token", "J", lower_is_better=True, of=lambda s: s.energy.joules_per_output_token),
    Metric("usd_per_million_tokens", "USD", lower_is_better=True, of=lambda s: s.energy.usd_per_million_output_tokens),
)


@dataclass(frozen=True, slots=True)
class Difference:
    """One metric of one run against the baseline."""

    metric: str
    unit: str
    baseline: float | None
    value: float | None
    change: float | None
    """Relative to the baseline; None where that is 0 or either is absent."""
    worse: bool
    """Whether the change is in the wrong direction."""
    significant: bool | None
    """Whether the 95 % intervals of both, by batch means, tell the runs apart; None where there are none."""
    tolerance: float | None
    """Largest relative change for the worse that is allowed; None for any."""

    @property
    def broken(self) -> bool:
        """Whether the metric is worse than the tolerance allows; a metric that vanished is."""
        if self.tolerance is None or self.baseline is None:
            return False
        if self.value is None:
            return True
        if self.baseline == 0:
            return self.worse
        return self.worse and self.change is not None and abs(self.change) > self.tolerance


@dataclass(frozen=True, slots=True)
class Compared:
    """One run against the baseline."""

    name: str
    source: str
    differences: tuple[Difference, ...]
    broken_levels: tuple[LevelSummary, ...]
    """Service levels that this run does not keep."""
    warnings: tuple[str, ...]

    @property
    def broken(self) -> tuple[str, ...]:
        """Say each limit that is broken."""
        limits = [
            f"{d.metric} {_signed(d.change)} (allowed {d.tolerance:.2%} for the worse)"
            for d in self.differences
            if d.broken and d.tolerance is not None
        ]
        return (*limits, *map(_broken_level, self.broken_levels))


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs against the first of them."""

    baseline: RunSummary
    baseline_source: str
    runs: tuple[Compared, ...]

    @property
    def broken(self) -> tuple[str, ...]:
        """Say each limit that any run breaks, with the run."""
        return tuple(f"{run.source}: {text}" for run in self.runs for text in run.broken)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        runs = [asdict(run) | {"broken": list(run.broken)} for run in self.runs]
        answer: dict[str, Any] = plain(
            {"baseline": self.baseline_source, "name": self.baseline.name, "runs": runs, "broken": list(self.broken)}
        )
        return answer

    def to_polars(self) -> Any:
        """Return a row for each run and metric, as a polars DataFrame. Needs polars (extra "tables")."""
        from hermes_analysis.notebook import comparison_columns, polars_frame  # noqa: PLC0415 - only what is used is loaded

        return polars_frame(comparison_columns(self))

    def to_pandas(self) -> Any:
        """Return the same as a pandas DataFrame. Needs pandas (extra "pandas")."""
        from hermes_analysis.notebook import comparison_columns, pandas_frame  # noqa: PLC0415 - only what is used is loaded

        return pandas_frame(comparison_columns(self))

    def plot(self) -> Any:
        """Return the changes against the baseline as a plotly figure. Needs plotly (extra "report")."""
        from hermes_analysis.plots import comparison_plot  # noqa: PLC0415 - only what is used is loaded

        return comparison_plot(self)

    def _repr_html_(self) -> str:
        """Show the comparison in a notebook."""
        from hermes_analysis.notebook import comparison_html_fragment  # noqa: PLC0415 - notebook needs the summary

        return comparison_html_fragment(self)


def parse_tolerances(texts: Sequence[str]) -> dict[str, float]:
    """Read tolerances: "5%" for every metric, "ttft.p99=5%" for one. Raises AnalysisError for anything else."""
    known = [metric.name for metric in METRICS]
    answers: dict[str, float] = {}
    for text in texts:
        name, equals, amount = text.rpartition("=")
        if equals and name not in known:
            raise AnalysisError(f"--tolerance {text}: {name!r} is no metric; there are {', '.join(known)}")
        try:
            share = float(amount.removesuffix("%")) / (_PER_CENT if amount.endswith("%") else 1.0)
        except ValueError:
            share = math.nan
        if not 0 <= share < math.inf:
            raise AnalysisError(f"--tolerance {text}: {amount!r} is no share; write it like ttft.p99=5% or 0.05")
        answers |= {name: share} if equals else {metric: share for metric in known if metric not in answers}
    return answers


def compare(
    runs: Sequence[RunRecord], *, tolerances: Mapping[str, float] | None = None, service_levels: bool = True
) -> Comparison:
    """Compare runs with the first. Raises AnalysisError for less than two.

    `tolerances` gives by metric name the relative change for the worse that is allowed. With `service_levels`, each
    run's own service levels (not the baseline's) are limits too.
    """
    if len(runs) < 2:  # noqa: PLR2004 - a comparison needs two
        raise AnalysisError("A comparison needs two runs or more; the first is the baseline")
    allowed = tolerances or {}
    base, *others = [_measured(run) for run in runs]
    compared = []
    for run, (summary, intervals) in zip(runs[1:], others, strict=True):
        differences = [_difference(metric, base, (summary, intervals), allowed.get(metric.name)) for metric in METRICS]
        broken = [level for level in summary.levels if not level.met] if service_levels else []
        compared.append(Compared(summary.name, run.source, tuple(differences), tuple(broken), summary.warnings))
    return Comparison(base[0], runs[0].source, tuple(compared))


_Measured = tuple[RunSummary, Mapping[tuple[str, str], ConfidenceInterval]]


def _measured(run: RunRecord) -> _Measured:
    """Return a run's summary and its confidence intervals by metric and statistic."""
    ready = Prepared.of(run)
    intervals = {(c.metric, c.statistic): c for c in details(run, ready).confidence}
    return summarise(run, ready), intervals


def _difference(metric: Metric, base: _Measured, other: _Measured, tolerance: float | None) -> Difference:
    before, after = _number(metric.of(base[0])), _number(metric.of(other[0]))
    change, worse, significant = None, False, None
    if before is not None and after is not None:
        change = (after - before) / abs(before) if before else None
        worse = after > before if metric.lower_is_better else after < before
        pair = [intervals.get(metric.interval) for _, intervals in (base, other)] if metric.interval else [None]
        if all(interval is not None for interval in pair):
            # Half-widths of independent runs add up as squares.
            spread = math.hypot(*(interval.half_width for interval in pair if interval is not None))
            significant = abs(after - before) > spread
    return Difference(metric.name, metric.unit, before, after, change, worse, significant, tolerance)


def _broken_level(level: LevelSummary) -> str:
    """Say what was asked and what came of it."""
    bounds = ", ".join(f"{kind.upper()} {duration(getattr(level, f'{kind}_s'))}" for kind in level_bounds([level]))
    name = "of all" if level.name == "*" else f"of {level.name}"
    return f"service level {name} ({bounds}): {percent(level.attained)} met it, {percent(level.required)} must"


def _number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _signed(change: float | None) -> str:
    return "changed" if change is None else f"{change:+.2%}"
