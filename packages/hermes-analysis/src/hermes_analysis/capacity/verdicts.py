"""Whether limits are kept at one rate, or by one fleet: over seeds, with a stated confidence."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from hermes_analysis.errors import AnalysisError
from hermes_analysis.executors import Executor, WorkerLost
from hermes_analysis.optimize.evaluate import CandidateWork, Job
from hermes_analysis.optimize.goals import Constraint
from hermes_analysis.points import Metrics
from hermes_analysis.replicate import Estimate, estimates
from hermes_analysis.simulator import SimulationError


class Verdict(Enum):
    """What the seeds say of the limits together; surely means with 95 % confidence in the mean."""

    SURELY_KEPT = "surely kept"
    KEPT = "kept"
    BROKEN = "broken"
    SURELY_BROKEN = "surely broken"

    @property
    def kept(self) -> bool:
        """Whether the mean keeps the limits."""
        return self in {Verdict.SURELY_KEPT, Verdict.KEPT}


@dataclass(frozen=True, slots=True)
class Probe:
    """One rate or fleet that was tried."""

    level: float
    verdict: Verdict
    metrics: dict[str, Estimate]
    worst: str
    """The limit that is broken most, or has the least left."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """Runs one setting with several seeds, and judges."""

    scenario: Any
    constraints: tuple[Constraint, ...]
    seeds: tuple[int, ...]
    executor: Executor
    runner: str = "default"

    def probe(self, level: float, sets: Sequence[str]) -> Probe:
        """Try a setting. Raises SimulationError when the simulator refuses it."""
        work = CandidateWork(self.scenario, self.runner)
        jobs = [Job(tuple(sets), seed) for seed in self.seeds]
        rows: dict[int, Metrics] = {}
        for position, reply in self.executor.run(work, jobs):
            if isinstance(reply, WorkerLost):
                raise AnalysisError(reply.reason)
            if reply.error:
                raise SimulationError(reply.error)
            rows[position] = dict(reply.metrics)
        metrics = estimates([rows[position] for position in range(len(jobs))])
        worst = max(self.constraints, key=lambda c: (c.violation(metrics[c.metric].mean), c.text))
        return Probe(level, judged(self.constraints, metrics), metrics, worst.text)


def judged(constraints: Sequence[Constraint], metrics: dict[str, Estimate]) -> Verdict:
    """Return the verdict of several limits: all must be kept, the least sure decides."""
    order = list(Verdict)
    return max((one_judged(c, metrics[c.metric]) for c in constraints), key=order.index)


def one_judged(constraint: Constraint, estimate: Estimate) -> Verdict:
    """Return the verdict of one limit."""
    width = estimate.half_width
    if constraint.kept(estimate.mean):
        sure = not math.isnan(width) and constraint.excess(estimate.mean) <= -width
        return Verdict.SURELY_KEPT if sure else Verdict.KEPT
    sure = math.isinf(estimate.mean) or (not math.isnan(width) and constraint.excess(estimate.mean) >= width)
    return Verdict.SURELY_BROKEN if sure else Verdict.BROKEN


Tell = Callable[[str], None]
