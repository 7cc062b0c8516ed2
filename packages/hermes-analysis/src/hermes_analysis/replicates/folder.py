"""Runs of one scenario under several seeds: what is kept of them, in memory or as a folder.

The folder has a run directory for each seed, `seed-N`, and `replicates.json` with the metrics of each.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from hermes_analysis.errors import AnalysisError, OutputError, RecordError
from hermes_analysis.executors import Executor, SerialExecutor, WorkerLost
from hermes_analysis.framing import RECORD_NAME, write_record
from hermes_analysis.load import RunRecord, read_run
from hermes_analysis.metrics.summarise import Prepared
from hermes_analysis.output import json_text, replacing, usable_folder, write_text
from hermes_analysis.points import Metrics, point_metrics
from hermes_analysis.replicate import Estimate, estimates, noted
from hermes_analysis.seeds import Seeds, seeds_of
from hermes_analysis.simulator import SimulationError, refusal, session
from hermes_analysis.summary import plain

FILE: Final = "replicates.json"
LEVELS: Final = tuple(round(level, 4) for level in (*np.linspace(0, 0.95, 39), *np.linspace(0.96, 1, 9)))
"""Shares of requests at which the distributions of seeds are laid over one another."""
CURVES: Final = ("ttft_s", "tpot_s", "e2e_s")


@dataclass(frozen=True, slots=True)
class SeedResult:
    """What is kept of the run of one seed."""

    seed: int
    metrics: Metrics
    curves: dict[str, list[float]]
    """Quantiles at `LEVELS` of each of `CURVES`; none where no request has it."""


@dataclass(frozen=True, slots=True)
class Replicates:
    """The runs of a scenario under several seeds."""

    name: str
    results: tuple[SeedResult, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, in order."""
        return tuple(result.seed for result in self.results)

    @property
    def metrics(self) -> dict[str, Estimate]:
        """Every metric of `hermes_analysis.points`, over the seeds."""
        return estimates([result.metrics for result in self.results])

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values: mean, half width of the 95 % interval (null of too few seeds), the value of each seed."""
        metrics = {
            name: {"mean": e.mean, "half_width": e.half_width, "values": list(e.values)}
            for name, e in self.metrics.items()
        }
        found: dict[str, Any] = plain({"name": self.name, "seeds": list(self.seeds), "metrics": metrics})
        return found | noted(len(self.seeds))


@dataclass(frozen=True, slots=True)
class _Work:
    """Runs one seed on a worker, and keeps its record when a folder is given."""

    scenario: Any
    out: Path | None
    runner: str = field(default="default")

    def __call__(self, seed: int) -> SeedResult:
        try:
            chunks = list(session(self.runner).run(self.scenario, (), seed))
        except Exception as error:
            message = refusal(error)
            if message is None:
                raise
            raise SimulationError(message) from error
        if self.out is not None:
            place = self.out / f"seed-{seed}"
            try:
                place.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(f"{place}: cannot be made: {error.strerror}; choose another --out") from error
            with replacing(place / RECORD_NAME) as stream:
                write_record(stream, chunks)
        return result_of(seed, RunRecord.from_chunks(chunks))


def result_of(seed: int, run: RunRecord) -> SeedResult:
    """Return what is kept of a run."""
    metrics = Prepared.of(run).requests
    curves = {}
    for name in CURVES:
        values = getattr(metrics, name)[metrics.measured]
        values = values[~np.isnan(values)]
        curves[name] = [float(value) for value in np.quantile(values, LEVELS)] if len(values) else []
    return SeedResult(seed, point_metrics(run), curves)


def run_replicates(
    scenario: Any,
    seeds: Seeds,
    *,
    sets: Sequence[str] = (),
    out: Path | None = None,
    force: bool = False,
    executor: Executor | None = None,
    runner: str = "default",
) -> Replicates:
    """Run `scenario` once for each seed; with `out`, keep the records and `replicates.json` there.

    `seeds` are as in `hermes_analysis.seeds`.
    Raises SimulationError when it cannot be simulated, OutputError when `out` holds something already (unless `force`).
    """
    if out is not None:
        if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not force)):
            raise OutputError(f"{out}: is not an empty folder; choose another --out, or give --force")
        usable_folder(out)
    here = session(runner)
    try:
        draft = here.read(scenario, sets)
        resolved = here.resolved(draft)
    except Exception as error:
        message = refusal(error)
        if message is None:
            raise
        raise SimulationError(message) from error
    chosen = seeds_of(seeds, resolved)
    name = str(resolved.get("name", "run"))
    results: dict[int, SeedResult] = {}
    with _keeping(out, name, results, chosen):
        _run_all(executor or SerialExecutor(), _Work(draft, out, runner), chosen, results)
    return _written(out, name, results)


def _run_all(executor: Executor, work: _Work, seeds: Sequence[int], results: dict[int, SeedResult]) -> None:
    """Put the result of each seed into `results`, by its place among `seeds`, as they come."""
    for position, result in executor.run(work, seeds):
        if isinstance(result, WorkerLost):
            raise AnalysisError(f"seed {seeds[position]}: {result.reason}")
        results[position] = result


@contextmanager
def _keeping(out: Path | None, name: str, results: Mapping[int, SeedResult], seeds: Sequence[int]) -> Iterator[None]:
    """Leave a folder of the seeds that are done when the runs are stopped, or one of them fails."""
    try:
        yield
    except KeyboardInterrupt:
        if out is None:
            raise
        _keep(out, name, results, seeds)
        raise SeedsStoppedError(out, len(results), seeds) from None
    except AnalysisError:
        if out is not None:
            with suppress(OutputError):  # what went wrong first is told
                _keep(out, name, results, seeds)
        raise


class SeedsStoppedError(AnalysisError):
    """The user stopped the runs."""

    exit_code = 130

    def __init__(self, out: Path, done: int, seeds: Sequence[int]) -> None:
        self.out = out
        self.seeds = tuple(seeds)
        number = len(self.seeds)
        kept = f"{done} of {number} seeds are done, and kept in {out}" if done else f"no seed was done: {out} is empty"
        super().__init__(f"stopped; {kept}")


def _keep(out: Path, name: str, results: Mapping[int, SeedResult], seeds: Sequence[int]) -> None:
    """Leave a folder of the seeds that are done, and of no other."""
    if results:
        _written(out, name, results)
    tidy(out, seeds)


def tidy(out: Path, seeds: Sequence[int]) -> None:
    """Remove what runs of `seeds` left that are not among those that the folder says it has."""
    try:
        kept = set(json.loads((out / FILE).read_text(encoding="utf-8"))["seeds"])
    except FileNotFoundError:
        kept = set()
    for seed in set(seeds) - kept:
        place = out / f"seed-{seed}"
        if place.is_dir():
            for file in (place / RECORD_NAME, place / f"{RECORD_NAME}.part"):
                file.unlink(missing_ok=True)
            place.rmdir()


def _written(out: Path | None, name: str, results: Mapping[int, SeedResult]) -> Replicates:
    answer = Replicates(name, tuple(results[place] for place in sorted(results)))
    if out is not None:
        write_text(out / FILE, json_text(answer.to_dict()), force=True)
    return answer


def is_replicates(place: Path) -> bool:
    """Say whether a folder holds the runs of several seeds."""
    return (place / FILE).is_file()


def read_replicates(place: Path) -> Replicates:
    """Read a folder again, from its records. Raises RecordError when it is none."""
    try:
        head = json.loads((place / FILE).read_text(encoding="utf-8"))
        seeds = [int(seed) for seed in head["seeds"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{place}: holds no runs of several seeds ({FILE}): {error}") from error
    results = tuple(result_of(seed, read_run(place / f"seed-{seed}")) for seed in seeds)
    return Replicates(str(head.get("name", "run")), results)
