"""The highest rate that keeps a service level, by bisection on simulated runs."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from hermes_analysis.capacity.dial import DEFAULT_PATH, TRACE_PATH, Dial, dial_of
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
_WINDOW_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class CapacityOptions:
    """How a capacity is searched."""

    path: str = DEFAULT_PATH
    """What is raised: a rate. Over a trace it is a factor of the trace's rates."""
    seeds: Seeds = "3"
    """As in `hermes_analysis.seeds`."""
    tolerance: float = 0.02
    """The bracket that ends the search, as a share of the rate."""
    window_s: float | None = None
    """Traffic of each run: enough requests for this long at the rate that is tried (from 200 to 20,000), 60 s unless
    given. A run of a fixed number of requests would end before an overload shows. Where the scenario says itself how
    long its traffic is (a trace, a duration), there is none to be given."""
    runner: str = "default"


@dataclass(frozen=True, slots=True)
class Capacity:
    """The highest level of the dial that keeps the limits: a rate in requests/s, or a factor of a trace's rates."""

    dial: Dial
    level: float
    """By the mean over the seeds; 0 when none does."""
    surely_kept: float
    """Highest level tried whose mean keeps the limits with 95 % confidence."""
    surely_broken: float
    """Lowest level tried whose mean breaks one with 95 % confidence."""
    at: Probe | None
    """The runs at that level."""
    binds: str
    """The limit that is broken above it."""
    probes: tuple[Probe, ...]
    trace_rate_per_s: float = math.nan
    """Of the trace as it is, on average: what a factor multiplies; NaN where it is not known."""
    note: str = ""
    """What the runs were not that was asked for: as long as the window."""

    @property
    def rate_per_s(self) -> float:
        """The same as a mean rate, in requests per second; NaN where that is not known."""
        return self.level * self.trace_rate_per_s if self.dial.factor else self.level


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
        written = simulator.values(draft)
    except Exception as error:
        message = refusal(error)
        if message is None:
            raise
        raise SimulationError(message) from error
    dial = dial_of(options.path, written, resolved)
    limits = default_limits(constraints, resolved)
    seeds = seeds_of(options.seeds, resolved)
    judgement = Judgement(draft, limits, seeds, executor or SerialExecutor(), options.runner)
    found = highest_rate(judgement, resolved, options, dial)
    if dial.path != TRACE_PATH:
        return found
    outlook = simulator.outlook(draft, [dial.setting(1.0)], seeds[0])
    known = outlook is not None and outlook.last_arrival_s > 0
    return replace(found, trace_rate_per_s=outlook.requests / outlook.last_arrival_s if known else math.nan)


def highest_rate(
    judgement: Judgement, resolved: Mapping[str, Any], options: CapacityOptions, dial: Dial | None = None
) -> Capacity:
    """Double from the scenario's own rate until a limit breaks (or halve until none does), then bisect."""
    dial = dial or Dial(options.path)
    workload = resolved.get("workload", {})
    counted = options.path == DEFAULT_PATH and not dial.factor and isinstance(workload.get("requests"), int)
    if options.window_s is not None and not counted:
        raise AnalysisError(
            f"--window {options.window_s:g}: the runs of this search are as long as the scenario says "
            "(its trace, duration or number of requests); leave --window out"
        )
    window_s = _WINDOW_S if options.window_s is None else options.window_s
    probes: list[Probe] = []

    def probe(level: float) -> bool:
        sets = [dial.setting(level)]
        if counted:
            requests = min(max(math.ceil(level * window_s), _FEWEST_REQUESTS), _MOST_REQUESTS)
            sets.append(f"workload.requests={requests}")
        probes.append(judgement.probe(float(f"{level:.6g}"), sets))
        return probes[-1].verdict.kept

    low, high = _bracket(probe, dial)
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
        dial=dial,
        level=at.level if at is not None else 0.0,
        surely_kept=max((each.level for each in probes if each.verdict is Verdict.SURELY_KEPT), default=0.0),
        surely_broken=min((each.level for each in probes if each.verdict is Verdict.SURELY_BROKEN), default=math.inf),
        at=at,
        binds=above.worst if above is not None else "",
        probes=tuple(probes),
        note=_cut(at, window_s) if counted and options.window_s is not None else "",
    )


def _cut(at: Probe | None, window_s: float) -> str:
    """Say how long the runs of the answer were, when they had fewer requests than the window has."""
    if at is None or at.level * window_s <= _MOST_REQUESTS:
        return ""
    seconds = _MOST_REQUESTS / at.level
    return (
        f"a run has at most {_MOST_REQUESTS:,} requests: at {at.level:.4g}/s that is {seconds:.4g} s of traffic, "
        f"not the {window_s:g} s of --window"
    )


def _bracket(probe: Callable[[float], bool], dial: Dial) -> tuple[float, float]:
    """Return a level that keeps the limits (0: none was found) and a higher one that does not. Raises AnalysisError."""
    if probe(dial.start):
        low = dial.start
        for _ in range(_DOUBLINGS):
            if not probe(2 * low):
                return low, 2 * low
            low *= 2
        short = " (a longer trace would last until a queue grows)" if dial.factor else ""
        raise AnalysisError(
            f"the limits are kept at {dial.text(low)} still: nothing breaks them, so there is no highest rate{short}"
        )
    high = dial.start
    for _ in range(_HALVINGS):
        if probe(high / 2):
            return high / 2, high
        high /= 2
    return 0.0, high
