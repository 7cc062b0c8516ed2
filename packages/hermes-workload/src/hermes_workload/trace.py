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
from hermes_workload.rows import Findings, NamedColumns, Names, Rows, TraceReader, empty_sizes, joined_rows, said
from hermes_workload.source import Labels, Source
from hermes_workload.streams import stream
from hermes_workload.synthetic import draw_luck, queue_up

LABELLED: Final = (("pipeline", "pipelines"), ("tenant", "tenants"), ("service_class", "classes"))

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
    names: Names | None = None
    replaced: tuple[str, ...] = ()

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
        dropped = 0
        for batch in in_order(self._sound(findings), self.sort_window, findings):
            if batch.after_request is not None:
                self._check_waits(findings)
                batch.after_request = np.maximum(batch.after_request - dropped, -1)
            origin = int(batch.arrival_ns[0]) if origin is None else origin
            since = batch.arrival_ns - (origin + self.start_ns)
            first = int(np.searchsorted(since, 0))
            stop = len(since) if self.duration_ns is None else int(np.searchsorted(since, self.duration_ns))
            dropped += first
            if stop > first:
                cut = batch.slice(first, stop)
                if cut.after_request is not None and first:
                    cut.after_request = np.maximum(cut.after_request - first, -1)
                cut.arrival_ns = scaled(since[first:stop], self.time_scale / self.rate_scale)
                yield cut
            if stop < len(since):
                return

    def _check_waits(self, findings: Findings) -> None:
        """Requests that wait for others name them by their place in the file, which must then be their place here."""
        if findings.renumbered:
            raise WorkloadError(
                "requests wait for others by their number, which no longer holds after skipping or sorting rows",
                file=self.file.name,
                remedy="mend the file",
            )

    def _sound(self, findings: Findings) -> Iterator[Rows]:
        for rows in self.reader.read(self.file, findings):
            requests = rows.requests
            bad = (requests.prompt_tokens < 1) | (requests.output_tokens < 1)
            if not bad.any():
                yield rows
                continue
            for line, _, name, problem in empty_sizes(rows, {}):
                findings.bad(line, name, problem, "remove the row")
            findings.renumbered = True
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
                    batch = clock.retime(batch)
                    if not len(batch):
                        return
                fresh_luck = draw_luck(luck, rows)[: len(batch)]
                batch.luck = fresh_luck if batch.luck is None else batch.luck
                for name in self.replaced:
                    setattr(batch, name, None)
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
        self.waited = np.empty(0, dtype=np.int64)
        self.units = 0
        self.latest = 0

    def retime(self, batch: RequestBatch) -> RequestBatch:
        """Return `batch` with other times, cut where the process ends.

        A request that waits for another takes no time of its own, but the latest of those before it.
        """
        starts = batch.column("after_request") < 0
        wanted = int(np.count_nonzero(starts))
        while len(self.held) < wanted and (fresh := next(self.times, None)) is not None:
            self.held = np.concatenate([self.held, fresh])
        order = np.cumsum(starts)
        if len(self.held) < wanted:
            batch = batch.slice(0, int(np.searchsorted(order, len(self.held), side="right")))
            order, wanted = order[: len(batch)], len(self.held)
        times = np.append(self.latest, self.held[:wanted])
        batch.arrival_ns, self.held = times[order], self.held[wanted:]
        self.latest = int(times[-1])
        if self.loop is not None:
            self.waited = queue_up(batch, np.flatnonzero(starts[: len(batch)]), self.loop, self.units, self.waited)
            self.units += wanted
        return batch


def in_order(blocks: Iterator[Rows], window: int, findings: Findings) -> Iterator[RequestBatch]:
    """Yield the rows in order of time, equal times in the order of the file.

    At least `window` rows are held back while more may come, so a row may stand up to so many places too late.

    Raises:
        WorkloadError: A row stands further from its place.
    """
    held: list[Rows] = []
    count, late, first_late, late_held = 0, 0, 0, False
    newest, given = np.iinfo(np.int64).min, np.iinfo(np.int64).min
    for rows in blocks:
        if not len(rows.line):
            continue
        times = rows.requests.arrival_ns
        if int(times[0]) < newest or bool((times[1:] < times[:-1]).any()):
            latest = np.maximum.accumulate(np.concatenate([[newest], times]))
            behind = np.flatnonzero(times < latest[:-1])
            first_late = first_late if late else int(rows.line[behind[0]])
            late += len(behind)
            late_held = findings.renumbered = True
            _refuse_too_late(rows, given, window, findings.file)
        newest = max(newest, int(times.max()))
        held.append(rows)
        count += len(rows.line)
        if late_held and count >= 2 * window:
            ready = _sorted(joined_rows(held))
            out, rest = ready.slice(0, count - window), ready.slice(count - window, count)
            held, count, late_held = [rest], window, False
            given = int(out.requests.arrival_ns[-1])
            yield out.requests
        while not late_held and count - len(held[0].line) >= window:
            # In order as they are: nothing to join, nothing to copy.
            out = held.pop(0)
            count -= len(out.line)
            given = int(out.requests.arrival_ns[-1])
            yield out.requests
    if late:
        rows_were = f"{said(late, 'row')} stood out of order of time and {'was' if late == 1 else 'were'} sorted"
        findings.note(f"{findings.file}: {rows_were} (first: line {first_late})")
    if late_held:
        held = [_sorted(joined_rows(held))]
    for rows in held:
        yield rows.requests


def _refuse_too_late(rows: Rows, given: int, window: int, file: str) -> None:
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
    if isinstance(reader, NamedColumns):
        replaced = tuple(label for label, _ in LABELLED if label in section.content)
        trace = replace(trace, names=reader.names(file), replaced=replaced)
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
    source = ready.labels.source(lambda: ready.draw(seed, notes), None, notes)
    if ready.names is not None:
        source.adapters = ready.names.adapters
        for label, field in LABELLED:
            if label not in ready.replaced:
                setattr(source, field, getattr(ready.names, field))
    return source
