"""Quantiles of weighted progressions against the same values written out."""

import math

import numpy as np
import pytest
from hermes_analysis.metrics.distribution import Distribution, Pieces, weighted_distribution
from hypothesis import given
from hypothesis import strategies as st

progression = st.tuples(
    st.integers(1, 10**12),  # start in fs
    st.integers(-(10**8), 10**9),  # slope in fs
    st.integers(0, 40),  # count
    st.integers(0, 5),  # weight
)


def written_out(parts, zeros):
    values = [0.0] * zeros
    for start, slope, count, weight in parts:
        values += [start + slope * k for k in range(count) for _ in range(weight)]
    return np.array(values)


@given(st.lists(progression, max_size=12), st.integers(0, 3))
def test_weighted_progressions_have_the_quantiles_of_the_values_written_out(parts, zeros):
    parts = [p for p in parts if p[0] + p[1] * max(p[2] - 1, 0) > 0]
    types = (float, float, np.int64, float)
    start, slope, count, weight = (np.array([p[i] for p in parts], dtype=t) for i, t in enumerate(types))
    pieces = Pieces.progressions(start, slope, count)
    got = weighted_distribution([(pieces, pieces.weights(weight))], zeros)
    values = written_out(parts, zeros)
    assert got.count == len(values)
    if not len(values):
        assert math.isnan(got.mean)
        return
    expected = Distribution.of(values)
    for name in ("mean", "p50", "p90", "p95", "p99", "minimum", "maximum"):
        assert getattr(got, name) == pytest.approx(getattr(expected, name), rel=1e-12), name


def test_quantiles_of_four_values_by_hand():
    # Rank 3 * 0.9 = 2.7: between the third and the fourth value.
    got = Distribution.of(np.array([4.0, 1.0, 3.0, 2.0]))
    assert (got.count, got.mean, got.p50, got.minimum, got.maximum) == (4, 2.5, 2.5, 1.0, 4.0)
    assert got.p90 == pytest.approx(3.7)
    assert got.p99 == pytest.approx(3.97)


def test_fractional_weights_keep_mass_and_mean():
    part = Pieces.single(np.array([1.0, 2.0]))
    got = weighted_distribution([(part, np.array([0.5, 1.5]))])
    assert got.count == 2
    assert got.mean == pytest.approx(1.75)
    assert got.p99 == pytest.approx(1.99)  # rank 0.99 of two


def test_distribution_of_nothing_has_no_numbers():
    got = Distribution.of(np.array([]))
    assert got.count == 0
    assert math.isnan(got.p99)
