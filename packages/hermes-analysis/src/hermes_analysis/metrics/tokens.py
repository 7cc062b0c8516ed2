"""Inter-token latency (ITL): the true distribution of the gaps between the tokens of a request.

Nothing is kept per token. A job takes one token from each step of its client that decodes, from its first to its
last step; the gaps between these steps are arithmetic progressions within a stretch. So each stretch counts its gaps
once, weighted by the jobs that were decoding through it, and a job adds by itself only what is its own: its first
gap, and the ends of a stretch that it shares in part.

Exact unless a job was preempted: the record says how often, not when. Of such a job, the number of gaps and their sum
are exact; its stalls are taken to be equally long (`estimated_share` says how many of all gaps that concerns). A job
with more tokens than steps (speculative decoding) took several from a step: these further ones follow after 0 s.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hermes_analysis.load import RunRecord
from hermes_analysis.metrics.distribution import Distribution, Floats, Ints, Pieces, cumulated, weighted_distribution
from hermes_analysis.metrics.steps import FS, NS, StepIndex

Mask = NDArray[np.bool_]
_TOKEN_STAGES = ("decode", "reason")
_TRACE = 1e-7
"""Weights below this are rounding: sums of up to 1e8 shares of 1 in float64."""


@dataclass(frozen=True, slots=True)
class _JobGaps:
    """Jobs with several tokens, and where in the steps these lie; all arrays of shape (n,)."""

    jobs: Ints
    """Rows of the stage-job table."""
    second_row: Ints
    """Row of the step that gave the second token, and its number within the row; and the same of the last."""
    second_k: Ints
    last_row: Ints
    last_k: Ints
    whole_second: Mask
    """Whether the job decodes in the whole of the second token's row, and of the last one's."""
    whole_last: Mask
    gaps: Ints
    weight: Floats
    """Share of the client's decoding steps that gave the job a token: 1 unless it was preempted."""
    stalls: Ints
    zeros: Ints


@dataclass(frozen=True, slots=True)
class TokenGaps:
    """The gaps between tokens of all jobs of a record; ask for the distribution of some of them."""

    rows: int
    job: _JobGaps
    first: Pieces
    """Each job's gap from its first token to its second."""
    stall: Pieces
    """Mean stall of each preempted job; `stalled` are their numbers within `job`."""
    stalled: Ints
    inner_rows: Ints
    inner: Pieces
    """Gaps within rows."""
    entry_rows: Ints
    entry: Pieces
    """Gaps from the decoding step before a row to the row's first step."""
    cuts: tuple[tuple[Ints, Pieces], ...]
    """Gaps within rows that a job shares in part, with the numbers of the jobs."""
    handover_jobs: Ints
    """Rows of jobs that go on where a job on another client stopped."""
    handover: Pieces
    jobs_without_steps: int
    """Jobs with several tokens whose steps the record does not hold."""

    def distribution(self, chosen: Mask) -> Distribution:
        """Return the distribution in seconds over the jobs that `chosen`, shape (stage jobs,), marks."""
        return weighted_distribution(*self._weighted(chosen))

    def cumulated(self, chosen: Mask) -> tuple[Floats, Floats]:
        """Return points of the cumulative distribution: seconds, to 0.4 %, and the share of gaps up to there."""
        return cumulated(*self._weighted(chosen))

    def _weighted(self, chosen: Mask) -> tuple[list[tuple[Pieces, Floats]], float]:
        """Return the pieces with the weight of each over the chosen jobs, and the number of gaps of no time."""
        job = self.job
        mine = chosen[job.jobs]
        weight = np.where(mine, job.weight, 0.0)
        within, entry = self._shared(np.flatnonzero(mine))
        stalls = np.where(mine[self.stalled], job.stalls[self.stalled], 0)
        handed = chosen[self.handover_jobs]
        weighted = [
            (self.first, np.where(self.first.start > 0, weight, 0.0)),
            (self.stall, np.where(self.stall.start > 0, stalls, 0.0)),
            (self.inner, self.inner.weights(within[self.inner_rows])),
            (self.entry, entry[self.entry_rows]),
            (self.handover, np.where(handed & (self.handover.start > 0), 1.0, 0.0)),
            *((pieces, pieces.weights(weight[numbers])) for numbers, pieces in self.cuts),
        ]
        # Gaps of no time at all: further tokens of a step, and whatever took no time.
        zeros = float(job.zeros[mine].sum()) + float(weight[self.first.start <= 0].sum())
        zeros += float(stalls[self.stall.start <= 0].sum()) + float(np.count_nonzero(handed[self.handover.start <= 0]))
        return weighted, zeros

    def estimated_share(self, chosen: Mask) -> float:
        """Return the share of gaps that belong to preempted jobs, whose stalls are only known in sum."""
        mine = chosen[self.job.jobs]
        gaps = self.job.gaps[mine]
        total = int(gaps.sum()) + int(np.count_nonzero(chosen[self.handover_jobs]))
        return float(gaps[self.job.stalls[mine] > 0].sum()) / total if total else 0.0

    def _shared(self, mine: Ints) -> tuple[Floats, Floats]:
        """Return the weight of the gaps within each row, and of the gap at its start, of all jobs going through."""
        job = self.job
        here: Ints | slice = slice(None) if len(mine) == len(job.jobs) else mine  # no copies where all are asked for
        second, last, weight = job.second_row[here], job.last_row[here], job.weight[here]
        whole_second, whole_last = job.whole_second[here], job.whole_last[here]
        # Within: all rows strictly between the second and the last token's, and these two where they are whole.
        one_row = second == last
        begins = second + ~(whole_second & (whole_last | ~one_row))
        ends = last - ~(whole_last & (whole_second | ~one_row))
        within = _cover(begins, ends, weight, self.rows)
        # At the start: all rows behind the second token's up to the last token's, one row later than within.
        entry = within - np.bincount(second, np.where(begins == second, weight, 0.0), self.rows)
        short = ~one_row & ~whole_last
        if short.any():
            entry += np.bincount(last[short], weight[short], self.rows)
        entry[entry < _TRACE] = 0.0
        return within, entry


def _cuts(index: StepIndex, job: _JobGaps) -> tuple[tuple[Ints, Pieces], ...]:
    """Return the gaps within rows that a job shares in part: in the second token's row, the last one's, or both."""
    one_row = job.second_row == job.last_row
    parts = []
    for row, low, high, which in (
        (job.second_row, job.second_k, job.last_k, one_row & ~(job.whole_second & job.whole_last)),
        (job.second_row, job.second_k, index.steps[job.second_row] - 1, ~one_row & ~job.whole_second),
        (job.last_row, np.zeros_like(job.last_k), job.last_k, ~one_row & ~job.whole_last),
    ):
        numbers = np.flatnonzero(which & (high > low) & (job.weight > 0))
        if len(numbers):
            chosen, lowest = row[numbers], low[numbers]
            slope = index.slope_fs[chosen].astype(np.float64) * FS
            start = index.t0_fs[chosen].astype(np.float64) * FS + slope * (lowest + 1)
            parts.append((numbers, Pieces.progressions(start, slope, high[numbers] - lowest)))
    return tuple(parts)


def _cover(begins: Ints, ends: Ints, weight: Floats, rows: int) -> Floats:
    """Return how much weight lies on each row, of intervals from `begins` to `ends` inclusive (empty ones: none)."""
    real = begins <= ends
    if not real.all():
        begins, ends, weight = begins[real], ends[real], weight[real]
    change: Floats = np.bincount(begins, weight, rows + 1).astype(np.float64, copy=False)
    change -= np.bincount(ends + 1, weight, rows + 1)
    np.cumsum(change, out=change)
    covered = change[:rows]
    if not np.all(weight == 1):
        covered[covered < _TRACE] = 0.0  # rounding may leave a trace where nothing lies
    return covered


def _decode_steps(index: StepIndex, decodes: Mask) -> Ints:
    """Return the number of decoding steps before each row, over all clients, shape (rows,)."""
    steps = np.where(decodes, index.steps, 0)
    return np.cumsum(steps) - steps


def _next_decoding(decodes: Mask) -> Ints:
    """Return the first row from each row on (itself included) that decodes, shape (rows + 1,); rows if none."""
    rows = len(decodes)
    numbers = np.where(decodes, np.arange(rows), rows)
    return np.append(np.minimum.accumulate(numbers[::-1])[::-1], rows).astype(np.int64)


def _entry_gaps(index: StepIndex) -> tuple[Ints, Floats]:
    """Return the rows that decode, and the seconds from the decoding step before each to the end of its first step.

    The first row of a client has no step before; no job has a gap there.
    """
    rows = np.flatnonzero(index.decode_seqs > 0)
    here: Ints | slice = slice(None) if len(rows) == index.rows else rows  # no copies where every row decodes
    client, start_ns, start_rem = index.client[here], index.start_ns[here], index.start_rem_fs[here]
    since = np.diff(start_ns).astype(np.float64) * NS
    since += (np.diff(start_rem) + index.t0_fs[here][1:] - index.duration_fs[here][:-1]).astype(np.float64) * FS
    since[client[1:] != client[:-1]] = 0.0
    return rows, np.append(np.zeros(min(len(rows), 1)), since)


def _last_decoding(decodes: Mask) -> Ints:
    """Return the last row up to each row (itself included) that decodes, shape (rows,); -1 if none."""
    numbers = np.where(decodes, np.arange(len(decodes)), -1)
    return np.maximum.accumulate(numbers).astype(np.int64)


def token_gaps(run: RunRecord, index: StepIndex) -> TokenGaps:
    """Prepare the gaps between tokens of a record whose steps are `index`."""
    job, first_s, stall_s, lost = _job_gaps(run, index)
    stalled = np.flatnonzero(job.stalls > 0)
    inner_rows = np.flatnonzero((index.decode_seqs > 0) & (index.steps > 1))
    slope = index.slope_fs[inner_rows].astype(np.float64) * FS
    t0 = index.t0_fs[inner_rows].astype(np.float64) * FS
    entry_rows, entry_s = _entry_gaps(index)
    handover_jobs, handover_s = _handovers(run)
    return TokenGaps(
        rows=index.rows,
        job=job,
        first=Pieces.single(first_s),
        stall=Pieces.single(stall_s[stalled]),
        stalled=stalled,
        inner_rows=inner_rows,
        inner=Pieces.progressions(t0 + slope, slope, index.steps[inner_rows] - 1),
        entry_rows=entry_rows,
        entry=Pieces.single(entry_s),
        cuts=_cuts(index, job),
        handover_jobs=handover_jobs,
        handover=Pieces.single(handover_s),
        jobs_without_steps=lost,
    )


def _job_gaps(run: RunRecord, index: StepIndex) -> tuple[_JobGaps, Floats, Floats, int]:
    """Find the tokens of all jobs in the steps: return them, first gaps, mean stalls, and how many jobs are lost."""
    table = run.stage_jobs
    tokens = table["output_tokens"]
    jobs = np.flatnonzero((tokens > 1) & (table["first_step"] >= 0) & (table["last_step"] >= table["first_step"]))
    client = table["client"][jobs]
    first_row, first_known = index.rows_of(client, table["first_step"][jobs])
    last_row, last_known = index.rows_of(client, table["last_step"][jobs])
    known = first_known & last_known
    lost = int(np.count_nonzero(~known))
    if lost:
        jobs, first_row, last_row = jobs[known], first_row[known], last_row[known]
    if not len(jobs):
        nothing, flags, shares = np.empty(0, np.int64), np.empty(0, dtype=bool), np.empty(0)
        empty = _JobGaps(nothing, *(nothing,) * 4, flags, flags, nothing, shares, nothing, nothing)
        return empty, shares, shares, lost
    first_k = table["first_step"][jobs] - index.first_step[first_row]
    last_k = table["last_step"][jobs] - index.first_step[last_row]
    decodes = index.decode_seqs > 0

    # The second token comes from the next step that decodes, in the same row or a later one; the last ordinary
    # gap ends at the last step that decodes (a preempted job may take its last token from the step that resumes it).
    same = decodes[first_row] & (first_k + 1 < index.steps[first_row])
    second_row = np.where(same, first_row, _next_decoding(decodes)[first_row + 1])
    second_k = np.where(same, first_k + 1, 0)
    final_row, final_k, span_s = last_row, last_k, index.between_s(first_row, first_k + 1, last_row, last_k + 1)
    ordinary_s = span_s
    if not decodes[last_row].all():
        final_row = np.where(decodes[last_row], last_row, _last_decoding(decodes)[last_row])
        final_k = np.where(decodes[last_row], last_k, index.steps[final_row] - 1)
    has = (second_row < final_row) | ((second_row == final_row) & (second_k <= final_k))
    if not has.all():
        second_row, second_k = np.where(has, second_row, first_row), np.where(has, second_k, first_k)
        final_row, final_k = np.where(has, final_row, first_row), np.where(has, final_k, first_k)
    if final_row is not last_row:
        ordinary_s = index.between_s(first_row, first_k + 1, final_row, final_k + 1)
    before = _decode_steps(index, decodes)
    steps = np.where(has, before[final_row] + final_k - before[second_row] - second_k + 1, 0)
    gaps = tokens[jobs] - 1
    weight, stalls, zeros = _shares(gaps, steps, table["preemptions"][jobs].astype(np.int64))
    found = _JobGaps(
        jobs=jobs,
        second_row=second_row,
        second_k=second_k,
        last_row=final_row,
        last_k=final_k,
        whole_second=second_k == 0,
        whole_last=final_k == index.steps[final_row] - 1,
        gaps=gaps,
        weight=weight,
        stalls=stalls,
        zeros=zeros,
    )
    first_s = index.between_s(first_row, first_k + 1, second_row, second_k + 1)
    stall_s = (span_s - weight * ordinary_s) / np.maximum(stalls, 1)
    lost += int(np.count_nonzero((steps == 0) & (stalls == 0) & (span_s > 0)))
    return found, first_s, stall_s, lost


def _shares(wanted: Ints, steps: Ints, preemptions: Ints) -> tuple[Floats, Ints, Ints]:
    """Return of each job: the weight of each of its `steps` ordinary gaps, its stalls, and its gaps of 0 s.

    They add up to the `wanted` gaps: weight * steps + stalls + zeros. A job that was not preempted and yet has fewer
    tokens than steps was left out of some: its policy let it wait, which is one stall.
    """
    waits = np.maximum(preemptions, (wanted < steps).astype(np.int64))
    zeros = np.maximum(wanted - steps - waits, 0)
    timed = wanted - zeros
    stalls = np.maximum(np.minimum(waits, timed), timed - steps)
    return (timed - stalls) / np.maximum(steps, 1), stalls, zeros


def _handovers(run: RunRecord) -> tuple[Ints, Floats]:
    """Return the jobs that decode what another job prefilled, and the seconds between their tokens.

    That gap runs from the end of the job before to the first token of this one. An answer that follows upon thoughts
    has no such gap: it is another text.
    """
    kinds = [tuple(name.split("+")) for name in run.manifest.stage_sets]
    goes_on = np.array(["prefill" not in k and any(s in k for s in _TOKEN_STAGES) for k in kinds] + [False])
    hands_on = np.array([k[-1] == "prefill" for k in kinds] + [False])
    table = run.stage_jobs
    stage_set = np.minimum(table["stage_set"], len(kinds))
    tokens = table["output_tokens"] > 0
    if not np.any(goes_on[stage_set] & tokens):
        return np.empty(0, np.int64), np.empty(0)
    rows = np.flatnonzero(tokens & (table["first_token_ns"] >= 0))
    request = table["request_id"][rows]
    order = np.lexsort((table["job"][rows], request))
    rows, request = rows[order], request[order]
    follows = (request[1:] == request[:-1]) & goes_on[stage_set[rows[1:]]] & hands_on[stage_set[rows[:-1]]]
    later = np.flatnonzero(follows) + 1
    before, after = rows[later - 1], rows[later]
    ended = table["end_ns"][before]
    good = ended >= 0
    gaps: Floats = (table["first_token_ns"][after] - ended)[good] * NS
    return after[good], gaps
