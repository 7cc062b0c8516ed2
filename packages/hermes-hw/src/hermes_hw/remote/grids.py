"""Prices on a grid, and between its points: what a service answered, at hand without asking again."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hermes_hw.operators import EXTRAPOLATED, INTERPOLATED, MEASURED, Figures, Sizes

_CLOSE = 1e-9


@dataclass(frozen=True, slots=True)
class PriceGrid:
    """Seconds and joules over the product of `axes` (ascending sizes); interpolated linearly, beyond it on the line.

    Cells that nobody answered were filled, and are marked.
    """

    axes: tuple[Figures, ...]
    seconds: Figures
    joules: Figures
    source: npt.NDArray[np.int8]
    filled: npt.NDArray[np.bool_]

    @classmethod
    def of(
        cls, axes: Sequence[Sizes], places: Sequence[Sizes], seconds: Figures, joules: Figures, source: Sizes
    ) -> "PriceGrid":
        """Return the grid through figures at `places` (indices along each axis)."""
        shape = tuple(len(axis) for axis in axes)
        points = [np.asarray(axis, dtype=np.float64) for axis in axes]
        cells = np.full((2, *shape), np.nan)
        at: Any = tuple(places)
        cells[0][at], cells[1][at] = seconds, joules
        known = np.full(shape, EXTRAPOLATED, np.int8)
        known[at] = source
        holes = np.isnan(cells[0])
        return cls(tuple(points), fill(cells[0], points), fill(cells[1], points), known, holes)

    def at(self, sizes: Sequence[Figures | Sizes]) -> tuple[Figures, Figures, npt.NDArray[np.int8]]:
        """Return seconds, joules and sources at arrays of sizes that broadcast, one for each axis."""
        points = np.broadcast_arrays(*(np.asarray(size, dtype=np.float64) for size in sizes))
        shape = points[0].shape
        lower, weight, outside, between = [], [], np.zeros(shape, bool), np.zeros(shape, bool)
        for axis, point in zip(self.axes, points, strict=True):
            outside |= (point > axis[-1] + _CLOSE) | (point < axis[0] - _CLOSE)
            if len(axis) == 1:
                lower.append(np.zeros(shape, np.int64))
                weight.append(np.zeros(shape))
                continue
            place = np.clip(np.searchsorted(axis, point, side="right") - 1, 0, len(axis) - 2)
            part = (point - axis[place]) / (axis[place + 1] - axis[place])
            between |= (np.abs(part) > _CLOSE) & (np.abs(part - 1) > _CLOSE)
            lower.append(place)
            weight.append(part)
        seconds, joules, source = np.zeros(shape), np.zeros(shape), np.zeros(shape, np.int8)
        for corner in range(1 << len(self.axes)):
            share, index = np.ones(shape), []
            for i, (place, part) in enumerate(zip(lower, weight, strict=True)):
                upper = corner >> i & 1
                share = share * (part if upper else 1.0 - part)
                index.append(np.minimum(place + upper, len(self.axes[i]) - 1))
            cell = tuple(index)
            used = np.abs(share) > _CLOSE
            seconds = seconds + share * self.seconds[cell]
            joules = joules + share * self.joules[cell]
            mark = np.where(self.filled[cell], EXTRAPOLATED, self.source[cell])
            source = np.where(used, np.maximum(source, mark), source)
        source = np.where(between & (source == MEASURED), INTERPOLATED, source)
        # A grid of formulas stays analytical; one that had to be stretched says so.
        source = np.where(outside & (source < EXTRAPOLATED), EXTRAPOLATED, source)
        least = float(self.seconds.min())
        return np.maximum(seconds, 0.5 * least), np.maximum(joules, 0.0), source.astype(np.int8)


def fill(cells: Figures, axes: Sequence[Figures]) -> Figures:
    """Return `cells` without holes: along each axis in turn, on a line between known cells.

    Beyond the last known cell in proportion, before the first its value. Raises ValueError when nothing is known.
    """
    if np.isnan(cells).all():
        raise ValueError("no cell is known")
    result = cells.copy()
    for axis in reversed(range(result.ndim)):
        if not np.isnan(result).any():
            break
        rows = np.moveaxis(result, axis, -1).reshape(-1, result.shape[axis])
        for row in rows:
            known = np.flatnonzero(~np.isnan(row))
            if 0 < len(known) < len(row):
                row[:] = np.interp(axes[axis], axes[axis][known], row[known])
                last = int(known[-1])
                if axes[axis][last] > 0:
                    row[last:] = row[last] * axes[axis][last:] / axes[axis][last]
        moved = list(range(result.ndim))
        moved.append(moved.pop(axis))
        shaped = rows.reshape([result.shape[i] for i in moved])
        result = np.moveaxis(shaped, -1, axis).copy()
    return result


def ladder(first: int, last: int, per_octave: float, extra: Sequence[int] = ()) -> Sizes:
    """Return sizes from `first` (1 or more) to `last`, `per_octave` for each doubling, and those of `extra`."""
    octaves = math.log2(max(last, first + 1) / first)
    count = math.ceil(octaves * per_octave)
    rungs = np.rint(first * np.exp2(np.arange(count + 1) / per_octave)).astype(np.int64)
    rungs = np.concatenate([rungs, np.asarray(extra, dtype=np.int64), [first, last]])
    return np.unique(rungs[(rungs >= first) & (rungs <= last)])


def product(*axes: Sizes) -> tuple[list[Sizes], list[Sizes]]:
    """Return the sizes of all cells of a grid, and their places, flattened."""
    sizes: Any = np.meshgrid(*axes, indexing="ij")
    places: Any = np.meshgrid(*(np.arange(len(axis)) for axis in axes), indexing="ij")
    return [grid.ravel() for grid in sizes], [grid.ravel() for grid in places]
