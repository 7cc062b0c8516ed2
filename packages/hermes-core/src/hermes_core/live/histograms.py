"""Histograms with fixed bounds, to which runs of like values are added in one go."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate

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


class HistogramText:
    """A histogram in Prometheus's text format. What does not change is made once: a scrape is not to delay tokens."""

    __slots__ = ("_buckets", "_count", "_histogram", "_sum")

    def __init__(self, name: str, labels: Mapping[str, str], histogram: Histogram) -> None:
        self._histogram = histogram
        bounds = (*map(str, histogram.bounds), "+Inf")
        self._buckets = [f"{name}_bucket{_shown({**labels, 'le': bound})} " for bound in bounds]
        self._count = f"{name}_count{_shown(labels)} "
        self._sum = f"{name}_sum{_shown(labels)} "

    def lines(self) -> str:
        """Return its lines, buckets cumulative."""
        histogram = self._histogram
        seen = list(accumulate(histogram.counts))
        buckets = "".join([f"{text}{count}\n" for text, count in zip(self._buckets, seen, strict=True)])
        return f"{buckets}{self._count}{seen[-1]}\n{self._sum}{histogram.total}\n"


def _shown(labels: Mapping[str, str]) -> str:
    """Return labels as the text format has them.

    Source: https://prometheus.io/docs/instrumenting/exposition_formats/#text-format-details.
    """
    if not labels:
        return ""
    escaped = [
        (name, value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n"))
        for name, value in sorted(labels.items())
    ]
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped) + "}"


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
