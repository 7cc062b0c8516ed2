"""What measured recurrences of linear attention say of a step: affine in sequences and prompt tokens."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from hermes_hw.models.recurrent import RULES
from hermes_hw.operators import EXTRAPOLATED, INTERPOLATED, MEASURED, Figures, Operator
from hermes_hw.tables.library import Tables
from hermes_hw.tables.rows import TableRows

_MEASURED: Final = {rule.operator: rule.table for rule in RULES.values() if rule.table}
"""Prefixes of the kinds of tables by what a recurrence is called among a step's operators."""
_SEQUENCES: Final = (16, 256)
_TOKENS: Final = (256, 8192)
"""Between which the slopes are taken: above what starts a kernel, below where it no longer fits caches or was cut."""


@dataclass(frozen=True, slots=True)
class LinearPrice:
    """Time of the recurrence of a layer, without what starts its kernels."""

    sequence_s: float
    """Of a decoding sequence."""
    token_s: float
    """Of a prompt token: chunks of a prompt follow one another."""
    launch_s: float
    """What the kernels of one new token take at the least."""
    source: int

    def seconds(self, operator: Operator) -> Figures:
        """Return the time of one run of `operator`."""
        return np.asarray(operator.sizes["batch"] * self.sequence_s + operator.sizes["tokens"] * self.token_s)


def linear_price(tables: Tables, operator: Operator) -> LinearPrice | None:
    """Return what tables say of `operator`, a recurrence; None where they have none of its widths."""
    a, dtype, table = operator.attributes, operator.activation.name, _MEASURED.get(operator.name)
    if table is None:
        return None
    decode, prompts = (tables.rows(f"{table}_{phase}", dtype) for phase in ("decode", "prefill"))
    if decode is None or prompts is None:
        return None
    widths = (int(a["key_dim"]), int(a["value_dim"]))
    curves = [
        _by_heads(rows, axis, widths, limits)
        for rows, axis, limits in ((decode, "batch", _SEQUENCES), (prompts, "tokens", _TOKENS))
    ]
    if not all(curves):
        return None
    heads = int(a["value_heads"])
    measured = all(heads in curve for curve in curves)
    within = all(min(curve) <= heads <= max(curve) for curve in curves)
    source = MEASURED if measured else INTERPOLATED if within else EXTRAPOLATED
    (sequence_s, launch_s), (token_s, _) = (_at(curve, heads) for curve in curves)
    return LinearPrice(sequence_s, token_s, max(launch_s - sequence_s, 0.0), source)


def _by_heads(
    rows: TableRows, axis: str, widths: tuple[int, int], limits: tuple[int, int]
) -> dict[int, tuple[float, float]]:
    """Return slope and least time by the number of value heads."""
    chosen = (rows.columns["key_dim"] == widths[0]) & (rows.columns["value_dim"] == widths[1])
    curve = {}
    for heads in np.unique(rows.columns["value_heads"][chosen]).tolist():
        part = chosen & (rows.columns["value_heads"] == heads)
        sizes, seconds = rows.columns[axis][part], rows.seconds[part]
        inner = (sizes >= limits[0]) & (sizes <= limits[1])
        if inner.sum() > 1:
            first, last = (
                int(np.argmin(np.where(inner, sizes, limits[1] + 1))),
                int(np.argmax(np.where(inner, sizes, -1))),
            )
            slope = (seconds[last] - seconds[first]) / (sizes[last] - sizes[first])
            curve[int(heads)] = (max(float(slope), 0.0), float(seconds.min()))
    return curve


def _at(curve: dict[int, tuple[float, float]], heads: int) -> tuple[float, float]:
    """Return slope and least time at `heads`, linearly between measured ones, in proportion beyond them."""
    known = sorted(curve)
    slopes, least = (np.array([curve[one][i] for one in known]) for i in (0, 1))
    beyond = heads / min(max(heads, known[0]), known[-1])
    return float(np.interp(heads, known, slopes)) * beyond, float(np.interp(heads, known, least))
