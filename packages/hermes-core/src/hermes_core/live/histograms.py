"""Histograms with fixed bounds, to which runs of like values are added in one go."""

from bisect import bisect_left
from collections.abc import Sequence

from hermes_core.api.time import FS_PER_NS
from hermes_core.live.clock import NS_PER_S

_FS_PER_S = FS_PER_NS * NS_PER_S


class Histogram:
    """Counts values up to each bound."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        """Values in each interval, not cumulative; the last is above all bounds."""
        self.total = 0.0
        """Sum of the values."""

    def add(self, value: float, times: int = 1) -> None:
        """Count a value, or several equal ones."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def add_steps(self, t0_fs: int, slope_fs: int, steps: int, times: int) -> None:
        """Count the durations in seconds of `steps` steps, of which step k lasts t0 + k * slope, each `times` times."""
        if steps == 1 or slope_fs <= 0:
            self.add(t0_fs / _FS_PER_S, steps * times)
            return
        done = 0
        for place, bound in enumerate(self.bounds):
            room = int(bound * _FS_PER_S) - t0_fs
            within = min(room // slope_fs + 1, steps) if room >= 0 else 0
            if within > done:
                self.counts[place] += (within - done) * times
                done = within
        self.counts[-1] += (steps - done) * times
        self.total += times * (steps * t0_fs + slope_fs * (steps * (steps - 1) // 2)) / _FS_PER_S

    def buckets(self) -> list[tuple[str, float]]:
        """Return (bound, values up to it), as Prometheus has them."""
        out: list[tuple[str, float]] = []
        seen = 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            seen += count
            out.append((bound, float(seen)))
        return out


def one_two_five(most: int) -> list[float]:
    """Return 1, 2, 5, 10, 20, 50 and so on up to `most`."""
    bounds: list[float] = []
    power = 1
    while True:
        for factor in (1, 2, 5):
            if factor * power > most:
                return bounds
            bounds.append(float(factor * power))
        power *= 10
