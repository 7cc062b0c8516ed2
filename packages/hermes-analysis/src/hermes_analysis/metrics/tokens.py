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
from hermes_analysis.metrics.distribution import Distribution, Floats, Ints, Progressions
from hermes_analysis.metrics.steps import FS, NS, StepIndex

Mask = NDArray[np.bool_]
_TOKEN_STAGES = ("decode", "reason")
_TRACE = 1e-7
"""Weights below this are rounding: sums of up to 1e8 shares of 1 in float64."""


@dataclass(frozen=True, slots=True)
class TokenGaps:
    """The gaps between tokens of all jobs of a record; ask for the distribution of some of them."""

    index: StepIndex
    jobs: Ints
    """Rows of the stage-job table that have gaps within one client, shape (n,)."""
    first_gap_s: Floats
    second_row: Ints
    """Row of the step that gave the second token, and its number within the row."""
    second_k: Ints
    last_row: Ints
    last_k: Ints
    steps: Ints
    """Decoding steps of the client between the first token and the last."""
    weight: Floats
    """Share of the client's steps that gave the job a token: 1 unless it was preempted."""
    stalls: Ints
    stall_s: Floats
    zeros: Ints
    entry_gap_s: Floats
    """From the decoding step before a row to the end of the row's first step, shape (rows,); 0 where none decodes."""
    handover_jobs: Ints
    """Rows of jobs that go on where a job on another client stopped, shape (m,)."""
    handover_s: Floats
    jobs_without_steps: int
    """Jobs with several tokens whose steps the record does not hold."""

    def distribution(self, chosen: Mask) -> Distribution:
        """Return the distribution in seconds over the jobs that `chosen`, shape (stage jobs,), marks."""
        mine = chosen[self.jobs]
        handed = self.handover_s[chosen[self.handover_jobs]]
        weight, stalls = self.weight[mine], self.stalls[mine]
        second, last = self.second_row[mine], self.last_row[mine]
        parts = [
            Progressions.single(self.first_gap_s[mine], weight),
            Progressions.single(handed),
            Progressions.single(self.stall_s[mine][stalls > 0], stalls[stalls > 0].astype(np.float64)),
            *self._shared(weight, second, last, self._whole(mine)),
            *self._cut(mine),
        ]
        positive = Progressions.concatenate(parts)
        not_positive = positive.start <= 0
        zeros = float(self.zeros[mine].sum()) + float(positive.weight[not_positive].sum())
        keep = ~not_positive
        return Progressions(
            positive.start[keep], positive.slope[keep], positive.count[keep], positive.weight[keep]
        ).distribution(zeros)

    def estimated_share(self, chosen: Mask) -> float:
        """Return the share of gaps that belong to preempted jobs, whose stalls are only known in sum."""
        mine = chosen[self.jobs]
        gaps = self._gaps()[mine]
        total = float(gaps.sum()) + float(chosen[self.handover_jobs].sum())
        return float(gaps[self.stalls[mine] > 0].sum()) / total if total else 0.0

    def _gaps(self) -> Floats:
        """Return the number of gaps of each job."""
        return self.weight * self.steps + self.stalls + self.zeros

    def _whole(self, mine: Mask) -> tuple[Mask, Mask]:
        """Say of which jobs the row of the second token is shared from its start, and the last row to its end."""
        last_row = self.last_row[mine]
        return self.second_k[mine] == 0, self.last_k[mine] == self.index.steps[last_row] - 1

    def _shared(self, weight: Floats, second: Ints, last: Ints, whole: tuple[Mask, Mask]) -> list[Progressions]:
        """Return the gaps that stretches count for all jobs going through them: at their start, and within."""
        index = self.index
        decodes = index.decode_seqs > 0
        # Within a row: all rows strictly between the second and the last token's, and these two where they are whole.
        one_row = second == last
        begins = np.where(whole[0] & (whole[1] | ~one_row), second, second + 1)
        ends = np.where(whole[1] & (whole[0] | ~one_row), last, last - 1)
        within = _cover(begins, ends, weight, index.rows)
        entry = _cover(second + 1, last, weight, index.rows)
        rows = np.flatnonzero(decodes & ((within > 0) | (entry > 0)))
        t0 = index.t0_fs[rows].astype(np.float64) * FS
        slope = index.slope_fs[rows].astype(np.float64) * FS
        inner = Progressions(t0 + slope, slope, index.steps[rows] - 1, within[rows])
        return [inner, Progressions.single(self.entry_gap_s[rows], entry[rows])]

    def _cut(self, mine: Mask) -> list[Progressions]:
        """Return the gaps within rows that a job shares in part."""
        index = self.index
        from_start, to_end = self._whole(mine)
        second, last = self.second_row[mine], self.last_row[mine]
        second_k, last_k, weight = self.second_k[mine], self.last_k[mine], self.weight[mine]
        one_row = second == last
        parts = []
        for rows, low, high, which in (
            (second, second_k, last_k, one_row & ~(from_start & to_end)),
            (second, second_k, index.steps[second] - 1, ~one_row & ~from_start),
            (last, np.zeros_like(last_k), last_k, ~one_row & ~to_end),
        ):
            row, lowest = rows[which], low[which]
            slope = index.slope_fs[row].astype(np.float64) * FS
            start = index.t0_fs[row].astype(np.float64) * FS + slope * (lowest + 1)
            parts.append(Progressions(start, slope, high[which] - lowest, weight[which]))
        return parts


def _cover(begins: Ints, ends: Ints, weight: Floats, rows: int) -> Floats:
    """Return how much weight lies on each row, of intervals from `begins` to `ends` inclusive (empty ones: none)."""
    real = begins <= ends
    begins, ends, weight = begins[real], ends[real] + 1, weight[real]
    number = np.cumsum(np.bincount(begins, minlength=rows + 1) - np.bincount(ends, minlength=rows + 1))[:rows]
    if np.all(weight == 1):
        return number.astype(np.float64)
    sums = np.bincount(begins, weight, rows + 1) - np.bincount(ends, weight, rows + 1)
    # Rounding may leave a trace where nothing lies.
    totals = np.cumsum(sums)[:rows]
    return np.where((number > 0) & (totals > _TRACE), totals, 0.0)


def _decode_steps(index: StepIndex) -> Ints:
    """Return the number of decoding steps before each row, over all clients, shape (rows + 1,)."""
    steps = np.where(index.decode_seqs > 0, index.steps, 0)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(steps)])


def _next_decoding(index: StepIndex) -> Ints:
    """Return the first row from each row on (itself included) that decodes, shape (rows + 1,); rows if none."""
    numbers = np.where(index.decode_seqs > 0, np.arange(index.rows), index.rows)
    return np.append(np.minimum.accumulate(numbers[::-1])[::-1], index.rows).astype(np.int64)


def _entry_gaps(index: StepIndex) -> Floats:
    """Return the seconds from the decoding step before each decoding row to the end of its first step."""
    gaps = np.zeros(index.rows)
    rows = np.flatnonzero(index.decode_seqs > 0)
    before, after = rows[:-1], rows[1:]
    same = index.client[before] == index.client[after]
    before, after = before[same], after[same]
    gaps[after] = index.between_s(before, index.steps[before], after, np.ones(len(after), np.int64))
    return gaps


def _last_decoding(index: StepIndex) -> Ints:
    """Return the last row up to each row (itself included) that decodes, shape (rows,); -1 if none."""
    numbers = np.where(index.decode_seqs > 0, np.arange(index.rows), -1)
    return np.maximum.accumulate(numbers).astype(np.int64)


def token_gaps(run: RunRecord, index: StepIndex) -> TokenGaps:
    """Prepare the gaps between tokens of a record whose steps are `index`."""
    table = run.stage_jobs
    tokens = table["output_tokens"]
    jobs = np.flatnonzero((tokens > 1) & (table["first_step"] >= 0) & (table["last_step"] >= table["first_step"]))
    client = table["client"][jobs]
    first_row, first_known = index.rows_of(client, table["first_step"][jobs])
    last_row, last_known = index.rows_of(client, table["last_step"][jobs])
    known = first_known & last_known
    lost = int(np.count_nonzero(~known))
    jobs, first_row, last_row = jobs[known], first_row[known], last_row[known]
    first_k = table["first_step"][jobs] - index.first_step[first_row]
    last_k = table["last_step"][jobs] - index.first_step[last_row]
    span_s = index.between_s(first_row, first_k + 1, last_row, last_k + 1)

    # The second token comes from the next step that decodes, in the same row or a later one; the last ordinary
    # gap ends at the last step that decodes (a preempted job may take its last token from the step that resumes it).
    decodes = index.decode_seqs > 0
    same = decodes[first_row] & (first_k + 1 < index.steps[first_row])
    second_row = np.where(same, first_row, _next_decoding(index)[first_row + 1])
    second_k = np.where(same, first_k + 1, 0)
    final_row = np.where(decodes[last_row], last_row, _last_decoding(index)[last_row])
    final_k = np.where(decodes[last_row], last_k, index.steps[final_row] - 1)
    has = (second_row < final_row) | ((second_row == final_row) & (second_k <= final_k))
    second_row, second_k = np.where(has, second_row, first_row), np.where(has, second_k, first_k)
    final_row, final_k = np.where(has, final_row, first_row), np.where(has, final_k, first_k)
    before = _decode_steps(index)
    steps = np.where(has, before[final_row] + final_k - before[second_row] - second_k + 1, 0)

    preemptions = table["preemptions"][jobs].astype(np.int64)
    weight, stalls, zeros = _shares(tokens[jobs] - 1, steps, preemptions)
    ordinary_s = index.between_s(first_row, first_k + 1, final_row, final_k + 1)
    handover_jobs, handover_s = _handovers(run)
    return TokenGaps(
        index=index,
        jobs=jobs,
        first_gap_s=index.between_s(first_row, first_k + 1, second_row, second_k + 1),
        second_row=second_row,
        second_k=second_k,
        last_row=final_row,
        last_k=final_k,
        steps=steps,
        weight=weight,
        stalls=stalls,
        stall_s=(span_s - weight * ordinary_s) / np.maximum(stalls, 1),
        zeros=zeros,
        entry_gap_s=_entry_gaps(index),
        handover_jobs=handover_jobs,
        handover_s=handover_s,
        jobs_without_steps=lost + int(np.count_nonzero((steps == 0) & (stalls == 0) & (span_s > 0))),
    )


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

    That gap runs from the end of the job before to the first token of this one.
    """
    kinds = [tuple(name.split("+")) for name in run.manifest.stage_sets]
    goes_on = np.array(["prefill" not in k and any(s in k for s in _TOKEN_STAGES) for k in kinds] + [False])
    table = run.stage_jobs
    stage_set = np.minimum(table["stage_set"], len(kinds))
    tokens = table["output_tokens"] > 0
    if not np.any(goes_on[stage_set] & tokens):
        return np.empty(0, np.int64), np.empty(0)
    rows = np.flatnonzero(tokens & (table["first_token_ns"] >= 0))
    request = table["request_id"][rows]
    order = np.lexsort((table["job"][rows], request))
    rows, request = rows[order], request[order]
    later = np.flatnonzero((request[1:] == request[:-1]) & goes_on[stage_set[rows[1:]]]) + 1
    before, after = rows[later - 1], rows[later]
    ended = table["end_ns"][before]
    good = ended >= 0
    gaps: Floats = (table["first_token_ns"][after] - ended)[good] * NS
    return after[good], gaps
