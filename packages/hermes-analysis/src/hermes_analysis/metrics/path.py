"""What made requests take as long as they did: the critical path, and its stages, waits and resources.

From the job with which a request ended, one walks back to the job whose end let it begin, and so on to the arrival.
Each instant between arrival and end belongs to one span of that path, so that shares add up to 1; what went on beside
it (other paths of thought, a search that was done earlier) did not make the request later and is not counted.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from hermes_proto.core.v1 import run_record_pb2 as rr
from numpy.typing import NDArray

from hermes_analysis.load import RunRecord
from hermes_analysis.metrics.distribution import Floats, Ints
from hermes_analysis.metrics.jobs import Jobs, Mask, critical_jobs
from hermes_analysis.metrics.requests import RequestMetrics
from hermes_analysis.optional import optional
from hermes_analysis.summary import CriticalPath, PathPart
from hermes_analysis.tables import NO_JOB

NS: Final = 1e-9
PARTS: Final = ("handover", "queue", "transfer", "prefill", "decode", "compute", "outside", "delivery")
WAITS: Final = ("queue", "transfer", "compute", "outside")
WAIT_OF: Final = {
    "handover": "transfer",
    "queue": "queue",
    "transfer": "transfer",
    "prefill": "compute",
    "decode": "compute",
    "compute": "compute",
    "outside": "outside",
    "delivery": "outside",
}
_HANDOVER, _QUEUE, _TRANSFER, _PREFILL, _DECODE, _COMPUTE, _OUTSIDE, _DELIVERY = range(len(PARTS))
SLOWEST: Final = 0.1
"""Without service levels, the late requests are this share of those that finished."""


@dataclass(frozen=True, slots=True)
class Spans:
    """Spans of the critical paths; arrays of shape (spans,). Those of a request follow one another without a gap."""

    run: RunRecord
    request: Ints
    """Row of the request table."""
    job: Ints
    """Row of the stage-job table; of a delivery, that of the job before it."""
    part: NDArray[np.int8]
    """Index into `PARTS`."""
    begin_ns: Ints
    end_ns: Ints

    def to_polars(self) -> Any:
        """Return a polars DataFrame: request_id, stage, client, part, wait, begin_ns, end_ns. Needs extra "tables"."""
        return optional("polars", "A polars frame", "tables").DataFrame(dict(self.columns()))

    def columns(self) -> Iterator[tuple[str, Any]]:
        """Yield the columns by name, with words for numbers."""
        manifest, jobs = self.run.manifest, self.run.stage_jobs
        stages = np.array([*manifest.stage_sets, "?"])
        clients = np.array([*(client.name for client in manifest.clients), "outside"])
        waits = np.array([WAIT_OF[part] for part in PARTS])
        yield "request_id", self.run.requests["request_id"][self.request]
        yield "stage", stages[np.minimum(jobs["stage_set"][self.job].astype(np.int64), len(stages) - 1)]
        yield "client", clients[np.minimum(jobs["client"][self.job].astype(np.int64), len(clients) - 1)]
        yield "part", np.array(PARTS)[self.part]
        yield "wait", waits[self.part]
        yield "begin_ns", self.begin_ns
        yield "end_ns", self.end_ns


@dataclass(frozen=True, slots=True)
class Piece:
    """Spans of one kind on all critical paths; arrays of shape (spans,)."""

    part: int
    """Index into `PARTS`."""
    request: Ints
    job: Ints
    begin_ns: Ints
    end_ns: Ints


def critical_spans(run: RunRecord, jobs: Jobs, wanted: Mask) -> Spans:
    """Return the spans of the critical paths of the finished requests that `wanted`, shape (requests,), marks."""
    pieces = list(_pieces(run, jobs, wanted))
    parts = np.repeat(np.array([piece.part for piece in pieces], np.int8), [len(piece.job) for piece in pieces])
    columns = zip(*((p.request, p.job, p.begin_ns, p.end_ns) for p in pieces), strict=True)
    request, job, begin, end = (np.concatenate(column) for column in columns)
    return Spans(run, request, job, parts, begin, end)


def _pieces(run: RunRecord, jobs: Jobs, wanted: Mask) -> Iterator[Piece]:
    """Yield the spans of the critical paths, those of one kind at a time."""
    requests, table = run.requests, run.stage_jobs
    path = critical_jobs(
        run, jobs, wanted & (requests["status"] == rr.REQUEST_STATUS_FINISHED) & (requests["end_ns"] >= 0)
    )
    job, request = path.job, path.request
    enqueue, start, end, token = (table[name][job] for name in ("enqueue_ns", "start_ns", "end_ns", "first_token_ns"))
    arrival, until = requests["arrival_ns"][request], requests["end_ns"][request]
    # A job may end a little after its request: what the user waits for is over then.
    np.minimum(end, until, out=end)
    np.minimum(start, end, out=start)
    begin = arrival if jobs.alone else np.where(path.before >= 0, table["end_ns"][path.before], arrival)
    np.minimum(begin, start, out=begin)
    enqueue = np.clip(enqueue, begin, start)
    yield Piece(_HANDOVER, request, job, begin, enqueue)
    come_there = moved(run, job, enqueue, start)
    if come_there is None:
        yield Piece(_QUEUE, request, job, enqueue, start)
    else:
        come, there = come_there
        yield Piece(_QUEUE, request, job, enqueue, come)
        yield Piece(_TRANSFER, request, job, come, there)
        yield Piece(_QUEUE, request, job, there, start)
    kinds = [name.split("+") for name in run.manifest.stage_sets] + [[]]
    stage_set = np.minimum(table["stage_set"][job], len(kinds) - 1)
    prefills = np.array(["prefill" in kind for kind in kinds])[stage_set]
    outside = table["client"][job] == NO_JOB
    tokens = ~outside & (token >= 0)
    first = np.where(tokens & prefills, np.clip(token, start, end), start)
    yield Piece(_PREFILL, request, job, start, first)
    for part, mine in (
        (_OUTSIDE, outside),
        (_DECODE, tokens),
        (_PREFILL, ~outside & ~tokens & prefills),
        (_COMPUTE, ~outside & ~tokens & ~prefills),
    ):
        if mine.all():
            yield Piece(part, request, job, first, end)
        elif mine.any():
            yield Piece(part, request[mine], job[mine], first[mine], end[mine])
    if path.last.all():
        yield Piece(_DELIVERY, request, job, end, until)
    else:
        yield Piece(_DELIVERY, request[path.last], job[path.last], end[path.last], until[path.last])


def moved(run: RunRecord, job: Ints, enqueue: Ints, start: Ints) -> tuple[Ints, Ints] | None:
    """Return from when to when, before each job began, data came to its client for it; in ns, shapes like `job`.

    None where nothing was moved for anybody.
    """
    transfers = run.transfers
    wanted = np.flatnonzero((transfers["request_id"] >= 0) & (transfers["end_ns"] >= 0))
    if not len(wanted) or not len(job):
        return None
    table = run.stage_jobs
    # In one order of (request, client, time): a transfer belongs to the next job that began there.
    which = np.concatenate([transfers["request_id"][wanted], table["request_id"][job]])
    where = np.concatenate([transfers["destination"][wanted], table["client"][job]])
    time = np.concatenate([transfers["end_ns"][wanted], start])
    kind = np.repeat(np.array([0, 1], np.int8), [len(wanted), len(job)])
    order = np.lexsort((kind, time, where, which))
    number = np.arange(len(order))
    is_job = kind[order] == 1
    following = np.where(is_job, number, len(order))
    following = np.minimum.accumulate(following[::-1])[::-1]
    mine = np.flatnonzero(~is_job & (following < len(order)))
    target = order[following[mine]]
    source = order[mine]
    same = (which[source] == which[target]) & (where[source] == where[target])
    transfer, target = wanted[source[same]], target[same] - len(wanted)
    begin = np.maximum(transfers["start_ns"][transfer], enqueue[target])
    end = transfers["end_ns"][transfer]
    late = end > enqueue[target]
    # Of several at once, from the first to begin to the last to end.
    come, there = start.copy(), enqueue.copy()
    np.minimum.at(come, target[late], begin[late])
    np.maximum.at(there, target[late], end[late])
    return come, np.maximum(come, there)


def critical_path(run: RunRecord, metrics: RequestMetrics, jobs: Jobs) -> CriticalPath | None:
    """Sum the critical paths of the measured requests by stage and part, by wait and by resource.

    None where nothing finished, or nothing is known of its stages.
    """
    table = run.stage_jobs
    shown = np.zeros(run.requests.rows, dtype=bool)
    known = (jobs.request >= 0) & (table["start_ns"] >= 0) & (table["end_ns"] >= 0)
    shown[jobs.request[known]] = True
    shown &= metrics.measured & (metrics.status == rr.REQUEST_STATUS_FINISHED) & ~np.isnan(metrics.e2e_s)
    if not shown.any():
        return None
    late, why = _late(metrics, shown)
    names = [*run.manifest.stage_sets, "?"]
    pools, pool_of = _pools(run)
    size = len(names) * len(PARTS)
    sums, late_sums, by_pool = np.zeros(size), np.zeros(size), np.zeros(len(pools))
    for piece in _pieces(run, jobs, shown):
        seconds: Floats = (piece.end_ns - piece.begin_ns).astype(np.float64) * NS
        stage_set = np.minimum(table["stage_set"][piece.job], len(names) - 1)
        behind = late[piece.request]
        places = np.arange(len(names)) * len(PARTS) + piece.part
        sums[places] += np.bincount(stage_set, seconds, minlength=len(names))
        late_sums[places] += np.bincount(stage_set, np.where(behind, seconds, 0.0), minlength=len(names))
        if piece.part in {_HANDOVER, _TRANSFER}:
            by_pool[-2] += seconds.sum()
        elif piece.part == _DELIVERY:
            by_pool[-1] += seconds.sum()
        else:
            client = np.minimum(table["client"][piece.job], len(pool_of) - 1)
            by_pool += np.bincount(pool_of[client], seconds, minlength=len(pools))
    total = float(sums.sum())
    if total <= 0:
        return None
    number, number_late = int(np.count_nonzero(shown)), int(np.count_nonzero(late))
    parts = _parts(names, sums, late_sums, number, number_late)
    waits = {name: sum((part.share for part in parts if part.wait == name), 0.0) for name in WAITS}
    resources = [(name, float(value) / total) for name, value in zip(pools, by_pool, strict=True) if value > 0]
    return CriticalPath(
        requests=number,
        parts=parts,
        waits=tuple(waits.items()),
        resources=tuple(sorted(resources, key=lambda pair: -pair[1])),
        late_requests=number_late,
        late_means=why,
        work_share=_beside(run, jobs, shown, total),
    )


def _parts(names: list[str], sums: Floats, late_sums: Floats, number: int, number_late: int) -> tuple[PathPart, ...]:
    """Return the parts, largest first."""
    total = float(sums.sum())
    others = max(number - number_late, 1)
    parts = []
    for place in np.flatnonzero(sums > 0).tolist():
        part = PARTS[place % len(PARTS)]
        excess = late_sums[place] / number_late - (sums[place] - late_sums[place]) / others if number_late else 0.0
        parts.append(
            PathPart(
                stage=names[place // len(PARTS)],
                part=part,
                wait=WAIT_OF[part],
                share=float(sums[place]) / total,
                mean_s=float(sums[place]) / number,
                late_excess_s=float(excess),
            )
        )
    return tuple(sorted(parts, key=lambda part: -part.share))


def _late(metrics: RequestMetrics, shown: Mask) -> tuple[Mask, str]:
    """Return which of the requests were late, and what that means."""
    # Who only wrote slowly (TPOT) was not late by any part of the path.
    missed: Mask = shown & metrics.under_level & ~metrics.in_time
    if missed.any() and not missed[shown].all():
        return missed, "missed a bound on first token or end"
    e2e = metrics.e2e_s
    bound = float(np.quantile(e2e[shown], 1 - SLOWEST))
    slow: Mask = shown & (np.nan_to_num(e2e, nan=0.0) > bound)
    return slow, f"the slowest {SLOWEST:.0%}"


def _pools(run: RunRecord) -> tuple[list[str], Ints]:
    """Return the pools, then what lies between clients and outside; and the number of each client's pool."""
    pools = list(dict.fromkeys(client.pool or client.name for client in run.manifest.clients))
    number = [pools.index(client.pool or client.name) for client in run.manifest.clients]
    return [*pools, "between clients", "outside"], np.array([*number, len(pools) + 1])


def _beside(run: RunRecord, jobs: Jobs, shown: Mask, total: float) -> float:
    """Return the time in all jobs of these requests over that of the critical paths."""
    if jobs.alone:
        return 1.0
    table = run.stage_jobs
    mine = np.append(shown, False)[jobs.request] & (table["end_ns"] >= 0)
    return float((table["end_ns"] - table["enqueue_ns"])[mine].sum()) * NS / total
