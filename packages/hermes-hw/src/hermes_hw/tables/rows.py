"""Rows of measurements of one kind of operator, checked."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from hermes_core.api.errors import InputError, Place

from hermes_hw.operators import Figures, Sizes
from hermes_hw.tables.vocabulary import KINDS, KindSpec


@dataclass(frozen=True, slots=True)
class TableRows:
    """Measurements of one kind and number format: `columns` are those of the kind, one array each."""

    kind: str
    dtype: str
    columns: Mapping[str, Sizes]
    seconds: Figures
    origin: str
    """Where they come from, for notes."""
    spread: Figures | None = None
    """How far above a time repeated runs lay (0.1: 10%), where it was written down; 0 for what was not."""

    def __len__(self) -> int:
        return len(self.seconds)


def checked_rows(
    kind: str,
    dtype: str,
    columns: Mapping[str, Sizes],
    seconds: Figures,
    origin: str,
    *,
    file: str,
    lines: Sequence[int] | None = None,
    ordered: bool = False,
    spread: Figures | None = None,
) -> TableRows:
    """Return the rows when they are sound; `lines` are their places in `file`, for messages.

    Raises InputError for an unknown kind, a missing column, a time that is not a positive number, a negative size, a
    shape that is there twice, and with `ordered` for rows that do not ascend by their columns.
    """
    if kind not in KINDS:
        raise InputError(f"unknown kind {kind!r}", place=Place(file=file), remedy=f"Known: {', '.join(KINDS)}.")
    spec = KINDS[kind]
    for name in spec.columns:
        if name not in columns:
            raise InputError(
                f"kind {kind} needs the column {name!r}",
                place=Place(file=file),
                remedy=f"Its columns are {', '.join(spec.columns)}.",
            )

    def fail(place: int, problem: str, remedy: str | None = None) -> InputError:
        line = lines[place] if lines else place + 2  # after the header
        return InputError(problem, place=Place(file=file, line=line), remedy=remedy)

    for place, problem in _unsound(spec, columns, seconds):
        raise fail(place, problem, "Measure it again, or take the row out.")
    keys = np.stack([np.asarray(columns[name], dtype=np.int64) for name in spec.columns])
    order = np.lexsort(keys[::-1])
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    descending = np.flatnonzero(np.diff(rank) < 0)
    if ordered and len(descending):
        place = int(descending[0]) + 1
        raise fail(place, f"rows of kind {kind} must ascend by {', '.join(spec.columns)}", "Sort the rows.")
    again = np.flatnonzero((np.diff(keys[:, order], axis=1) == 0).all(axis=0))
    if len(again):
        place = int(max(order[again[0]], order[again[0] + 1]))
        shape = ", ".join(f"{name} {int(columns[name][place])}" for name in spec.columns)
        raise fail(place, f"kind {kind}: {shape} is there twice", "Keep one of them, their median for example.")
    sizes = {name: columns[name][order] for name in spec.columns}
    return TableRows(kind, dtype, sizes, seconds[order], origin, None if spread is None else spread[order])


def _unsound(spec: KindSpec, columns: Mapping[str, Sizes], seconds: Figures) -> Iterator[tuple[int, str]]:
    """Yield the first row of each fault: its place and what is wrong."""
    wrong = ~(np.isfinite(seconds) & (seconds > 0))
    if wrong.any():
        place = int(np.argmax(wrong))
        yield place, f"a latency must be a positive number, found {float(seconds[place]) * 1e6:g} us"
    for name in spec.columns:
        least = 0 if name in spec.origin or name in spec.shape else 1
        small = columns[name] < least
        if small.any():
            place = int(np.argmax(small))
            yield place, f"{name} must be at least {least}, found {int(columns[name][place])}"
