"""Exact distributions, as the metrics use them.

They live beside `hermes_analysis.summary`, which needs them and which the metrics need: neither waits for the other.
"""

from hermes_analysis.distribution import (
    QUANTILES,
    Distribution,
    Floats,
    Ints,
    Pieces,
    cumulated,
    weighted_distribution,
)

__all__ = ["QUANTILES", "Distribution", "Floats", "Ints", "Pieces", "cumulated", "weighted_distribution"]
