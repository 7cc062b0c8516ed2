"""Runs a scenario as it is and relaxed, under the same seeds, and ranks what was relaxed by its effect."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from hermes_analysis.errors import AnalysisError, one_line
from hermes_analysis.executors import Executor, SerialExecutor, WorkerLost
from hermes_analysis.load import RunRecord
from hermes_analysis.notebook import pandas_frame, polars_frame, what_if_columns, what_if_html_fragment
from hermes_analysis.points import HIGHER_IS_BETTER, Metrics, check_metric, point_metrics
from hermes_analysis.replicate import Estimate
from hermes_analysis.seeds import Seeds, seeds_of
from hermes_analysis.simulator import SimulationError, refusal, session
from hermes_analysis.whatif.relaxations import Relaxation, relaxations

BESIDE: Final = ("ttft.p50", "ttft.p99", "tpot.p50", "e2e.p50", "e2e.p99", "output_tokens_per_s", "goodput_per_s")
LEAST_EFFECT: Final = 0.01
"""A smaller gain names no bottleneck."""
LEAST_SEEN: Final = 0.0005
"""A smaller change of a metric is shown as 0.0 %."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What one relaxation does."""

    name: str
    gain: Estimate
    """Relative change of the metric for the better, seed by seed against the same traffic."""
    metrics: dict[str, Estimate]
    sets: tuple[str, ...]
    problem: str = ""
    """Why it could not be run; the rest is empty then."""
    idle: bool = False
    """Whether it changes nothing that is seen, of all metrics and under every seed."""

    @property
    def sure(self) -> bool | None:
        """Whether the 95 % interval of the gain leaves out none at all; None with too few seeds."""
        return None if math.isnan(self.gain.half_width) else abs(self.gain.mean) > self.gain.half_width


@dataclass(frozen=True, slots=True)
class WhatIf:
    """The answer: effects, largest gain first."""

    metric: str
    seeds: tuple[int, ...]
    base: dict[str, Estimate]
    effects: tuple[Effect, ...]
    refused: tuple[Effect, ...]
    name: str = "run"
    """Of the scenario."""

    @property
    def moving(self) -> tuple[Effect, ...]:
        """The effects that are seen."""
        return tuple(effect for effect in self.effects if not effect.idle)

    @property
    def bottleneck(self) -> Effect | None:
        """What helps most; None when nothing helps by a hundredth, or by more than chance."""
        best = self.effects[0] if self.effects else None
        return best if best is not None and best.gain.mean >= LEAST_EFFECT and best.sure is not False else None

    def to_polars(self) -> Any:
        """Return a row for each relaxation as a polars DataFrame. Needs polars (extra "tables")."""
        return polars_frame(what_if_columns(self))

    def to_pandas(self) -> Any:
        """Return the same as a pandas DataFrame. Needs pandas (extra "pandas")."""
        return pandas_frame(what_if_columns(self))

    def plot(self) -> Any:
        """Return the gains with their intervals as a plotly figure. Needs plotly (extra "report")."""
        from hermes_analysis.whatif.report import what_if_plot  # noqa: PLC0415 - only what is used is loaded

        return what_if_plot(self)

    def _repr_html_(self) -> str:
        """Show the answer in a notebook."""
        return what_if_html_fragment(self)


@dataclass(frozen=True, slots=True)
class _Work:
    """Runs one variant under one seed, for an executor."""

    scenario: Any
    runner: str = field(default="default")

    def __call__(self, task: tuple[tuple[str, ...], int]) -> Metrics | str:
        sets, seed = task
        try:
            return point_metrics(RunRecord.from_chunks(session(self.runner).run(self.scenario, sets, seed)))
        except Exception as error:
            message = refusal(error)
            if message is None:
                raise
            return one_line(message)


def what_if(
    scenario: Any,
    seeds: Seeds = "1",
    *,
    metric: str = "e2e.mean",
    sets: Sequence[str] = (),
    only: Sequence[str] = (),
    executor: Executor | None = None,
    runner: str = "default",
) -> WhatIf:
    """Relax one thing after another in `scenario`; rank by the change of `metric` (a name of `hermes_analysis.points`).

    `seeds` are as in `hermes_analysis.seeds`.
    `only` keeps the relaxations whose name contains one of these words. Raises SimulationError when the scenario itself
    cannot be simulated, AnalysisError for an unknown metric or when nothing can be relaxed.
    """
    check_metric(metric)
    here = session(runner)
    try:
        draft = here.read(scenario, sets)
        resolved = here.resolved(draft)
        found = relaxations(here.values(draft), resolved)
    except Exception as error:
        message = refusal(error)
        if message is None:
            raise
        raise SimulationError(message) from error
    under = seeds_of(seeds, resolved)
    chosen = [one for one in found if not only or any(word in one.name for word in only)]
    if not chosen:
        names = ", ".join(one.name for one in found) or "nothing"
        raise AnalysisError(f"nothing of that name can be relaxed here; there is: {names}")
    variants = list(dict.fromkeys([(), *(one.base for one in chosen), *(one.sets for one in chosen)]))
    tasks = [(variant, seed) for variant in variants for seed in under]
    results: dict[tuple[tuple[str, ...], int], Metrics | str] = {}
    for position, result in (executor or SerialExecutor()).run(_Work(draft, runner), tasks):
        results[tasks[position]] = result.reason if isinstance(result, WorkerLost) else result
    rows = {variant: [results[variant, seed] for seed in under] for variant in variants}
    base = [row for row in rows[()] if not isinstance(row, str)]
    if len(base) < len(under):
        raise SimulationError(next(row for row in rows[()] if isinstance(row, str)))
    effects = [_effect(one, rows, metric) for one in chosen]
    ranked = sorted((e for e in effects if not e.problem), key=lambda effect: (-_order(effect.gain.mean), effect.name))
    return WhatIf(
        metric=metric,
        seeds=under,
        base=_estimates(base, metric),
        effects=tuple(ranked),
        refused=tuple(effect for effect in effects if effect.problem),
        name=str(resolved.get("name") or "run"),
    )


def _order(gain: float) -> float:
    return -math.inf if math.isnan(gain) else gain


def _effect(one: Relaxation, rows: dict[tuple[str, ...], list[Metrics | str]], metric: str) -> Effect:
    pairs = list(zip(rows[one.base], rows[one.sets], strict=True))
    good = [(a, b) for a, b in pairs if not isinstance(a, str) and not isinstance(b, str)]
    if len(good) < len(pairs):
        problem = next(text for pair in pairs for text in pair if isinstance(text, str))
        return Effect(one.name, Estimate.of([]), {}, one.sets, problem)
    sign = 1.0 if metric in HIGHER_IS_BETTER else -1.0
    gains = [sign * _change(a[metric], b[metric]) for a, b in good]
    idle = all(_same(a[name], b[name]) for a, b in good for name in (metric, *BESIDE))
    return Effect(one.name, Estimate.of(gains), _estimates([b for _, b in good], metric), one.sets, idle=idle)


def _change(before: float, after: float) -> float:
    if before == after:
        return 0.0
    if math.isinf(before) and math.isfinite(after):
        return -1.0
    return after / before - 1.0 if before and math.isfinite(before) else math.nan


def _same(before: float, after: float) -> bool:
    return (math.isnan(before) and math.isnan(after)) or abs(_change(before, after)) < LEAST_SEEN


def _estimates(rows: list[Metrics], metric: str) -> dict[str, Estimate]:
    names = dict.fromkeys([metric, *BESIDE])
    return {name: Estimate.of([row[name] for row in rows]) for name in names}
