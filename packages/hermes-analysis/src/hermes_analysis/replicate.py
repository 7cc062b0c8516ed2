"""The same scenario under several seeds: how much of a number is the draw of the traffic.

answer = replicate("scenario.yaml", "5", executor=executor)
answer["ttft.p99"].mean, answer["ttft.p99"].half_width
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from hermes_analysis.errors import AnalysisError
from hermes_analysis.executors import Executor, SerialExecutor, WorkerLost
from hermes_analysis.load import RunRecord
from hermes_analysis.points import Metrics, point_metrics
from hermes_analysis.seeds import Seeds, seeds_of
from hermes_analysis.simulator import SimulationError, refusal, session

R = TypeVar("R")

T_975: Final = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""97.5 % quantiles of Student's t with 1 to 30 degrees of freedom (NIST/SEMATECH e-Handbook, 1.3.6.7.2)."""
_NORMAL_975: Final = 1.960
FEWEST_SEEDS: Final = 3
"""Of which an interval is made. With two it is 12.7 times as wide as they lie apart (Student's t has one degree
of freedom): a number that looks like knowledge, and says less than the two values do."""
TOO_FEW: Final = f"too few seeds for an interval (--seeds {FEWEST_SEEDS} or more)"
"""What is said where an interval would stand."""


def too_few(seeds: int) -> str:
    """Return what is to be said of that many seeds where intervals are shown: nothing when there are enough."""
    return "" if seeds >= FEWEST_SEEDS else TOO_FEW


def noted(seeds: int) -> dict[str, str]:
    """Return the same for JSON: a `note` beside half widths that are null."""
    return {"note": few} if (few := too_few(seeds)) else {}


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number over several seeds: its mean, and half the width of the 95 % interval of that mean (Student's t)."""

    mean: float
    half_width: float
    """NaN with fewer than `FEWEST_SEEDS` seeds, which say too little of the spread."""
    values: tuple[float, ...]
    """In the order of the seeds."""

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        """Estimate from one value a seed; infinite ones make an infinite mean with an unknown width."""
        number = len(values)
        # Equal values differ from their sum over their number by rounding: that is no spread.
        alike = number > 0 and min(values) == max(values)
        mean = values[0] if alike else sum(values) / number if number else math.nan
        if number < FEWEST_SEEDS or not math.isfinite(mean):
            return cls(mean, math.nan, tuple(values))
        variance = 0.0 if alike else sum((value - mean) ** 2 for value in values) / (number - 1)
        quantile = T_975[number - 2] if number - 2 < len(T_975) else _NORMAL_975
        return cls(mean, quantile * math.sqrt(variance / number), tuple(values))

    def text(self, write: Callable[[float], str], write_half: Callable[[float], str] | None = None) -> str:
        """Return the mean as `write` writes it, with half the width of its interval where there is one."""
        half = "" if math.isnan(self.half_width) else f" +- {(write_half or write)(self.half_width).strip()}"
        return f"{write(self.mean)}{half}"


@dataclass(frozen=True, slots=True)
class SeedRun(Generic[R]):
    """Work of one seed, for an executor: read, run, measure. `measure` must be importable where it is run."""

    scenario: Any
    measure: Callable[[RunRecord], R]
    sets: tuple[str, ...] = ()
    runner: str = field(default="default")

    def __call__(self, seed: int) -> R:
        """Run with `seed` and return what `measure` makes of the record. Raises SimulationError."""
        try:
            chunks = session(self.runner).run(self.scenario, self.sets, seed)
        except Exception as error:
            message = refusal(error)
            if message is None:
                raise
            raise SimulationError(message) from error
        return self.measure(RunRecord.from_chunks(chunks))


def run_seeds(
    scenario: Any,
    seeds: Seeds,
    measure: Callable[[RunRecord], R],
    *,
    sets: Sequence[str] = (),
    executor: Executor | None = None,
    runner: str = "default",
) -> list[R]:
    """Run `scenario` (a file, YAML text or Python values) once for each seed; return `measure(record)`, in their order.

    `seeds` are as in `hermes_analysis.seeds`. Raises SimulationError when the scenario cannot be simulated,
    AnalysisError when a worker died with it.
    """
    return [value for _, value in iter_seeds(scenario, seeds, measure, sets=sets, executor=executor, runner=runner)]


def iter_seeds(
    scenario: Any,
    seeds: Seeds,
    measure: Callable[[RunRecord], R],
    *,
    sets: Sequence[str] = (),
    executor: Executor | None = None,
    runner: str = "default",
) -> Iterator[tuple[int, R]]:
    """Yield (seed, `measure(record)`) in the order of the seeds; see `run_seeds`."""
    here = session(runner)
    try:
        draft = here.read(scenario, sets)
        values = here.values(draft)
    except Exception as error:
        message = refusal(error)
        if message is None:
            raise
        raise SimulationError(message) from error
    work = SeedRun(draft, measure, runner=runner)
    chosen = seeds_of(seeds, values)
    results: dict[int, R] = {}
    for position, result in (executor or SerialExecutor()).run(work, chosen):
        if isinstance(result, WorkerLost):
            raise AnalysisError(f"seed {chosen[position]}: {result.reason}")
        results[position] = result
    for position, seed in enumerate(chosen):
        yield seed, results[position]


def replicate(
    scenario: Any,
    seeds: Seeds,
    *,
    sets: Sequence[str] = (),
    executor: Executor | None = None,
    runner: str = "default",
) -> Mapping[str, Estimate]:
    """Return every metric of `hermes_analysis.points` over the seeds. Raises as `run_seeds` does."""
    rows: list[Metrics] = run_seeds(scenario, seeds, point_metrics, sets=sets, executor=executor, runner=runner)
    return estimates(rows)


def estimates(rows: Sequence[Metrics]) -> dict[str, Estimate]:
    """Return the metrics of several runs as estimates."""
    names = list(rows[0]) if rows else []
    return {name: Estimate.of([row[name] for row in rows]) for name in names}
