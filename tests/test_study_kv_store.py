"""The study of KV stores: its cases run, and say what its text rests on."""

import importlib.util
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "studies" / "kv_store"


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("kv_store_study", FOLDER / "run.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_loads_that_are_alone_exceed_what_a_rack_has_and_loads_that_share_do_not(study):
    alone = study.simulate(("4K", "private", "C", False))
    shared = study.simulate(("4K", "private", "C", True))
    assert alone["utilisation"] > 10
    assert shared["utilisation"] <= 1.0
    assert alone["finished"] > 900
    assert shared["finished"] == 0
    assert shared["unfinished"] == shared["arrived"]


def test_a_fast_memory_of_ones_own_does_not_notice_contention_and_serves_more_than_none(study):
    alone, shared = (study.simulate(("4K", "private", "A", contention)) for contention in (False, True))
    none = study.simulate(("4K", "private", "E", True))
    assert abs(shared["finished"] - alone["finished"]) < 10
    assert shared["goodput_per_s"] > 2 * none["goodput_per_s"]
    assert shared["moved_tb"] == pytest.approx(shared["arrived"] * 4096 * 327_680 / 1e12, rel=0.02)


def test_hot_spots_cost_where_few_reach_them(study):
    rows = {name: study.simulate(("4K", "shared", name, False)) for name in "ABC"}
    assert rows["A"]["finished"] < rows["B"]["finished"] < rows["C"]["finished"]


def test_a_miss_is_computed(study):
    full, part = (study.simulate(("4K", "private", "A", True), rate) for rate in (1.0, 0.8))
    assert part["finished"] < full["finished"]
    assert part["moved_tb"] < 0.9 * full["moved_tb"]


def test_rows_are_means_over_seeds_with_intervals(study):
    rows = [
        {"organisation": "A", "contention": True, "finished": finished, "p90_ms": p90}
        for finished, p90 in ((0, float("nan")), (10, 30.0), (20, 40.0))
    ]
    row = study.over_seeds(rows)
    assert (row["organisation"], row["contention"]) == ("A", True)
    assert (row["finished"], row["p90_ms"]) == (10, 35.0)
    # Student's t with two degrees of freedom, a standard deviation of 10.
    assert row["finished_half"] == pytest.approx(4.303 * 10 / 3**0.5, rel=1e-3)
    assert "contention_half" not in row


def test_every_case_has_a_published_figure_or_says_none(study):
    assert set(study.PUBLISHED) == {(context, access) for context in study.CONTEXTS for access in study.ACCESS}
    assert all(set(row) == set(study.ORGANISATIONS) - {"D"} for row in study.PUBLISHED.values())
