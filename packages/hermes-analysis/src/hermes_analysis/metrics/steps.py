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
_FS_PER_NS: Final = 1_000_000
_CLIENT_SHIFT: Final = np.int64(46)
"""A client's steps are numbered below 2**46, so that (client, step) fits one sortable int64."""


@dataclass(frozen=True, slots=True)
class StepIndex:
    """Rows of the step table, sorted by client and step; all arrays of shape (rows,)."""

    client: NDArray[np.uint16]
    first_step: Ints
    steps: Ints
    start_ns: Ints
    start_rem_fs: Ints
    t0_fs: Ints
    slope_fs: Ints
    decode_seqs: Ints
    order: Ints | None
    """Where each row stands in the record; None when the record is sorted already."""
    key: Ints
    """client * 2**46 + first_step: ascending."""

    @classmethod
    def of(cls, table: Table) -> "StepIndex":
        """Sort the step table of a record. Rows without a step are left out."""
        client, first, steps = table["client"], table["first_step"], table["steps"]
        key = (client.astype(np.int64) << _CLIENT_SHIFT) + first
        order: Ints | None = None
        if len(key) and (np.any(key[1:] <= key[:-1]) or steps.min() < 1):
            order = np.argsort(key, kind="stable").astype(np.int64)
            order = order[steps[order] > 0]
        names = ("start_ns", "start_rem_fs", "t0_fs", "slope_fs", "decode_seqs")
        rest = {name: table[name] if order is None else table[name][order] for name in names}
        if order is not None:
            client, first, steps, key = client[order], first[order], steps[order], key[order]
        return cls(client=client, first_step=first, steps=steps, order=order, key=key, **rest)

    @property
    def rows(self) -> int:
        """Number of stretches."""
        return len(self.key)

    def column(self, table: Table, name: str) -> Ints:
        """Return another column of the step table in this order."""
        values: Ints = table[name]
        return values if self.order is None else values[self.order]

    def rows_of(self, client: NDArray[np.uint16], step: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """Return the row that holds each (client, step), and whether there is one; shapes (n,)."""
        key = (client.astype(np.int64) << _CLIENT_SHIFT) + step
        row = np.searchsorted(self.key, key, side="right") - 1
        known = row >= 0
        row = np.maximum(row, 0)
        if self.rows:
            known &= (self.client[row] == client) & (step - self.first_step[row] < self.steps[row]) & (step >= 0)
        else:
            known &= False
        return row, known

    def ends_fs(self, row: Ints, steps: Ints) -> Ints:
        """Return when the first `steps` steps of the rows had ended, in fs after the rows' start_ns."""
        return self.start_rem_fs[row] + self.t0_fs[row] * steps + self.slope_fs[row] * (steps * (steps - 1) // 2)

    def durations_s(self) -> Floats:
        """Return how long each row lasts, in seconds."""
        fs = self.t0_fs * self.steps + self.slope_fs * (self.steps * (self.steps - 1) // 2)
        return fs.astype(np.float64) * FS

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
