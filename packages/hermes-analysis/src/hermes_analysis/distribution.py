"""Exact distributions: of plain values, and of weighted arithmetic progressions (the gaps between tokens).

Quantile q of N values is the value at rank (N - 1) * q, counted from 0 in ascending order, interpolated linearly
between the two neighbours: definition 7 of Hyndman and Fan, "Sample Quantiles in Statistical Packages", The American
Statistician 50 (1996), and NumPy's default. Nothing is sampled or binned.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

QUANTILES: Final = (0.5, 0.9, 0.95, 0.99)
_BIN_SHIFT: Final = np.int64(44)
"""Bits dropped of a positive float64's pattern: 8 bits of mantissa stay, so a bin is at most 0.4 % wide."""
_BINS: Final = 1 << 19
"""Patterns that are left of positive numbers."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """A distribution in a few numbers; all but `count` are NaN when there is nothing to count."""

    count: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    minimum: float
    maximum: float

    @classmethod
    def empty(cls) -> "Distribution":
        """Return the distribution of nothing."""
        return cls(0, *(math.nan,) * 7)

    @classmethod
    def of(cls, values: Floats) -> "Distribution":
        """Return the distribution of `values`, shape (n,)."""
        if not len(values):
            return cls.empty()
        p50, p90, p95, p99 = (float(q) for q in np.quantile(values, QUANTILES))
        return cls(len(values), float(values.mean()), p50, p90, p95, p99, float(values.min()), float(values.max()))


@dataclass(frozen=True, slots=True)
class Pieces:
    """Progressions `start + slope * k`, k = 0 .. count - 1, cut so that each lies in one bin of the float64 patterns.

    Made once and weighted often. Without `slope` and `count` they are single values. All arrays of shape (pieces,).
    """

    start: Floats
    slope: Floats | None
    count: Ints | None
    key: NDArray[np.int32]
    owner: Ints | None
    """Which of the given progressions a piece is of; None when none was cut, left out or moved."""

    @classmethod
    def single(cls, values: Floats) -> "Pieces":
        """Return positive `values` by themselves; others must get no weight."""
        return cls(values, None, None, _keys(values), None)

    @classmethod
    def progressions(cls, start: Floats, slope: Floats, count: Ints) -> "Pieces":
        """Return progressions of positive values, cut where they cross from one bin to the next."""
        falling = slope < 0
        if np.any(falling):
            start = np.where(falling, start + slope * (count - 1), start)
            slope = np.abs(slope)
        low, high = _keys(start), _keys(start + slope * np.maximum(count - 1, 0))
        crossing = np.flatnonzero((high > low) & (count > 1))
        if not len(crossing):
            return cls(start, slope, count, low, None)
        whole = np.ones(len(start), dtype=bool)
        whole[crossing] = False
        kept = np.flatnonzero(whole)
        owner, first, length, key = _cut(crossing, start, slope, count, low, high)
        return cls(
            np.concatenate([start[kept], start[owner] + slope[owner] * first]),
            np.concatenate([slope[kept], slope[owner]]),
            np.concatenate([count[kept], length]),
            np.concatenate([low[kept], key]),
            np.concatenate([kept, owner]),
        )

    def weights(self, of_progressions: Floats) -> Floats:
        """Return the weight of each piece, given that of each progression."""
        return of_progressions if self.owner is None else of_progressions[self.owner]

    def expand(self, weights: Floats, chosen: Ints) -> tuple[Floats, Floats]:
        """Return the single values of the chosen pieces, and their weights."""
        if self.slope is None or self.count is None:
            return self.start[chosen], weights[chosen]
        flat = self.slope[chosen] == 0
        counts = np.where(flat, 1, self.count[chosen])
        piece = np.repeat(chosen, counts)
        step = np.arange(len(piece)) - np.repeat(np.cumsum(counts) - counts, counts)
        mass = np.where(flat, weights[chosen] * self.count[chosen], weights[chosen])
        return self.start[piece] + self.slope[piece] * step, np.repeat(mass, counts)


def _keys(values: Floats) -> NDArray[np.int32]:
    """Return the bin of each value: the leading bits of its pattern, which order positive numbers."""
    return (np.maximum(values, 0.0).view(np.int64) >> _BIN_SHIFT).astype(np.int32)


def _cut(
    rows: Ints, start: Floats, slope: Floats, count: Ints, low: NDArray[np.int32], high: NDArray[np.int32]
) -> tuple[Ints, Ints, Ints, NDArray[np.int32]]:
    """Cut rising progressions at the edges of bins: return of each piece its row, first k, length and bin."""
    bins = (high[rows] - low[rows] + 1).astype(np.int64)
    owner = np.repeat(rows, bins)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(bins) - bins, bins)
    key = low[owner] + place
    edge = (key.astype(np.int64) << _BIN_SHIFT).view(np.float64)
    first = np.where(place == 0, 0, np.ceil((edge - start[owner]) / slope[owner])).astype(np.int64)
    first = np.clip(first, 0, count[owner])
    last_of_row = np.append(place[1:] == 0, True)
    following = np.where(last_of_row, count[owner], np.append(first[1:], 0))
    length = following - first
    real = length > 0
    return owner[real], first[real], length[real], key[real].astype(np.int32)


def weighted_distribution(parts: Sequence[tuple[Pieces, Floats]], zeros: float = 0.0) -> Distribution:
    """Return the exact distribution of pieces, each value counted by its piece's weight; `zeros` counts values of 0.

    The mass of each bin is summed first; then the values in the bins that hold a wanted rank are sorted, and only they.
    """
    masses, summed = _bin_masses(parts)
    total = float(masses.sum()) + zeros
    if total <= 0:
        return Distribution.empty()
    used = np.flatnonzero(masses)
    if not len(used):
        return Distribution(round(total), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    ends = zeros + np.cumsum(masses)
    positions = [max(total - 1, 0.0) * quantile for quantile in QUANTILES]
    ranks = np.array([rank for p in positions for rank in (np.floor(p), np.floor(p) + 1)])
    # The bin of a rank is the first whose end lies behind it; a rank at the very end belongs to the last bin.
    bins = np.minimum(np.searchsorted(ends, ranks, side="right"), used[-1])
    wanted = np.zeros(_BINS, dtype=bool)
    wanted[bins] = wanted[used[0]] = wanted[used[-1]] = True
    values, weights, keys = _sorted_values(parts, wanted)

    def at_rank(rank: float, number: int) -> float:
        """Return the smallest value whose cumulated weight exceeds `rank`."""
        if rank < zeros:
            return 0.0
        begin, end = (int(place) for place in np.searchsorted(keys, (number, number + 1)))
        cumulated = ends[number] - masses[number] + np.cumsum(weights[begin:end])
        return float(values[begin + min(int(np.searchsorted(cumulated, rank, side="right")), end - begin - 1)])

    found = [at_rank(float(rank), int(number)) for rank, number in zip(ranks, bins, strict=True)]
    shares = [position - math.floor(position) for position in positions]
    p50, p90, p95, p99 = (
        low + share * (high - low) for low, high, share in zip(found[::2], found[1::2], shares, strict=True)
    )
    lowest = 0.0 if zeros > 0 else float(values[0])
    return Distribution(round(total), summed / total, p50, p90, p95, p99, lowest, float(values[-1]))


def cumulated(parts: Sequence[tuple[Pieces, Floats]], zeros: float = 0.0) -> tuple[Floats, Floats]:
    """Return points of the cumulative distribution: upper edges of the bins in use, and the share up to each."""
    masses, _ = _bin_masses(parts)
    used = np.flatnonzero(masses)
    total = float(masses.sum()) + zeros
    edges = ((used + 1).astype(np.int64) << _BIN_SHIFT).view(np.float64)
    return edges, (zeros + np.cumsum(masses[used])) / max(total, 1.0)


def _bin_masses(parts: Sequence[tuple[Pieces, Floats]]) -> tuple[Floats, float]:
    """Return the weight in each bin, and the weighted sum of all values."""
    masses = np.zeros(_BINS)
    summed = 0.0
    for pieces, weights in parts:
        if pieces.slope is None or pieces.count is None:
            mass, middle = weights, pieces.start
        else:
            mass, middle = weights * pieces.count, pieces.start + pieces.slope * (0.5 * (pieces.count - 1))
        masses += np.bincount(pieces.key, mass, minlength=_BINS)
        summed += float(np.dot(mass, middle))
    return masses, summed


def _sorted_values(
    parts: Sequence[tuple[Pieces, Floats]], wanted: NDArray[np.bool_]
) -> tuple[Floats, Floats, NDArray[np.int32]]:
    """Return the values that lie in the wanted bins and have weight, ascending, with their weights and bins."""
    values, weights = [], []
    for pieces, weight in parts:
        chosen = np.flatnonzero(wanted[pieces.key])
        chosen = chosen[weight[chosen] > 0]
        value, mass = pieces.expand(weight, chosen)
        values.append(value)
        weights.append(mass)
    value, mass = np.concatenate(values), np.concatenate(weights)
    order = np.argsort(value)
    value, mass = value[order], mass[order]
    return value, mass, _keys(value)
