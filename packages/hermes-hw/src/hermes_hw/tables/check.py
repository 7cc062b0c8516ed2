"""How well tables predict what they were not given: held-out error of each."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from hermes_core.api.streams import stream

from hermes_hw.dtypes import DTYPES
from hermes_hw.operators import EXTRAPOLATED, Figures, Pricer
from hermes_hw.tables.library import Curves, operator_at
from hermes_hw.tables.rows import TableRows
from hermes_hw.tables.vocabulary import KINDS

_LEAST_ROWS = 20


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Relative errors of the held-out rows of a table, each |predicted / measured - 1|."""

    kind: str
    dtype: str
    rows: int
    held_out: int
    extrapolated: int
    """Of the held-out rows, those at an edge, which are left out of the errors."""
    mean: float
    median: float
    p90: float
    roofline_median: float
    """The same of the roofline alone."""


def held_out_errors(tables: Iterable[TableRows], base: Pricer, share: float = 0.1) -> list[HeldOut]:
    """Return the error of each table when a random `share` of its rows is predicted from the others.

    Tables of fewer than 20 rows are left out.
    """
    return [_held_out(rows, base, share) for rows in tables if len(rows) >= _LEAST_ROWS]


def _held_out(rows: TableRows, base: Pricer, share: float) -> HeldOut:
    draws = stream(0, f"hermes_hw.tables.check/{rows.kind}/{rows.dtype}")
    out = draws.random(len(rows)) < share
    kept = _part(rows, ~out)
    test = _part(rows, out)
    curves = Curves(kept, base)
    spec = KINDS[rows.kind]
    shapes = np.stack([test.columns[name] for name in spec.shape], axis=1) if spec.shape else np.zeros((len(test), 0))
    predicted, plain = np.empty(len(test)), np.empty(len(test))
    source = np.empty(len(test), np.int8)
    activation = DTYPES["bf16"]
    for shape in np.unique(shapes, axis=0):
        chosen = (shapes == shape).all(axis=1)
        columns = {name: test.columns[name][chosen] for name in spec.columns}
        operator = operator_at(rows.kind, rows.dtype, activation, columns)
        analytical = base.price(operator).seconds
        ratio, flags = curves.ratio(operator, columns)
        predicted[chosen], plain[chosen], source[chosen] = analytical * ratio, analytical, flags
    inside = source != EXTRAPOLATED
    error, before = _errors(predicted, test.seconds, inside), _errors(plain, test.seconds, inside)
    return HeldOut(
        rows.kind,
        rows.dtype,
        len(rows),
        int(out.sum()),
        int((~inside).sum()),
        float(error.mean()),
        float(np.median(error)),
        float(np.quantile(error, 0.9)),
        float(np.median(before)),
    )


def _errors(predicted: Figures, measured: Figures, chosen: npt.NDArray[np.bool_]) -> Figures:
    errors = np.abs(predicted / measured - 1.0)[chosen]
    return errors if len(errors) else np.full(1, np.nan)


def _part(rows: TableRows, chosen: npt.NDArray[np.bool_]) -> TableRows:
    columns = {name: values[chosen] for name, values in rows.columns.items()}
    spread = None if rows.spread is None else rows.spread[chosen]
    return TableRows(rows.kind, rows.dtype, columns, rows.seconds[chosen], rows.origin, spread)
