"""Latencies, counts, throughput and service levels from the request table."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from hermes_proto.core.v1 import run_record_pb2 as rr
from numpy.typing import NDArray

from hermes_analysis.load import RunRecord
from hermes_analysis.metrics.distribution import Distribution, Floats, Ints
from hermes_analysis.summary import Counts, GroupSummary, Interactivity, LevelSummary

Mask = NDArray[np.bool_]
NS: Final = 1e-9
_STATUS_FIELDS: Final = {
    "finished": rr.REQUEST_STATUS_FINISHED,
    "dropped": rr.REQUEST_STATUS_DROPPED,
    "shed": rr.REQUEST_STATUS_SHED,
    "timed_out": rr.REQUEST_STATUS_TIMED_OUT,
    "failed": rr.REQUEST_STATUS_FAILED,
    "unfinished": rr.REQUEST_STATUS_UNFINISHED,
    "cancelled": rr.REQUEST_STATUS_CANCELLED,
}
MOST_TENANTS_WITH_ITL: Final = 32
"""Beyond this, the token gaps of single groups are not computed: one pass over all steps each."""


def status_name(number: int) -> str:
    """Return the word for a RequestStatus, "finished"; an unknown number is "unspecified"."""
    names = {value: name for name, value in _STATUS_FIELDS.items()}
    return names.get(rr.RequestStatus.ValueType(number), "unspecified")


@dataclass(frozen=True, slots=True)
class Window:
    """The measured part of a run: from the end of the warm-up to the end."""

    begin_ns: int
    end_ns: int

    @property
    def span_s(self) -> float:
        """Length in seconds, 0 when the warm-up lasts as long as the run."""
        return max(self.end_ns - self.begin_ns, 0) * NS


@dataclass(frozen=True, slots=True)
class RequestMetrics:
    """Per-request answers, all of shape (requests,); NaN where a request has no such number."""

    window: Window
    measured: Mask
    """Arrived in the window."""
    status: NDArray[np.uint8]
    ttft_s: Floats
    tpot_s: Floats
    e2e_s: Floats
    normalised_latency_s: Floats
    prompt_tokens: Ints
    output_tokens: Ints
    ended_inside: Mask
    """Finished in the window."""
    tokens_inside: Floats
    """Output tokens delivered in the window, taken as evenly spread from the first token to the end."""
    under_level: Mask
    met: Mask
    """Met every service level that it is under."""
    in_time: Mask
    """Met their bounds on the first token and on the whole: late it was not, whatever its pace."""


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of the request table that are summarised together."""

    kind: str
    name: str
    rows: Ints


def window_of(run: RunRecord) -> Window:
    """Return the measured window of a run."""
    return Window(int(run.manifest.warm_up_ns), run.end_ns)


def request_metrics(run: RunRecord, window: Window, answers: tuple[Ints, Floats] | None = None) -> RequestMetrics:
    """Compute the per-request answers.

    `answers` has rows of the request table whose time per output token is another than from the first token to the
    request's end, with that time in seconds: stages behind the answer are no part of it.
    """
    table = run.requests
    arrival, first, end = table["arrival_ns"], table["first_token_ns"], table["end_ns"]
    status, tokens = table["status"], table["output_tokens"]
    finished = (status == rr.REQUEST_STATUS_FINISHED) & (end >= 0)
    ttft = np.where(first >= 0, (first - arrival) * NS, np.nan)
    e2e = np.where(finished, (end - arrival) * NS, np.nan)
    several = finished & (tokens > 1) & (first >= 0)
    tpot = np.where(several, (end - first) * NS / np.maximum(tokens - 1, 1), np.nan)
    if answers is not None:
        rows, seconds = answers
        tpot[rows] = np.where(several[rows], seconds, np.nan)
    normalised = np.where(finished & (tokens > 0), e2e / np.maximum(tokens, 1), np.nan)
    metrics = RequestMetrics(
        window=window,
        measured=arrival >= window.begin_ns,
        status=status,
        ttft_s=ttft,
        tpot_s=tpot,
        e2e_s=e2e,
        normalised_latency_s=normalised,
        prompt_tokens=table["prompt_tokens"],
        output_tokens=tokens,
        ended_inside=finished & (end >= window.begin_ns),
        tokens_inside=_tokens_inside(first, end, tokens, window),
        under_level=np.zeros(len(status), dtype=bool),
        met=finished.copy(),
        in_time=finished.copy(),
    )
    for level, under in levels_of(run):
        metrics.under_level[under] = True
        for bound_ns, values in _bounds(level, metrics):
            within = _within(values, bound_ns, finished)[under]
            metrics.met[under] &= within
            if values is not metrics.tpot_s:
                metrics.in_time[under] &= within
    return metrics


def _tokens_inside(first: Ints, end: Ints, tokens: Ints, window: Window) -> Floats:
    """Return the tokens delivered in the window, exact where a request lies in it or outside it altogether."""
    if window.begin_ns <= 0:
        return tokens.astype(np.float64)
    stop = np.where(end >= 0, end, window.end_ns)
    begin = np.where(first >= 0, first, stop)
    length = np.maximum(stop - begin, 1)
    share = np.clip((stop - np.maximum(begin, window.begin_ns)) / length, 0.0, 1.0)
    return tokens.astype(np.float64) * np.where(begin >= window.begin_ns, 1.0, share)


def levels_of(run: RunRecord) -> Iterator[tuple[rr.ServiceLevel, Mask]]:
    """Yield each service level with the requests under it.

    A level named as a service class or a pipeline holds for its requests; "*" for those that no other level names.
    """
    table = run.requests
    named = np.zeros(table.rows, dtype=bool)
    general = []
    for level in run.manifest.service_levels:
        if level.name in {"*", ""}:
            general.append(level)
            continue
        under = np.zeros(table.rows, dtype=bool)
        for column, names in (("pipeline", run.manifest.pipelines), ("service_class", run.manifest.classes)):
            if level.name in names:
                under |= table[column] == list(names).index(level.name)
        named |= under
        yield level, under
    for level in general:
        yield level, ~named


def _bounds(level: rr.ServiceLevel, metrics: RequestMetrics) -> list[tuple[int, Floats]]:
    """Return the bounds of a level (0 for none) with what they bound."""
    return [(level.ttft_ns, metrics.ttft_s), (level.tpot_ns, metrics.tpot_s), (level.e2e_ns, metrics.e2e_s)]


def _bound_s(bound_ns: int) -> float | None:
    return bound_ns * NS if bound_ns > 0 else None


def _within(values: Floats, bound_ns: int, finished: Mask) -> Mask:
    """Say which requests finished within the bound. One token has no time per output token, and so none too long."""
    if bound_ns <= 0:
        return finished
    within: Mask = finished & ~(values > bound_ns * NS)
    return within


def summarise_levels(run: RunRecord, metrics: RequestMetrics) -> tuple[LevelSummary, ...]:
    """Return what share of the measured requests under each service level met it."""
    answers = []
    finished = metrics.status == rr.REQUEST_STATUS_FINISHED
    for level, under in levels_of(run):
        mine = under & metrics.measured
        number = int(np.count_nonzero(mine))
        shares: list[float | None] = []
        met = finished.copy()
        for bound_ns, values in _bounds(level, metrics):
            within = _within(values, bound_ns, finished)
            met &= within
            shares.append(float(within[mine].mean()) if bound_ns > 0 and number else None)
        answers.append(
            LevelSummary(
                name=level.name or "*",
                ttft_s=_bound_s(level.ttft_ns),
                tpot_s=_bound_s(level.tpot_ns),
                e2e_s=_bound_s(level.e2e_ns),
                requests=number,
                required=level.attainment,
                attained=float(met[mine].mean()) if number else float("nan"),
                ttft_attained=shares[0],
                tpot_attained=shares[1],
                e2e_attained=shares[2],
            )
        )
    return tuple(answers)


def groups_of(run: RunRecord) -> list[Group]:
    """Return all requests, then pipelines, classes and tenants, each kind only when the run has several."""
    table, manifest = run.requests, run.manifest
    groups = [Group("all", "*", np.arange(table.rows))]
    for kind, column, names in (
        ("pipeline", "pipeline", manifest.pipelines),
        ("class", "service_class", manifest.classes),
        ("tenant", "tenant", manifest.tenants),
    ):
        values = table[column]
        counts = np.bincount(values, minlength=1)
        present = np.flatnonzero(counts)
        if len(present) < 2:  # noqa: PLR2004 - one group is all
            continue
        order = np.argsort(values, kind="stable")
        ends = np.cumsum(counts)
        for number in present:
            name = names[number] if number < len(names) else f"#{number}"
            groups.append(Group(kind, name, order[ends[number] - counts[number] : ends[number]]))
    return groups


def summarise_group(group: Group, metrics: RequestMetrics, itl: Distribution | None) -> GroupSummary:
    """Summarise one group of requests."""
    rows = group.rows
    mine = rows[metrics.measured[rows]]
    span = metrics.window.span_s
    counts = np.bincount(metrics.status[mine], minlength=256)
    ended = metrics.ended_inside[rows]
    under = metrics.under_level[mine]
    judged = int(np.count_nonzero(under))
    tpot = _distribution(metrics.tpot_s[mine])
    good = np.count_nonzero(ended & metrics.met[rows] & metrics.under_level[rows])
    return GroupSummary(
        kind=group.kind,
        name=group.name,
        counts=Counts(arrived=len(mine), **{name: int(counts[value]) for name, value in _STATUS_FIELDS.items()}),
        ttft_s=_distribution(metrics.ttft_s[mine]),
        tpot_s=tpot,
        e2e_s=_distribution(metrics.e2e_s[mine]),
        itl_s=itl,
        normalised_latency_s=_distribution(metrics.normalised_latency_s[mine]),
        request_throughput_per_s=_rate(float(np.count_nonzero(ended)), span),
        output_token_throughput_per_s=_rate(float(metrics.tokens_inside[rows].sum()), span),
        prompt_tokens=int(metrics.prompt_tokens[mine].sum()),
        output_tokens=int(metrics.output_tokens[mine].sum()),
        goodput_per_s=_rate(float(good), span) if judged else None,
        slo_attainment=float(metrics.met[mine][under].mean()) if judged else None,
        interactivity_per_s=Interactivity.of(tpot),
    )


def _distribution(values: Floats) -> Distribution:
    return Distribution.of(values[~np.isnan(values)])


def _rate(number: float, span_s: float) -> float:
    return number / span_s if span_s > 0 else float("nan")


def job_requests(run: RunRecord) -> Ints:
    """Return the row of the request table that each stage job belongs to, shape (stage jobs,); -1 if there is none."""
    ids, wanted = run.requests["request_id"], run.stage_jobs["request_id"]
    if not len(ids) or not len(wanted):
        return np.full(len(wanted), -1, dtype=np.int64)
    low, high = int(ids.min()), int(ids.max())
    if high - low < 4 * len(ids) + 1024:
        rows = np.full(high - low + 1, -1, dtype=np.int64)
        rows[ids - low] = np.arange(len(ids))
        inside = (wanted >= low) & (wanted <= high)
        return np.where(inside, rows[np.clip(wanted - low, 0, high - low)], -1)
    order = np.argsort(ids)
    place = np.minimum(np.searchsorted(ids[order], wanted), len(ids) - 1)
    found = order[place]
    return np.where(ids[found] == wanted, found, -1)
