"""Runs over several seeds, and the numbers of a point."""

import math

import numpy as np
import pytest
from hermes_analysis.compare import METRICS
from hermes_analysis.executors import make_executor
from hermes_analysis.load import RunRecord
from hermes_analysis.metrics import summarise
from hermes_analysis.points import HIGHER_IS_BETTER, UNITS, check_metric, point_metrics, quantile
from hermes_analysis.replicate import Estimate, replicate, run_seeds
from hermes_analysis.simulator import AnalysisError, SimulationError, session

SCENARIO = {
    "model": "meta-llama/Llama-3.1-8B",
    "hardware": "h100-sxm",
    "workload": {"rate": "8/s", "prompt": 600, "output": 30, "requests": 40},
    "slo": {"ttft": "300 ms", "tpot": "20 ms"},
    "cost": {"electricity": "0.1 USD/kWh"},
}


@pytest.fixture(scope="module", autouse=True)
def simulator():
    pytest.importorskip("hermes_core", reason="runs scenarios")
    pytest.importorskip("hermes_hw", reason="prices steps")
    pytest.importorskip("hermes_workload", reason="makes requests")


def record(sets=()):
    runner = session()
    return RunRecord.from_chunks(runner.run(runner.read(SCENARIO), sets))


def test_a_point_says_what_the_summary_says_where_all_were_served():
    run = record()
    metrics, summary = point_metrics(run), summarise(run)
    assert metrics["unserved"] == 0
    compared = [metric for metric in METRICS if metric.name in metrics]
    assert len(compared) >= 15
    for metric in compared:
        assert metrics[metric.name] == pytest.approx(metric.of(summary), rel=1e-12), metric.name
    assert metrics["slo_attainment"] == summary.total.slo_attainment
    assert metrics["tokens_per_usd"] == pytest.approx(1e6 / metrics["usd_per_million_tokens"])


def test_who_was_not_served_is_infinitely_late():
    """Percentiles over the survivors would make a system that refuses half its users look quick."""
    run = record(["duration=6 s", "workload.rate=200/s", "workload.requests=400", "slo={ttft: 300 ms}"])
    metrics, summary = point_metrics(run), summarise(run)
    assert 0.05 < metrics["unserved"] < 1
    assert metrics["e2e.p99"] == math.inf
    assert math.isfinite(summary.total.e2e_s.p99)
    shares = [quantile(np.array([1.0, 2.0, np.inf, np.inf]), level) for level in (0, 1 / 3, 0.5, 1)]
    assert shares == [1.0, 2.0, math.inf, math.inf]


def test_names_and_units_are_complete():
    assert set(point_metrics(record())) == set(UNITS)
    assert set(UNITS) >= HIGHER_IS_BETTER
    with pytest.raises(AnalysisError, match=r"no metric 'ttft\.p98'; known: devices"):
        check_metric("ttft.p98")


def test_seeds_come_in_their_order_from_any_executor():
    alone = replicate(SCENARIO, [3, 1, 2])
    with make_executor("joblib", workers=2) as executor:
        together = replicate(SCENARIO, [3, 1, 2], executor=executor)
    assert together == alone
    assert len(set(alone["ttft.mean"].values)) == 3
    assert run_seeds(SCENARIO, [1], point_metrics)[0]["ttft.mean"] == alone["ttft.mean"].values[1]


def test_an_interval_is_students():
    estimate = Estimate.of([1.0, 2.0, 3.0, 4.0])
    assert estimate.mean == 2.5
    assert estimate.half_width == pytest.approx(3.182 * np.std([1, 2, 3, 4], ddof=1) / 2)
    assert math.isnan(Estimate.of([1.0]).half_width)
    assert Estimate.of([1.0, math.inf]).mean == math.inf


def test_the_interval_covers_the_mean_as_often_as_it_says():
    draws = np.random.Generator(np.random.PCG64DXSM(np.random.SeedSequence(4))).normal(7.0, 2.0, (2000, 5))
    found = [Estimate.of(list(row)) for row in draws]
    covered = np.mean([abs(estimate.mean - 7.0) <= estimate.half_width for estimate in found])
    assert 0.93 < covered < 0.97


def test_what_the_simulator_refuses_is_told_in_its_words():
    with pytest.raises(SimulationError, match="replcas"):
        run_seeds(SCENARIO, [1], point_metrics, sets=["replcas=2"])
    with pytest.raises(AnalysisError, match="no runner 'other'; installed: default"):
        session("other")
