"""How far apart two samples are."""

import math
from typing import Final

import numpy as np

from hermes_workload.batch import Ints
from hermes_workload.sizes import Floats

SERIES_TERMS: Final = 100


def ks_distance(left: Ints | Floats, right: Ints | Floats) -> float:
    """Return the two-sample Kolmogorov-Smirnov distance: the largest gap between the empirical distributions."""
    points = np.union1d(left, right)
    below_left = np.searchsorted(np.sort(left), points, side="right") / len(left)
    below_right = np.searchsorted(np.sort(right), points, side="right") / len(right)
    return float(np.max(np.abs(below_left - below_right)))


def ks_significance(distance: float, left: int, right: int) -> float:
    """Return the chance of at least this distance between samples of these sizes from one continuous distribution.

    Kolmogorov's limit law with the correction of M. A. Stephens, EDF Statistics for Goodness of Fit, 1974. With many
    ties (whole tokens) the true chance is smaller, so a test at a level errs on the side of not refusing.
    """
    effective = math.sqrt(left * right / (left + right))
    scaled = (effective + 0.12 + 0.11 / effective) * distance
    if scaled < 0.2:  # noqa: PLR2004 - the series has not converged there, and the chance is 1 to ten digits
        return 1.0
    terms = ((-1) ** (at - 1) * math.exp(-2 * (at * scaled) ** 2) for at in range(1, SERIES_TERMS))
    return min(max(2 * math.fsum(terms), 0.0), 1.0)


def rank_correlation(left: Ints, right: Ints) -> float:
    """Return Spearman's rank correlation, with mean ranks for ties; 0 where one side is constant."""
    ranks = [_ranks(left), _ranks(right)]
    if any(float(one.std()) == 0 for one in ranks):
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: Ints) -> Floats:
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: Floats = (ends - (counts - 1) / 2).astype(np.float64)
    return means[which]
