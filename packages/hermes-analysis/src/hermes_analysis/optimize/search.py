"""The search: all candidates where there are few, a sampler where there are many; bounds, short runs, long runs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from hermes_analysis.errors import AnalysisError
from hermes_analysis.executors import Executor
from hermes_analysis.optimize.answer import Answer, answer_of
from hermes_analysis.optimize.bounds import reason
from hermes_analysis.optimize.evaluate import CandidateWork, Evaluator, Log, Measured
from hermes_analysis.optimize.goals import Constraint, Objective, check_goals
from hermes_analysis.optimize.judging import Cut, Judge, dominates, fronts
from hermes_analysis.optimize.sampler import Sampler
from hermes_analysis.optimize.space import Candidate, SearchSpace
from hermes_analysis.seeds import Seeds, seeds_of
from hermes_analysis.simulator import SimulationError, refusal, session

BATCH: Final = 16
"""Candidates that are asked and judged together: a fixed number, so that the answer does not depend on the workers."""
_MOST_LISTED: Final = 50_000
"""Combinations up to which a space is listed to see how many candidates it has."""
_MARGIN: Final = 0.25
"""A short run that breaks a limit by more than this share of it does not go on."""
_SHORT: Final = 4
"""A short run has this part of the requests."""
_FEWEST_REQUESTS: Final = 50
_ROUNDS: Final = 8
"""Steps from neighbour to better neighbour at the end."""


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How hard to look."""

    trials: int = 200
    """Candidates that are looked at; a space with no more is exhausted."""
    seeds: Seeds = "3"
    """Seeds of the traffic of a long run, as in `hermes_analysis.seeds`."""
    search_seed: int = 1
    screen: bool = True
    """Short runs first where a space is not exhausted."""
    cut: bool = True
    """Leave out what bounds rule out."""
    finalists: int = BATCH
    """Long runs, at least, of the candidates that short runs speak for."""


@dataclass
class _State:
    """What is known so far."""

    judge: Judge
    evaluator: Evaluator
    options: SearchOptions
    seeds: tuple[int, ...]
    tell: Callable[[str, int, int], None]
    cuts: list[Cut] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)
    screened: list[Measured] = field(default_factory=list)

    def sieve(self, candidates: Sequence[Candidate]) -> list[tuple[Candidate, dict[str, float]]]:
        """Return the candidates that bounds leave, each with what it could be at best; note the others as cut."""
        left = []
        replies = self.evaluator.bounds(candidates, self.seeds)
        for candidate, reply in zip(candidates, replies, strict=True):
            best = dict(reply.metrics)
            if reply.error:
                self.cuts.append(Cut(candidate, "memory" if reply.memory else "refused", reply.error, best))
                continue
            broken = self.judge.broken(best) if self.options.cut else None
            if broken is None:
                left.append((candidate, best))
            else:
                why = f"{broken.text}: {reason(broken.metric)}"
                self.cuts.append(Cut(candidate, "bound", why, best))
        return left

    def beaten(self, best: dict[str, float]) -> bool:
        """Say whether a known feasible candidate betters the best that another can be."""
        if not self.options.cut:
            return False
        costs = self.judge.best_costs(best)
        if any(math.isinf(cost) and cost < 0 for cost in costs):
            return False
        return any(
            dominates(self.judge.costs(one.value), costs) and self.judge.costs(one.value) != costs
            for one in self.measured
            if self.judge.feasible(one)
        )

    def measure(self, candidates: Sequence[Candidate]) -> list[Measured]:
        """Run candidates in full; those that were are not run again."""
        known = {one.candidate: one for one in self.measured}
        fresh = [candidate for candidate in candidates if candidate not in known]
        for one in self.evaluator.measure(fresh, self.seeds):
            self.measured.append(one)
            known[one.candidate] = one
        return [known[candidate] for candidate in candidates]


def optimise(
    scenario: Any,
    space: SearchSpace,
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],
    *,
    executor: Executor,
    options: SearchOptions | None = None,
    sets: Sequence[str] = (),
    runner: str = "default",
    tell: Callable[[str, int, int], None] = lambda _what, _done, _all: None,
    log: Callable[[str], Log] | None = None,
) -> Answer:
    """Return the best deployment of `space` for `scenario`, or the Pareto front of several objectives, explained.

    The same scenario, space, goals and options give the same answer on any executor, and with what a log has from
    before; `log` is called with the digest of the scenario and returns it. Raises GoalError for goals that
    cannot be, SimulationError when no candidate is a scenario, NothingFitsError when none keeps the limits.
    """
    check_goals(objectives, constraints)
    options = options or SearchOptions()
    simulator = session(runner)
    try:
        draft = simulator.read(scenario, sets)
        values = simulator.values(draft)
    except Exception as error:
        message = refusal(error)
        if message is None:
            raise
        raise SimulationError(message) from error
    # As written: what candidates set may be what makes it a scenario at all.
    seeds = seeds_of(options.seeds, values)
    kept = log(simulator.identity(draft)) if log is not None else None
    judge = Judge(tuple(objectives), tuple(constraints))
    state = _State(judge, Evaluator(CandidateWork(draft, runner), executor, kept), options, seeds, tell)
    listed = list(space.all()) if space.combinations <= _MOST_LISTED else []
    if not listed and space.combinations <= _MOST_LISTED:
        raise AnalysisError(f"there is no candidate: {space.fleet.uneven()}")
    if listed and len(listed) <= options.trials:
        _exhaust(state, listed)
        looked = len(listed)
    else:
        looked = _sample(state, space, simulator, draft)
    _climb(state, space)
    candidates = len(listed) or space.combinations
    return answer_of(state.judge, space, state.evaluator, state.measured, state.cuts, looked, candidates, seeds)


def _exhaust(state: _State, candidates: Sequence[Candidate]) -> None:
    """Run every candidate that bounds leave, the most promising first, and skip what can no longer win."""
    left = []
    for start in range(0, len(candidates), 8 * BATCH):
        left += state.sieve(candidates[start : start + 8 * BATCH])
        state.tell("bounds", min(start + 8 * BATCH, len(candidates)), len(candidates))
    left.sort(key=lambda item: state.judge.best_costs(item[1]))
    for start in range(0, len(left), BATCH):
        batch = left[start : start + BATCH]
        state.cuts += [
            Cut(c, "beaten", "a known deployment betters the best it can be", b) for c, b in batch if state.beaten(b)
        ]
        state.measure([candidate for candidate, best in batch if not state.beaten(best)])
        state.tell("runs", min(start + BATCH, len(left)), len(left))


def _sample(state: _State, space: SearchSpace, simulator: Any, draft: Any) -> int:
    """Let the sampler propose; judge by short runs, then run the best in full. Return how many were looked at."""
    options, judge = state.options, state.judge
    sampler = Sampler(space, len(judge.objectives), seed=options.search_seed, batch=BATCH)
    looked = 0
    short: tuple[str, ...] | None = None
    while looked < options.trials:
        proposed = sampler.ask(min(BATCH, options.trials - looked))
        if not proposed:
            break
        looked += len(proposed)
        left = dict(state.sieve(proposed))
        ruled_out = {cut.candidate: cut for cut in state.cuts[-len(proposed) :]}
        if short is None and left and options.screen:
            short = _shorter(simulator, draft, next(iter(left)))
        for candidate in proposed:
            if candidate in left:
                continue
            best = ruled_out[candidate].best
            violations = [max(value, 0.0) for value in judge.violations(lambda name, b=best: b.get(name, 0.0))]  # type: ignore[misc]
            worst = [max(value, 1.0) for value in violations] if not best else violations
            sampler.tell(candidate, [0.0 if math.isinf(c) else c for c in judge.best_costs(best)], worst or [1.0])
        runs = _first_look(state, list(left), short)
        for one in runs:
            sampler.tell(one.candidate, judge.costs(one.value), judge.violations(one.value) or [-1.0])
        state.tell("candidates", looked, options.trials)
    _finals(state)
    return looked


def _first_look(state: _State, candidates: Sequence[Candidate], short: tuple[str, ...] | None) -> list[Measured]:
    if not short:
        return state.measure(candidates)
    found = state.evaluator.measure(candidates, state.seeds[:1], short)
    state.screened += found
    return found


def _finals(state: _State) -> None:
    """Run in full what short runs speak for: whole fronts, the best first, until there are enough."""
    judge = state.judge
    near = [one for one in state.screened if one.metrics and max(judge.violations(one.value), default=0.0) <= _MARGIN]
    far = [one for one in state.screened if one.metrics and one not in near]
    if not near:  # nothing keeps the limits: those that come nearest say why
        far.sort(key=lambda one: max(judge.violations(one.value)))
        state.measure([one.candidate for one in far[: state.options.finalists]])
        return
    depth = fronts([judge.costs(one.value) for one in near])
    order = sorted(range(len(near)), key=lambda at: (depth[at], judge.costs(near[at].value)))
    enough = max(state.options.finalists, len(near) // 4)
    for start in range(0, len(order), BATCH):
        if start >= enough and judge.ranked(state.measured):
            return
        state.measure([near[at].candidate for at in order[start : start + BATCH]])
        state.tell("long runs", min(start + BATCH, len(order)), min(max(enough, start + BATCH), len(order)))


def _climb(state: _State, space: SearchSpace) -> None:
    """Go from the best to a better neighbour while there is one; what is run on the way shows how sensitive it is."""
    for _ in range(_ROUNDS):
        ranked = state.judge.ranked(state.measured)
        if not ranked:
            return
        near = list(dict.fromkeys(candidate for _, _, candidate in space.neighbours(ranked[0].candidate)))
        run = {one.candidate for one in state.measured}
        kinds = {cut.candidate: cut.kind for cut in state.cuts}
        # A neighbour that cannot be better says how much worse it is: that is what is asked here.
        left = [candidate for candidate in near if kinds.get(candidate) == "beaten"]
        left += [c for c, _ in state.sieve([c for c in near if c not in run and c not in kinds])]
        left = [candidate for candidate in left if candidate not in run]
        state.cuts = [cut for cut in state.cuts if cut.candidate not in left]
        if not left:
            return
        state.measure(left)
        state.tell("neighbours", len(left), len(left))
        if state.judge.ranked(state.measured)[0] == ranked[0]:
            return


def _shorter(simulator: Any, draft: Any, candidate: Candidate) -> tuple[str, ...] | None:
    """Return the override that makes a run short; None where the workload does not count its requests."""
    try:
        workload = simulator.resolved(draft, candidate.sets).get("workload", {})
    except Exception as error:
        if refusal(error) is None:
            raise
        return None
    requests = workload.get("requests")
    if not isinstance(requests, int) or requests < _SHORT * _FEWEST_REQUESTS:
        return None
    return (f"workload.requests={requests // _SHORT}",)
