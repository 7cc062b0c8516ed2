"""Arrival processes against their theory. Seeds are fixed; a test of a distribution refuses at the level 0.001."""

import itertools
import math

import numpy as np
import pytest
from hermes_workload import WorkloadError, stream
from hermes_workload.arrivals import NS_PER_S, Renewal, build_arrivals
from hermes_workload.batch import BATCH_ROWS
from hermes_workload.distance import ks_significance
from hermes_workload.fields import Section
from hypothesis import given, settings
from hypothesis import strategies as st

LEVEL = 0.001
MANY = 200_000


def times_of(spec, count=MANY, seed=11):
    chunks, total = [], 0
    for chunk in build_arrivals(Section(spec)).times(stream(seed, "arrivals")):
        chunks.append(chunk)
        total += len(chunk)
        if total >= count:
            break
    return np.concatenate(chunks)[:count]


def gaps_s(times):
    return np.diff(times, prepend=0) / NS_PER_S


def significance(values, distribution):
    ordered = np.sort(values)
    expected = distribution(ordered)
    steps = np.arange(len(ordered) + 1) / len(ordered)
    distance = max(np.abs(expected - steps[1:]).max(), np.abs(expected - steps[:-1]).max())
    return ks_significance(float(distance), len(ordered), 10**12)


def dispersion(times, window_s):
    counts = np.bincount(times // int(window_s * NS_PER_S))[:-1]
    return counts.var() / counts.mean()


def test_poisson_gaps_are_exponential_and_independent():
    gaps = gaps_s(times_of({"kind": "poisson", "rate_per_s": 8}))
    assert significance(gaps, lambda x: 1 - np.exp(-8 * x)) > LEVEL
    assert abs(np.corrcoef(gaps[1:], gaps[:-1])[0, 1]) < 4 / math.sqrt(MANY)


@pytest.mark.parametrize("window_s", [0.5, 5, 50])
def test_a_poisson_process_has_dispersion_one_in_every_window(window_s):
    times = times_of({"kind": "poisson", "rate_per_s": 20})
    windows = times[-1] / NS_PER_S / window_s
    assert dispersion(times, window_s) == pytest.approx(1, abs=4 * math.sqrt(2 / windows))


def test_gamma_gaps_with_cv_a_half_are_erlang():
    gaps = gaps_s(times_of({"kind": "gamma", "rate_per_s": 5, "cv": 0.5}))

    def erlang(x):
        y = 4 * 5 * x
        return 1 - np.exp(-y) * (1 + y + y**2 / 2 + y**3 / 6)

    assert significance(gaps, erlang) > LEVEL


@pytest.mark.parametrize("cv", [0.3, 1, 2, 3.5])
def test_gamma_gaps_have_their_rate_and_cv(cv):
    gaps = gaps_s(times_of({"kind": "gamma", "rate_per_s": 12, "cv": cv}))
    assert gaps.mean() == pytest.approx(1 / 12, rel=4 * cv / math.sqrt(MANY))
    kurtosis = 6 * cv**2
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=4 * math.sqrt((kurtosis + 2) / 4 / MANY) + 0.005)


def test_dispersion_of_a_renewal_process_tends_to_its_squared_cv():
    times = times_of({"kind": "gamma", "rate_per_s": 50, "cv": 2})
    windows = times[-1] / NS_PER_S / 20
    assert dispersion(times, 20) == pytest.approx(4, rel=4 * math.sqrt(2 / windows))


@pytest.mark.parametrize("shape", [0.6, 1, 2.5])
def test_weibull_gaps_follow_their_law(shape):
    gaps = gaps_s(times_of({"kind": "weibull", "rate_per_s": 3, "shape": shape}))
    scale = 1 / 3 / math.gamma(1 + 1 / shape)
    assert significance(gaps, lambda x: 1 - np.exp(-((x / scale) ** shape))) > LEVEL


@pytest.mark.parametrize("rate", [3, 7.3, 1000, 1e-3])
def test_constant_arrivals_never_drift(rate):
    times = times_of({"kind": "constant", "rate_per_s": rate}, 30_000)
    exact = [math.floor(at * NS_PER_S / rate) for at in (0, 1, 8191, 8192, 29_999)]
    assert np.abs(times[[0, 1, 8191, 8192, 29_999]] - exact).max() <= 1
    assert times[0] == 0


def test_stages_hold_exactly_their_requests_and_end_on_time():
    stages = [{"rate_per_s": 8, "duration_ns": 600 * NS_PER_S}, {"rate_per_s": 20, "duration_ns": 600 * NS_PER_S}]
    times = times_of({"kind": "stages", "of": "poisson", "stages": stages})
    assert len(times) == 4_800 + 12_000
    assert np.count_nonzero(times <= 600 * NS_PER_S) == 4_800
    assert times[4_799] == pytest.approx(600 * NS_PER_S, abs=2)
    assert times[-1] == pytest.approx(1200 * NS_PER_S, abs=2)
    inside = times[4_800:-1] / NS_PER_S
    assert significance(inside, lambda x: (x - 600) / 600) > LEVEL
    assert np.diff(inside).std() / np.diff(inside).mean() == pytest.approx(1, abs=0.05)


def test_constant_stages_are_evenly_spaced():
    stages = [{"rate_per_s": 2, "duration_ns": 3 * NS_PER_S}, {"rate_per_s": 1, "duration_ns": 2 * NS_PER_S}]
    times = times_of({"kind": "stages", "of": "constant", "stages": stages})
    assert (times / NS_PER_S).tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3, 4]


def test_a_markov_modulated_process_has_the_rate_and_dispersion_of_theory():
    rates, dwell_s = (2.0, 40.0), (9.0, 1.0)
    spec = {"kind": "mmpp", "rates_per_s": list(rates), "mean_dwell_ns": [int(one * NS_PER_S) for one in dwell_s]}
    times = times_of(spec, 1_000_000)
    leave = [1 / one for one in dwell_s]
    mean = (rates[0] * leave[1] + rates[1] * leave[0]) / sum(leave)
    span_s = times[-1] / NS_PER_S
    # Fischer and Meier-Hellstern 1993: the limit of the index of dispersion of a two-state process.
    limit = 1 + 2 * (rates[0] - rates[1]) ** 2 * leave[0] * leave[1] / sum(leave) ** 2 / (
        rates[0] * leave[1] + rates[1] * leave[0]
    )
    assert len(times) / span_s == pytest.approx(mean, rel=4 * math.sqrt(limit / len(times)))
    assert dispersion(times, 100) == pytest.approx(limit, rel=4 * math.sqrt(2 / (span_s / 100)) + 0.02)


def test_a_diurnal_rate_follows_its_sine():
    period_s, ratio = 1_000, 4
    spec = {"kind": "diurnal", "rate_per_s": 100, "peak_to_trough": ratio, "period_ns": period_s * NS_PER_S}
    times = times_of(spec, 1_000_000)
    periods = int(times[-1] // (period_s * NS_PER_S))
    phase = times[times < periods * period_s * NS_PER_S] % (period_s * NS_PER_S)
    parts = np.bincount(phase * 20 // (period_s * NS_PER_S), minlength=20)
    angles = 2 * np.pi * np.arange(21) / 20
    share = 1 / 20 - (ratio - 1) / (ratio + 1) * np.diff(np.cos(angles)) / (2 * np.pi)
    expected = share * 100 * period_s * periods
    chi_square = float(((parts - expected) ** 2 / expected).sum())
    assert chi_square < 45.3  # the 0.999 quantile of chi-square with 20 degrees of freedom


def test_a_spike_multiplies_the_rate_for_its_time_only():
    spec = {"kind": "spike", "rate_per_s": 50, "at_ns": 100 * NS_PER_S, "for_ns": 50 * NS_PER_S, "factor": 6}
    times = times_of(spec) / NS_PER_S
    for start, stop, rate in ((0, 100, 50), (100, 150, 300), (150, 400, 50)):
        expected = rate * (stop - start)
        assert np.count_nonzero((times >= start) & (times < stop)) == pytest.approx(
            expected, abs=4 * math.sqrt(expected)
        )


def test_a_counted_curve_holds_what_its_rates_say_and_spreads_it_evenly():
    spec = {"kind": "curve", "rates_per_s": [30, 0, 60.04], "step_ns": 10 * NS_PER_S, "counted": True}
    times = times_of(spec, 90_000)
    counts = np.bincount(times // (10 * NS_PER_S))
    assert (counts[:-1:3] == 300).all()
    assert not counts[1:-1:3].any()
    # 600.4 a time: the rest is carried over.
    third = counts[2:-1:3]
    assert set(third.tolist()) == {600, 601}
    assert third.sum() == pytest.approx(600.4 * len(third), abs=1)
    assert (np.diff(times) >= 0).all()
    within = (times % (10 * NS_PER_S))[times // (10 * NS_PER_S) % 3 == 0]
    assert significance(within / (10 * NS_PER_S), lambda x: x) > LEVEL
    # Given how many there are, the counts of the two halves of a piece are binomial: variance n / 4.
    halves = np.bincount(times // (5 * NS_PER_S))[: 6 * len(third)][0::6]
    assert halves.var() == pytest.approx(75, rel=5 * math.sqrt(2 / len(halves)))


def test_a_counted_curve_may_have_less_than_a_request_a_piece_and_more_than_a_chunk():
    rare = times_of({"kind": "curve", "rates_per_s": [0.03], "step_ns": 10 * NS_PER_S, "counted": True}, 300)
    assert rare[-1] / NS_PER_S == pytest.approx(300 / 0.03, rel=0.01)
    spec = {"kind": "curve", "rates_per_s": [300_000, 1], "step_ns": NS_PER_S, "counted": True}
    chunks = build_arrivals(Section(spec)).times(stream(1, "arrivals"))
    first = list(itertools.takewhile(lambda chunk: chunk[0] < 2 * NS_PER_S, chunks))
    assert max(map(len, first)) <= BATCH_ROWS
    times = np.concatenate(first)
    assert np.count_nonzero(times < NS_PER_S) == 300_000
    assert np.count_nonzero((times >= NS_PER_S) & (times < 2 * NS_PER_S)) == 1


def test_a_curve_repeats_and_may_rest():
    spec = {"kind": "curve", "rates_per_s": [30, 0, 60], "step_ns": 10 * NS_PER_S}
    times = times_of(spec) / NS_PER_S
    cycles = times[-1] // 30
    whole = (times[times < cycles * 30] // 10).astype(int) % 3
    counts = np.bincount(whole, minlength=3)
    assert counts[1] == 0
    assert counts[0] == pytest.approx(300 * cycles, abs=4 * math.sqrt(300 * cycles))
    assert counts[2] == pytest.approx(600 * cycles, abs=4 * math.sqrt(600 * cycles))


def test_a_wandering_rate_has_the_moments_it_is_given():
    sigma, step_s = 0.5, 1
    memory_ns = 5 * NS_PER_S
    spec = {"kind": "drift", "rate_per_s": 200, "sigma": sigma, "memory_ns": memory_ns, "step_ns": step_s * NS_PER_S}
    times = times_of(spec, 4_000_000)
    counts = np.bincount(times // NS_PER_S)[:-1]
    off = counts - counts.mean()
    variance = math.log1p((counts.var() - counts.mean()) / counts.mean() ** 2)
    later = math.log1p(float((off[5:] * off[:-5]).mean()) / counts.mean() ** 2)
    assert counts.mean() == pytest.approx(200, rel=0.04)
    assert variance == pytest.approx(sigma**2, rel=0.08)
    assert later / variance == pytest.approx(math.exp(-1), rel=0.15)


def test_measured_gaps_are_drawn_by_their_quantiles():
    spec = {"kind": "renewal", "rate_per_s": 10, "gaps": {"probabilities": [0, 0.5, 1], "values": [0, 1, 3]}}
    gaps = gaps_s(times_of(spec))
    assert gaps.mean() == pytest.approx(0.1, rel=0.01)
    # Mean of the piecewise linear quantile function: 0.5 * 0.5 + 0.5 * 2 = 1.25, so the median is 1 / 1.25 of the mean.
    assert np.median(gaps) == pytest.approx(0.08, rel=0.02)


def test_a_coarse_clock_rounds_down_to_its_ticks():
    plain = {"kind": "poisson", "rate_per_s": 4}
    exact, coarse = times_of(plain, 1000), times_of({**plain, "tick_ns": 3 * NS_PER_S}, 1000)
    assert (coarse == exact // (3 * NS_PER_S) * (3 * NS_PER_S)).all()


def test_everything_at_once():
    assert not times_of({"kind": "burst"}, 100).any()
    assert not times_of({"kind": "closed_loop", "concurrency": 3}, 100).any()


rates = st.floats(1e-3, 1e6)
spans = st.integers(1, 10**12)
specs = st.one_of(
    st.builds(lambda r: {"kind": "poisson", "rate_per_s": r}, rates),
    st.builds(lambda r: {"kind": "constant", "rate_per_s": r}, rates),
    st.builds(lambda r, c: {"kind": "gamma", "rate_per_s": r, "cv": c}, rates, st.floats(0.1, 10)),
    st.builds(lambda r, s: {"kind": "weibull", "rate_per_s": r, "shape": s}, rates, st.floats(0.3, 5)),
    st.builds(
        lambda r, d: {"kind": "mmpp", "rates_per_s": [r, 0.0], "mean_dwell_ns": d},
        st.floats(10, 1e5),
        st.lists(st.integers(10**8, 10**11), min_size=2, max_size=2),
    ),
    st.builds(
        lambda a, b, s: {"kind": "curve", "rates_per_s": [a, 0.0, b], "step_ns": s},
        st.floats(10, 1e5),
        st.floats(0, 1e5),
        st.integers(10**8, 10**11),
    ),
    st.builds(
        lambda r, a, f, k: {"kind": "spike", "rate_per_s": r, "at_ns": a, "for_ns": f, "factor": k},
        st.floats(10, 1e4),
        st.integers(0, 10**10),
        st.integers(10**6, 10**10),
        st.floats(0, 50),
    ),
)


@settings(max_examples=60, deadline=None)
@given(specs, st.integers(0, 2**32))
def test_no_process_ever_goes_back_in_time(spec, seed):
    times = times_of(spec, 20_000, seed)
    assert times.dtype == np.int64
    assert times[0] >= 0
    assert (np.diff(times) >= 0).all()
    assert times.tobytes() == times_of(spec, 20_000, seed).tobytes()


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"kind": "poison", "rate_per_s": 1}, "'poison' is no arrival process.*did you mean 'poisson'"),
        ({"kind": "poisson"}, "lacks the key 'rate_per_s'"),
        ({"kind": "poisson", "rate_per_s": -1}, r"workload.rate_per_s: is -1\s.*greater than 0"),
        ({"kind": "poisson", "rate_per_s": math.nan}, "rate_per_s: is nan"),
        ({"kind": "poisson", "rate_per_s": "8/s"}, "is '8/s'"),
        ({"kind": "poisson", "rate_per_s": 1, "cv": 2}, "unknown key 'cv'"),
        ({"kind": "gamma", "rate_per_s": 1, "vc": 2}, "cv"),
        ({"kind": "mmpp", "rates_per_s": [1, 2], "mean_dwell_ns": [1]}, r"as many dwell times as rates \(2\)"),
        ({"kind": "mmpp", "rates_per_s": [0, 0], "mean_dwell_ns": [1, 1]}, "at least one rate above 0"),
        ({"kind": "curve", "rates_per_s": [0], "step_ns": 5}, "at least one rate above 0"),
        ({"kind": "curve", "rates_per_s": [1], "step_ns": 5, "counted": 1}, "true or false"),
        (
            {"kind": "spike", "rate_per_s": 1, "at_ns": 5, "for_ns": 5, "factor": 2, "counted": True},
            "only a curve has counts",
        ),
        ({"kind": "curve", "rates_per_s": [1, -2], "step_ns": 5}, r"rates_per_s\[1\]: is -2"),
        ({"kind": "stages", "stages": []}, "at least one entry"),
        ({"kind": "stages", "stages": [{"rate_per_s": 0, "duration_ns": 10}]}, "hold at least one request"),
        ({"kind": "stages", "of": "gamma", "stages": [{"rate_per_s": 1, "duration_ns": 10}]}, "poisson or constant"),
        ({"kind": "closed_loop", "concurrency": 0}, "at least 1"),
        ({"kind": "closed_loop", "concurrency": 1, "tick_ns": 5}, "closed loop has no clock"),
        ({"kind": "renewal", "rate_per_s": 1, "gaps": {"values": [2, 1]}}, "do not decrease"),
        ({"kind": "diurnal", "rate_per_s": 1, "peak_to_trough": 0.5, "period_ns": 10**12}, "at least 1"),
    ],
)
def test_what_cannot_be_used_is_named(spec, said):
    with pytest.raises(WorkloadError, match=f"(?s){said}"):
        build_arrivals(Section(spec))


def test_requests_that_arrive_after_the_end_of_time_are_told_when_they_are_asked_for():
    rare = Renewal(lambda _, count: np.ones(count), 1e15).times(np.random.default_rng(1))
    assert next(rare).tolist() == [10**15 * at for at in range(1, 4612)]
    with pytest.raises(WorkloadError, match="arrive after 146 years: one in 1e\\+06 s on average"):
        next(rare)
    with pytest.raises(WorkloadError, match="arrive after 146 years"):
        list(Renewal(lambda _, count: np.ones(count), 1e39).times(np.random.default_rng(1)))
