"""Surveys and fits of streams whose truth is known."""

import math

import numpy as np
import pytest
from hermes_workload import WorkloadError, open_workload
from hermes_workload.changes import change_points
from hermes_workload.classes import fit_classes
from hermes_workload.conversations import find_conversations, fit_conversations
from hermes_workload.distance import ks_distance, ks_significance, rank_correlation
from hermes_workload.fitting import fit, fit_sizes
from hermes_workload.survey import survey, survey_batches
from hypothesis import given
from hypothesis import strategies as st

SECOND = 10**9
PLAIN = {
    "arrivals": {"kind": "poisson", "rate_per_s": 10.0},
    "prompt": {"kind": "lognormal", "median": 300, "p95": 2000},
    "output": {"kind": "uniform", "low": 50, "high": 150},
    "requests": 20_000,
}


def open_with(**more):
    return open_workload({**PLAIN, **more}, 5)


def test_a_survey_of_poisson_traffic_finds_it_poisson():
    found = survey(open_with())
    assert found.rate_per_s == pytest.approx(10, rel=4 / math.sqrt(20_000))
    assert found.gaps.cv == pytest.approx(1, abs=0.03)
    assert abs(found.gaps.lag_one) < 0.03
    for window in (1, 10):
        windows = found.span_s / window
        assert found.dispersion(window * SECOND) == pytest.approx(1, abs=4 * math.sqrt(2 / windows))
    assert math.isnan(found.dispersion(10**15))
    assert not found.segmented


def test_a_survey_counts_sizes_exactly():
    source = open_with()
    found = survey(source)
    prompts = np.concatenate([batch.prompt_tokens for batch in source.batches()])
    assert found.prompt_counts.sum() == 20_000
    assert np.array_equal(np.flatnonzero(found.prompt_counts), np.unique(prompts))
    assert found.prompt_tokens == prompts.sum()


def test_shared_tokens_are_those_that_an_earlier_prompt_began_with():
    found = survey(open_with(system_prompt={"tokens": 100, "groups": 4}))
    assert found.shared_tokens == 100 * (20_000 - 4)
    cycled = survey(open_with(cycle={"prompts": 50, "groups": 5, "group_prefix_tokens": 10}))
    source = open_with(cycle={"prompts": 50, "groups": 5, "group_prefix_tokens": 10}, requests=50)
    fresh = sum(int(batch.prompt_tokens.sum()) for batch in source.batches()) - 10 * 45
    assert cycled.prompt_tokens - cycled.shared_tokens == fresh


def test_requests_that_wait_are_no_arrivals():
    found = survey(open_with(sessions={"turns": {"kind": "fixed", "tokens": 4}, "think": {"mean_ns": SECOND}}))
    assert found.waiting == 15_000
    assert found.rate_per_s == pytest.approx(10, rel=0.1)
    assert (found.sessions, found.session_requests) == (5_000, 20_000)


def test_an_empty_stream_cannot_be_surveyed():
    with pytest.raises(WorkloadError, match="no requests"):
        survey_batches(iter([]))


def test_a_drifting_rate_is_fitted_by_its_moments():
    truth = {"kind": "drift", "rate_per_s": 50.0, "sigma": 0.4, "memory_ns": 60 * SECOND, "step_ns": SECOND}
    found = fit(survey(open_with(arrivals=truth, requests=800_000)), "drift")
    fitted = found.spec["arrivals"]
    assert fitted["kind"] == "drift"
    assert fitted["sigma"] == pytest.approx(0.4, rel=0.15)
    assert fitted["memory_ns"] == pytest.approx(60 * SECOND, rel=0.35)
    assert found.goodness.gap_ks < 0.03


def test_a_curve_is_fitted_where_it_is_clear_and_not_where_it_is_chance():
    clear = {"kind": "curve", "rates_per_s": [5.0, 50.0], "step_ns": 100 * SECOND}
    found = fit(survey(open_with(arrivals=clear)), "curve")
    assert found.spec["arrivals"]["kind"] == "curve"
    rates = found.spec["arrivals"]["rates_per_s"]
    low, high = np.array_split(np.sort(rates), 2)
    assert np.median(low) == pytest.approx(5, rel=0.3)
    assert np.median(high) == pytest.approx(50, rel=0.15)
    assert fit(survey(open_with()), "curve").spec["arrivals"]["kind"] == "renewal"
    assert fit(survey(open_with()), "poisson").spec["arrivals"]["kind"] == "poisson"


@pytest.mark.parametrize("cv", [0.4, 2.5])
def test_the_burstiness_of_gaps_is_kept(cv):
    found = fit(survey(open_with(arrivals={"kind": "gamma", "rate_per_s": 10.0, "cv": cv})))
    assert found.goodness.gap_cv[1] == pytest.approx(cv, rel=0.15)
    assert found.goodness.gap_ks < 0.03


def test_a_dependence_that_no_correlation_shows_is_kept():
    spec = {
        "joint": {
            "kind": "conditional",
            "prompt": {"values": [100, 1000]},
            "output": {"values": [[500, 501], [1, 2], [500, 501]]},
        }
    }
    plain = {key: value for key, value in PLAIN.items() if key not in ("prompt", "output")}
    found = fit(survey(open_workload({**plain, **spec}, 5)))
    again = np.array(found.spec["joint"]["output"]["values"])
    middle = again[len(again) // 2]
    assert middle[-2] < 3
    assert again[0][1] > 490
    assert again[-1][1] > 490


def test_conversations_are_found_by_their_shared_beginnings():
    truth = {"turns": {"kind": "uniform", "low": 1, "high": 5}, "think": {"mean_ns": 3 * SECOND}}
    source = open_with(sessions=truth, requests=2_000, system_prompt={"tokens": 64})
    talk = find_conversations(source)
    session = np.concatenate([batch.session_id for batch in source.batches()])
    assert np.array_equal(talk.session, session)
    assert talk.system_tokens == 64
    fitted = fit_conversations(source, survey(source), "poisson")
    assert fitted.goodness.shared_share[1] == pytest.approx(fitted.goodness.shared_share[0], abs=0.05)
    assert fitted.goodness.prompt_ks < 0.06
    with pytest.raises(WorkloadError, match="no identity"):
        find_conversations(open_with())


def changing(shares):
    def entry(median, share):
        size = {"kind": "lognormal", "median": median, "p95": 1.2 * median}
        return {"prompt": size, "output": {"kind": "fixed", "tokens": median}, "share": share}

    return {
        "kind": "mix",
        "requests": 20_000,
        "arrivals": {"kind": "poisson", "rate_per_s": 10},
        "share_step_ns": 1_000 * SECOND,
        "entries": [entry(100, shares[0]), entry(5_000, shares[1])],
    }


def test_classes_of_requests_that_come_and_go_are_found_and_kept():
    found = fit_classes(survey(open_workload(changing([[0.9, 0.1], [0.1, 0.9]]), 5)))
    assert len(found.spec["entries"]) == 2
    assert found.goodness.prompt_ks < 0.03
    source = open_workload({**found.spec, "requests": 20_000}, 6)
    times = np.concatenate([batch.arrival_ns for batch in source.batches()])
    long = np.concatenate([batch.prompt_tokens for batch in source.batches()]) > 700
    for part, share in ((times < 900 * SECOND, 0.1), ((times > 1_100 * SECOND) & (times < 1_900 * SECOND), 0.9)):
        assert long[part].mean() == pytest.approx(share, abs=0.03)
    with pytest.raises(WorkloadError, match="cannot be divided"):
        fit_classes(survey(open_with(requests=50)))


def test_what_does_not_change_is_not_divided():
    for truth in (changing([0.5, 0.5]), PLAIN):
        found = fit_classes(survey(open_workload(truth, 5)))
        assert found.spec["kind"] == "synthetic"


def test_fitted_sizes_keep_the_mean_of_a_long_tail():
    sizes = np.random.default_rng(1).lognormal(5, 1.5, 50_000).astype(np.int64) + 1
    joint = fit_sizes(sizes, sizes)["prompt"]
    drawn = np.interp(np.linspace(0, 1, 1_000_001), joint["probabilities"], joint["values"])
    assert drawn.mean() == pytest.approx(sizes.mean(), rel=0.004)


def test_too_little_cannot_be_fitted():
    with pytest.raises(WorkloadError, match="cannot be fitted"):
        fit(survey(open_with(requests=50)))
    with pytest.raises(WorkloadError, match="cannot be fitted"):
        fit(survey(open_with(arrivals={"kind": "burst"})))
    with pytest.raises(WorkloadError, match="'square' is no shape"):
        fit(survey(open_with()), "square")


@given(st.lists(st.integers(0, 20), min_size=1, max_size=30), st.lists(st.integers(0, 20), min_size=1, max_size=30))
def test_the_distance_is_the_largest_gap(left, right):
    slow = max(
        abs(sum(one <= at for one in left) / len(left) - sum(one <= at for one in right) / len(right))
        for at in range(21)
    )
    assert ks_distance(np.array(left), np.array(right)) == pytest.approx(slow)


def test_significance_is_that_of_the_tables():
    # Kolmogorov's limit law: 1.3581 and 1.6276 are its 5% and 1% points.
    many = 10**8
    for point, level in ((1.3581, 0.05), (1.6276, 0.01)):
        assert ks_significance(point / math.sqrt(many / 2), many, many) == pytest.approx(level, rel=0.002)
    assert ks_significance(0.0, 10, 10) == 1


def test_rank_correlation_with_ties():
    assert rank_correlation(np.array([1, 2, 2, 9]), np.array([3, 4, 4, 5])) == pytest.approx(1)
    assert rank_correlation(np.array([1, 2, 3]), np.array([3, 2, 1])) == pytest.approx(-1)
    assert rank_correlation(np.array([1, 2, 3]), np.array([5, 5, 5])) == 0


def test_changes_of_a_rate_are_found_where_they_are_and_nowhere_else():
    rng = np.random.default_rng(1)
    rates = np.repeat([2.0, 20.0, 5.0], [300, 10, 400])
    edges = change_points(rng.poisson(rates))
    assert edges[0] == 0
    assert edges[-1] == 710
    assert len(edges) == 4
    assert abs(edges[1] - 300) <= 1
    assert abs(edges[2] - 310) <= 1
    # At the level 0.05 about one in twenty stretches of one rate is cut.
    flat = [len(change_points(rng.poisson(3.0, 500))) > 2 for _ in range(60)]
    assert sum(flat) <= 8
