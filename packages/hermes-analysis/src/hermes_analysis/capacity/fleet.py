"""The smallest fleet that serves given traffic."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hermes_analysis.capacity.rate import default_limits
from hermes_analysis.capacity.verdicts import Judgement, Probe
from hermes_analysis.errors import AnalysisError
from hermes_analysis.executors import Executor, SerialExecutor
from hermes_analysis.optimize.goals import Constraint
from hermes_analysis.seeds import Seeds, seeds_of
from hermes_analysis.simulator import SimulationError, refusal, session
from hermes_analysis.sweep.axes import Axis


@dataclass(frozen=True, slots=True)
class FleetAnswer:
    """The smallest number that keeps the limits, and what was tried."""

    path: str
    smallest: str | None
    """None when even the largest does not."""
    at: Probe | None
    below: Probe | None
    """The next smaller one, which does not do; None when the smallest of all does."""
    probes: tuple[Probe, ...]


def smallest_fleet(
    scenario: Any,
    axis: Axis,
    sets: Sequence[str] = (),
    constraints: Sequence[Constraint] = (),
    *,
    seeds: Seeds = "3",
    executor: Executor | None = None,
    runner: str = "default",
) -> FleetAnswer:
    """Return the first value of `axis` (numbers in rising order) that keeps the limits, by bisection.

    A larger fleet is taken to serve no worse. `seeds` are as in `hermes_analysis.seeds`.
    Raises SimulationError; AnalysisError for an axis that does not rise.
    """
    numbers = axis.numbers()
    if not axis.values or numbers is None or any(b <= a for a, b in pairwise(numbers)):
        raise AnalysisError(f"--fleet {axis.path}: write numbers that rise, as {axis.path}=1..16")
    simulator = session(runner)
    try:
        draft = simulator.read(scenario, sets)
        resolved = simulator.resolved(draft, [f"{axis.path}={axis.values[-1]}"])
    except Exception as error:
        message = refusal(error)
        if message is None:
            raise
        raise SimulationError(message) from error
    limits = default_limits(constraints, resolved)
    judgement = Judgement(draft, limits, seeds_of(seeds, resolved), executor or SerialExecutor(), runner)
    probes: dict[int, Probe] = {}

    def kept(at: int) -> bool:
        if at not in probes:
            probes[at] = judgement.probe(numbers[at], [f"{axis.path}={axis.values[at]}"])
        return probes[at].verdict.kept

    low, high = -1, len(numbers) - 1
    if not kept(high):
        return FleetAnswer(axis.path, None, None, probes[high], tuple(probes[at] for at in sorted(probes)))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if kept(middle) else (middle, high)
    tried = tuple(probes[at] for at in sorted(probes))
    return FleetAnswer(axis.path, axis.values[high], probes[high], probes[low] if low >= 0 else None, tried)
