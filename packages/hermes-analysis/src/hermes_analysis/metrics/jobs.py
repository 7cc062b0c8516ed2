"""The stage jobs of each request as the graph that they are: which gave the answer, and which others waited for.

A request may have several LLM jobs (rounds of an agent, paths of thought, a judge). What its user sees is the answer:
the job whose tokens the request table counts as its output. Of several such jobs it is the last that ended. Where none
has just these tokens (the answer was begun on one client and ended on another), it is the last ones that together
have them.
"""

from dataclasses import dataclass

import numpy as np
from hermes_proto.core.v1 import run_record_pb2 as rr
from numpy.typing import NDArray

from hermes_analysis.load import RunRecord
from hermes_analysis.metrics.distribution import Floats, Ints
from hermes_analysis.metrics.requests import job_requests
from hermes_analysis.tables import NO_JOB

Mask = NDArray[np.bool_]
_JOB_BITS = 16


@dataclass(frozen=True, slots=True)
class Jobs:
    """Stage jobs with the requests that they are of; all arrays but `order` of shape (stage jobs,)."""

    request: Ints
    """Row of the request table, -1 if it has none."""
    answers: Mask
    """Whether the user holds its tokens."""
    several: Mask
    """Whether its request has other jobs too."""
    alone: bool
    """Whether every request has one job at most."""

    @classmethod
    def of(cls, run: RunRecord) -> "Jobs":
        """Index the stage jobs of a record."""
        request = job_requests(run)
        requests = run.requests.rows
        known = request >= 0
        count = np.bincount(request if known.all() else request[known], minlength=requests + 1)
        alone = bool(count.max(initial=0) <= 1)
        several = np.zeros(len(request), dtype=bool) if alone else known & (count[request] > 1)
        return cls(request, _answering(run, request), several, alone)


def _answering(run: RunRecord, request: Ints) -> Mask:
    """Mark the jobs whose tokens are the output of their request."""
    tokens = run.stage_jobs["output_tokens"]
    has: Mask = (tokens > 0) & (request >= 0)
    if not len(request) or not run.requests.rows:
        return has
    output = run.requests["output_tokens"][request]
    exact: Mask = has & (tokens == output)
    count = np.bincount(request[exact], minlength=run.requests.rows)
    doubtful = np.flatnonzero(has & (count[request] != 1))
    if not len(doubtful):
        return exact
    marked: Mask = exact & (count[request] == 1)
    end = run.stage_jobs["end_ns"][doubtful]
    end = np.where(end < 0, np.iinfo(np.int64).max, end)
    single = count[request[doubtful]] > 1
    keep = ~single | exact[doubtful]
    doubtful, end = doubtful[keep], end[keep]
    # The latest first, until they have the tokens of the output.
    order = np.lexsort((-run.stage_jobs["job"][doubtful].astype(np.int64), -end, request[doubtful]))
    doubtful = doubtful[order]
    mine = request[doubtful]
    before = np.cumsum(tokens[doubtful]) - tokens[doubtful]
    first = np.flatnonzero(np.append(True, mine[1:] != mine[:-1]))
    before -= np.repeat(before[first], np.diff(np.append(first, len(mine))))
    wanted = output[doubtful]
    marked[doubtful[(before < wanted) & (wanted > 0)]] = True
    return marked


def answer_times(run: RunRecord, jobs: Jobs) -> tuple[Ints, Floats] | None:
    """Return the requests of several LLM jobs, or with stages behind the answer, and the seconds per token of theirs.

    From the first to the last token of the answering jobs, over its gaps. None where no request is like that.
    """
    if jobs.alone or not run.requests.rows:
        return None
    table, rows = run.stage_jobs, run.requests.rows
    known = np.flatnonzero(jobs.request >= 0)
    request, end = jobs.request[known], table["end_ns"][known]
    tokens = np.bincount(request, table["output_tokens"][known] > 0, minlength=rows)
    mine = np.flatnonzero(jobs.answers & jobs.several & (table["first_token_ns"] >= 0) & (table["end_ns"] >= 0))
    if not len(mine):
        return None
    last_end = np.full(rows, -1)
    np.maximum.at(last_end, request, end)
    answered = np.full(rows, -1)
    np.maximum.at(answered, jobs.request[mine], table["end_ns"][mine])
    begun = np.full(rows, np.iinfo(np.int64).max)
    np.minimum.at(begun, jobs.request[mine], table["first_token_ns"][mine])
    number = np.bincount(jobs.request[mine], table["output_tokens"][mine], minlength=rows)
    chosen = np.flatnonzero((answered >= 0) & (number > 1) & ((tokens > 1) | (last_end > answered)))
    seconds: Floats = (answered[chosen] - begun[chosen]) * 1e-9 / (number[chosen] - 1)
    return (chosen, seconds) if len(chosen) else None


@dataclass(frozen=True, slots=True)
class PathJobs:
    """Critical path: the jobs that a finished request waited for, one row each, in any order; shape (rows,)."""

    job: Ints
    """Row of the stage-job table."""
    request: Ints
    before: Ints
    """Row of the job whose end let it begin, -1 where it is the first."""
    last: Mask
    """Whether the request ended with it."""


def predecessors(run: RunRecord, jobs: Jobs) -> Ints:
    """Return the row of the job whose end let each job begin, shape (stage jobs,); -1 where it was the first."""
    table = run.stage_jobs
    before = np.full(table.rows, -1)
    rows = np.flatnonzero(jobs.several & (table["after"] != NO_JOB))
    if not len(rows):
        return before
    numbered = np.flatnonzero(jobs.several)
    key = (jobs.request[numbered] << _JOB_BITS) + table["job"][numbered]
    order = np.argsort(key, kind="stable")
    key = key[order]
    wanted = (jobs.request[rows] << _JOB_BITS) + table["after"][rows]
    place = np.maximum(np.searchsorted(key, wanted, side="right") - 1, 0)
    found = numbered[order[place]]
    # Of a request that was tried again, a number may be that of a later job: that cannot have let it begin.
    real = (key[place] == wanted) & (found != rows)
    real &= (table["end_ns"][found] >= 0) & (table["end_ns"][found] <= table["enqueue_ns"][rows])
    before[rows[real]] = found[real]
    return before


def critical_jobs(run: RunRecord, jobs: Jobs, wanted: Mask) -> PathJobs:
    """Walk back from the job with which each of the `wanted` requests, shape (requests,), ended."""
    table = run.stage_jobs
    end, status = table["end_ns"], table["status"]
    usable = (jobs.request >= 0) & (end >= 0) & (table["start_ns"] >= 0)
    usable &= wanted[jobs.request] if run.requests.rows else False
    rows = np.flatnonzero(usable)
    if jobs.alone or not len(rows):
        return PathJobs(rows, jobs.request[rows], np.full(len(rows), -1), np.ones(len(rows), dtype=bool))
    request = jobs.request[rows]
    # Paths that were stopped end a little later than what stopped them: who finished in time comes first.
    good = (status[rows] == rr.REQUEST_STATUS_FINISHED) & (end[rows] <= run.requests["end_ns"][request])
    by_end = np.lexsort((table["job"][rows], end[rows], good, request))
    here = rows[by_end[np.flatnonzero(np.append(request[by_end][1:] != request[by_end][:-1], True))]]
    before = predecessors(run, jobs)
    found = []
    last = np.zeros(table.rows, dtype=bool)
    last[here] = True
    # Ends never rise on the way back; jobs without length could lead in a circle, which numbers end.
    for _ in range(NO_JOB):
        found.append(here)
        here = before[here]
        here = here[here >= 0]
        if not len(here):
            break
    job = np.concatenate(found)
    return PathJobs(job, jobs.request[job], before[job], last[job])
