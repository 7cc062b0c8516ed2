"""Traces replayed: rows of a file, checked, put in order, cut, scaled and labelled."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from hermes_workload.arrivals import Arrivals, ClosedLoop, build_arrivals
from hermes_workload.batch import BATCH_ROWS, Ints, RequestBatch, limited
from hermes_workload.errors import WorkloadError
from hermes_workload.fields import Section
from hermes_workload.files import TraceFile
from hermes_workload.readers import find_reader
from hermes_workload.rows import Findings, Rows, TraceReader, joined_rows
from hermes_workload.source import Labels, Source
from hermes_workload.streams import stream
from hermes_workload.synthetic import draw_luck

SORT_WINDOW: Final = 65_536
"""Rows held back, so that late ones can be put in their place."""


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace, ready to be read."""

    file: TraceFile
    reader: TraceReader
    labels: Labels
    rate_scale: float = 1.0
    time_scale: float = 1.0
    start_ns: int = 0
    duration_ns: int | None = None
    requests: int | None = None
    skip_bad: bool = False
    sort_window: int = SORT_WINDOW
    arrivals: Arrivals | None = None

    def draw(self, seed: int, notes: list[str]) -> Iterator[RequestBatch]:
        """Read the trace from the start. `notes` is emptied, and filled when the reading ends."""
        findings = Findings(self.file.name, self.skip_bad)
        notes.clear()
        done = 0
        try:
            for batch in limited(self._timed(self._cut(findings), seed), self.requests):
                done += len(batch)
                yield batch
        finally:
            notes[:] = findings.closing_notes()
        if not done:
            raise WorkloadError(
                "the trace holds no requests" if not self.start_ns else f"no request comes after {self.start_ns} ns",
                file=self.file.name,
                remedy="name a file with requests in it, or another slice of it",
            )

    def _cut(self, findings: Findings) -> Iterator[RequestBatch]:
        """Yield the rows from `start_ns` on for `duration_ns`, timed from there, with scale applied."""
        origin: int | None = None
        for batch in in_order(self._sound(findings), self.sort_window, findings):
            origin = int(batch.arrival_ns[0]) if origin is None else origin
            since = batch.arrival_ns - (origin + self.start_ns)
            first = int(np.searchsorted(since, 0))
            stop = len(since) if self.duration_ns is None else int(np.searchsorted(since, self.duration_ns))
            if stop > first:
                cut = batch.slice(first, stop)
                cut.arrival_ns = scaled(since[first:stop], self.time_scale / self.rate_scale)
                yield cut
            if stop < len(since):
                return

    def _sound(self, findings: Findings) -> Iterator[Rows]:
        for rows in self.reader.read(self.file, findings):
            requests = rows.requests
            bad = (requests.prompt_tokens < 1) | (requests.output_tokens < 1)
            if not bad.any():
                yield rows
                continue
            for row in np.flatnonzero(bad).tolist():
                prompt = int(requests.prompt_tokens[row])
                name, value = (rows.prompt_name, prompt)
                if prompt >= 1:
                    name, value = rows.output_name, int(requests.output_tokens[row])
                findings.bad(int(rows.line[row]), name, f"is {value}; a request has at least 1 token", "remove the row")
            yield rows.take(np.flatnonzero(~bad))

    def _timed(self, batches: Iterator[RequestBatch], seed: int) -> Iterator[RequestBatch]:
        """Number and label the rows; give them the times of `arrivals`, where set, in place of their own."""
        clock = None if self.arrivals is None else _Clock(self.arrivals, seed)
        luck = stream(seed, "workload.luck")
        first = 0
        for large in batches:
            for start in range(0, len(large), BATCH_ROWS):
                batch = large.slice(start, min(start + BATCH_ROWS, len(large)))
                rows = len(batch)
                batch.first_request_id = first
                if clock is not None:
                    clock.retime(batch)
                    if not len(batch):
                        return
                batch.luck = draw_luck(luck, rows)[: len(batch)]
                for name, column in self.labels.columns(len(batch)).items():
                    setattr(batch, name, column)
                first += len(batch)
                yield batch
                if len(batch) < rows:
                    return


class _Clock:
    """Gives rows the times of an arrival process instead of their own."""

    def __init__(self, arrivals: Arrivals, seed: int) -> None:
        self.loop = arrivals if isinstance(arrivals, ClosedLoop) else None
        self.times = arrivals.times(stream(seed, "workload.arrivals"))
        self.held = np.empty(0, dtype=np.int64)

    def retime(self, batch: RequestBatch) -> None:
        """Change the times of `batch`; cut it where the process ends."""
        while len(self.held) < len(batch) and (fresh := next(self.times, None)) is not None:
            self.held = np.concatenate([self.held, fresh])
        if len(self.held) < len(batch):
            whole = batch.slice(0, len(self.held))
            for name in RequestBatch.__slots__:
                setattr(batch, name, getattr(whole, name))
        batch.arrival_ns, self.held = self.held[: len(batch)], self.held[len(batch) :]
        if self.loop is not None:
            requests = batch.first_request_id + np.arange(len(batch))
            batch.after_request = np.maximum(requests - self.loop.concurrency, -1)
            batch.think_ns = np.where(batch.after_request >= 0, self.loop.think_ns, 0)


def in_order(blocks: Iterator[Rows], window: int, findings: Findings) -> Iterator[RequestBatch]:
    """Yield the rows in order of time, equal times in the order of the file.

    At least `window` rows are held back while more may come, so a row may stand up to so many places too late.

    Raises:
        WorkloadError: A row stands further from its place.
    """
    held: list[Rows] = []
    count, late, first_late = 0, 0, 0
    newest, given = np.iinfo(np.int64).min, np.iinfo(np.int64).min
    for rows in blocks:
        if not len(rows.line):
            continue
        times = rows.requests.arrival_ns
        latest = np.maximum.accumulate(np.concatenate([[newest], times]))
        behind = np.flatnonzero(times < latest[:-1])
        if len(behind):
            first_late = first_late if late else int(rows.line[behind[0]])
            late += len(behind)
            _refuse_too_late(rows, given, window, findings.file)
        newest = latest[-1]
        held.append(rows)
        count += len(rows.line)
        if count >= 2 * window:
            ready = _sorted(joined_rows(held))
            out, rest = ready.take(np.arange(count - window)), ready.take(np.arange(count - window, count))
            given = out.requests.arrival_ns[-1]
            held, count = [rest], window
            yield out.requests
    if late:
        findings.note(
            f"{findings.file}: {late} rows stood out of order of time and were sorted (first: line {first_late})"
        )
    if held:
        yield _sorted(joined_rows(held)).requests


def _refuse_too_late(rows: Rows, given: Any, window: int, file: str) -> None:
    times = rows.requests.arrival_ns
    if int(times.min()) < given:
        raise WorkloadError(
            f"the row is more than {window} rows later in the file than its time says",
            file=file,
            line=int(rows.line[int(times.argmin())]),
            remedy=f"sort the file by time, or set sort_window above {window}",
        )


def _sorted(rows: Rows) -> Rows:
    times = rows.requests.arrival_ns
    if bool((times[1:] >= times[:-1]).all()):
        return rows
    return rows.take(np.argsort(times, kind="stable"))


def scaled(times: Ints, factor: float) -> Ints:
    """Return `times` multiplied by `factor`, to the nearest ns."""
    if factor == 1:
        return times
    moved: Ints = np.rint(times * factor).astype(np.int64)
    return moved


def build_trace(section: Section) -> Trace:
    """Return the trace that a section of kind `trace` describes; the file is looked at, not read.

    Raises:
        WorkloadError: A key cannot be used, the file is missing or empty, or its format is not known.
    """
    section.text("kind", "trace")
    file = TraceFile(Path(section.text("path")))
    reader = find_reader(file, section.text("format", "auto"), f"{section.path}.format")
    trace = Trace(file, reader, Labels.read(section))
    if section.has("rate_scale"):
        trace = replace(trace, rate_scale=section.number("rate_scale", above=0))
    if section.has("time_scale"):
        trace = replace(trace, time_scale=section.number("time_scale", above=0))
    if section.has("start_ns"):
        trace = replace(trace, start_ns=section.integer("start_ns"))
    if section.has("sort_window"):
        trace = replace(trace, sort_window=section.integer("sort_window", least=1))
    if section.has("arrivals"):
        trace = replace(trace, arrivals=build_arrivals(section.section("arrivals")))
    trace = replace(
        trace,
        duration_ns=section.optional_integer("duration_ns", least=1),
        requests=section.optional_integer("requests", least=1),
        skip_bad=section.flag("skip_bad", default=False),
    )
    section.finish()
    return trace


def trace(spec: Mapping[str, Any], seed: int) -> Source:
    """Replay a trace: the factory of kind `trace` in the group `hermes.workload_generators`.

    `start_ns` and `duration_ns` cut a slice in the trace's own time; then times count from the slice's start and are
    multiplied by `time_scale / rate_scale` (a rate scale of 2 is twice as dense). With `arrivals`, rows come in their
    order at the times of that process instead.

    Raises:
        WorkloadError: The section or the file cannot be used; faults of a row appear when it is read.
    """
    ready = build_trace(Section(spec))
    notes: list[str] = []
    return ready.labels.source(lambda: ready.draw(seed, notes), None, notes)
