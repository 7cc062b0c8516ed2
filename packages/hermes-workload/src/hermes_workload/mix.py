"""Several workloads at once: merged by time, or drawn by share for the arrivals of one process."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from hermes_workload.arrivals import Arrivals, ClosedLoop, build_arrivals
from hermes_workload.batch import DEFAULTS, SEGMENT_COLUMNS, Ints, RequestBatch, concatenate, limited
from hermes_workload.errors import WorkloadError
from hermes_workload.fields import Section
from hermes_workload.identity import OWN_TEXT, tagged
from hermes_workload.registry import find_generator
from hermes_workload.sizes import Floats
from hermes_workload.source import RequestSource, Source
from hermes_workload.streams import child_seed, stream
from hermes_workload.supply import Supply
from hermes_workload.synthetic import queue_up, read_extent, split

WITHOUT_END: Final = 2**62
"""Requests of an entry that gives as many as are asked of it."""
INDEXED: Final = (("pipeline", "pipelines"), ("tenant", "tenants"), ("service_class", "classes"))
ID_MASK: Final = 2**63 - 1


@dataclass(slots=True)
class Entry:
    """One part of a mix: its source, and where its names stand among the names of all."""

    source: RequestSource
    number: int
    of: int
    segmented: bool
    names: dict[str, Ints]

    def relabelled(self, batch: RequestBatch) -> RequestBatch:
        """Return a batch of this entry with names and ids that hold in the whole mix; requests keep their own ids."""
        out = batch.slice(0, len(batch))
        for column, _ in INDEXED:
            index = self.names[column][batch.column(column)]
            setattr(out, column, index if index.any() else None)
        if out.adapter is not None:
            out.adapter = self.names["adapter"][out.adapter]
        if out.session_id is not None:
            out.session_id = self._spread(out.session_id)
        if out.segment_id is not None:
            out.segment_id = self._spread(out.segment_id)
        if out.output_segment_id is not None:
            out.output_segment_id = self._spread(out.output_segment_id)
        if self.segmented and not batch.has_segments:
            requests = batch.first_request_id + np.arange(len(batch))
            own = (np.arange(len(batch) + 1), self._spread(tagged(requests, OWN_TEXT)), batch.prompt_tokens)
            for name, column_values in zip(SEGMENT_COLUMNS, own, strict=True):
                setattr(out, name, column_values)
        return out

    def _spread(self, ids: Ints) -> Ints:
        return np.where(ids < 0, ids, (ids * self.of + self.number) & ID_MASK)


def mix(spec: Mapping[str, Any], seed: int) -> Source:
    """Mix several workloads: the factory of kind `mix` in the group `hermes.workload_generators`.

    Either every entry has its own times, or `arrivals` gives the times and each entry a `share` of them: a number, or a
    list of numbers for steps of `share_step_ns` that are gone through over and over. A share counts
    conversations where an entry has sessions, else requests; an entry that ends is played again from its start.

    Raises:
        WorkloadError: The section cannot be used.
    """
    section = Section(spec)
    section.text("kind", "mix")
    requests, duration_ns = read_extent(section)
    arrivals = build_arrivals(section.section("arrivals")) if section.has("arrivals") else None
    parts = section.sections("entries")
    shares = _shares(section, parts, arrivals)
    section.finish()
    if arrivals is not None and requests is None and arrivals.requests is None:
        endless = spec["arrivals"].get("kind") in ("burst", "closed_loop")
        if duration_ns is None or endless:
            raise WorkloadError("says nothing of how long it is", path=section.path, remedy="add requests: N")
    sources = [
        _open(part, child_seed(seed, f"workload.mix.{at}"), requests, duration_ns, shared=arrivals is not None)
        for at, part in enumerate(parts)
    ]
    names = {field: _union([getattr(source, field) for source in sources]) for _, field in INDEXED}
    names["adapters"] = _union([source.adapters for source in sources])
    notes: list[str] = []

    def draw() -> Iterator[RequestBatch]:
        notes.clear()
        firsts = [_first(source) for source in sources]
        segmented = any(batch is not None and batch.has_segments for batch in firsts)
        several = {column for column, field in INDEXED if len(names[field]) > 1}
        present = [
            name
            for name in DEFAULTS
            if name in several or any(getattr(first, name, None) is not None for first in firsts)
        ]
        entries = [
            Entry(source, at, len(sources), segmented, _places(source, names)) for at, source in enumerate(sources)
        ]
        if arrivals is None or shares is None:
            batches = _merged(entries, duration_ns)
        else:
            batches = _shared(entries, shares, arrivals, seed, requests, duration_ns, notes)
        try:
            for batch in limited(batches, requests):
                for name in present:
                    setattr(batch, name, batch.column(name))
                yield batch
        finally:
            notes.extend(note for source in sources for note in source.notes if note not in notes)

    return Source(
        draw,
        _known(sources, arrivals, requests, duration_ns),
        names["pipelines"],
        names["tenants"],
        names["classes"],
        names["adapters"],
        notes,
    )


@dataclass(frozen=True, slots=True)
class Shares:
    """The chance of each entry, in each step of time (one row of `cumulative` a step; cyclic)."""

    cumulative: Floats
    step_ns: int

    def choose(self, times: Ints, chance: Floats) -> Ints:
        """Return the entry for each of `times`, by a number from 0 to 1 for each."""
        steps = times // self.step_ns % len(self.cumulative)
        chosen: Ints = (chance[:, None] >= self.cumulative[steps]).sum(axis=1)
        return chosen


def _shares(section: Section, parts: Sequence[Section], arrivals: Arrivals | None) -> Shares | None:
    given = [part.has("share") for part in parts]
    step_ns = section.optional_integer("share_step_ns", least=1)
    if arrivals is None:
        if any(given):
            raise WorkloadError(
                "shares need arrivals to share",
                path=section.path,
                remedy="add arrivals: to the mix, or drop the shares",
            )
        return None
    rows: list[list[float]] = []
    for at, part in enumerate(parts):
        if not given[at]:
            raise WorkloadError("lacks a share", path=part.path, remedy="add share: to every entry")
        if part.content.get("arrivals") is not None:
            raise WorkloadError(
                "has arrivals of its own beside those of the mix", path=part.path, remedy="drop one of the two"
            )
        changing = isinstance(part.content["share"], list | tuple)
        rows.append(part.numbers("share") if changing else [part.number("share", above=0)])
    lengths = {len(row) for row in rows}
    if len(lengths) > 1 or (lengths != {1} and step_ns is None):
        raise WorkloadError(
            "has shares that change over time, but not all alike",
            path=section.path,
            remedy="give every entry as many shares, and share_step_ns",
        )
    shares = np.array(rows).T
    if not (shares.sum(axis=1) > 0).all():
        raise WorkloadError("has a step in which no entry has a share", path=section.path, remedy="raise a share")
    cumulative = np.cumsum(shares / shares.sum(axis=1)[:, None], axis=1)
    cumulative[:, -1] = 1.0
    return Shares(cumulative, step_ns or 1)


def _open(
    part: Section,
    seed: int,
    requests: int | None,
    duration_ns: int | None,
    *,
    shared: bool,
) -> RequestSource:
    spec = {key: value for key, value in part.content.items() if key != "share"}
    kind = spec.setdefault("kind", "synthetic")
    if shared and kind == "synthetic":
        spec["arrivals"] = {"kind": "burst"}
    if kind in ("synthetic", "named") and spec.get("requests") is None and spec.get("duration_ns") is None:
        spec["requests"] = WITHOUT_END if shared else requests
        spec["duration_ns"] = None if shared else duration_ns
    try:
        return find_generator(kind, part.path)(spec, seed)
    except WorkloadError as fault:
        where = part.path + (fault.path or "workload").removeprefix("workload")
        raise WorkloadError(
            fault.problem, file=fault.file, line=fault.line, column=fault.column, path=where, remedy=fault.remedy
        ) from None


def _known(
    sources: Sequence[RequestSource], arrivals: Arrivals | None, requests: int | None, duration_ns: int | None
) -> int | None:
    if duration_ns is not None:
        return None
    if arrivals is not None:
        known = [count for count in (requests, arrivals.requests) if count is not None]
        return min(known, default=None)
    counts = [source.requests for source in sources]
    if any(count is None for count in counts):
        return None
    total = sum(count for count in counts if count is not None)
    return total if requests is None else min(total, requests)


def _union(names: Sequence[Sequence[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for some in names for name in some))


def _places(source: RequestSource, names: Mapping[str, Sequence[str]]) -> dict[str, Ints]:
    places = {
        column: np.array([names[field].index(name) for name in getattr(source, field)], dtype=np.int64)
        for column, field in INDEXED
    }
    adapters = [0, *(1 + names["adapters"].index(name) for name in source.adapters)]
    return {**places, "adapter": np.array(adapters, dtype=np.int64)}


def _first(source: RequestSource) -> RequestBatch | None:
    batches: Iterator[RequestBatch] = source.batches()
    return next(batches, None)


class _Numbering:
    """Which id in the mix a request of an entry has got."""

    __slots__ = ("known",)

    def __init__(self) -> None:
        self.known = np.empty(0, dtype=np.int64)

    def learn(self, first: int, ids: Ints) -> None:
        """Note the ids of the entry's requests from `first` on."""
        if first + len(ids) > len(self.known):
            grown = np.full(max(2 * len(self.known), first + len(ids)), -1, dtype=np.int64)
            grown[: len(self.known)] = self.known
            self.known = grown
        self.known[first : first + len(ids)] = ids

    def translated(self, after: Ints) -> Ints:
        """Return references to the entry's requests as references to those of the mix."""
        return np.where(after >= 0, self.known[np.maximum(after, 0)], -1)


def _renumbered(
    parts: Sequence[tuple[int, RequestBatch]], positions: Sequence[Ints], first: int, numbering: Sequence[_Numbering]
) -> RequestBatch:
    """Join batches of entries: row r of part i gets the place `positions[i][r]` and the id that follows from it."""
    for (number, batch), places in zip(parts, positions, strict=True):
        if batch.after_request is not None:
            numbering[number].learn(batch.first_request_id, first + places)
            batch.after_request = numbering[number].translated(batch.after_request)
    whole = concatenate([batch for _, batch in parts])
    order = np.empty(len(whole), dtype=np.int64)
    order[np.concatenate(list(positions))] = np.arange(len(whole))
    joined = whole.take(order)
    joined.first_request_id = first
    return joined


def _merged(entries: Sequence[Entry], duration_ns: int | None) -> Iterator[RequestBatch]:
    """Merge the entries by time; rows of equal time in the order of the entries."""
    streams = [entry.source.batches() for entry in entries]
    held: list[RequestBatch | None] = [next(one, None) for one in streams]
    numbering = [_Numbering() for _ in entries]
    first = 0
    while any(batch is not None for batch in held):
        horizon = min(int(batch.arrival_ns[-1]) for batch in held if batch is not None)
        parts = []
        for at, batch in enumerate(held):
            if batch is None:
                continue
            stop = int(np.searchsorted(batch.arrival_ns, horizon, side="right"))
            if stop:
                parts.append((at, entries[at].relabelled(batch.slice(0, stop))))
            held[at] = batch.slice(stop, len(batch)) if stop < len(batch) else next(streams[at], None)
        times = np.concatenate([part.arrival_ns for _, part in parts])
        ranks = np.empty(len(times), dtype=np.int64)
        ranks[np.argsort(times, kind="stable")] = np.arange(len(times))
        cuts = np.cumsum([len(part) for _, part in parts])[:-1]
        joined = _renumbered(parts, np.split(ranks, cuts), first, numbering)
        if duration_ns is not None:
            inside = int(np.searchsorted(joined.arrival_ns, duration_ns))
            yield from split(joined.slice(0, inside))
            if inside < len(joined):
                return
        else:
            yield from split(joined)
        first += len(joined)


def _shared(
    entries: Sequence[Entry],
    shares: Shares,
    arrivals: Arrivals,
    seed: int,
    requests: int | None,
    duration_ns: int | None,
    notes: list[str],
) -> Iterator[RequestBatch]:
    """Give each arrival to an entry, drawn by share; a conversation follows its first turn."""
    supplies = [Supply(entry.source, notes, f"entry {entry.number} of the mix") for entry in entries]
    numbering = [_Numbering() for _ in entries]
    chance = stream(seed, "workload.shares")
    loop = arrivals if isinstance(arrivals, ClosedLoop) else None
    waited = np.empty(0, dtype=np.int64)
    first, units_done = 0, 0
    for chunk in arrivals.times(stream(seed, "workload.arrivals")):
        times = chunk if duration_ns is None else chunk[: np.searchsorted(chunk, duration_ns)]
        if requests is not None:
            times = times[: max(requests - first, 0)]
        if len(times):
            which = shares.choose(times, chance.random(len(times)))
            lengths = np.empty(len(times), dtype=np.int64)
            drawn = []
            for at, entry in enumerate(entries):
                slots = which == at
                if slots.any():
                    batch, units = supplies[at].take(int(np.count_nonzero(slots)))
                    lengths[slots] = units
                    drawn.append((at, entry.relabelled(batch)))
            unit_of_row = np.repeat(np.arange(len(times)), lengths)
            positions = [np.flatnonzero(which[unit_of_row] == at) for at, _ in drawn]
            joined = _renumbered(drawn, positions, first, numbering)
            joined.arrival_ns = times[unit_of_row]
            if loop is not None:
                starts = np.flatnonzero(np.diff(unit_of_row, prepend=-1))
                waited = queue_up(joined, starts, loop, units_done, waited)
            yield from split(joined)
            first += len(joined)
            units_done += len(times)
        if len(times) < len(chunk):
            return
