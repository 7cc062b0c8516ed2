"""The steps of all clients, in order, and look-ups into them: which row holds a step, when did a step end.

A row of the record is a stretch of like steps; step k of it (from 0) lasts t0 + k * slope and so ends
t0 * (k + 1) + slope * k * (k + 1) / 2 after the stretch began (schema hermes.core.v1, StepBlock). Sums stay in integer
femtoseconds within a stretch; only differences become floating point seconds.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hermes_analysis.metrics.distribution import Floats, Ints
from hermes_analysis.tables import Table

NS: Final = 1e-9
FS: Final = 1e-15
_CLIENT_SHIFT: Final = np.int64(46)
"""A client's steps are numbered below 2**46, so that (client, step) fits one sortable int64."""


@dataclass(frozen=True, slots=True)
class StepIndex:
    """Rows of the step table, which read_run has sorted by client and step; all arrays of shape (rows,)."""

    client: NDArray[np.uint16]
    first_step: Ints
    steps: Ints
    start_ns: Ints
    start_rem_fs: Ints
    t0_fs: Ints
    slope_fs: Ints
    duration_fs: Ints
    """Of the whole stretch."""
    decode_seqs: Ints
    key: Ints
    """client * 2**46 + first_step: ascending."""

    @classmethod
    def of(cls, table: Table) -> "StepIndex":
        """Index the step table of a record."""
        names = ("client", "first_step", "steps", "start_ns", "start_rem_fs", "t0_fs", "slope_fs", "decode_seqs")
        columns = {name: table[name] for name in names}
        steps = columns["steps"]
        duration = steps - 1
        duration *= steps
        duration //= 2
        duration *= columns["slope_fs"]
        duration += columns["t0_fs"] * steps
        key = (columns["client"].astype(np.int64) << _CLIENT_SHIFT) + columns["first_step"]
        return cls(**columns, duration_fs=duration, key=key)

    @property
    def rows(self) -> int:
        """Number of stretches."""
        return len(self.key)

    def rows_of(self, client: NDArray[np.uint16], step: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """Return the row that holds each (client, step), and whether there is one; shapes (n,)."""
        if not self.rows:
            return np.zeros(len(step), np.int64), np.zeros(len(step), dtype=bool)
        key = (client.astype(np.int64) << _CLIENT_SHIFT) + step
        row = np.maximum(np.searchsorted(self.key, key, side="right") - 1, 0)
        offset = key - self.key[row]
        # A step of another client lies 2**46 steps or more away.
        return row, (offset >= 0) & (offset < self.steps[row]) & (step >= 0)

    def ends_fs(self, row: Ints, steps: Ints) -> Ints:
        """Return when the first `steps` steps of the rows had ended, in fs after the rows' start_ns."""
        return self.start_rem_fs[row] + self.t0_fs[row] * steps + self.slope_fs[row] * (steps * (steps - 1) // 2)

    def durations_s(self) -> Floats:
        """Return how long each row lasts, in seconds."""
        return self.duration_fs.astype(np.float64) * FS

    def starts_s(self) -> Floats:
        """Return when each row starts, in seconds."""
        starts: Floats = self.start_ns * NS + self.start_rem_fs * FS
        return starts

    def between_s(self, row: Ints, steps: Ints, later_row: Ints, later_steps: Ints) -> Floats:
        """Return seconds from the end of `steps` steps of `row` to the end of `later_steps` of `later_row`."""
        ns = self.start_ns[later_row] - self.start_ns[row]
        fs = self.ends_fs(later_row, later_steps) - self.ends_fs(row, steps)
        between: Floats = ns * NS + fs * FS
        return between

    def bounds(self, clients: int) -> Ints:
        """Return where the rows of each client begin, and where those of the last end; shape (clients + 1,)."""
        return np.searchsorted(self.client, np.arange(clients + 1)).astype(np.int64)
