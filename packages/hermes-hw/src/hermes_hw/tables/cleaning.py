"""What rows of a benchmark need before they stand for kernels in a server: noise, and caches that are too warm."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hermes_hw.operators import Figures, Sizes
from hermes_hw.tables.rows import TableRows
from hermes_hw.tables.vocabulary import KINDS

L2_BYTES: Final[Mapping[str, int]] = {
    "a100_sxm": 40_000_000,
    "a100_pcie": 40_000_000,
    "a30": 24_000_000,
    "h100_sxm": 50_000_000,
    "h100_pcie": 50_000_000,
    "h200_sxm": 50_000_000,
    "b200_sxm": 126_000_000,
    "b300_sxm": 126_000_000,
    "gb200": 126_000_000,
    "gb300": 126_000_000,
    "l4": 48_000_000,
    "l40s": 96_000_000,
    "rtx_pro_6000_server": 128_000_000,
}
"""Second-level caches (NVIDIA's architecture papers of Ampere, Hopper, Ada and Blackwell)."""
UNSTEADY: Final = 0.1
"""Spread of repeated runs above which a measurement is called unsteady."""
_LITTLE: Final = 0.1
"""Share of that cache below which reading from memory instead costs less than a microsecond or two."""


def fastest(columns: Mapping[str, Sizes], latency: Figures) -> dict[str, Any]:
    """Return the rows, sorted by their columns, with one latency for each shape: the least."""
    keys = np.stack(list(columns.values()))
    order = np.lexsort((latency, *keys[::-1]))
    first = np.ones(len(order), bool)
    first[1:] = (np.diff(keys[:, order], axis=1) != 0).any(axis=0)
    chosen = order[first]
    return {**{name: value[chosen] for name, value in columns.items()}, "latency": latency[chosen]}


def rising(columns: Mapping[str, Any], along: str) -> dict[str, Any]:
    """Return rows whose latency does not fall as `along` grows and all else stays: each at most that of a larger one.

    Work within other work takes no longer than that: the excess is a disturbance of the measurement (clocks, others on
    the machine), for another framework with the same kernel does not show it.
    """
    others = [name for name in columns if name not in {along, "latency"}]
    order = np.lexsort((columns[along], *(columns[name] for name in reversed(others))))
    rows = {name: value[order] for name, value in columns.items()}
    if not len(order):
        return rows
    starts = np.zeros(len(order), bool)
    starts[0] = True
    for name in others:
        starts[1:] |= rows[name][1:] != rows[name][:-1]
    latency = rows["latency"].copy()
    edges = [*np.flatnonzero(starts).tolist(), len(order)]
    for begin, end in pairwise(edges):
        latency[begin:end] = np.minimum.accumulate(latency[begin:end][::-1])[::-1]
    rows["latency"] = latency
    return rows


def above_larger(rows: TableRows) -> Figures:
    """Return for each row how many times as long it takes as the fastest one that has at least as much of everything.

    Work within other work takes no longer than that: what lies above was disturbed, or its kernel is a bad one.
    """
    sizes, same = _comparable(rows)
    times = np.ones(len(rows))
    for i in range(len(rows)):
        # Rows ascend: what has as much of everything comes after.
        larger = (sizes[:, i:] >= sizes[:, i : i + 1]).all(axis=0) & same(i)[i:]
        times[i] = rows.seconds[i] / rows.seconds[i:][larger].min()
    return times


def above_parts(rows: TableRows) -> Figures:
    """Return for each row how many times as long it takes as smaller ones that do the same work in parts.

    As many as the product of the ratios of all sizes. Somewhat more than 1 is usual where the parts fit a cache and the
    whole does not.
    """
    sizes, same = _comparable(rows)
    zero = np.array([[name in KINDS[rows.kind].origin] for name in KINDS[rows.kind].axes])
    widths = sizes + zero
    times = np.ones(len(rows))
    for i in range(len(rows)):
        smaller = (sizes[:, : i + 1] <= sizes[:, i : i + 1]).all(axis=0) & same(i)[: i + 1]
        parts = (widths[:, i : i + 1] / widths[:, : i + 1]).prod(axis=0)
        times[i] = rows.seconds[i] / (parts * rows.seconds[: i + 1])[smaller].min()
    return times


_NOT_WORK: Final = ("experts_tensor", "expert_parallel", "ranks", "kv_heads")
"""Sizes of which more may be less work for a device, or another kernel."""


def _comparable(rows: TableRows) -> tuple[Figures, Callable[[int], npt.NDArray[np.bool_]]]:
    """Return sizes along the axes, and what tells which rows have the shape of the i-th."""
    spec = KINDS[rows.kind]
    none = np.zeros((0, len(rows)), np.int64)
    sizes = np.stack([rows.columns[name] for name in spec.axes]).astype(np.float64)
    fixed = [rows.columns[name] for name in spec.columns if name in spec.shape or name in _NOT_WORK]
    shapes = np.stack(fixed) if fixed else none
    return sizes, lambda i: np.asarray((shapes == shapes[:, i : i + 1]).all(axis=0))


def cold(columns: Mapping[str, Any], nbytes: Figures, cache_bytes: int) -> dict[str, Any]:
    """Return the rows without those that read again and again what the second-level cache holds.

    A benchmark calls one layer over and over: keys and values that fit in that cache come from it. In a server all
    other layers and their weights pass through it between two calls, so they come from memory. What is left out is
    interpolated between rows that read little and rows that read more than the cache holds.
    """
    keep: npt.NDArray[np.bool_] = (nbytes <= _LITTLE * cache_bytes) | (nbytes > cache_bytes)
    return {name: value[keep] for name, value in columns.items()}


def from_memory(columns: Mapping[str, Any], nbytes: Figures, bytes_per_s: float) -> dict[str, Any]:
    """Return the rows without those that were faster than memory: their weights came from a cache."""
    keep: npt.NDArray[np.bool_] = ~(columns["latency"] * 1e-3 < nbytes / bytes_per_s)
    return {name: value[keep] for name, value in columns.items()}


def joined(parts: Sequence[Mapping[str, Any]], shape: Sequence[str]) -> dict[str, Any]:
    """Return the rows of all `parts`; of those after the first only shapes that none before has."""
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    part_of = np.repeat(np.arange(len(parts)), [len(part["latency"]) for part in parts])
    if len(parts) == 1 or not len(part_of):
        return columns
    keys = np.zeros(len(part_of), np.int64)
    for name in shape:
        values, place = np.unique(columns[name], return_inverse=True)
        keys = keys * len(values) + place
    _, place = np.unique(keys, return_inverse=True)
    first = np.full(int(place.max()) + 1, len(parts))
    np.minimum.at(first, place, part_of)
    keep = part_of == first[place]
    return {name: value[keep] for name, value in columns.items()}
