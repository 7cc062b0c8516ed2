"""How sure a number of one run is: confidence by batch means, where the warm-up ends, and fairness between tenants."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from hermes_analysis.metrics.distribution import Floats

BATCHES: Final = 20
T_975: Final = 2.093
"""97.5 % quantile of Student's t with 19 degrees of freedom, for 20 batches."""
_FEWEST_PER_BATCH: Final = 25
_FEWEST_FOR_P99: Final = 200
"""A 99th percentile of a batch rests on its largest values: fewer would be their maximum."""
_MSER_BATCH: Final = 5
_CORRELATED: Final = 0.4
"""Lag-1 correlation of 20 batch means above 2 / sqrt(20) is no chance: the batches are too short."""


@dataclass(frozen=True, slots=True)
class ConfidenceInterval:
    """A 95 % confidence interval of a statistic of one run, from the means of batches of successive requests."""

    metric: str
    statistic: str
    estimate: float
    half_width: float
    lag1_correlation: float

    @property
    def trustworthy(self) -> bool:
        """Whether batches look independent, which the interval rests on."""
        return abs(self.lag1_correlation) <= _CORRELATED


def batch_means(metric: str, values_by_arrival: Floats) -> tuple[ConfidenceInterval, ...]:
    """Return intervals of the mean, the median and the 99th percentile; those that the number of values allows.

    Method of batch means (Law, Simulation Modeling and Analysis, 5th ed. 2015, section 9.5.3) with 20 batches;
    quantiles by the same, with the quantile of each batch. `values_by_arrival` has NaN where a request has no value.
    """
    values = values_by_arrival[~np.isnan(values_by_arrival)]
    size = len(values) // BATCHES
    if size < _FEWEST_PER_BATCH:
        return ()
    batches = values[: size * BATCHES].reshape(BATCHES, size)
    statistics: list[tuple[str, Callable[[Floats], Floats]]] = [
        ("mean", lambda part: part.mean(axis=-1)),
        ("p50", lambda part: np.quantile(part, 0.5, axis=-1)),
    ]
    if size >= _FEWEST_FOR_P99:
        statistics.append(("p99", lambda part: np.quantile(part, 0.99, axis=-1)))
    answers = []
    for name, statistic in statistics:
        means = statistic(batches)
        half = T_975 * float(means.std(ddof=1)) / BATCHES**0.5
        answers.append(ConfidenceInterval(metric, name, float(statistic(values)), half, _lag1(means)))
    return tuple(answers)


def warm_up_end(values_by_arrival: Floats) -> int | None:
    """Return how many of the first requests belong to the warm-up by the rule MSER-5; None when it cannot tell.

    It cuts where the standard error of the mean of what is left is least, over means of five (White, "An effective
    truncation heuristic for bias reduction in simulation output", Simulation 69 (1997)). A cut in the second half means
    that no steady state shows.
    """
    values = values_by_arrival[~np.isnan(values_by_arrival)]
    number = len(values) // _MSER_BATCH
    if number < 2 * _MSER_BATCH:
        return None
    means = values[: number * _MSER_BATCH].reshape(number, _MSER_BATCH).mean(axis=1)
    # Sums over what is left behind each cut, from the end; the last five means are never cut down to.
    left = np.arange(number, 0, -1)
    total, squares = np.cumsum(means[::-1])[::-1], np.cumsum((means**2)[::-1])[::-1]
    error = (squares - total**2 / left) / left**2
    cut = int(np.argmin(error[: number - _MSER_BATCH]))
    return cut * _MSER_BATCH if cut <= number // 2 else None


def jain_index(shares: Floats) -> float:
    """Return how evenly something is shared: 1 for all alike, 1/n when one has all; NaN for nothing.

    Jain, Chiu and Hawe, "A Quantitative Measure of Fairness and Discrimination", DEC-TR-301 (1984).
    """
    squares = float((shares**2).sum())
    return float(shares.sum()) ** 2 / (len(shares) * squares) if squares > 0 else float("nan")


def _lag1(means: Floats) -> float:
    """Return the correlation of successive batch means."""
    centred = means - means.mean()
    power = float((centred**2).sum())
    return float((centred[1:] * centred[:-1]).sum()) / power if power > 0 else 0.0
