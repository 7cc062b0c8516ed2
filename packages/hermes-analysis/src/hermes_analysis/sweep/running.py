"""Doing a sweep: every point that is not done yet, on an executor, each result into the log as it comes."""

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from hermes_analysis.errors import AnalysisError
from hermes_analysis.executors import Executor, WorkerLost
from hermes_analysis.points import point_metrics
from hermes_analysis.seeds import Seeds, own_seed, seeds_of
from hermes_analysis.simulator import Session, SimulationError, refusal, session
from hermes_analysis.sweep.axes import parse_axis
from hermes_analysis.sweep.folder import Row, SweepFolder, key_number
from hermes_analysis.sweep.space import Point, Space

R = TypeVar("R")

_PROBES: Final = 16
"""Points that are resolved before the sweep: when not one of them is a scenario, the sweep is a mistake."""
_MOST_ERROR: Final = 2_000


@dataclass(frozen=True, slots=True)
class PointWork:
    """Runs one point: what an executor is given. Errors become rows; only Ctrl-C gets out."""

    scenario: Any
    runner: str = "default"

    def __call__(self, asked: tuple[Point, str]) -> Row:
        """Run a point, given with its key."""
        point, key = asked
        try:
            record = session(self.runner).run(self.scenario, point.sets, point.seed)
            return Row(point.index, key, point.values, point.seed, point_metrics(record))
        except Exception as error:  # noqa: BLE001 - told in the row of the point; the others go on
            message = refusal(error) or "a fault of the simulator: " + "".join(traceback.format_exception(error))
            return Row(point.index, key, point.values, point.seed, None, message[-_MOST_ERROR:])


@dataclass(frozen=True, slots=True)
class SweepOutcome:
    """What a sweep came to."""

    folder: SweepFolder
    space: Space
    points: int
    done_before: int
    done_now: int
    failed: int
    """Of those done now."""
    first_error: str = ""


def prepare(
    scenario: Any,
    over: Sequence[str],
    *,
    sets: Sequence[str] = (),
    seeds: Seeds = "1",
    sobol: int = 0,
    runner: str = "default",
) -> tuple[Any, Space]:
    """Read a scenario and what is varied; return the scenario to give to workers, and the space.

    Raises AxisError for what is varied wrongly, SimulationError when no point is a scenario (an unknown path, mostly).
    """
    axes = tuple(parse_axis(text) for text in over)
    simulator = session(runner)
    draft = _told(partial(simulator.read, scenario, sets))
    # The grid as it stands, to look at its corners; a sweep over seeds alone has one.
    trial = Space(axes, (1, 2), sobol)
    resolved = _resolved(simulator, draft, trial)
    chosen = seeds_of(seeds, resolved)
    return draft, Space(axes, chosen, sobol, own_seed(resolved), simulator.identity(draft))


def run_sweep(
    scenario: Any,
    over: Sequence[str],
    out: Path,
    *,
    executor: Executor,
    sets: Sequence[str] = (),
    seeds: Seeds = "1",
    sobol: int = 0,
    runner: str = "default",
    force: bool = False,
    retry: bool = False,
    tell: Callable[[int, int, int], None] = lambda _total, _before, _now: None,
) -> SweepOutcome:
    """Sweep, or go on with a sweep in the folder `out`; `tell` hears (points, done before, done now) after each point.

    Equal results whatever the executor. With `retry`, points that failed are done again. Raises AnalysisError.
    """
    draft, space = prepare(scenario, over, sets=sets, seeds=seeds, sobol=sobol, runner=runner)
    about = {
        "scenario": space.scenario,
        "name": getattr(draft, "name", "sweep"),
        "over": list(over),
        "sets": list(sets),
        "seeds": list(space.seeds),
        "sobol": sobol,
        "sampling_seed": space.sampling_seed,
        "runner": runner,
        "points": len(space),
    }
    with SweepFolder(out) as folder:
        done = folder.open(about, force=force)
        if retry:
            failed = [key_number(row.key) for row in folder.rows(space) if row.metrics is None]
            done = np.setdiff1d(done, np.array(failed, dtype=np.uint64))
        before = sum(_is_done(space.key(space.point(index)), done) for index in range(len(space))) if len(done) else 0
        tell(len(space), before, 0)
        now, failures, first_error = 0, 0, ""
        for row in _results(PointWork(draft, runner), executor, _open_points(space, done)):
            folder.append(row)
            now += 1
            if row.metrics is None:
                failures += 1
                first_error = first_error or row.error
            tell(len(space), before, now)
    return SweepOutcome(folder, space, len(space), before, now, failures, first_error)


def _results(work: PointWork, executor: Executor, points: Iterator[tuple[Point, str]]) -> Iterator[Row]:
    """Yield the row of each point; a point that kills its workers gets one that says so."""
    given: dict[int, tuple[Point, str]] = {}

    def noted() -> Iterator[tuple[Point, str]]:
        for position, asked in enumerate(points):
            given[position] = asked
            yield asked

    for position, result in executor.run(work, noted()):
        point, key = given.pop(position)
        if isinstance(result, WorkerLost):
            yield Row(point.index, key, point.values, point.seed, None, result.reason)
        else:
            yield result


def _open_points(space: Space, done: NDArray[np.uint64]) -> Iterator[tuple[Point, str]]:
    """Yield the points that are not done, each with its key."""
    for index in range(len(space)):
        point = space.point(index)
        key = space.key(point)
        if not _is_done(key, done):
            yield point, key


def _is_done(key: str, done: NDArray[np.uint64]) -> bool:
    if not len(done):
        return False
    number = key_number(key)
    at = int(np.searchsorted(done, number))
    return at < len(done) and bool(done[at] == number)


def _resolved(simulator: Session, draft: Any, space: Space) -> Mapping[str, Any]:
    """Return the first point that is a scenario, resolved. Raises SimulationError when none of those looked at is."""
    first: SimulationError | None = None
    number = space.combinations
    for combination in sorted({int(at) for at in np.linspace(0, number - 1, min(_PROBES, number))}):
        sets = space.point(combination * len(space.seeds)).sets
        try:
            return _told(partial(simulator.resolved, draft, sets))
        except SimulationError as error:
            first = first or error
    raise first or AnalysisError("the sweep has no points")


def _told(question: Callable[[], R]) -> R:
    """Return the answer of the simulator; what it refuses is a SimulationError with its message."""
    try:
        return question()
    except Exception as error:
        message = refusal(error)
        if message is None:
            raise
        raise SimulationError(message) from error
