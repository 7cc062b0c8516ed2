"""When a rate changes: the best cut of a stretch of counts into pieces of constant rate."""

import math
from typing import Final

import numpy as np

from hermes_workload.batch import Ints
from hermes_workload.sizes import Floats

CHANCE: Final = 0.05
"""Chance of a change that is none, for counts of one rate throughout."""


def change_points(counts: Ints) -> Ints:
    """Return the edges of the pieces of constant rate (indices into `counts`, the first 0, the last its length).

    The likelihood of Poisson counts is maximised over all cuts, with a price for each piece: J. D. Scargle and others,
    Studies in Astronomical Time Series Analysis VI: Bayesian Block Representations, 2013; the price is equation 21
    there, for `CHANCE`. Takes time in proportion to the square of the counts.
    """
    cells = len(counts)
    price = 4 - math.log(73.53 * CHANCE * cells**-0.478)
    total = np.concatenate([np.zeros(1), np.cumsum(counts)])
    best = np.zeros(cells + 1)
    begins = np.zeros(cells, dtype=np.int64)
    widths = np.arange(cells, 0, -1.0)
    for end in range(1, cells + 1):
        likelihood = _likelihood(total[end] - total[:end], widths[cells - end :]) + best[:end]
        begin = int(np.argmax(likelihood))
        begins[end - 1], best[end] = begin, likelihood[begin] - price
    edges = [cells]
    while edges[-1]:
        edges.append(int(begins[edges[-1] - 1]))
    return np.array(edges[::-1], dtype=np.int64)


def _likelihood(requests: Floats, width: Floats) -> Floats:
    """Return the logarithm of the likelihood of so many requests in pieces of these widths, less a constant."""
    found: Floats = requests * np.log(np.maximum(requests, 1) / width)
    return found
