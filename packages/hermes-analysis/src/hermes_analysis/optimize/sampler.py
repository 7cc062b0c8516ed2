"""Optuna behind two questions: what to try next, and how it went. Needs optuna (extra "search")."""

from collections.abc import Sequence
from typing import Any, Final

from hermes_analysis.optimize.space import Candidate, Dimension, SearchSpace
from hermes_analysis.optional import optional

_MOST_ASKS: Final = 50
"""Proposals in a row that bring nothing new, after which the space counts as exhausted."""


class Sampler:
    """Proposes candidates: TPE for one objective, NSGA-II for several. Asked and told in batches of a fixed size."""

    def __init__(self, space: SearchSpace, objectives: int, *, seed: int, batch: int) -> None:
        optuna = optional("optuna", "A search", "search")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = space
        self._states = optuna.trial.TrialState
        self._open: dict[Candidate, Any] = {}
        self._told: dict[Candidate, None] = {}
        if objectives == 1:
            sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=2 * batch)
        else:
            sampler = optuna.samplers.NSGAIISampler(seed=seed, population_size=2 * batch)
        self._study = optuna.create_study(directions=["minimize"] * objectives, sampler=sampler)

    def ask(self, number: int) -> list[Candidate]:
        """Return at most `number` candidates that were not proposed before; none when it finds no more."""
        found: list[Candidate] = []
        vain = 0
        while len(found) < number and vain < _MOST_ASKS:
            trial = self._study.ask()
            candidate = self._space.candidate({d.name: _choose(trial, d) for d in self._space.dimensions})
            if candidate is None or candidate in self._open or candidate in self._told:
                self._study.tell(trial, state=self._states.FAIL)
                vain += 1
                continue
            vain = 0
            self._open[candidate] = trial
            found.append(candidate)
        return found

    def tell(self, candidate: Candidate, costs: Sequence[float], violations: Sequence[float]) -> None:
        """Say what a proposed candidate costs and by how much it breaks each limit."""
        trial = self._open.pop(candidate)
        self._told[candidate] = None
        for number, violation in enumerate(violations):
            trial.set_constraint(f"limit {number}", _finite(violation))
        self._study.tell(trial, [_finite(value) for value in costs])


_FAR: Final = 1e12


def _finite(value: float) -> float:
    """Return a number that samplers can compare: what is infinite is very large."""
    return min(max(value, -_FAR), _FAR)


def _choose(trial: Any, dimension: Dimension) -> str:
    if all(choice[:1].isdecimal() for choice in dimension.choices):  # in an order: near ones are alike
        place: int = trial.suggest_int(dimension.name, 0, len(dimension.choices) - 1)
        return dimension.choices[place]
    choice: str = trial.suggest_categorical(dimension.name, dimension.choices)
    return choice
