"""A run as a timeline: tracks with slices, counters and arrows, whatever format they are written in.

One group of tracks per client (its steps, its counters, and lanes with the requests it serves), one for the links, and
one for whole requests; arrows lead from a request to its stage jobs. What is shown is bounded: of many requests every
k-th, and of many stretches of steps runs of them as one slice.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from hermes_analysis.load import RunRecord
from hermes_analysis.metrics.distribution import Ints
from hermes_analysis.metrics.requests import status_name
from hermes_analysis.metrics.steps import StepIndex

MOST_REQUESTS: Final = 20_000
MOST_STEP_SLICES: Final = 100_000
MOST_TRANSFERS: Final = 20_000
_NOWHERE: Final = 65535


@dataclass(frozen=True, slots=True)
class Track:
    """A row of the timeline, within the group `group`."""

    number: int
    group: int
    name: str
    counter: bool = False


@dataclass(frozen=True, slots=True)
class Slice:
    """Something that lasts. `flow` joins it by an arrow with the other slices of that number; 0 for none."""

    track: int
    begin_ns: int
    end_ns: int
    name: str
    flow: int = 0
    args: tuple[tuple[str, int | str], ...] = ()


@dataclass(slots=True)
class Timeline:
    """Groups (names, numbered from 1), tracks, slices in order of begin on each track, and counter values."""

    groups: list[str] = field(default_factory=list)
    tracks: list[Track] = field(default_factory=list)
    slices: list[Slice] = field(default_factory=list)
    counters: list[tuple[int, int, float]] = field(default_factory=list)
    """(track, ns, value)."""
    notes: list[str] = field(default_factory=list)
    """What was left out."""
    name: str = ""
    """Of the run."""

    def group(self, name: str) -> int:
        """Add a group of tracks."""
        self.groups.append(name)
        return len(self.groups)

    def track(self, group: int, name: str, *, counter: bool = False) -> int:
        """Add a track to a group."""
        number = len(self.tracks) + 1
        self.tracks.append(Track(number, group, name, counter))
        return number


class _Lanes:
    """Lanes of a group: each slice goes to a lane that is free, so that slices of a lane never overlap."""

    def __init__(self, timeline: Timeline, group: int, name: str) -> None:
        self._timeline, self._group, self._name = timeline, group, name
        self._busy: list[tuple[int, int, int]] = []
        self._free: list[tuple[int, int]] = []
        self._count = 0

    def take(self, begin_ns: int, end_ns: int) -> int:
        """Return the track of a lane that is free from `begin_ns` to `end_ns`; begins must not go back."""
        while self._busy and self._busy[0][0] <= begin_ns:
            _, lane, track = heapq.heappop(self._busy)
            heapq.heappush(self._free, (lane, track))
        if self._free:
            lane, track = heapq.heappop(self._free)
        else:
            lane, self._count = self._count, self._count + 1
            track = self._timeline.track(self._group, f"{self._name} {lane}")
        heapq.heappush(self._busy, (end_ns, lane, track))
        return track


def build_timeline(
    run: RunRecord, *, most_requests: int = MOST_REQUESTS, most_step_slices: int = MOST_STEP_SLICES
) -> Timeline:
    """Lay a run out in time. Requests and jobs without an end last to the end of the run."""
    timeline = Timeline(name=run.manifest.name)
    chosen = _sample(run, most_requests, timeline)
    group = timeline.group("requests")
    lanes = _Lanes(timeline, group, "lane")
    requests = run.requests
    names = run.manifest.pipelines
    stop = run.end_ns
    for row in chosen.tolist():
        begin, end = int(requests["arrival_ns"][row]), int(requests["end_ns"][row])
        end = end if end >= 0 else max(stop, begin)
        pipeline, identity = int(requests["pipeline"][row]), int(requests["request_id"][row])
        args = (
            ("status", status_name(int(requests["status"][row]))),
            ("pipeline", names[pipeline] if pipeline < len(names) else ""),
            ("prompt_tokens", int(requests["prompt_tokens"][row])),
            ("output_tokens", int(requests["output_tokens"][row])),
        )
        timeline.slices.append(
            Slice(lanes.take(begin, end), begin, end, f"request {identity}", flow=identity + 1, args=args)
        )
    _clients(run, timeline, chosen, most_step_slices)
    _links(run, timeline)
    return timeline


def _sample(run: RunRecord, most: int, timeline: Timeline) -> Ints:
    """Return the requests that are shown, in order of arrival."""
    order = np.argsort(run.requests["arrival_ns"], kind="stable")
    every = -(-len(order) // most) if len(order) else 1
    if every > 1:
        timeline.notes.append(f"one in {every} of {len(order)} requests")
    return order[::every]


def _clients(run: RunRecord, timeline: Timeline, chosen: Ints, most_step_slices: int) -> None:
    """Add a group for each client: its steps, counters and jobs."""
    index = StepIndex.of(run.steps)
    infos = run.manifest.clients
    bounds = index.bounds(len(infos)).tolist()
    every = max(-(-index.rows // most_step_slices), 1)
    if every > 1:
        timeline.notes.append(f"{every} successive stretches of steps as one slice")
    jobs = run.stage_jobs
    shown = np.flatnonzero(np.isin(jobs["request_id"], run.requests["request_id"][chosen]))
    shown = shown[np.argsort(jobs["enqueue_ns"][shown], kind="stable")]
    for number, info in enumerate(infos):
        group = timeline.group(info.name)
        rows = range(bounds[number], bounds[number + 1], every)
        if info.workers:
            _batches(run, index, timeline, group, rows)
        else:
            _steps(run, index, timeline, group, rows)
        lanes = _Lanes(timeline, group, "slot")
        for row in shown[jobs["client"][shown] == number].tolist():
            timeline.slices.extend(_job(run, lanes, row))
    elsewhere = shown[jobs["client"][shown] >= len(infos)]
    if len(elsewhere):
        lanes = _Lanes(timeline, timeline.group("outside"), "wait")
        for row in elsewhere.tolist():
            timeline.slices.extend(_job(run, lanes, row))


def _steps(run: RunRecord, index: StepIndex, timeline: Timeline, group: int, rows: range) -> None:
    """Add a client's steps as slices, and its counters."""
    if not len(rows):
        return
    track = timeline.track(group, "steps")
    counters = {
        "decode seqs": index.decode_seqs,
        "waiting": run.steps["waiting"],
        "KV blocks": run.steps["kv_blocks"],
    }
    tracks = {name: timeline.track(group, name, counter=True) for name in counters}
    end_of_client = rows.stop
    for row in rows:
        last = min(row + rows.step, end_of_client) - 1
        begin = int(index.start_ns[row])
        end = int(index.start_ns[last]) + (int(index.start_rem_fs[last]) + int(index.duration_fs[last])) // 1_000_000
        decode, prefill = int(index.decode_seqs[row]), int(run.steps["prefill_tokens"][row])
        kind = "mixed" if decode and prefill else "prefill" if prefill else "decode"
        args = (
            ("first_step", int(index.first_step[row])),
            ("steps", int(index.steps[row : last + 1].sum())),
            ("decode_seqs", decode),
            ("prefill_tokens", prefill),
        )
        timeline.slices.append(Slice(track, begin, end, kind, args=args))
        for name, values in counters.items():
            timeline.counters.append((tracks[name], begin, int(values[row])))
    timeline.counters.extend((number, end, 0) for name, number in tracks.items() if name != "KV blocks")


def _batches(run: RunRecord, index: StepIndex, timeline: Timeline, group: int, rows: range) -> None:
    """Add the batches of a client of service stages as slices, in a lane for each worker, and its counters."""
    if not len(rows):
        return
    every = rows.step  # of batches that overlap, several cannot be one slice: one in so many is shown
    order = np.arange(rows.start, rows.stop)
    order = order[np.argsort(index.start_ns[order], kind="stable")][::every]
    lanes = _Lanes(timeline, group, "worker")
    under_way = timeline.track(group, "jobs in batches", counter=True)
    waiting = timeline.track(group, "waiting", counter=True)
    changes: list[tuple[int, int]] = []
    for row in order.tolist():
        begin, end = int(index.start_ns[row]), int(index.start_ns[row]) + int(index.duration_fs[row]) // 1_000_000
        jobs = int(run.steps["prefill_seqs"][row])
        args = (("jobs", jobs), ("tokens", int(run.steps["prefill_tokens"][row])))
        timeline.slices.append(Slice(lanes.take(begin, end), begin, end, f"batch of {jobs}", args=args))
        changes += [(begin, jobs), (end, -jobs)]
        timeline.counters.append((waiting, end, int(run.steps["waiting"][row])))
    _counted(timeline, under_way, changes)


def _counted(timeline: Timeline, track: int, changes: list[tuple[int, int]]) -> None:
    """Add a counter that changes at times by amounts, one value a time."""
    value, last = 0, -1
    for time, amount in sorted(changes):
        if time != last and last >= 0:
            timeline.counters.append((track, last, value))
        value, last = value + amount, time
    if last >= 0:
        timeline.counters.append((track, last, value))


def _job(run: RunRecord, lanes: _Lanes, row: int) -> Iterator[Slice]:
    """Yield the slices of a stage job, in one lane: waiting, then prefill and decode, or whatever it does."""
    jobs = run.stage_jobs
    enqueue, start, token, end = (
        int(jobs[name][row]) for name in ("enqueue_ns", "start_ns", "first_token_ns", "end_ns")
    )
    stop = end if end >= 0 else max(run.end_ns, enqueue)
    identity = int(jobs["request_id"][row])
    number = int(jobs["stage_set"][row])
    stages = run.manifest.stage_sets[number] if number < len(run.manifest.stage_sets) else "job"
    track = lanes.take(enqueue, stop)
    args = (
        ("request", identity),
        ("cached_tokens", int(jobs["cached_tokens"][row])),
        ("preemptions", int(jobs["preemptions"][row])),
    )
    flow = identity + 1
    if start < 0:
        yield Slice(track, enqueue, stop, f"queue {identity}", flow, args)
        return
    if start > enqueue:
        yield Slice(track, enqueue, start, f"queue {identity}", 0, args)
    if token >= 0 and "prefill" in stages.split("+"):
        yield Slice(track, start, token, f"prefill {identity}", flow, args)
        if stop > token:
            yield Slice(track, token, stop, f"decode {identity}", 0, args)
    else:
        yield Slice(track, start, stop, f"{stages} {identity}", flow, args)


def _links(run: RunRecord, timeline: Timeline) -> None:
    """Add a group with the transfers over each link (or memory of a KV store), and how many are under way there."""
    transfers = run.transfers
    if not transfers.rows:
        return
    group = timeline.group("links")
    every = max(-(-transfers.rows // MOST_TRANSFERS), 1)
    if every > 1:
        timeline.notes.append(f"one in {every} of {transfers.rows} transfers")
    rows = np.argsort(transfers["start_ns"], kind="stable")[::every]
    lanes: dict[int, _Lanes] = {}
    changes: dict[int, list[tuple[int, int]]] = {}
    clients = [client.name for client in run.manifest.clients]
    for row in rows.tolist():
        number = int(transfers["link"][row])
        name = run.manifest.links[number] if number < len(run.manifest.links) else f"link {number}"
        lane = lanes.setdefault(number, _Lanes(timeline, group, name))
        begin, end = int(transfers["start_ns"][row]), int(transfers["end_ns"][row])
        end = end if end >= 0 else run.end_ns
        ends = (int(transfers[side][row]) for side in ("source", "destination"))
        source, destination = (clients[place] if place < len(clients) else "outside" for place in ends)
        args = (("bytes", int(transfers["bytes"][row])), ("request", int(transfers["request_id"][row])))
        flow = int(transfers["request_id"][row]) + 1
        timeline.slices.append(Slice(lane.take(begin, end), begin, end, f"{source} to {destination}", flow, args))
        changes.setdefault(number, []).extend([(begin, 1), (end, -1)])
    for number, moves in changes.items():
        name = run.manifest.links[number] if number < len(run.manifest.links) else f"link {number}"
        _counted(timeline, timeline.track(group, f"{name}: transfers under way", counter=True), moves)
