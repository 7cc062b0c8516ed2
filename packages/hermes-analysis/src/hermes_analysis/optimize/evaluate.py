"""Runs of candidates: on an executor, each once; with a log, once for all times."""

import math
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from hermes_analysis.errors import one_line
from hermes_analysis.executors import Executor, WorkerLost
from hermes_analysis.optimize.bounds import best_possible
from hermes_analysis.optimize.space import Candidate
from hermes_analysis.points import UNITS, Metrics, point_metrics
from hermes_analysis.replicate import Estimate
from hermes_analysis.simulator import refusal, session

_MOST_ERROR: Final = 500


@dataclass(frozen=True, slots=True)
class Job:
    """What is asked of a worker: the bounds of a candidate, or a run of it."""

    sets: tuple[str, ...]
    seed: int
    bounds: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """What a worker answers: metrics (or bounds), or why there are none."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    error: str = ""
    memory: bool = False
    """Whether the error is that it does not fit the memory."""
    certain: bool = True
    """Whether asking again gives the same: not of a worker that died, nor of a fault of the simulator."""


@dataclass(frozen=True, slots=True)
class CandidateWork:
    """Does a job: what an executor is given."""

    scenario: Any
    runner: str = "default"

    def __call__(self, job: Job) -> Reply:
        """Answer; errors become replies, only Ctrl-C gets out."""
        try:
            simulator = session(self.runner)
            if job.bounds:
                outlook = simulator.outlook(self.scenario, job.sets, job.seed)
                return Reply({} if outlook is None else best_possible(outlook))
            return Reply(point_metrics(simulator.run(self.scenario, job.sets, job.seed)))
        except Exception as error:  # noqa: BLE001 - told in the answer; the other candidates go on
            message = refusal(error)
            certain = message is not None
            if message is None:
                message = "a fault of the simulator: " + "".join(traceback.format_exception(error))[-_MOST_ERROR:]
            memory = type(error).__name__ == "DoesNotFitError"
            return Reply(error=one_line(message), memory=memory, certain=certain)


class Log(Protocol):
    """Replies that outlive the process."""

    def find(self, job: Job) -> Reply | None:
        """Return the reply to a job, if it was done before."""
        ...

    def add(self, job: Job, reply: Reply) -> None:
        """Keep a reply."""
        ...


class Evaluator:
    """Answers questions about candidates, each asked of the simulator once; counts what it cost.

    With a log, what was answered before the process began counts as if it had been asked now.
    """

    def __init__(self, work: CandidateWork, executor: Executor, log: Log | None = None) -> None:
        self._work = work
        self._executor = executor
        self._log = log
        self._known: dict[Job, Reply] = {}
        self.runs = 0
        self.remembered = 0
        """Of the runs, those that the log had."""

    def replies(self, jobs: Iterable[Job]) -> dict[Job, Reply]:
        """Return the replies to all jobs; those that are not known yet are done together."""
        asked = list(dict.fromkeys(jobs))
        fresh = [job for job in asked if job not in self._known and not self._remember(job)]
        for position, outcome in self._executor.run(self._work, fresh):
            job = fresh[position]
            reply = Reply(error=outcome.reason, certain=False) if isinstance(outcome, WorkerLost) else outcome
            self._known[job] = reply
            self.runs += not job.bounds
            if self._log is not None:
                self._log.add(job, reply)
        return {job: self._known[job] for job in asked}

    def _remember(self, job: Job) -> bool:
        reply = self._log.find(job) if self._log is not None else None
        if reply is None:
            return False
        self._known[job] = reply
        self.runs += not job.bounds
        self.remembered += not job.bounds
        return True

    def bounds(self, candidates: Sequence[Candidate], seeds: Sequence[int]) -> list[Reply]:
        """Return what each candidate could be at best: the mean over the seeds, like its runs are judged by."""
        jobs = {c: [Job(c.sets, seed, bounds=True) for seed in seeds] for c in candidates}
        replies = self.replies(job for several in jobs.values() for job in several)
        return [_mean_reply([replies[job] for job in jobs[candidate]]) for candidate in candidates]

    def measure(
        self, candidates: Sequence[Candidate], seeds: Sequence[int], extra: Sequence[str] = ()
    ) -> list["Measured"]:
        """Run each candidate with each seed, with `extra` overrides (for short runs)."""
        jobs = {c: [Job((*c.sets, *extra), seed) for seed in seeds] for c in candidates}
        replies = self.replies(job for several in jobs.values() for job in several)
        return [Measured.of(candidate, [replies[job] for job in jobs[candidate]]) for candidate in candidates]


@dataclass(frozen=True, slots=True)
class Measured:
    """A candidate with what its runs came to."""

    candidate: Candidate
    metrics: Mapping[str, Estimate]
    error: str = ""

    @classmethod
    def of(cls, candidate: Candidate, replies: Sequence[Reply]) -> "Measured":
        """Join the runs of all seeds; one that failed fails the candidate."""
        failed = next((reply for reply in replies if reply.error), None)
        if failed is not None:
            return cls(candidate, {}, failed.error)
        names: Iterator[str] = iter(UNITS)
        return cls(candidate, {name: Estimate.of([reply.metrics[name] for reply in replies]) for name in names})

    def value(self, metric: str) -> float:
        """Return the mean of a metric; NaN without one."""
        found = self.metrics.get(metric)
        return math.nan if found is None else found.mean


def _mean_reply(replies: Sequence[Reply]) -> Reply:
    failed = next((reply for reply in replies if reply.error), None)
    if failed is not None:
        return failed
    shared = [name for name in replies[0].metrics if all(name in reply.metrics for reply in replies)]
    means: Metrics = {name: sum(reply.metrics[name] for reply in replies) / len(replies) for name in shared}
    return Reply(means)
