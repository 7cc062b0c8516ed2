"""Quantities with units, as users write them."""

import math

import pytest
from hermes_core.api import units
from hermes_core.api.units import UnitError
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("quantity", "text", "expected"),
    [
        (units.MEMORY, "80 GiB", 80 * 2**30),
        (units.MEMORY, "80GB", 80 * 10**9),
        (units.MEMORY, "1.5 TB", 1_500_000_000_000),
        (units.BANDWIDTH, "3.35 TB/s", 3_350_000_000_000),
        (units.BANDWIDTH, "400 Gbit/s", 50_000_000_000),
        (units.BANDWIDTH, "400 Gbps", 50_000_000_000),
        (units.DURATION, "250 ms", 250_000_000),
        (units.DURATION, "1e3 us", 1_000_000),
        (units.DURATION, "20 µs", 20_000),
        (units.DURATION, "30 min", 1_800_000_000_000),
        (units.DURATION, "0 s", 0),
        (units.DURATION_FS, "2 us", 2_000_000_000),
        (units.RATE, "8/s", 8.0),
        (units.RATE, "120 /min", 2.0),
        (units.RATE, "3 req/s", 3.0),
        (units.TOKENS, 1024, 1024),
        (units.TOKENS, 1e4, 10_000),
        (units.TOKENS, "100M", 100_000_000),
        (units.TOKENS, "2k tokens", 2000),
        (units.COUNT, "1_000", 1000),
        (units.FLOPS, "989 TFLOP/s", 989e12),
        (units.PRICE, "2.5 USD/h", 2.5),
        (units.ENERGY_PRICE, "0.12 USD/kWh", 0.12),
        (units.POWER, "0.7 kW", 700.0),
        (units.CARBON, "0.35 kg/kWh", 350.0),
    ],
)
def test_a_quantity_is_read_into_its_canonical_unit(quantity, text, expected):
    value = quantity.parse(text)
    assert value == expected
    assert isinstance(value, int) is quantity.whole


@pytest.mark.parametrize(
    ("quantity", "value", "problem", "remedy"),
    [
        (units.RATE, 8, "8 has no unit", "write 8/s"),
        (units.DURATION, 250, "250 has no unit", "write 250 ms"),
        (units.MEMORY, "80", "has no unit", "write 80 GiB"),
        (units.DURATION, "8/s", "'/s' in '8/s' is not a unit of duration", "ns, us"),
        (units.MEMORY, "80 GHz", "'GHz' in '80 GHz' is not a unit of size in memory", "GiB"),
        (units.MEMORY, "80 gib", "'gib' in '80 gib' is not a unit", "GiB"),
        (units.RATE, "-3/s", "'-3/s' is negative", "0 or more"),
        (units.RATE, "nan/s", "not a finite number", "8/s"),
        (units.RATE, math.nan, "nan is not a finite number", "8/s"),
        (units.TOKENS, math.inf, "inf is not a finite number", "1024"),
        (units.TOKENS, ".inf", "not a finite number", "1024"),
        (units.TOKENS, 1.5, "1.5 is not a whole number", "1024"),
        (units.TOKENS, True, "True is not a number of tokens", "1024"),
        (units.TOKENS, None, "None is not a number of tokens", "1024"),
        (units.TOKENS, [1], "[1] is not a number of tokens", "1024"),
        (units.DURATION, "1e-12 s", "less than one ns", "1 ns"),
        (units.DURATION, "1e15 d", "too large", "ms"),
        (units.RATE, "1e999999999/s", "out of range", "8/s"),
        (units.DURATION, "fast", "'fast' is not a duration", "250 ms"),
        (units.DURATION, "", "'' is not a duration", "250 ms"),
    ],
)
def test_what_cannot_be_read_says_why_and_how_to_write_it(quantity, value, problem, remedy):
    with pytest.raises(UnitError) as caught:
        quantity.parse(value)
    assert problem in caught.value.problem
    assert remedy in caught.value.remedy


def test_an_exponent_bomb_takes_no_time():
    with pytest.raises(UnitError, match="out of range"):
        units.TOKENS.parse("1e4000000000")


@given(st.integers(0, 10**15))
def test_whole_nanoseconds_survive_being_written_in_seconds(ns):
    whole, rest = divmod(ns, 10**9)
    assert units.DURATION.parse(f"{whole}.{rest:09d} s") == ns


@given(st.text(max_size=12))
def test_any_text_is_read_or_refused_never_a_crash(text):
    for quantity in (units.MEMORY, units.RATE, units.TOKENS, units.DURATION):
        try:
            value = quantity.parse(text)
        except UnitError:
            continue
        assert value >= 0
        assert math.isfinite(value)


@pytest.mark.parametrize(
    ("ns", "text"),
    [(0, "0 ns"), (999, "999 ns"), (500_000_000, "500 ms"), (1_500_000_000, "1.5 s"), (1_800_000_000_000, "30 min")],
)
def test_a_duration_is_shown_as_a_person_would(ns, text):
    assert units.format_duration(ns) == text


def test_sizes_and_rates_are_shown_with_prefix():
    assert units.format_bytes(80 * 2**30) == "80 GiB"
    assert units.format_bytes(512) == "512 B"
    assert [units.format_bytes(size) for size in (10**12, 1500 * 10**9, 10**9 + 1)] == ["1 TB", "1.5 TB", "953.674 MiB"]
    assert units.format_rate(8.0) == "8/s"
