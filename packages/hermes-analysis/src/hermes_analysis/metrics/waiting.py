"""Who waited at each client, over time, by when jobs were handed over and begun: the same in fast and exact runs.

What a front end does for a request, and the way of its KV to the client, come before any queue and are no waiting.
"""

import json
from dataclasses import dataclass
from typing import Final

import numpy as np

from hermes_analysis.load import RunRecord
from hermes_analysis.metrics.distribution import Floats, Ints
from hermes_analysis.metrics.path import moved
from hermes_analysis.metrics.requests import Window
from hermes_analysis.metrics.steps import StepIndex

NS: Final = 1e-9
FS_PER_NS: Final = 1_000_000
GRACE_STEPS: Final = 2
"""Whoever comes during a step is seen by the next one, or by the one behind it: that is no queue. KV that has come is
seen likewise, so whoever fetches some is seen twice."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Waiting at each client within the window, shape (clients,)."""

    job_s: Floats
    """Seconds waited, summed over jobs: over the length of the window, the mean length of the queue."""
    crowded_s: Floats
    """Time in which somebody waited for longer than two steps."""


def waiting_times(run: RunRecord, index: StepIndex, window: Window) -> Waiting:
    """Measure waiting from the stage jobs. Who never began waited until its end, or until the end of the run."""
    table = run.stage_jobs
    clients = len(run.manifest.clients)
    job = np.flatnonzero(table["client"] < clients)
    begin, client = table["enqueue_ns"][job], table["client"][job]
    stop = np.where(table["start_ns"][job] >= 0, table["start_ns"][job], table["end_ns"][job])
    stop = np.where(stop >= 0, stop, window.end_ns)
    way = moved(run, job, begin, stop)
    moving = np.zeros_like(begin) if way is None else np.maximum(way[1] - way[0], 0)
    begin = begin + _front_end_ns(run, job) + moving
    since = np.maximum(begin, window.begin_ns)
    job_s = np.bincount(client, np.maximum(stop - since, 0) * NS, minlength=clients)[:clients]
    grace = _grace_ns(index, clients)[client] * np.where(moving > 0, 2, 1)
    since = np.maximum(begin + grace, window.begin_ns)
    long = np.flatnonzero(stop > since)
    return Waiting(job_s.astype(np.float64), _covered(client[long], since[long], stop[long], clients))


def sampled_waiting(run: RunRecord, index: StepIndex, window: Window) -> Waiting:
    """Estimate waiting from the step table, for records without stage jobs: as at the start of each stretch."""
    clients = len(run.manifest.clients)
    client = np.minimum(index.client, clients)
    waiting = run.steps["waiting"]
    inside = np.clip(index.starts_s() + index.durations_s() - window.begin_ns * NS, 0.0, index.durations_s())
    job_s = np.bincount(client, waiting * inside, minlength=clients + 1)[:clients]
    crowded = np.bincount(client, np.where(waiting > 0, inside, 0.0), minlength=clients + 1)[:clients]
    return Waiting(job_s.astype(np.float64), crowded.astype(np.float64))


def _front_end_ns(run: RunRecord, job: Ints) -> Ints:
    """Return what the front end of its client does for each job, ns, shape like `job`; 0 where nobody says."""
    manifest = run.manifest
    pools = json.loads(manifest.scenario.canonical_json or "{}").get("pools", {})
    clients = len(manifest.clients)
    request, token = np.zeros(clients, np.int64), np.zeros(clients, np.int64)
    for number, info in enumerate(manifest.clients):
        front_end = ((pools.get(info.pool) or {}).get("engine") or {}).get("front_end") or {}
        request[number] = front_end.get("request_ns", 0)
        token[number] = front_end.get("per_prompt_token_ns", 0)
    client = run.stage_jobs["client"][job]
    return np.asarray(request[client] + token[client] * run.stage_jobs["prompt_tokens"][job])


def _grace_ns(index: StepIndex, clients: int) -> Ints:
    """Return two mean steps of each client. Whole sums: a stretch counts as its steps one by one would."""
    bounds = index.bounds(clients)
    grace = np.zeros(clients, np.int64)
    for number in range(clients):
        here = slice(int(bounds[number]), int(bounds[number + 1]))
        steps = int(index.steps[here].sum())
        if steps:
            whole, rest = np.divmod(index.duration_fs[here], FS_PER_NS)
            total_fs = int(whole.sum()) * FS_PER_NS + int(rest.sum())
            grace[number] = GRACE_STEPS * total_fs // (FS_PER_NS * steps)
    return grace


def _covered(client: Ints, begin: Ints, end: Ints, clients: int) -> Floats:
    """Return how long at least one of the intervals of each client lasts, in seconds; shape (clients,)."""
    covered = np.zeros(clients)
    order = np.lexsort((begin, client))
    client, begin, end = client[order], begin[order], end[order]
    bounds = np.searchsorted(client, np.arange(clients + 1)).tolist()
    for number in range(clients):
        mine = slice(bounds[number], bounds[number + 1])
        starts, ends = begin[mine], np.maximum.accumulate(end[mine])
        # What of each interval lies behind all that began before it.
        before = np.append(np.int64(-1), ends[:-1])
        covered[number] = float(np.maximum(ends - np.maximum(starts, before), 0).sum()) * NS
    return covered
