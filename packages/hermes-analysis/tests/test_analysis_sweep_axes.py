"""What a sweep varies: how it is written, which points it makes, how they are named."""

import pytest
from hermes_analysis.seeds import SeedsError, chosen_seeds, seeds_of
from hermes_analysis.sweep import Axis, AxisError, Space, parse_axis
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("replicas=1,2,4", ["1", "2", "4"]),
        ("replicas=1..4", ["1", "2", "3", "4"]),
        ("replicas=2..16:4", ["2", "6", "10", "14"]),
        ("engine.gpu_memory_utilization=0.7..0.9:0.1", ["0.7", "0.8", "0.9"]),
        ("workload.rate=5/s..20/s:5/s", ["5/s", "10/s", "15/s", "20/s"]),
        ("workload.rate=linear(5/s, 10/s, 3)", ["5/s", "7.5/s", "10/s"]),
        ("workload.rate=log(1/s, 100/s, 3)", ["1/s", "10/s", "100/s"]),
        ("engine.max_num_seqs=log(1, 64, 4)", ["1", "4", "16", "64"]),
        ("hardware={device: h100-sxm, tp: 2},b200", ["{device: h100-sxm, tp: 2}", "b200"]),
        ('model="a, b",c', ['"a, b"', "c"]),
        ("workload.arrivals={gamma: {rate: 5/s, cv: 2}}", ["{gamma: {rate: 5/s, cv: 2}}"]),
        ("slo.ttft=200 ms,500 ms", ["200 ms", "500 ms"]),
    ],
)
def test_values_are_read_as_a_person_writes_them(text, values):
    axis = parse_axis(text)
    assert axis.path == text.partition("=")[0]
    assert list(axis.values) == values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("replicas", "no path=values"),
        ("=1,2", "no path=values"),
        ("replicas=", "replicas has no values"),
        ("replicas=1,,2", "a value is empty"),
        ("replicas=1,2,1", "the value 1 stands twice"),
        ("replicas=8..1", "the range is empty"),
        ("replicas=1..8:0", "no step above 0"),
        ("workload.rate=5/s..9", "different units"),
        ("workload.rate=1..9:1/s", "the step is in /s, the ends in none"),
        ("replicas=a..b", "'a' is no number"),
        ("workload.rate=log(0/s, 9/s, 3)", "begins above 0"),
        ("workload.rate=linear(1/s, 9/s, many)", "no number of values"),
        ("workload.rate=linear(1/s)", r"write linear\(FROM"),
        ("hardware={device: b200", "} is missing"),
        ("replicas=1..9:0.000001", "take a larger step"),
    ],
)
def test_what_cannot_be_read_says_why(text, message):
    with pytest.raises(AxisError, match=message):
        parse_axis(text)


def test_a_grid_has_each_combination_once_seeds_fastest():
    space = Space((parse_axis("a=1,2"), parse_axis("b=x,y,z")), seeds=(7, 8))
    points = [space.point(index) for index in range(len(space))]
    assert len(points) == 12
    assert [point.values for point in points[::2]] == [(a, b) for a in "12" for b in "xyz"]
    assert [point.seed for point in points[:4]] == [7, 8, 7, 8]
    assert points[3].sets == ("a=1", "b=y")
    assert len({space.key(point) for point in points}) == 12


def test_a_point_keeps_its_key_when_the_sweep_grows_or_is_written_otherwise():
    small = Space((parse_axis("a=1,2"), parse_axis("b=x")), seeds=(7,), scenario="s")
    large = Space((parse_axis("b=w,x"), parse_axis("a=0..2")), seeds=(7, 8), scenario="s")
    keys = {large.key(large.point(index)) for index in range(len(large))}
    assert all(small.key(small.point(index)) in keys for index in range(len(small)))
    other = Space((parse_axis("a=1,2"), parse_axis("b=x")), seeds=(7,), scenario="t")
    assert other.key(other.point(0)) not in keys


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4), seeds=st.integers(1, 3))
def test_points_by_number_are_the_product(sizes, seeds):
    axes = tuple(Axis(f"p{at}", tuple(str(value) for value in range(size))) for at, size in enumerate(sizes))
    space = Space(axes, tuple(range(1, seeds + 2)))
    points = [space.point(index) for index in range(len(space))]
    assert len({(point.values, point.seed) for point in points}) == len(space)


def test_sobol_samples_the_whole_evenly_and_again():
    pytest.importorskip("scipy", reason="extra search")
    axes = (parse_axis("a=0..1"), parse_axis("rate=1/s..9/s"), parse_axis("n=log(1, 1000)"), parse_axis("k=x,y,z,w"))
    space = Space((*axes,), sobol=64, sampling_seed=5)
    values = [space.values(number) for number in range(64)]
    assert values == [Space((*axes,), sobol=64, sampling_seed=5).values(number) for number in range(64)]
    assert values != [Space((*axes,), sobol=64, sampling_seed=6).values(number) for number in range(64)]
    assert {a for a, _, _, _ in values} == {"0", "1"}
    rates = [float(rate.removesuffix("/s")) for _, rate, _, _ in values]
    assert all(sum(low <= rate < low + 1 for rate in rates) == 8 for low in range(1, 9))
    assert sum(float(n) < 31.6 for _, _, n, _ in values) == pytest.approx(32, abs=2)
    assert [sum(k == name for *_, k in values) for name in "xyzw"] == [16] * 4


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ((), "varies nothing"),
        (("a=1", "a=2"), "--over a stands twice"),
        (("rate=1/s..9/s",), r"a grid needs a step \(1/s\.\.9/s:STEP\)"),
    ],
)
def test_a_space_without_points_is_refused(axes, message):
    with pytest.raises(AxisError, match=message):
        Space(tuple(parse_axis(text) for text in axes))


def test_seeds_are_a_number_or_a_list():
    assert chosen_seeds("3", 5) == (5, 6, 7)
    assert chosen_seeds("3,1,3", 5) == (3, 1)
    for text in ("0", "x", "1;2"):
        with pytest.raises(SeedsError, match="seed"):
            chosen_seeds(text, 1)


def test_a_number_of_seeds_counts_from_the_scenarios_own():
    assert seeds_of("3", {"seed": 11}) == (11, 12, 13)
    assert seeds_of("2", {}) == (0, 1), "the seed of a scenario that names none"
    assert seeds_of("9,8", {"seed": 11}) == (9, 8)
    assert seeds_of(range(4, 6), {"seed": 11}) == (4, 5)


def test_the_option_is_named_that_it_was_given_by():
    with pytest.raises(AxisError, match=r"^--fleet replicas=5\.\.1: the range is empty"):
        parse_axis("replicas=5..1", "--fleet")
    with pytest.raises(AxisError, match=r"^--over replicas: this is no path=values"):
        parse_axis("replicas")


@pytest.mark.parametrize("text", ["n=16..1024", "n=log(16, 1024)"])
@given(share=st.floats(0, 1, exclude_max=True))
def test_between_whole_numbers_samples_are_whole(text, share):
    interval = parse_axis(text).interval
    value = interval.at(share)
    assert value.isdecimal()
    assert 16 <= int(value) <= 1024
    assert (interval.at(0.0), interval.at(1 - 2**-53)) == ("16", "1024")


def test_a_logarithmic_sample_has_as_many_below_the_middle_as_above():
    interval = parse_axis("n=log(16, 1024)").interval
    low = sum(int(interval.at(at / 1000)) < 128 for at in range(1000))
    assert abs(low - 500) < 20
    assert float(parse_axis("r=log(0.5/s, 8/s)").interval.at(0.5).removesuffix("/s")) == pytest.approx(2.0)


def test_a_sample_that_no_memory_holds_is_refused():
    with pytest.raises(AxisError, match="more points than 1,000,000"):
        Space((parse_axis("replicas=1..8"),), sobol=10**20)
