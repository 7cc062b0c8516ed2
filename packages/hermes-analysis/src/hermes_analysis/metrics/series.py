"""What happened over time, in a bounded number of equal intervals however long the record."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from hermes_analysis.load import RunRecord
from hermes_analysis.metrics.distribution import Floats
from hermes_analysis.metrics.steps import StepIndex
from hermes_analysis.metrics.verdict import in_system
from hermes_analysis.tables import Array

NS: Final = 1e-9
INTERVALS: Final = 240
_MOST_CLIENTS: Final = 12


@dataclass(frozen=True, slots=True)
class ClientSeries:
    """One client, or the mean of a pool's clients, in each interval; arrays of shape (intervals,)."""

    name: str
    utilisation: Floats
    """Share of the interval in which it worked on a step."""
    decode_seqs: Floats
    """Sequences that decode, mean over time: 0 while it rests."""
    batch: Floats
    """Of a client of service stages, jobs in a batch, mean over time and workers."""
    waiting: Floats
    """Mean number of jobs that were handed to it and not begun."""
    kv_share: Floats


@dataclass(frozen=True, slots=True)
class Series:
    """A run over time. `edges_s` has shape (intervals + 1,), all else (intervals,)."""

    edges_s: Floats
    arrivals_per_s: Floats
    finished_per_s: Floats
    in_system: Floats
    """Requests arrived and not ended, in the middle of each interval."""
    tokens_per_s: Floats
    """Output tokens of requests, each request's spread evenly from its first token to its end."""
    clients: tuple[ClientSeries, ...]
    links: tuple[tuple[str, Floats], ...]
    """Bytes per second over each link that was used.

    In a record without links over time, transfers are spread evenly over their time, by the narrowest link of each.
    """
    link_shares: tuple[tuple[str, Floats], ...] = ()
    """The same over what the link can carry, for those whose bandwidth the record says."""
    link_waiting: tuple[tuple[str, Floats], ...] = ()
    """Mean number of transfers' worth of time lost at each link: 1 where one stands still, or two go at half speed."""

    @property
    def middles_s(self) -> Floats:
        """Middles of the intervals."""
        middles: Floats = (self.edges_s[1:] + self.edges_s[:-1]) / 2
        return middles


def series(run: RunRecord, index: StepIndex, intervals: int = INTERVALS) -> Series:
    """Return the run over time in `intervals` equal intervals from 0 to the end."""
    end_s = max(run.end_ns, 1) * NS
    edges = np.linspace(0.0, end_s, intervals + 1)
    width = edges[1]
    requests = run.requests
    end, first = requests["end_ns"], requests["first_token_ns"]
    started = first >= 0
    stops = np.where(end >= 0, end, run.end_ns)
    links = _links(run, edges)
    return Series(
        edges_s=edges,
        arrivals_per_s=np.histogram(requests["arrival_ns"] * NS, edges)[0] / width,
        finished_per_s=np.histogram(end[end >= 0] * NS, edges)[0] / width,
        in_system=in_system(run, (edges[1:] + edges[:-1]) / 2),
        tokens_per_s=spread(first[started] * NS, stops[started] * NS, requests["output_tokens"][started], edges)
        / width,
        clients=_clients(run, index, edges),
        links=links,
        link_shares=_shares(run, links),
        link_waiting=_over_time(run, edges, "step_waiting_ns", NS),
    )


def spread(begin_s: Floats, end_s: Floats, amounts: Array, edges: Floats) -> Floats:
    """Return how much of `amounts`, each spread evenly from its begin to its end, falls between successive edges."""
    # What has begun and not ended rises linearly: sum of rate * (t - begin), from sums over what began (ended) by t.
    length = np.maximum(end_s - begin_s, NS)
    rate = amounts / length
    whole = np.zeros(len(edges))
    for times, sign in ((begin_s, 1.0), (begin_s + length, -1.0)):
        order = np.argsort(times)
        rates = np.append(0.0, np.cumsum(rate[order]))
        moments = np.append(0.0, np.cumsum((rate * times)[order]))
        number = np.searchsorted(times[order], edges, side="right")
        whole += sign * (rates[number] * edges - moments[number])
    return np.maximum(np.diff(whole), 0.0)


def _clients(run: RunRecord, index: StepIndex, edges: Floats) -> tuple[ClientSeries, ...]:
    """Return the series of each client, or of each pool when clients are many."""
    infos = run.manifest.clients
    bounds = index.bounds(len(infos))
    starts, durations = index.starts_s(), index.durations_s()
    queues = _queues(run, len(infos), edges)
    found: dict[str, list[ClientSeries]] = {}
    for number, info in enumerate(infos):
        here = slice(int(bounds[number]), int(bounds[number + 1]))
        begin, length = starts[here], durations[here]

        def mean(
            values: Array | float, begin: Floats = begin, length: Floats = length, workers: int = info.workers
        ) -> Floats:
            each = np.broadcast_to(values, begin.shape)
            if workers > 1:  # batches overlap: all that are under way, and of these the mean
                total: Floats = spread(begin, begin + length, each * length, edges)
                return np.asarray(total / (edges[1] * workers))
            return _time_mean(begin, length, each, edges)

        blocks = run.steps["kv_blocks"][here] / max(info.kv_blocks, 1)
        one = ClientSeries(
            name=info.name,
            utilisation=mean(1.0),
            decode_seqs=mean(index.decode_seqs[here]),
            batch=mean(run.steps["prefill_seqs"][here]) if info.workers else np.zeros(len(edges) - 1),
            waiting=queues[number] if queues else mean(run.steps["waiting"][here]),
            kv_share=mean(blocks),
        )
        found.setdefault(info.name if len(infos) <= _MOST_CLIENTS else f"{info.pool} (mean)", []).append(one)
    return tuple(
        ClientSeries(
            name,
            *(
                np.mean([getattr(one, field) for one in several], axis=0)
                for field in ("utilisation", "decode_seqs", "batch", "waiting", "kv_share")
            ),
        )
        for name, several in found.items()
    )


def _queues(run: RunRecord, clients: int, edges: Floats) -> list[Floats]:
    """Return the mean number of jobs waiting at each client in each interval; none without stage jobs."""
    table = run.stage_jobs
    if not table.rows:
        return []
    stop = np.where(table["start_ns"] >= 0, table["start_ns"], table["end_ns"])
    stop = np.where(stop >= 0, stop, run.end_ns)
    waits = np.flatnonzero((stop > table["enqueue_ns"]) & (table["client"] < clients))
    waits = waits[np.argsort(table["client"][waits], kind="stable")]
    bounds = np.searchsorted(table["client"][waits], np.arange(clients + 1)).tolist()
    begin, end = table["enqueue_ns"][waits] * NS, stop[waits] * NS
    spans = [slice(bounds[number], bounds[number + 1]) for number in range(clients)]
    return [spread(begin[one], end[one], end[one] - begin[one], edges) / edges[1] for one in spans]


def _time_mean(begin_s: Floats, length_s: Floats, values: Array, edges: Floats) -> Floats:
    """Return the mean over time of a value that holds during successive spans, and is 0 between them."""
    if not len(begin_s):
        return np.zeros(len(edges) - 1)
    sums = np.append(0.0, np.cumsum(values * length_s))
    row = np.searchsorted(begin_s, edges, side="right") - 1
    safe = np.maximum(row, 0)
    inside = np.clip(edges - begin_s[safe], 0.0, length_s[safe])
    integral = np.where(row >= 0, sums[safe] + values[safe] * inside, 0.0)
    means: Floats = np.diff(integral) / np.diff(edges)
    return means


def _shares(run: RunRecord, links: tuple[tuple[str, Floats], ...]) -> tuple[tuple[str, Floats], ...]:
    """Return the links whose bandwidth is known, as shares of it."""
    if run.trailer is None or len(run.trailer.links) != len(run.manifest.links):
        return ()
    bandwidth = {
        name: totals.bandwidth_bytes_per_s
        for name, totals in zip(run.manifest.links, run.trailer.links, strict=True)
        if totals.bandwidth_bytes_per_s > 0
    }
    return tuple((name, rate / bandwidth[name]) for name, rate in links if name in bandwidth)


def _over_time(run: RunRecord, edges: Floats, column: str, unit: float) -> tuple[tuple[str, Floats], ...]:
    """Return what the trailer says of each link over time, in units per second; none in an older record."""
    if run.trailer is None:
        return ()
    answers = []
    for name, totals in zip(run.manifest.links, run.trailer.links, strict=False):
        steps = np.array(getattr(totals, column), dtype=np.float64)
        if steps.any():
            begin = np.arange(len(steps), dtype=np.float64) * (totals.step_ns * NS)
            # The last step may reach beyond the end of the run.
            stop: Floats = np.minimum(begin + totals.step_ns * NS, edges[-1])
            answers.append((name, spread(begin, stop, steps * unit, edges) / edges[1]))
    return tuple(answers)


def _links(run: RunRecord, edges: Floats) -> tuple[tuple[str, Floats], ...]:
    """Return bytes per second over each link that was used."""
    if found := _over_time(run, edges, "step_bytes", 1.0):
        return found
    transfers = run.transfers
    names = [*run.manifest.links]
    answers = []
    for number in np.unique(transfers["link"]):
        mine = (transfers["link"] == number) & (transfers["end_ns"] >= 0)
        begin, end = transfers["start_ns"][mine] * NS, transfers["end_ns"][mine] * NS
        rate = spread(begin, end, transfers["bytes"][mine], edges) / edges[1]
        answers.append((names[number] if number < len(names) else f"link {number}", rate))
    return tuple(answers)
