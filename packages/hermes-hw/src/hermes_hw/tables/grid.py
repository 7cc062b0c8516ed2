"""Interpolation on a grid with holes, in logarithms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hermes_hw.operators import EXTRAPOLATED, INTERPOLATED, MEASURED, Figures, Sizes

_CLOSE = 1e-9


@dataclass(frozen=True, slots=True)
class Grid:
    """Values over the product of `axes`; what was not measured is filled along an axis from cells that were.

    Coordinates are log(1 + size): sizes spread over decades, and zero has a place.
    """

    names: tuple[str, ...]
    axes: tuple[Figures, ...]
    values: Figures
    measured: npt.NDArray[np.bool_]
    beyond: npt.NDArray[np.bool_]
    """Cells filled from one side only."""

    @classmethod
    def of(cls, names: Sequence[str], columns: Mapping[str, Sizes], values: Figures) -> "Grid":
        """Return the grid through `values` at the rows of `columns`."""
        axes, places = [], []
        for name in names:
            sizes, place = np.unique(columns[name], return_inverse=True)
            axes.append(coordinates(sizes))
            places.append(place)
        cells = np.full([len(axis) for axis in axes], np.nan)
        cells[tuple(places)] = values
        filled, beyond = _filled(cells, axes)
        return cls(tuple(names), tuple(axes), filled, ~np.isnan(cells), beyond)

    def lookup(self, sizes: Mapping[str, Figures | Sizes | int]) -> tuple[Figures, npt.NDArray[np.int8]]:
        """Return values and sources at `sizes`, arrays or numbers that broadcast.

        On a measured cell "measured"; between measured cells "interpolated", linearly in the coordinates; else
        "extrapolated": beyond the grid the value at its edge, in a hole at the edge that of the nearest cell.
        """
        points = np.broadcast_arrays(*(coordinates(np.asarray(sizes[name])) for name in self.names))
        shape = points[0].shape
        inside, exact = np.ones(shape, bool), np.ones(shape, bool)
        lower, weight = [], []
        for axis, point in zip(self.axes, points, strict=True):
            inside &= (point >= axis[0] - _CLOSE) & (point <= axis[-1] + _CLOSE)
            if len(axis) == 1:
                lower.append(np.zeros(shape, np.int64))
                weight.append(np.zeros(shape))
                continue
            place = np.clip(np.searchsorted(axis, point, side="right") - 1, 0, len(axis) - 2)
            part = np.clip((point - axis[place]) / (axis[place + 1] - axis[place]), 0.0, 1.0)
            part = np.where(part < _CLOSE, 0.0, np.where(part > 1 - _CLOSE, 1.0, part))
            exact &= (part == 0) | (part == 1)
            lower.append(place)
            weight.append(part)
        value, hollow = np.zeros(shape), np.zeros(shape, bool)
        for corner in range(1 << len(self.axes)):
            share, index = np.ones(shape), []
            for i, (place, part) in enumerate(zip(lower, weight, strict=True)):
                upper = corner >> i & 1
                share = share * (part if upper else 1.0 - part)
                index.append(np.minimum(place + upper, len(self.axes[i]) - 1))
            if not share.any():
                continue
            value = value + share * self.values[tuple(index)]
            exact &= (share == 0) | self.measured[tuple(index)]
            hollow |= (share > 0) & self.beyond[tuple(index)]
        source = np.where(exact, MEASURED, INTERPOLATED)
        return value, np.where(inside & ~hollow, source, EXTRAPOLATED).astype(np.int8)


def coordinates(sizes: Figures | Sizes) -> Figures:
    """Return the coordinates of sizes on an axis."""
    return np.asarray(np.log1p(np.asarray(sizes, dtype=np.float64)))


def _filled(cells: Figures, axes: Sequence[Figures]) -> tuple[Figures, npt.NDArray[np.bool_]]:
    """Return `cells` without holes, and which cells lie beyond what was measured.

    Along the axes in turn, the last first: a hole between two known cells is interpolated, one beyond the last known
    cell takes its value.
    """
    filled, beyond = cells.copy(), np.zeros(cells.shape, bool)
    for axis in reversed(range(cells.ndim)):
        if not np.isnan(filled).any():
            break
        values, outside = np.moveaxis(filled, axis, -1), np.moveaxis(beyond, axis, -1)
        length = values.shape[-1]
        place = np.broadcast_to(np.arange(length), values.shape)
        known = ~np.isnan(values)
        before = np.maximum.accumulate(np.where(known, place, -1), axis=-1)
        after = np.flip(np.minimum.accumulate(np.flip(np.where(known, place, length), -1), axis=-1), -1)
        lower, upper = np.clip(before, 0, length - 1), np.clip(after, 0, length - 1)
        lower, upper = np.where(before < 0, upper, lower), np.where(after >= length, lower, upper)
        span = axes[axis][upper] - axes[axis][lower]
        part = np.where(span > 0, (axes[axis][place] - axes[axis][lower]) / np.where(span > 0, span, 1.0), 0.0)
        low, high = np.take_along_axis(values, lower, -1), np.take_along_axis(values, upper, -1)
        spoiled = np.take_along_axis(outside, lower, -1) | np.take_along_axis(outside, upper, -1)
        between = low + part * (high - low)
        outside |= ~known & ~np.isnan(between) & ((lower == upper) | spoiled)
        values[...] = np.where(known, values, between)
    return filled, beyond
