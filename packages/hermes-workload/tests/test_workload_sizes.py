"""Distributions of sizes against their theory, at the level 0.001 with fixed seeds."""

import math

import numpy as np
import pytest
from hermes_workload import WorkloadError, stream
from hermes_workload.distance import ks_significance, rank_correlation
from hermes_workload.fields import Section
from hermes_workload.joint import build_joint
from hermes_workload.sizes import LARGEST, build_size

LEVEL = 0.001
MANY = 100_000


def sizes(spec, count=MANY, seed=5):
    return build_size(Section(spec)).draw(stream(seed, "size"), count)


def normal_cdf(x):
    return np.array([0.5 * math.erfc(-one / math.sqrt(2)) for one in x])


def significance_at_halves(drawn, distribution):
    """Compare at k + 1/2, where rounding to whole tokens changes nothing."""
    points = np.unique(drawn) + 0.5
    empirical = np.searchsorted(np.sort(drawn), points) / len(drawn)
    return ks_significance(float(np.abs(empirical - distribution(points)).max()), len(drawn), 10**12)


def test_fixed():
    assert sizes({"kind": "fixed", "tokens": 256}, 3).tolist() == [256] * 3


def test_uniform_reaches_both_ends_evenly():
    counts = np.bincount(sizes({"kind": "uniform", "low": 3, "high": 7}), minlength=8)
    assert not counts[:3].any()
    chi_square = ((counts[3:] - MANY / 5) ** 2 / (MANY / 5)).sum()
    assert chi_square < 18.5  # the 0.999 quantile with 4 degrees of freedom


def test_normal():
    drawn = sizes({"kind": "normal", "mean": 500, "std": 40})
    assert significance_at_halves(drawn, lambda x: normal_cdf((x - 500) / 40)) > LEVEL


def test_lognormal_by_median_and_p95():
    drawn = sizes({"kind": "lognormal", "median": 300, "p95": 2000})
    sigma = math.log(2000 / 300) / 1.6448536269514722
    assert significance_at_halves(drawn, lambda x: normal_cdf(np.log(x / 300) / sigma)) > LEVEL
    assert np.mean(drawn <= 2000) == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / MANY))


def test_lognormal_by_mean_and_cv():
    drawn = sizes({"kind": "lognormal", "mean": 1000, "cv": 0.5})
    assert drawn.mean() == pytest.approx(1000, rel=4 * 0.5 / math.sqrt(MANY))
    assert drawn.std() / drawn.mean() == pytest.approx(0.5, rel=0.03)


def test_zipf_is_bounded_and_falls_by_its_power():
    counts = np.bincount(sizes({"kind": "zipf", "exponent": 1.5, "low": 1, "high": 50}), minlength=51)[1:]
    chances = np.arange(1, 51) ** -1.5
    expected = MANY * chances / chances.sum()
    assert ((counts - expected) ** 2 / expected).sum() < 85.4  # the 0.999 quantile with 49 degrees of freedom


def test_pareto():
    drawn = sizes({"kind": "pareto", "minimum": 100, "shape": 2.2})
    assert significance_at_halves(drawn, lambda x: 1 - np.minimum(100 / x, 1) ** 2.2) > LEVEL


def test_the_heaviest_tail_stays_within_bounds():
    drawn = sizes({"kind": "pareto", "minimum": 1, "shape": 0.05})
    assert drawn.min() >= 1
    assert drawn.max() == LARGEST


def test_empirical_weights():
    drawn = sizes({"kind": "empirical", "values": [10, 20, 30], "weights": [1, 0, 3]})
    assert set(drawn.tolist()) == {10, 30}
    assert np.mean(drawn == 30) == pytest.approx(0.75, abs=4 * math.sqrt(0.75 * 0.25 / MANY))


def test_quantiles_are_linear_in_between():
    drawn = sizes({"kind": "quantiles", "probabilities": [0, 0.9, 1], "values": [1, 1000, 10_000]})
    assert np.mean(drawn <= 1000) == pytest.approx(0.9, abs=4 * math.sqrt(0.09 / MANY))
    assert np.median(drawn) == pytest.approx(556, rel=0.02)


def test_mixture_is_bimodal():
    parts = [
        {"weight": 3, "of": {"kind": "fixed", "tokens": 10}},
        {"weight": 1, "of": {"kind": "uniform", "low": 1000, "high": 1001}},
    ]
    drawn = sizes({"kind": "mixture", "parts": parts})
    assert np.mean(drawn >= 1000) == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / MANY))
    assert set(drawn.tolist()) == {10, 1000, 1001}


def test_bounds_clip_any_kind():
    drawn = sizes({"kind": "normal", "mean": 50, "std": 100, "min": 8, "max": 90})
    assert (drawn.min(), drawn.max()) == (8, 90)


def test_sizes_are_never_under_one_token():
    assert sizes({"kind": "normal", "mean": 1, "std": 50}).min() == 1


def test_conditional_sizes_depend_on_one_another():
    spec = {
        "joint": {
            "kind": "conditional",
            "prompt": {"values": [100, 200, 300]},
            "output": {"probabilities": [0, 0.25, 1], "values": [[1, 5, 10], [500, 600, 700]]},
        }
    }
    prompt, output = build_joint(Section(spec)).start(3)(MANY)
    assert (output[prompt < 200] <= 10).all()
    assert (output[prompt > 200] >= 500).all()
    assert np.mean(output[prompt < 200] <= 5) == pytest.approx(0.25 + 0.75 / 10, abs=0.01)
    assert rank_correlation(prompt, output) == pytest.approx(0.75, abs=0.02)


def test_independent_sizes_have_a_stream_each():
    uniform = {"kind": "uniform", "low": 1, "high": 10**6}
    prompt, output = build_joint(Section({"prompt": uniform, "output": uniform})).start(3)(MANY)
    assert abs(rank_correlation(prompt, output)) < 4 / math.sqrt(MANY)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"kind": "fixed", "tokens": 0}, "tokens: is 0"),
        ({"kind": "fixed", "tokens": 1.5}, "whole number"),
        ({"kind": "fixed", "tokens": True}, "whole number"),
        ({"kind": "uniform", "low": 5, "high": 4}, r"at least low \(5\)"),
        ({"kind": "lognormal", "median": 300, "p95": 200}, r"at least the median \(300\)"),
        ({"kind": "lognormal", "median": 300}, "lacks the key 'p95'"),
        ({"kind": "empirical", "values": [1, 2], "weights": [1]}, r"as many weights as values \(2\)"),
        ({"kind": "empirical", "values": [1, 0]}, r"values\[1\]: is 0"),
        ({"kind": "empirical", "values": [1], "weights": [0]}, "at least one weight"),
        ({"kind": "zipf", "exponent": 1, "low": 1, "high": 10**9}, "between low"),
        ({"kind": "quantiles", "values": [3, 2]}, "do not decrease"),
        ({"kind": "quantiles", "probabilities": [0, 0.5], "values": [1, 2]}, "from 0 to 1"),
        ({"kind": "mixture", "parts": [{"weight": 1, "of": {"kind": "fixd"}}]}, r"parts\[0\].of.kind.*did you mean"),
        ({"kind": "fixed", "tokens": 3, "min": 5, "max": 4}, r"at least min \(5\)"),
        ({"kind": "fixed", "token": 3, "tokens": 3}, "unknown key 'token'.*did you mean 'tokens'"),
        ([1, 2], "no mapping"),
    ],
)
def test_what_cannot_be_used_is_named(spec, said):
    with pytest.raises(WorkloadError, match=f"(?s){said}"):
        build_size(Section(spec))
