"""Which seeds a scenario is run under when it is run several times: one rule for every command and function.

A number counts from the scenario's own seed on ("3" is that seed and the next two), so that the first of several runs
is the one that `hermes run` makes; a list is taken as it stands ("1,2,7"). Every point of a sweep, rate of a capacity
search, candidate of an optimisation and relaxation of a what-if has the same seeds, hence the same traffic.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from hermes_analysis.errors import AnalysisError

Seeds: TypeAlias = "Sequence[int] | str"
"""The seeds themselves, or text as after --seeds."""
DEFAULT_SEED: Final = 0
"""Of a scenario that names none."""
MOST_SEEDS: Final = 10_000
"""A mean of so many runs is as sharp as it gets; a larger number is a slip of the hand that no run would end."""
_MOST_DIGITS: Final = 20
"""Of one number: beyond any seed that a scenario takes (64 bits)."""


class SeedsError(AnalysisError):
    """Seeds that are none. The message says how they are written."""


def seeds_of(asked: Seeds, scenario: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the seeds asked for, counted from the one that `scenario` has (as written, or resolved).

    Raises SeedsError.
    """
    return chosen_seeds(asked, own_seed(scenario)) if isinstance(asked, str) else tuple(asked)


def own_seed(scenario: Mapping[str, Any]) -> int:
    """Return the seed of a scenario; one that cannot be a seed is refused by whoever runs it."""
    found = scenario.get("seed", DEFAULT_SEED)
    return found if isinstance(found, int) else DEFAULT_SEED


def chosen_seeds(text: str, first: int) -> tuple[int, ...]:
    """Read --seeds: a number of seeds from `first` on ("5"), or the seeds themselves ("1,2,7"). Raises SeedsError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise SeedsError(f"--seeds {_short(text)}: write a number of seeds (5) or the seeds themselves (1,2,7)")
    if len(parts) == 1:
        if len(parts[0]) > _MOST_DIGITS or int(parts[0]) > MOST_SEEDS:
            raise SeedsError(
                f"--seeds {_short(text)}: one number is how many runs there are, at most {MOST_SEEDS:,}; "
                "a seed of its own is given as --set seed=N"
            )
        if int(parts[0]) < 1:
            raise SeedsError("--seeds 0: there must be a seed; give 1 or more")
        return tuple(range(first, first + int(parts[0])))
    wide = next((part for part in parts if len(part) > _MOST_DIGITS), None)
    if wide is not None:
        raise SeedsError(f"--seeds: {_short(wide)} is no seed: it has {len(wide)} digits, a seed has 64 bits")
    return tuple(dict.fromkeys(int(part) for part in parts))


def _short(text: str) -> str:
    return text if len(text) <= _MOST_DIGITS * 2 else f"{text[:_MOST_DIGITS]}..."
