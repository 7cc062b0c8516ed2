"""Which of two deployments is better, and which are not beaten by any: limits first, then objectives."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hermes_analysis.optimize.evaluate import Measured
from hermes_analysis.optimize.goals import Constraint, Objective
from hermes_analysis.optimize.space import Candidate


@dataclass(frozen=True, slots=True)
class Cut:
    """A candidate that cost no run: why, and what it could have been at best."""

    candidate: Candidate
    kind: str
    """"memory", "refused", "bound" (breaks a limit at best) or "beaten" (worse than a known one at best)."""
    why: str
    best: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Judge:
    """Objectives and limits together."""

    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]

    def costs(self, value: Callable[[str], float]) -> tuple[float, ...]:
        """Return what is to be made small, of metrics that `value` knows."""
        return tuple(objective.cost(value(objective.metric)) for objective in self.objectives)

    def violations(self, value: Callable[[str], float]) -> tuple[float, ...]:
        """Return of each limit by what share of it it is broken; 0 or less where it is kept."""
        return tuple(constraint.violation(value(constraint.metric)) for constraint in self.constraints)

    def feasible(self, measured: Measured) -> bool:
        """Say whether a measured candidate keeps all limits."""
        if not measured.metrics:
            return False
        return all(constraint.kept(measured.value(constraint.metric)) for constraint in self.constraints)

    def broken(self, best: Mapping[str, float]) -> Constraint | None:
        """Return the first limit that even the best possible values break."""
        for constraint in self.constraints:
            if constraint.metric in best and not constraint.kept(best[constraint.metric]):
                return constraint
        return None

    def best_costs(self, best: Mapping[str, float]) -> tuple[float, ...]:
        """Return the least costs that the best possible values allow; minus infinity where nothing is known."""
        return tuple(
            objective.cost(best[objective.metric]) if objective.metric in best else float("-inf")
            for objective in self.objectives
        )

    def ranked(self, measured: Sequence[Measured]) -> list[Measured]:
        """Return the feasible ones, best first by the first objective.

        Ties go by the other objectives, by the room that is left to the tightest limit, and by what is set.
        """
        feasible = [one for one in measured if self.feasible(one)]
        return sorted(
            feasible,
            key=lambda one: (
                self.costs(one.value),
                max(self.violations(one.value), default=0.0),
                one.candidate.sets,
            ),
        )

    def front(self, measured: Sequence[Measured]) -> list[Measured]:
        """Return the feasible ones that no other betters in every objective, best first by the first."""
        ranked = self.ranked(measured)
        costs = [self.costs(one.value) for one in ranked]
        return [
            one for one, mine in zip(ranked, costs, strict=True) if not any(dominates(other, mine) for other in costs)
        ]


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Say whether `one` costs no more than `other` in anything and less in something."""
    return all(a <= b for a, b in zip(one, other, strict=True)) and any(a < b for a, b in zip(one, other, strict=True))


def fronts(costs: Sequence[Sequence[float]]) -> list[int]:
    """Return of each the number of fronts before it: 0 for those that nothing dominates, and so on (as in NSGA-II)."""
    depth = [-1] * len(costs)
    level = 0
    while -1 in depth:
        left = [at for at, found in enumerate(depth) if found < 0]
        first = [at for at in left if not any(dominates(costs[other], costs[at]) for other in left if other != at)]
        for at in first:
            depth[at] = level
        level += 1
    return depth
