"""What `hermes capacity` does, without the command line."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hermes_analysis.capacity.fleet import FleetAnswer, smallest_fleet
from hermes_analysis.capacity.rate import Capacity, CapacityOptions, capacity_of
from hermes_analysis.capacity.verdicts import Probe
from hermes_analysis.errors import AnalysisError, one_line
from hermes_analysis.executors import Executor, WorkerLost, make_executor
from hermes_analysis.optimize.goals import Constraint, parse_constraint
from hermes_analysis.output import json_text
from hermes_analysis.replicate import noted, too_few
from hermes_analysis.summary import plain
from hermes_analysis.sweep.axes import parse_axis
from hermes_analysis.sweep.space import Space
from hermes_analysis.sweep.terminal import estimate_text

COLUMNS = ("slo_attainment", "ttft.p99", "tpot.p99", "output_tokens_per_s", "usd_per_h", "usd_per_million_tokens")

_LONGEST_WINDOW_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class CapacityRequest:
    """What was asked on the command line."""

    scenario: Path
    over: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    fleet: str | None = None
    path: str = "workload.rate"
    seeds: str = "3"
    tolerance: float = 0.02
    window_s: float | None = None
    sets: tuple[str, ...] = ()
    executor: str | None = None
    ray_address: str | None = None
    workers: int | None = None
    as_json: bool = False


class NoRateError(AnalysisError):
    """No rate, or no fleet, keeps the limits. The message says which is broken."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class DeploymentWork:
    """Searches the capacity of one deployment on a worker: for several deployments at a time."""

    scenario: Any
    space: Space
    constraints: tuple[Constraint, ...]
    options: CapacityOptions
    sets: tuple[str, ...]

    def __call__(self, number: int) -> Capacity | str:
        """Return the capacity of a combination, or why it has none."""
        point = self.space.point(number * len(self.space.seeds))
        try:
            return capacity_of(self.scenario, (*self.sets, *point.sets), self.constraints, options=self.options)
        except AnalysisError as error:
            return one_line(error)


def capacity(request: CapacityRequest) -> str:
    """Return the answer for standard output. Raises AnalysisError."""
    constraints = tuple(parse_constraint(text) for text in request.limits)
    options = CapacityOptions(request.path, request.seeds, request.tolerance, request.window_s)
    if not 0 < request.tolerance < 1:
        raise AnalysisError(f"--tolerance {request.tolerance:g}: is a share of the rate, above 0 and below 1")
    _check_window(request)
    # One search has few runs at a time: starting processes for them takes longer than they do.
    workers = request.workers or (None if request.over or request.executor or request.ray_address else 1)
    with make_executor(request.executor, workers=workers, address=request.ray_address) as executor:
        if request.fleet is not None:
            answer = smallest_fleet(
                request.scenario,
                parse_axis(request.fleet, "--fleet"),
                request.sets,
                constraints,
                seeds=request.seeds,
                executor=executor,
            )
            if answer.smallest is None and not request.as_json:
                raise NoRateError("\n".join(fleet_lines(answer)))
            return json_text(fleet_values(answer)) if request.as_json else "\n".join(fleet_lines(answer)) + "\n"
        if not request.over:
            found = capacity_of(request.scenario, request.sets, constraints, executor=executor, options=options)
            if found.at is None and not request.as_json:
                raise NoRateError("\n".join(lines_of(found)))
            return json_text(values_of(found)) if request.as_json else "\n".join(lines_of(found)) + "\n"
        return _several(request, constraints, options, executor)


def _check_window(request: CapacityRequest) -> None:
    """Refuse a window that no run has. Raises AnalysisError."""
    window_s = request.window_s
    if window_s is None:
        return
    if request.fleet is not None:
        raise AnalysisError(
            f"--window {window_s:g}: with --fleet the runs are as long as the scenario says; leave --window out, "
            "or set --set workload.requests=N"
        )
    if not 1 <= window_s <= _LONGEST_WINDOW_S:
        raise AnalysisError(
            f"--window {window_s:g}: write seconds, from 1 to {_LONGEST_WINDOW_S:g} (a day); "
            "60 shows an overload of requests that take seconds"
        )


def _several(
    request: CapacityRequest, constraints: tuple[Constraint, ...], options: CapacityOptions, executor: Executor
) -> str:
    space = Space(tuple(parse_axis(text) for text in request.over), (1, 2))
    work = DeploymentWork(request.scenario, space, constraints, options, request.sets)
    found: dict[int, Capacity | str] = {}
    for number, result in executor.run(work, range(space.combinations)):
        found[number] = result.reason if isinstance(result, WorkerLost) else result
    results = [(space.values(number), found[number]) for number in range(space.combinations)]
    if all(isinstance(result, str) for _, result in results):
        raise AnalysisError(str(results[0][1]))
    paths = [axis.path for axis in space.axes]
    if request.as_json:
        return json_text(
            [
                {"values": dict(zip(paths, values, strict=True)), **(_error(r) if isinstance(r, str) else values_of(r))}
                for values, r in results
            ]
        )
    return "\n".join(_table(paths, results)) + "\n"


def _error(text: str) -> dict[str, Any]:
    return {"error": text}


def _table(paths: list[str], results: list[tuple[tuple[str, ...], Capacity | str]]) -> Iterator[str]:
    rows = [[*paths, "highest rate", "surely kept", "surely broken", "USD per million tokens", "binds"]]
    for values, result in results:
        if isinstance(result, str):
            rows.append([*values, "failed", "", "", "", result[:100]])
            continue
        price = (
            estimate_text("usd_per_million_tokens", result.at.metrics["usd_per_million_tokens"]) if result.at else ""
        )
        levels = (result.level, result.surely_kept, result.surely_broken)
        shown = (result.dial.text(level) if math.isfinite(level) else "none tried" for level in levels)
        rows.append([*values, *shown, price, result.binds])
    wide = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, wide, strict=True)).rstrip()


def lines_of(found: Capacity) -> Iterator[str]:
    """Yield a capacity for the screen."""
    if found.at is None:
        at = found.dial.text(found.probes[-1].level)
        yield f"no rate keeps the limits: {found.binds} is broken at {at} still"
        return
    seeds = _seeds(found.at)
    yield f"{_level_text(found)} keep the limits, by {_mean_of(seeds)}"
    yield too_few(seeds) or _sure_text(found)
    yield f"above it breaks: {found.binds}"
    yield from _metrics(found.at)
    what = "factors" if found.dial.factor else "rates"
    yield f"{len(found.probes)} {what} were tried: {', '.join(f'{p.level:.4g}' for p in found.probes)}"
    if found.note:
        yield f"note: {found.note}"


def _seeds(probe: Probe) -> int:
    return len(probe.metrics["ttft.p50"].values)


def _mean_of(seeds: int) -> str:
    return f"the mean of {seeds} seeds" if seeds > 1 else "one seed"


def _level_text(found: Capacity) -> str:
    if not found.dial.factor:
        return f"{found.level:.4g} requests/s"
    mean = "" if math.isnan(found.rate_per_s) else f" ({found.rate_per_s:.4g} requests/s on average)"
    return f"{found.level:.4g} times the rates of the trace{mean}"


def _sure_text(found: Capacity) -> str:
    sure = found.dial.text(found.surely_kept) if found.surely_kept else "no rate that was tried"
    broken = f"broken from {found.dial.text(found.surely_broken)} on"
    if math.isinf(found.surely_broken):
        broken = "broken at no rate that was tried"
    return f"with 95 % confidence: kept up to {sure}, {broken}"


def fleet_lines(answer: FleetAnswer) -> Iterator[str]:
    """Yield the smallest fleet for the screen."""
    if answer.smallest is None or answer.at is None:
        probe = answer.probes[-1]
        verdict = probe.verdict.value
        yield f"even {answer.path}={probe.level:g} does not keep the limits: {probe.worst} is broken ({verdict})"
        yield from _metrics(probe)
        return
    yield f"{answer.path}={answer.smallest} is the least that keeps the limits ({answer.at.verdict.value})"
    yield from _metrics(answer.at)
    if answer.below is not None:
        below = answer.below
        yield f"{answer.path}={below.level:g} does not: {below.worst} is broken ({below.verdict.value})"
    yield f"{len(answer.probes)} were tried: {', '.join(f'{p.level:g}' for p in answer.probes)}"
    if few := too_few(_seeds(answer.at)):
        yield few


def _metrics(probe: Probe) -> Iterator[str]:
    for name in COLUMNS:
        if not math.isnan(probe.metrics[name].mean):
            yield f"  {name:<24} {estimate_text(name, probe.metrics[name])}"


def values_of(found: Capacity) -> dict[str, Any]:
    """Return a capacity as JSON values."""
    return {
        "rate_per_s": plain(found.rate_per_s),
        **_levels(found),
        "binds": found.binds,
        "metrics": _means(found.at),
        "probes": [_probe(probe) for probe in found.probes],
        **({"window_note": found.note} if found.note else {}),
        **noted(_seeds(found.probes[0])),
    }


def _levels(found: Capacity) -> dict[str, Any]:
    """Return the other levels; over a trace they are factors, as the one that is meant is beside its rate."""
    sure, broken = found.surely_kept, plain(found.surely_broken)
    if found.dial.factor:
        return {"factor": found.level, "surely_kept_factor": sure, "surely_broken_factor": broken}
    return {"surely_kept_per_s": sure, "surely_broken_per_s": broken}


def fleet_values(answer: FleetAnswer) -> dict[str, Any]:
    """Return the smallest fleet as JSON values."""
    return {
        "path": answer.path,
        "smallest": answer.smallest,
        "metrics": _means(answer.at),
        "probes": [_probe(probe) for probe in answer.probes],
        **noted(_seeds(answer.probes[0])),
    }


def _probe(probe: Probe) -> dict[str, Any]:
    return {"level": probe.level, "verdict": probe.verdict.value, "worst": probe.worst}


def _means(probe: Probe | None) -> dict[str, float | str | None]:
    if probe is None:
        return {}
    return {name: "inf" if math.isinf(e.mean) else plain(e.mean) for name, e in probe.metrics.items()}
