"""The highest rate that keeps a service level, by bisection on simulated runs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hermes_analysis.capacity.verdicts import Judgement, Probe, Verdict
from hermes_analysis.errors import AnalysisError
from hermes_analysis.executors import Executor, SerialExecutor
from hermes_analysis.optimize.goals import Constraint, parse_constraint
from hermes_analysis.seeds import Seeds, seeds_of
from hermes_analysis.simulator import SimulationError, refusal, session

_DOUBLINGS: Final = 16
_HALVINGS: Final = 10
_FEWEST_REQUESTS: Final = 200
_MOST_REQUESTS: Final = 20_000
_REMEDIES: Final = {
    "trace": "fit a generator to the trace with `hermes workload fit`, or ask for the smallest --fleet that serves it",
    "mix": "name that of one of its parts: --rate workload.mix.0.rate",
}


@dataclass(frozen=True, slots=True)
class CapacityOptions:
    """How a capacity is searched."""

    path: str = "workload.rate"
    """What is raised."""
    seeds: Seeds = "3"
    """As in `hermes_analysis.seeds`."""
    tolerance: float = 0.02
    """The bracket that ends the search, as a share of the rate."""
    window_s: float = 60.0
    """Traffic of each run: enough requests for this long at the rate that is tried. A run of a fixed number of requests
    would end before an overload shows."""
    runner: str = "default"


@dataclass(frozen=True, slots=True)
class Capacity:
    """The highest rate that keeps the limits."""

    rate_per_s: float
    """By the mean over the seeds; 0 when no rate does."""
    surely_kept_per_s: float
    """Highest rate tried whose mean keeps the limits with 95 % confidence."""
    surely_broken_per_s: float
    """Lowest rate tried whose mean breaks one with 95 % confidence."""
    at: Probe | None
    """The runs at the rate."""
    binds: str
    """The limit that is broken above it."""
    probes: tuple[Probe, ...]


def default_limits(constraints: Sequence[Constraint], resolved: Mapping[str, Any]) -> tuple[Constraint, ...]:
    """Return the limits to keep: those given, else the scenario's service levels. Raises AnalysisError without any."""
    if constraints:
        return tuple(constraints)
    levels = resolved.get("slo") or {}
    if not levels:
        raise AnalysisError("there is no service level to keep; add `slo:` to the scenario, or give --subject-to")
    required = max(level["attainment"] for level in levels.values())
    return (parse_constraint(f"slo_attainment >= {required}"),)


def capacity_of(
    scenario: Any,
    sets: Sequence[str] = (),
    constraints: Sequence[Constraint] = (),
    *,
    executor: Executor | None = None,
    options: CapacityOptions | None = None,
) -> Capacity:
    """Return the highest rate at which `scenario` keeps `constraints` (its service levels without any).

    Raises SimulationError, and AnalysisError when there is nothing to keep.
    """
    options = options or CapacityOptions()
    simulator = session(options.runner)
    try:
        draft = simulator.read(scenario, sets)
        resolved = simulator.resolved(draft)
    except Exception as error:
        message = refusal(error)
        if message is None:
            raise
        raise SimulationError(message) from error
    kind = resolved.get("workload", {}).get("kind")
    if options.path == "workload.rate" and kind in _REMEDIES:
        raise AnalysisError(f"a workload of the kind {kind} has no rate to search over; {_REMEDIES[kind]}")
    limits = default_limits(constraints, resolved)
    seeds = seeds_of(options.seeds, resolved)
    judgement = Judgement(draft, limits, seeds, executor or SerialExecutor(), options.runner)
    return highest_rate(judgement, resolved, options)


def highest_rate(judgement: Judgement, resolved: Mapping[str, Any], options: CapacityOptions) -> Capacity:
    """Double from the scenario's own rate until a limit breaks (or halve until none does), then bisect."""
    counted = options.path == "workload.rate" and isinstance(resolved.get("workload", {}).get("requests"), int)
    probes: list[Probe] = []

    def probe(rate: float) -> bool:
        sets = [f"{options.path}={rate:.6g}/s"]
        if counted:
            requests = min(max(math.ceil(rate * options.window_s), _FEWEST_REQUESTS), _MOST_REQUESTS)
            sets.append(f"workload.requests={requests}")
        probes.append(judgement.probe(float(f"{rate:.6g}"), sets))
        return probes[-1].verdict.kept

    low, high = _bracket(probe, _rate_of(resolved))
    while low > 0 and high - low > options.tolerance * high:
        # Four figures of a rate are enough.
        middle = float(f"{math.sqrt(low * high):.4g}")
        if not low < middle < high:
            break
        low, high = (middle, high) if probe(middle) else (low, middle)
    kept = [each for each in probes if each.verdict.kept and each.level <= low]
    at = max(kept, key=lambda each: each.level, default=None)
    broken = [each for each in probes if not each.verdict.kept]
    above = min(broken, key=lambda each: each.level, default=None)
    return Capacity(
        rate_per_s=at.level if at is not None else 0.0,
        surely_kept_per_s=max((each.level for each in probes if each.verdict is Verdict.SURELY_KEPT), default=0.0),
        surely_broken_per_s=min(
            (each.level for each in probes if each.verdict is Verdict.SURELY_BROKEN), default=math.inf
        ),
        at=at,
        binds=above.worst if above is not None else "",
        probes=tuple(probes),
    )


def _bracket(probe: Any, start: float) -> tuple[float, float]:
    """Return a rate that keeps the limits (0: none was found) and a higher one that does not. Raises AnalysisError."""
    if probe(start):
        low = start
        for _ in range(_DOUBLINGS):
            if not probe(2 * low):
                return low, 2 * low
            low *= 2
        raise AnalysisError(f"the limits are kept at {low:g}/s still: nothing breaks them, so there is no highest rate")
    high = start
    for _ in range(_HALVINGS):
        if probe(high / 2):
            return high / 2, high
        high /= 2
    return 0.0, high


def _rate_of(resolved: Mapping[str, Any]) -> float:
    """Return where to begin: the scenario's own rate, or one request a second."""
    arrivals = resolved.get("workload", {}).get("arrivals") or {}
    for value in (arrivals.get("rate_per_s"), resolved.get("workload", {}).get("rate_per_s")):
        if isinstance(value, int | float) and value > 0:
            return float(f"{value:.4g}")
    return 1.0
