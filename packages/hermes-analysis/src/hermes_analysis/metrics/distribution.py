"""Exact distributions: of plain values, and of weighted arithmetic progressions (the gaps between tokens).

Quantile q of N values is the value at rank (N - 1) * q, counted from 0 in ascending order, interpolated linearly
between the two neighbours: definition 7 of Hyndman and Fan, "Sample Quantiles in Statistical Packages", The American
Statistician 50 (1996), and NumPy's default. Nothing is sampled or binned.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

QUANTILES: Final = (0.5, 0.9, 0.95, 0.99)
_BIN_SHIFT: Final = np.int64(44)
"""Bits dropped of a positive float64's pattern: 8 bits of mantissa stay, so a bin is at most 0.4 % wide."""
_CHUNK: Final = 1 << 22
"""Values expanded at once."""


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
class Progressions:
    """Values `start + slope * k` for k = 0 .. count - 1, each counted `weight` times; all of shape (n,), start > 0."""

    start: Floats
    slope: Floats
    count: Ints
    weight: Floats

    @classmethod
    def concatenate(cls, parts: Sequence["Progressions"]) -> "Progressions":
        """Return all progressions of `parts` as one."""
        return cls(
            np.concatenate([p.start for p in parts]),
            np.concatenate([p.slope for p in parts]),
            np.concatenate([p.count for p in parts]),
            np.concatenate([p.weight for p in parts]),
        )

    @classmethod
    def single(cls, values: Floats, weight: Floats | float = 1.0) -> "Progressions":
        """Return `values` as progressions of one value each."""
        ones = np.ones(len(values), dtype=np.int64)
        return cls(values, np.zeros(len(values)), ones, np.broadcast_to(np.float64(weight), values.shape))

    def distribution(self, zeros: float = 0.0) -> Distribution:
        """Return the exact weighted distribution; `zeros` counts values of 0 beside the progressions."""
        keep = (self.count > 0) & (self.weight > 0)
        part = _ascending(Progressions(self.start[keep], self.slope[keep], self.count[keep], self.weight[keep]))
        mass = part.weight * part.count
        total = float(mass.sum()) + zeros
        if total <= 0:
            return Distribution.empty()
        last = part.start + part.slope * (part.count - 1)
        mean = float((mass * (part.start + last)).sum()) / 2 / total
        low = 0.0 if zeros > 0 or not len(mass) else float(part.start.min())
        high = float(last.max()) if len(mass) else 0.0
        p50, p90, p95, p99 = part.quantiles(QUANTILES, zeros, total, last)
        return Distribution(round(total), mean, p50, p90, p95, p99, low, high)

    def quantiles(self, quantiles: Sequence[float], zeros: float, total: float, last: Floats) -> list[float]:
        """Return quantiles of rising progressions that end at `last`; `total` is their weight and `zeros` together.

        Finds the bins that hold the wanted ranks, then sorts what is in those alone.
        """
        if not len(self.start):
            return [0.0] * len(quantiles)
        low_key = self.start.view(np.int64) >> _BIN_SHIFT
        high_key = np.maximum(last.view(np.int64) >> _BIN_SHIFT, low_key)
        base = int(low_key.min())
        masses = np.zeros(int(high_key.max()) - base + 1)
        within = low_key == high_key
        masses += np.bincount((low_key - base)[within], (self.weight * self.count)[within], minlength=len(masses))
        for values, weights in self._expand(~within):
            masses += np.bincount((values.view(np.int64) >> _BIN_SHIFT) - base, weights, minlength=len(masses))
        ends = zeros + np.cumsum(masses)
        sorted_bins: dict[int, tuple[Floats, Floats]] = {}

        def at_rank(rank: float) -> float:
            """Return the smallest value whose cumulated weight exceeds `rank`."""
            if rank < zeros:
                return 0.0
            number = min(int(np.searchsorted(ends, rank, side="right")), int(np.flatnonzero(masses)[-1]))
            if number not in sorted_bins:
                sorted_bins[number] = self._sorted_bin(number + base, low_key, high_key)
            values, weights = sorted_bins[number]
            before = ends[number] - masses[number]
            place = int(np.searchsorted(before + np.cumsum(weights), rank, side="right"))
            return float(values[min(place, len(values) - 1)])

        answers = []
        for quantile in quantiles:
            position = max(total - 1, 0.0) * quantile
            rank = math.floor(position)
            lower = at_rank(rank)
            share = position - rank
            answers.append(lower if share == 0 else lower + share * (at_rank(rank + 1) - lower))
        return answers

    def _sorted_bin(self, key: int, low_key: Ints, high_key: Ints) -> tuple[Floats, Floats]:
        """Return the values of one bin in ascending order, with their weights."""
        parts = [
            (values[inside], weights[inside])
            for values, weights in self._expand((low_key <= key) & (key <= high_key))
            for inside in [(values.view(np.int64) >> _BIN_SHIFT) == key]
        ]
        values = np.concatenate([part[0] for part in parts])
        weights = np.concatenate([part[1] for part in parts])
        order = np.argsort(values, kind="stable")
        return values[order], weights[order]

    def _expand(self, which: NDArray[np.bool_]) -> Iterator[tuple[Floats, Floats]]:
        """Yield the single values of the chosen progressions and their weights, some millions at a time."""
        rows = np.flatnonzero(which)
        cuts = np.searchsorted(np.cumsum(self.count[rows]), np.arange(_CHUNK, self.count[rows].sum(), _CHUNK))
        for chosen in np.split(rows, cuts):
            counts = self.count[chosen]
            row = np.repeat(chosen, counts)
            first = np.repeat(np.cumsum(counts) - counts, counts)
            step = np.arange(len(row)) - first
            yield self.start[row] + self.slope[row] * step, self.weight[row]


def _ascending(part: Progressions) -> Progressions:
    """Turn falling progressions round, and lay constant ones together as one value with more weight."""
    falling = part.slope < 0
    start = np.where(falling, part.start + part.slope * (part.count - 1), part.start)
    flat = part.slope == 0
    weight = np.where(flat, part.weight * part.count, part.weight)
    return Progressions(start, np.abs(part.slope), np.where(flat, 1, part.count), weight)
