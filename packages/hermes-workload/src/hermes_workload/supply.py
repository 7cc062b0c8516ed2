"""Requests handed out in units: a request alone, or a conversation with all its turns."""

from collections.abc import Iterator

import numpy as np

from hermes_workload.batch import Ints, RequestBatch, concatenate
from hermes_workload.errors import WorkloadError
from hermes_workload.source import RequestSource


class Supply:
    """Takes from a source as many units as are wanted, from its start again when it ends."""

    __slots__ = ("_batches", "_held", "_name", "_notes", "_origin", "_source", "_taken")

    def __init__(self, source: RequestSource, notes: list[str], name: str) -> None:
        self._source = source
        self._notes = notes
        self._name = name
        self._batches: Iterator[RequestBatch] = source.batches()
        self._held: list[RequestBatch] = []
        self._taken = 0  # rows drawn, whichever time around
        self._origin = 0  # rows drawn before this time around

    def take(self, units: int) -> tuple[RequestBatch, Ints]:
        """Return the rows of the next `units` units, and how many rows each has."""
        while True:
            held = concatenate(self._held) if self._held else None
            if held is not None:
                starts = _starts(held)
                if len(starts) > units:
                    stop = int(starts[units])
                    self._held = [held.slice(stop, len(held))]
                    return held.slice(0, stop), np.diff(starts[: units + 1])
                self._held = [held]
            self._draw(units - (0 if held is None else len(starts)) + 1)

    def _draw(self, rows: int) -> None:
        """Draw at least `rows` more rows."""
        while rows > 0:
            batch = next(self._batches, None)
            if batch is None:
                if self._taken == self._origin:
                    raise WorkloadError(f"{self._name} gives no requests")
                self._origin = self._taken
                self._batches = self._source.batches()
                note = f"{self._name} came to its end and was played again from the start"
                if note not in self._notes:
                    self._notes.append(note)
                continue
            rows -= len(batch)
            self._taken += len(batch)
            self._held.append(self._moved(batch))

    def _moved(self, batch: RequestBatch) -> RequestBatch:
        """Return `batch` with ids that go on from the last time around."""
        if not self._origin:
            return batch
        moved = batch.slice(0, len(batch))
        moved.first_request_id += self._origin
        for name in ("after_request", "session_id"):
            column = getattr(moved, name)
            if column is not None:
                setattr(moved, name, np.where(column >= 0, column + self._origin, -1))
        return moved


def _starts(batch: RequestBatch) -> Ints:
    """Return the rows with which a unit begins."""
    if batch.session_id is None:
        return np.arange(len(batch))
    return np.flatnonzero((batch.column("turn") == 0) | (batch.session_id < 0))
