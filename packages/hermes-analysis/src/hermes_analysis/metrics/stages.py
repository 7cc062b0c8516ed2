"""Where the time of requests goes: waiting, moving, computing, stage by stage."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from hermes_proto.core.v1 import run_record_pb2 as rr

from hermes_analysis.load import RunRecord
from hermes_analysis.metrics.distribution import Distribution, Floats, Ints
from hermes_analysis.metrics.jobs import Jobs, predecessors
from hermes_analysis.metrics.requests import Window

NS: Final = 1e-9


@dataclass(frozen=True, slots=True)
class StagePart:
    """One kind of time of one stage set, over the finished requests that have it.

    `part` is "queue" (handed to the client, not yet scheduled), "prefill" (to the first token), "decode" (from the
    first token on), "compute" (of stages without tokens), "handover" (from the end of the stage before, or the arrival,
    to the client's queue: routing, transfers, network) or "delivery" (from the end of the last stage to the user).
    """

    stage: str
    part: str
    seconds: Distribution
    total_s: float
    share: float
    """Of the end-to-end time of all finished requests. Shares add up to 1 where stages follow one another."""


def stage_breakdown(run: RunRecord, window: Window, index: Jobs | None = None) -> tuple[StagePart, ...]:
    """Return the parts of end-to-end time, largest first; empty when the record has no stage jobs.

    Stages that run side by side each count their own time, so their shares may add up to more than 1.
    """
    requests, jobs = run.requests, run.stage_jobs
    index = index or Jobs.of(run)
    of_job = index.request
    wanted = (requests["status"] == rr.REQUEST_STATUS_FINISHED) & (requests["arrival_ns"] >= window.begin_ns)
    wanted &= requests["end_ns"] >= 0
    known = (of_job >= 0) & (jobs["start_ns"] >= 0) & (jobs["end_ns"] >= 0)
    chosen = np.flatnonzero(known & wanted[of_job]) if requests.rows else np.empty(0, np.int64)
    if not len(chosen):
        return ()
    request = of_job[chosen]
    whole = float((requests["end_ns"] - requests["arrival_ns"])[wanted].sum()) * NS
    enqueue, start, end = (jobs[name][chosen] for name in ("enqueue_ns", "start_ns", "end_ns"))
    token = jobs["first_token_ns"][chosen]
    previous = predecessors(run, index)[chosen]
    before = np.where(previous >= 0, jobs["end_ns"][np.maximum(previous, 0)], requests["arrival_ns"][request])
    spans: list[tuple[str, Ints | None, Floats]] = []
    has_token = token >= 0
    stage_set = np.minimum(jobs["stage_set"][chosen].astype(np.int64), len(run.manifest.stage_sets))
    prefills = np.array(["prefill" in name.split("+") for name in run.manifest.stage_sets] + [False])[stage_set]
    for part, seconds, which in (
        ("handover", np.maximum(enqueue - before, 0), np.ones(len(chosen), dtype=bool)),
        ("queue", start - enqueue, np.ones(len(chosen), dtype=bool)),
        ("prefill", token - start, has_token & prefills),
        ("decode", end - token, has_token & prefills),
        ("decode", end - start, has_token & ~prefills),
        ("compute", end - start, ~has_token),
    ):
        spans.append((part, stage_set[which], seconds[which] * NS))
    ended = np.zeros(requests.rows, np.int64)
    np.maximum.at(ended, request, end)
    present = np.unique(request)
    late = np.maximum(requests["end_ns"][present] - ended[present], 0)
    spans.append(("delivery", None, late * NS))
    return _parts(spans, [*run.manifest.stage_sets, "?"], whole)


def _parts(spans: list[tuple[str, Ints | None, Floats]], names: list[str], whole_s: float) -> tuple[StagePart, ...]:
    """Gather spans of time by stage set and part."""
    gathered: dict[tuple[str, str], list[Floats]] = {}
    for part, stage_set, seconds in spans:
        if stage_set is None:
            gathered.setdefault(("", part), []).append(seconds)
            continue
        for number in np.unique(stage_set):
            gathered.setdefault((names[number], part), []).append(seconds[stage_set == number])
    answers = []
    for (stage, part), pieces in gathered.items():
        seconds = np.concatenate(pieces)
        total = float(seconds.sum())
        if total > 0:
            answers.append(StagePart(stage, part, Distribution.of(seconds), total, total / whole_s if whole_s else 0.0))
    return tuple(sorted(answers, key=lambda answer: -answer.total_s))
