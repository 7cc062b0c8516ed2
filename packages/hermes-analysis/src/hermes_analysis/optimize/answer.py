"""The answer of a search, explained: what binds, what the next best costs, how sensitive and how sure it is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from hermes_analysis.errors import AnalysisError
from hermes_analysis.optimize.bounds import reason
from hermes_analysis.optimize.evaluate import Evaluator, Measured
from hermes_analysis.optimize.goals import Constraint
from hermes_analysis.optimize.judging import Cut, Judge
from hermes_analysis.optimize.space import SearchSpace
from hermes_analysis.render import number, percent
from hermes_analysis.replicate import Estimate
from hermes_analysis.simulator import SimulationError
from hermes_analysis.sweep.terminal import shown

_EXTRAPOLATED: Final = 0.1
_QUEUEING: Final = 0.1
_FULL: Final = 0.97


class NothingFitsError(AnalysisError):
    """No candidate keeps the limits. The message says which comes nearest, and what it misses by."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Limit:
    """How a deployment stands to one limit."""

    constraint: Constraint
    value: Estimate
    slack: float
    """Share of the limit that is left."""
    kept_by: int
    """Seeds that keep it."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """What becomes of the answer when one choice is another."""

    dimension: str
    choice: str
    measured: Measured | None
    feasible: bool
    why: str
    """Why it is none, where it is not feasible."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What the search cost."""

    combinations: int
    looked_at: int
    runs: int
    measured: int
    memory: int
    refused: int
    bound: int
    beaten: int
    extrapolated: int
    """Measured candidates more than a tenth of whose prices is extrapolated."""
    unpriced: int
    """Measured candidates whose devices have no price per hour: they count as free."""


@dataclass(frozen=True)
class Answer:
    """The best deployment, those that are not worse in everything, and what is to be said of them."""

    judge: Judge
    best: Measured
    front: tuple[Measured, ...]
    """Of several objectives: what no other betters in all. Of one: the best alone."""
    runner_up: Measured | None
    limits: tuple[Limit, ...]
    """The tightest first."""
    neighbours: tuple[Neighbour, ...]
    difference: Estimate | None
    """Of the first objective, runner-up less best, seed by seed: an interval without 0 tells them apart."""
    counts: Counts
    measured: tuple[Measured, ...]
    cuts: tuple[Cut, ...]
    bottleneck: str
    refused: tuple[tuple[str, str, str], ...]
    """(dimension, choice, why) of choices with which no candidate is a scenario: mistakes, mostly."""
    seeds: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        from hermes_analysis.optimize.terminal import as_values  # noqa: PLC0415 - the screen needs this module

        return as_values(self)


def answer_of(
    judge: Judge,
    space: SearchSpace,
    evaluator: Evaluator,
    measured: Sequence[Measured],
    cuts: Sequence[Cut],
    looked: int,
    combinations: int,
    seeds: Sequence[int],
) -> Answer:
    """Put the answer together. Raises NothingFitsError, and SimulationError where no candidate is a scenario."""
    ranked = judge.ranked(measured)
    if not ranked:
        if cuts and not measured and all(cut.kind == "refused" for cut in cuts):
            raise SimulationError(f"none of {looked} candidates is a scenario; the first: {cuts[0].why}")
        raise NothingFitsError(nothing_fits(judge, measured, cuts, looked))
    best = ranked[0]
    runner_up = ranked[1] if len(ranked) > 1 else None
    kinds = [cut.kind for cut in cuts]
    return Answer(
        judge=judge,
        best=best,
        front=tuple(judge.front(measured)) if len(judge.objectives) > 1 else (best,),
        runner_up=runner_up,
        limits=_limits(judge, best),
        neighbours=_neighbours(judge, space, best, measured, cuts),
        difference=_difference(judge, best, runner_up),
        counts=Counts(
            combinations=combinations,
            looked_at=looked,
            runs=evaluator.runs,
            measured=len(measured),
            memory=kinds.count("memory"),
            refused=kinds.count("refused"),
            bound=kinds.count("bound"),
            beaten=kinds.count("beaten"),
            extrapolated=sum(one.value("extrapolated_share") > _EXTRAPOLATED for one in measured),
            unpriced=sum(one.value("usd_per_h") == 0 for one in measured),
        ),
        measured=tuple(measured),
        cuts=tuple(cuts),
        bottleneck=bottleneck(best),
        refused=_refused(measured, cuts),
        seeds=tuple(seeds),
    )


def nothing_fits(judge: Judge, measured: Sequence[Measured], cuts: Sequence[Cut], looked: int) -> str:
    """Say which candidate comes nearest to keeping the limits, and why it does not."""
    tried: list[tuple[float, str]] = []
    for one in measured:
        if one.metrics:
            worst = max(judge.constraints, key=lambda c: c.violation(one.value(c.metric)))
            why = bottleneck(one)
            tried.append(
                (
                    worst.violation(one.value(worst.metric)),
                    _miss(worst, one.value(worst.metric), one.candidate.label, why),
                )
            )
    for cut in cuts:
        if cut.kind == "bound":
            known = [c for c in judge.constraints if c.metric in cut.best]
            worst = max(known, key=lambda c: c.violation(cut.best[c.metric]))
            text = _miss(worst, cut.best[worst.metric], cut.candidate.label, reason(worst.metric), at_best=True)
            tried.append((worst.violation(cut.best[worst.metric]), text))
    if tried:
        memory = sum(cut.kind == "memory" for cut in cuts)
        return f"nothing fits: {min(tried)[1]} ({looked} candidates, {memory} without the memory)"
    told = [one.error for one in measured if one.error] + [cut.why for cut in cuts]
    return f"nothing fits: none of {looked} candidates can be run; the first: {told[0] if told else 'there is none'}"


def bottleneck(one: Measured) -> str:
    """Say what holds a measured deployment back."""
    waiting, memory = one.value("waiting_share"), one.value("kv_peak")
    if one.value("preemptions") > 0 or memory > _FULL:
        return f"KV memory is full: {percent(memory)} of it at the peak, {number(one.value('preemptions'))} preemptions"
    if waiting > _QUEUEING:
        return f"engines are full: requests wait for one during {percent(waiting)} of its time"
    return f"steps take that long: engines have room, and requests wait during {percent(waiting)} of the time only"


def _miss(constraint: Constraint, value: float, label: str, why: str, *, at_best: bool = False) -> str:
    excess = constraint.excess(value)
    size = "without end" if math.isinf(excess) else f"by {shown(constraint.metric, excess)}"
    what = "at best " if at_best else ""
    return (
        f"the nearest ({label}) misses {constraint.metric} {size} "
        f"({what}{shown(constraint.metric, value)}, wanted {constraint.text.split(' ', 1)[1]}), because {why}"
    )


def _limits(judge: Judge, best: Measured) -> tuple[Limit, ...]:
    found = []
    for constraint in judge.constraints:
        estimate = best.metrics[constraint.metric]
        kept = sum(constraint.kept(value) for value in estimate.values)
        found.append(Limit(constraint, estimate, -constraint.violation(estimate.mean), kept))
    return tuple(sorted(found, key=lambda limit: limit.slack))


def _neighbours(
    judge: Judge, space: SearchSpace, best: Measured, measured: Sequence[Measured], cuts: Sequence[Cut]
) -> tuple[Neighbour, ...]:
    known = {one.candidate.sets: one for one in measured}
    ruled_out = {cut.candidate.sets: cut for cut in cuts}
    found = []
    for dimension, choice, candidate in space.neighbours(best.candidate):
        one, cut = known.get(candidate.sets), ruled_out.get(candidate.sets)
        if one is not None:
            feasible = judge.feasible(one)
            broken = [c for c in judge.constraints if one.metrics and not c.kept(one.value(c.metric))]
            why = one.error or "; ".join(f"{c.metric} {shown(c.metric, one.value(c.metric))}" for c in broken)
            found.append(Neighbour(dimension, choice, one, feasible, why))
        elif cut is not None:
            found.append(Neighbour(dimension, choice, None, feasible=False, why=cut.why))
    return tuple(found)


def _refused(measured: Sequence[Measured], cuts: Sequence[Cut]) -> tuple[tuple[str, str, str], ...]:
    good = [cut.candidate for cut in cuts if cut.kind != "refused"]
    good += [one.candidate for one in measured if one.metrics]
    seen = dict.fromkeys(choice for candidate in good for choice in candidate.choices)
    found: dict[tuple[str, str], str] = {}
    for cut in cuts:
        for choice in cut.candidate.choices if cut.kind == "refused" else ():
            if choice not in seen:
                found.setdefault(choice, cut.why)
    return tuple((dimension, choice, why) for (dimension, choice), why in found.items())


def _difference(judge: Judge, best: Measured, runner_up: Measured | None) -> Estimate | None:
    if runner_up is None:
        return None
    metric = judge.objectives[0].metric
    pairs = zip(best.metrics[metric].values, runner_up.metrics[metric].values, strict=True)
    return Estimate.of([other - mine for mine, other in pairs])
