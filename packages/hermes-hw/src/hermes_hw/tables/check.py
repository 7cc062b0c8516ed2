"""How far tables may be trusted: what they cover, what in them cannot be, how well they tell what they do not hold."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from hermes_core.api.streams import stream

from hermes_hw.dtypes import DTYPES
from hermes_hw.operators import EXTRAPOLATED, Figures, Pricer, Sizes
from hermes_hw.tables.cleaning import UNSTEADY, above_larger
from hermes_hw.tables.grid import Grid
from hermes_hw.tables.library import Curves, operator_at
from hermes_hw.tables.rows import TableRows
from hermes_hw.tables.vocabulary import KINDS

ABOVE_LARGER: Final = 1.2
"""Times as long as more work that a row may take."""
_EACH: Final = 1500
"""Rows up to which each is left out in turn; of larger tables a random part is."""
_COMPARED: Final = 4000
"""Rows that are compared with all others for order, of larger tables a random part."""
_ACTIVATION: Final = "bf16"


@dataclass(frozen=True, slots=True)
class Checked:
    """One table. Errors are relative, |predicted / measured - 1| of rows that were left out of it; NaN without any."""

    kind: str
    dtype: str
    rows: int
    ranges: Mapping[str, tuple[int, int]]
    """Least and largest size, by column."""
    filled: float
    """Share of the cells of the grid that are measured; the others are interpolated, or extrapolated at an edge."""
    unsteady: int | None
    """Rows whose repeated runs differ; None where that was not written down."""
    above_larger: int
    """Rows that take longer than more work does."""
    held_out: int
    extrapolated: int
    """Of the rows left out, those at an edge, which are left out of the errors."""
    mean: float
    median: float
    p90: float
    worst: float
    worst_at: Mapping[str, int]
    roofline_median: float
    """The same of the roofline alone."""


def checked_tables(tables: Iterable[TableRows], base: Pricer, share: float = 0.1) -> list[Checked]:
    """Return what there is to say of each table.

    Each row in turn is left out and predicted from the others; of tables of more than 1,500 rows a random `share`
    is, at once.
    """
    return [_checked(rows, base, share) for rows in tables]


@dataclass(frozen=True, slots=True)
class _LeftOut:
    """Rows that were left out, by their places, and what the others say of them."""

    places: Sizes
    predicted: Figures
    plain: Figures
    inside: npt.NDArray[np.bool_]


def _checked(rows: TableRows, base: Pricer, share: float) -> Checked:
    left = _each(rows, base) if len(rows) <= _EACH else _part_of(rows, base, share)
    measured = rows.seconds[left.places]
    inside = left.inside
    error = np.abs(left.predicted / measured - 1.0)[inside]
    before = np.abs(left.plain / measured - 1.0)[inside]
    worst = left.places[inside][int(np.argmax(error))] if len(error) else 0
    figures = {name: float(function(error)) if len(error) else float("nan") for name, function in _FIGURES.items()}
    return Checked(
        kind=rows.kind,
        dtype=rows.dtype,
        rows=len(rows),
        ranges={name: (int(values.min()), int(values.max())) for name, values in rows.columns.items()},
        filled=_filled(rows),
        unsteady=None if rows.spread is None else int((rows.spread > UNSTEADY).sum()),
        above_larger=_above(rows),
        held_out=len(measured),
        extrapolated=int((~inside).sum()),
        **figures,
        worst_at={name: int(values[worst]) for name, values in rows.columns.items()} if len(error) else {},
        roofline_median=float(np.median(before)) if len(before) else float("nan"),
    )


_FIGURES: Final[Mapping[str, Callable[[Figures], Any]]] = {
    "mean": np.mean,
    "median": np.median,
    "p90": lambda values: np.quantile(values, 0.9),
    "worst": np.max,
}


def _shapes(rows: TableRows) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the places of the rows of each shape: those between which is interpolated."""
    names = KINDS[rows.kind].shape
    keys = np.stack([rows.columns[name] for name in names], axis=1) if names else np.zeros((len(rows), 1), np.int64)
    _, group = np.unique(keys, axis=0, return_inverse=True)
    group = group.reshape(-1)
    for number in range(int(group.max()) + 1 if len(group) else 0):
        yield np.flatnonzero(group == number)


def _filled(rows: TableRows) -> float:
    axes = KINDS[rows.kind].axes
    cells = sum(int(np.prod([len(np.unique(rows.columns[name][part])) for name in axes])) for part in _shapes(rows))
    return len(rows) / cells


def _above(rows: TableRows) -> int:
    """Return how many rows take longer than more work does, of large tables as a part of them says."""
    if len(rows) <= _COMPARED:
        return int((above_larger(rows) > ABOVE_LARGER).sum())
    draws = stream(0, f"hermes_hw.tables.check.order/{rows.kind}/{rows.dtype}")
    chosen = np.sort(draws.choice(len(rows), _COMPARED, replace=False))
    part = _part(rows, chosen)
    return round(float((above_larger(part) > ABOVE_LARGER).mean()) * len(rows))


def _each(rows: TableRows, base: Pricer) -> _LeftOut:
    """Leave each row out in turn."""
    axes = KINDS[rows.kind].axes
    predicted, plain = np.empty(len(rows)), np.empty(len(rows))
    inside = np.zeros(len(rows), bool)
    for part in _shapes(rows):
        columns = {name: values[part] for name, values in rows.columns.items()}
        plain[part] = base.price(operator_at(rows.kind, rows.dtype, DTYPES[_ACTIVATION], columns)).seconds
        ratios = np.log(rows.seconds[part] / plain[part])
        predicted[part] = plain[part]
        for i in range(len(part)) if len(part) > 1 else ():
            others = np.arange(len(part)) != i
            grid = Grid.of(axes, {name: columns[name][others] for name in axes}, ratios[others])
            value, source = grid.lookup({name: columns[name][i : i + 1] for name in axes})
            predicted[part[i]] = plain[part[i]] * float(np.exp(value[0]))
            inside[part[i]] = source[0] != EXTRAPOLATED
    return _LeftOut(np.arange(len(rows)), predicted, plain, inside)


def _part_of(rows: TableRows, base: Pricer, share: float) -> _LeftOut:
    """Leave a random part out at once."""
    draws = stream(0, f"hermes_hw.tables.check/{rows.kind}/{rows.dtype}")
    out = np.flatnonzero(draws.random(len(rows)) < share)
    kept = np.ones(len(rows), bool)
    kept[out] = False
    test = _part(rows, out)
    curves = Curves(_part(rows, np.flatnonzero(kept)), base)
    predicted, plain, source = np.empty(len(test)), np.empty(len(test)), np.empty(len(test), np.int8)
    for chosen in _shapes(test):
        columns = {name: values[chosen] for name, values in test.columns.items()}
        operator = operator_at(rows.kind, rows.dtype, DTYPES[_ACTIVATION], columns)
        analytical = base.price(operator).seconds
        ratio, flags = curves.ratio(operator, columns)
        predicted[chosen], plain[chosen], source[chosen] = analytical * ratio, analytical, flags
    return _LeftOut(out, predicted, plain, source != EXTRAPOLATED)


def _part(rows: TableRows, places: Sizes) -> TableRows:
    columns = {name: values[places] for name, values in rows.columns.items()}
    spread = None if rows.spread is None else rows.spread[places]
    return TableRows(rows.kind, rows.dtype, columns, rows.seconds[places], rows.origin, spread)


def remarks(found: Sequence[Checked]) -> list[str]:
    """Return a sentence on each table that a person should look at, the worst first."""
    ranked = sorted(found, key=lambda one: -1.0 if math.isnan(one.worst) else one.worst, reverse=True)
    said = [(f"{item.kind} in {item.dtype}", _faults(item)) for item in ranked]
    return [f"{name}: {'; '.join(faults)}." for name, faults in said if faults]


def _faults(item: Checked) -> list[str]:
    faults = []
    if item.held_out == item.extrapolated:
        faults.append("every row is at an edge: none can be told from the others")
    elif item.worst > _FAR:
        at = ", ".join(f"{column} {size}" for column, size in item.worst_at.items())
        faults.append(f"the others tell {1 + item.worst:,.0f} times what was measured at {at}")
    if item.above_larger:
        faults.append(f"{item.above_larger:,} of {item.rows:,} rows take over 1.2 times as long as more work")
    if item.unsteady:
        faults.append(f"{item.unsteady:,} of {item.rows:,} are unsteady, their runs differing by over 10%")
    if item.filled < _HOLLOW:
        faults.append(f"{item.filled:.0%} of the grid is measured: the rest is interpolated, at edges extrapolated")
    return faults


_FAR: Final = 1.0
_HOLLOW: Final = 0.25
