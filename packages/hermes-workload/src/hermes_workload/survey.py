"""What a stream of requests is like: rates, burstiness, sizes, sharing, sessions, in one pass."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from hermes_workload.batch import BATCH_ROWS, Ints, RequestBatch
from hermes_workload.errors import WorkloadError
from hermes_workload.sizes import Floats
from hermes_workload.source import RequestSource

NS_PER_S: Final = 1_000_000_000
RESOLUTION_NS: Final = 100_000_000
"""Width of the counts that are kept: a day has 864,000."""
LARGEST_COUNTED: Final = 1 << 22
"""Sizes are counted one by one up to here; larger ones count as this one."""
KEPT_ROWS: Final = 1 << 20
"""Pairs of sizes that are kept; of a longer stream every second, every fourth, and so on."""
MOST_STEPS: Final = 50_000_000
"""Counts over time are kept up to this many steps (58 days)."""


@dataclass(slots=True)
class Gaps:
    """Moments of the gaps between arrivals, in seconds."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    products: float = 0.0
    last: float | None = None

    @property
    def cv(self) -> float:
        """Coefficient of variation; NaN without gaps."""
        if not self.total:
            return float("nan")
        mean = self.total / self.count
        return float(np.sqrt(max(self.squares / self.count - mean**2, 0.0)) / mean)

    @property
    def lag_one(self) -> float:
        """Autocorrelation of neighbouring gaps."""
        if self.count < 3:  # noqa: PLR2004 - a correlation needs two pairs
            return float("nan")
        mean = self.total / self.count
        variance = self.squares / self.count - mean**2
        return float((self.products / (self.count - 1) - mean**2) / variance) if variance > 0 else float("nan")

    def add(self, gaps: Floats) -> None:
        """Take in further gaps."""
        if not len(gaps):
            return
        self.count += len(gaps)
        self.total += float(gaps.sum())
        self.squares += float(gaps @ gaps)
        self.products += float(gaps[1:] @ gaps[:-1])
        if self.last is not None:
            self.products += self.last * float(gaps[0])
        self.last = float(gaps[-1])


@dataclass(slots=True)
class Survey:
    """Facts of a stream. Times in ns, sizes in tokens.

    `counts` holds the arrivals in each `RESOLUTION_NS`; `prompt_counts[n]` how many prompts have n tokens; `pairs` the
    (kept) prompts and outputs; `times` the first million arrivals; `shared_tokens` the prompt tokens in leading
    segments that an earlier prompt had: what a prefix cache without limits could save. Requests that wait for others
    are not part of gaps, times and counts.
    """

    requests: int = 0
    first_ns: int = 0
    last_ns: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    shared_tokens: int = 0
    segmented: bool = False
    waiting: int = 0
    sessions: int = 0
    session_requests: int = 0
    distinct_segments: int = 0
    zero_gaps: int = 0
    gaps: Gaps = field(default_factory=Gaps)
    counts: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    prompt_counts: Ints = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    output_counts: Ints = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    pairs: tuple[Ints, Ints] = (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    times: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @property
    def span_s(self) -> float:
        """Seconds from the first arrival to the last."""
        return (self.last_ns - self.first_ns) / NS_PER_S

    @property
    def rate_per_s(self) -> float:
        """Mean rate of arrivals; 0 where all come at once."""
        return (self.requests - self.waiting - 1) / self.span_s if self.span_s else 0.0

    def dispersion(self, window_ns: int) -> float:
        """Return the index of dispersion of counts: variance over mean of the arrivals in windows of this width.

        1 for a Poisson process at every width; NaN where fewer than two windows fit.
        """
        steps = max(window_ns // RESOLUTION_NS, 1)
        windows = len(self.counts) // steps
        if windows < 2:  # noqa: PLR2004 - a variance needs two
            return float("nan")
        counted = self.counts[: windows * steps].reshape(windows, steps).sum(axis=1)
        return float(counted.var() / counted.mean()) if counted.any() else float("nan")

    def rates_per_s(self, windows: int) -> Floats:
        """Return the mean rate in each of so many equal parts of the stream."""
        edges = np.linspace(0, len(self.counts), windows + 1)
        total = np.concatenate([np.zeros(1), np.cumsum(self.counts)])
        at_edges = np.interp(edges, np.arange(len(total)), total)
        rates: Floats = np.diff(at_edges) / (np.diff(edges) * RESOLUTION_NS / NS_PER_S)
        return rates


def survey(source: RequestSource) -> Survey:
    """Draw a source once and return what it is like. Memory does not grow with requests, save for distinct segments.

    Raises:
        WorkloadError: There are no requests, or the draw fails.
    """
    return survey_batches(source.batches())


def survey_batches(batches: Iterator[RequestBatch]) -> Survey:
    """Return what the requests of `batches` are like."""
    found = Survey()
    kept = _Kept()
    sharing = _Sharing()
    last_arrival: int | None = None
    times: list[Ints] = []
    sessions: set[int] = set()
    for batch in batches:
        if not len(batch):
            continue
        own = batch.arrival_ns
        if batch.after_request is not None:
            own = own[batch.after_request < 0]
            found.waiting += len(batch) - len(own)
        if found.requests == 0:
            found.first_ns = int(batch.arrival_ns[0])
        if len(own):
            before = own[:1] if last_arrival is None else np.array([last_arrival])
            gaps = np.diff(np.concatenate([before, own]))[1 if last_arrival is None else 0 :]
            found.zero_gaps += int(np.count_nonzero(gaps == 0))
            found.gaps.add(gaps / NS_PER_S)
            if len(times) * BATCH_ROWS < KEPT_ROWS:
                times.append(own)
            last_arrival = int(own[-1])
            found.last_ns = last_arrival
            _count(found, own - found.first_ns)
        found.requests += len(batch)
        found.prompt_counts = _added(found.prompt_counts, batch.prompt_tokens)
        found.output_counts = _added(found.output_counts, batch.output_tokens)
        found.prompt_tokens += int(batch.prompt_tokens.sum())
        found.output_tokens += int(batch.output_tokens.sum())
        found.reasoning_tokens += int(batch.column("reasoning_tokens").sum())
        if batch.session_id is not None:
            members = batch.session_id[batch.session_id >= 0]
            found.session_requests += len(members)
            sessions.update(np.unique(members).tolist())
        if batch.has_segments:
            found.segmented = True
            found.shared_tokens += sharing.shared(batch)
        kept.add(batch)
    if not found.requests:
        raise WorkloadError("there are no requests to look at")
    found.sessions = len(sessions)
    found.distinct_segments = len(sharing.seen)
    found.pairs = kept.pairs()
    found.times = np.concatenate([np.zeros(0, dtype=np.int64), *times])
    return found


def _count(found: Survey, since: Ints) -> None:
    steps = since // RESOLUTION_NS
    if int(steps[-1]) < MOST_STEPS:
        found.counts = _added(found.counts, steps)


def _added(counts: Ints, values: Ints) -> Ints:
    fresh = np.bincount(np.clip(values, 0, max(LARGEST_COUNTED, MOST_STEPS)))
    if len(fresh) > len(counts):
        grown = np.zeros(max(len(fresh), 2 * len(counts)) if len(counts) > LARGEST_COUNTED else len(fresh), np.int64)
        grown[: len(counts)] = counts
        counts = grown
    counts[: len(fresh)] += fresh
    return counts


class _Kept:
    """Every n-th row, with n doubled whenever there are too many."""

    def __init__(self) -> None:
        self.every = 1
        self.seen = 0
        self.rows: list[tuple[Ints, Ints]] = []
        self.count = 0

    def add(self, batch: RequestBatch) -> None:
        """Keep rows of `batch`."""
        first = -self.seen % self.every
        prompt, output = (sizes[first :: self.every].copy() for sizes in (batch.prompt_tokens, batch.output_tokens))
        self.rows.append((prompt, output))
        self.count += len(prompt)
        self.seen += len(batch)
        if self.count > KEPT_ROWS:
            prompt, output = (sizes[::2] for sizes in self.pairs())
            self.rows, self.count, self.every = [(prompt, output)], len(prompt), 2 * self.every

    def pairs(self) -> tuple[Ints, Ints]:
        """Return the prompts and outputs that were kept."""
        return np.concatenate([row[0] for row in self.rows]), np.concatenate([row[1] for row in self.rows])


class _Sharing:
    """Which segments have been seen, and how much of a prompt that leaves to be computed."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def shared(self, batch: RequestBatch) -> int:
        """Return the tokens of leading segments that an earlier prompt had."""
        offsets, ids, tokens = batch.segment_offsets, batch.segment_id, batch.segment_tokens
        if offsets is None or ids is None or tokens is None or not len(ids):
            return 0
        row = np.repeat(np.arange(len(batch)), np.diff(offsets))
        distinct, first, which = np.unique(ids, return_index=True, return_inverse=True)
        known = np.fromiter((one in self.seen for one in distinct.tolist()), np.bool_, len(distinct))
        before = known[which] | (row[first][which] < row)
        self.seen.update(distinct.tolist())
        fresh = np.flatnonzero(~before)
        ends = offsets[1:].copy()
        rows_with_fresh, at = np.unique(row[fresh], return_index=True)
        ends[rows_with_fresh] = fresh[at]
        total = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(tokens)])
        return int((total[ends] - total[offsets[:-1]]).sum())
