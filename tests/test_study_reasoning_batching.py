"""The studies of thinking and of batching: every case is a scenario, some are run short, and figures are drawn."""

import importlib.util
import math
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hermes_analysis.points import point_metrics
from hermes_analysis.replicate import estimates, run_seeds
from hermes_core.sessions import Session

STUDIES = Path(__file__).resolve().parent.parent / "examples" / "studies"


def study(name):
    spec = importlib.util.spec_from_file_location(f"study_{name}", STUDIES / name / "run.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reasoning():
    return study("reasoning")


@pytest.fixture(scope="module")
def batching():
    return study("batching")


def test_every_way_to_think_is_a_scenario(reasoning):
    session = Session()
    draft = session.read(STUDIES / "reasoning" / "cluster.yaml")
    for division in reasoning.POOLS.values():
        for setting in reasoning.cases().values():
            assert session.resolved(draft, [*division, setting])["pipelines"]["default"]


def test_more_thinking_takes_longer_and_a_majority_less_than_all(reasoning):
    def ttft(setting):
        sets = (setting, "workload.duration=5 s")
        return run_seeds(STUDIES / "reasoning" / "cluster.yaml", (1,), point_metrics, sets=sets)[0]["ttft.p50"]

    assert ttft(reasoning.thinking(250)) < ttft(reasoning.thinking(1000)) / 2
    everyone = ttft(reasoning.thinking(1000, paths=4))
    assert ttft(reasoning.thinking(1000, paths=4, vote="majority")) < everyone
    assert everyone < ttft(reasoning.thinking(4000))


def test_every_way_to_batch_is_a_scenario(batching):
    session = Session()
    draft = session.read(STUDIES / "batching" / "cluster.yaml")
    for placed in batching.CLUSTERS.values():
        for kind, sizes in batching.TRAFFIC.items():
            for engine in batching.BATCHING.values():
                load = f"workload={{rate: 5/s, duration: 1 s, pipeline: {kind}, {sizes}}}"
                resolved = session.resolved(draft, [*placed, load, f"slo={batching.SLO[kind]}", *engine])
                assert resolved["workload"]["pipeline"] == kind


def test_energy_and_money_are_of_good_answers(batching):
    load = f"workload={{rate: 5/s, duration: 4 s, pipeline: chat, {batching.TRAFFIC['chat']}}}"
    sets = (load, f"slo={batching.SLO['chat']}")
    found = run_seeds(STUDIES / "batching" / "cluster.yaml", (1,), batching.measured, sets=sets)[0]
    good = found["slo_attainment"] * found["requests"]
    assert good > 0
    assert found["joules_per_good"] == pytest.approx(found["energy_j"] / good)
    assert found["usd_per_1000_good"] / 1e3 * good == pytest.approx(
        found["usd_per_h"] / 3600 * found["simulated_s"], rel=0.05
    )


def test_figures_are_drawings_with_error_bars(reasoning):
    Panel, panels_svg = reasoning.Panel, reasoning.panels_svg  # noqa: N806 - a class
    line = [("a", 1.0, 0.2), ("b", 3.0, math.nan), ("c", math.nan, math.nan)]
    tree = ET.fromstring(panels_svg([Panel("Title", "s", {"x": line, "y": [("a", 2.0, 1.0)]})]))  # noqa: S314 - made here
    space = "{http://www.w3.org/2000/svg}"
    assert len(tree.findall(f".//{space}g//{space}circle")) == 3, "what is not known is not drawn"
    assert len(tree.findall(f".//{space}polyline")) == 1


def test_a_table_cell_has_its_interval(reasoning):
    found = estimates([{"e2e.p99": 1.0}, {"e2e.p99": 3.0}])
    assert reasoning.shown("e2e.p99", found["e2e.p99"]) == "2.00 s", "two seeds make no interval"
    found = estimates([{"e2e.p99": 1.0}, {"e2e.p99": 2.0}, {"e2e.p99": 3.0}])
    assert reasoning.shown("e2e.p99", found["e2e.p99"]) == "2.00 s +- 2.48 s"
