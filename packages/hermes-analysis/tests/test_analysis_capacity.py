"""The highest rate, and the smallest fleet: what trying rates one by one would find."""

import json
import math
import re
from dataclasses import replace

import pytest
from hermes_analysis.capacity import CapacityOptions, Verdict, capacity_of, smallest_fleet
from hermes_analysis.capacity.tasks import CapacityRequest, NoRateError, capacity, lines_of, values_of
from hermes_analysis.capacity.verdicts import judged, one_judged
from hermes_analysis.emit.yaml_text import yaml_text
from hermes_analysis.errors import AnalysisError
from hermes_analysis.executors import make_executor
from hermes_analysis.optimize import parse_constraint
from hermes_analysis.points import point_metrics
from hermes_analysis.replicate import Estimate
from hermes_analysis.simulator import SimulationError, session
from hermes_analysis.sweep import parse_axis

for needed in ("hermes_core", "hermes_hw", "hermes_workload"):
    pytest.importorskip(needed, reason="runs scenarios")

SCENARIO = {
    "model": "meta-llama/Llama-3.1-8B",
    "hardware": "h100-sxm",
    "workload": {"rate": "8/s", "prompt": 1024, "output": 64, "requests": 100},
    "slo": {"ttft": "300 ms", "tpot": "40 ms"},
}
FAST = CapacityOptions(seeds=(1, 2), window_s=10.0, tolerance=0.05)


def attainment(rate, sets=()):
    runner = session()
    draft = runner.read(SCENARIO, sets)
    requests = max(math.ceil(rate * 10), 200)
    over = [f"workload.rate={rate}/s", f"workload.requests={requests}"]
    return sum(point_metrics(runner.run(draft, over, seed))["slo_attainment"] for seed in (1, 2)) / 2


def test_the_rate_is_kept_and_a_little_more_is_not():
    found = capacity_of(SCENARIO, options=FAST)
    assert attainment(found.rate_per_s) >= 0.99
    broken = min(probe.level for probe in found.probes if not probe.verdict.kept and probe.level > found.rate_per_s)
    assert broken <= found.rate_per_s * 1.06
    assert attainment(broken) < 0.99
    assert found.binds == "slo_attainment >= 0.99"
    assert found.surely_kept <= found.rate_per_s < found.surely_broken
    assert len(found.probes) < 14


def test_it_is_found_from_above_and_from_below():
    starts = [capacity_of(SCENARIO, [f"workload.rate={rate}"], options=FAST).rate_per_s for rate in ("0.3/s", "500/s")]
    assert starts[0] == pytest.approx(starts[1], rel=0.12)


def test_more_devices_take_more_and_so_do_looser_limits():
    one = capacity_of(SCENARIO, options=FAST).rate_per_s
    two = capacity_of(SCENARIO, ["replicas=2"], options=FAST).rate_per_s
    strict = capacity_of(SCENARIO, (), [parse_constraint("ttft.p99 <= 60 ms")], options=FAST).rate_per_s
    assert 1.7 * one < two < 2.4 * one
    assert strict < one


def test_what_no_rate_can_keep_is_told():
    limit = parse_constraint("ttft.mean <= 1 ms")
    options = CapacityOptions(seeds=(1,), window_s=1.0)
    found = capacity_of(SCENARIO, (), [limit], options=options)
    assert found.rate_per_s == 0
    assert found.at is None
    assert found.binds == limit.text


def test_what_every_rate_keeps_is_told():
    options = CapacityOptions(seeds=(1,), window_s=0.001)
    with pytest.raises(AnalysisError, match="nothing breaks them"):
        capacity_of(SCENARIO, (), [parse_constraint("usd_per_h <= 100")], options=options)


@pytest.mark.parametrize("window_s", [math.inf, math.nan, 0.5, 1e9])
def test_a_window_that_no_run_has_is_refused(tmp_path, window_s):
    with pytest.raises(AnalysisError, match="from 1 to 86400"):
        capacity(CapacityRequest(tmp_path / "absent.yaml", window_s=window_s))


def test_a_window_that_nobody_reads_is_refused(tmp_path):
    with pytest.raises(AnalysisError, match="leave --window out"):
        capacity(CapacityRequest(tmp_path / "absent.yaml", window_s=60.0, fleet="replicas=1..4"))
    arrivals = {"kind": "gamma", "rate": "8/s", "cv": 2}
    workload = {key: value for key, value in SCENARIO["workload"].items() if key != "rate"}
    scenario = {**SCENARIO, "workload": {**workload, "arrivals": arrivals}}
    with pytest.raises(AnalysisError, match="as long as the scenario says"):
        capacity_of(scenario, options=CapacityOptions(path="workload.arrivals.rate", window_s=10.0))


def test_runs_that_are_shorter_than_the_window_are_told(monkeypatch):
    monkeypatch.setattr("hermes_analysis.capacity.rate._MOST_REQUESTS", 200)
    found = capacity_of(SCENARIO, options=FAST)
    assert found.note.startswith("a run has at most 200 requests: at ")
    assert found.note.endswith("not the 10 s of --window")
    assert capacity_of(SCENARIO, options=CapacityOptions(seeds=(1,), window_s=2.0, tolerance=0.5)).note == ""
    assert list(lines_of(found))[-1] == f"note: {found.note}"
    assert values_of(found)["window_note"] == found.note


def test_the_smallest_fleet_is_that_of_counting_up():
    axis = parse_axis("replicas=1..12")
    sets = ["workload.rate=110/s", "workload.requests=800"]
    found = smallest_fleet(SCENARIO, axis, sets, seeds=(1, 2))
    kept = []
    for replicas in range(1, 13):
        runner = session()
        draft = runner.read(SCENARIO, [*sets, f"replicas={replicas}"])
        mean = sum(point_metrics(runner.run(draft, [], seed))["slo_attainment"] for seed in (1, 2)) / 2
        kept.append(mean >= 0.99)
    assert found.smallest == str(kept.index(True) + 1)
    assert found.below is not None
    assert not found.below.verdict.kept
    assert len(found.probes) < 8


def test_a_fleet_too_small_even_at_its_largest():
    found = smallest_fleet(
        SCENARIO, parse_axis("replicas=1..2"), ["workload.rate=900/s", "workload.requests=500"], seeds=(1,)
    )
    assert found.smallest is None
    assert found.probes[-1].level == 2


def test_a_fleet_counts_up():
    for text in ("replicas=4,2", "hardware.device=h100-sxm,b200"):
        with pytest.raises(AnalysisError, match="write numbers that rise"):
            smallest_fleet(SCENARIO, parse_axis(text))


def test_without_a_service_level_there_is_nothing_to_keep():
    with pytest.raises(AnalysisError, match="no service level to keep"):
        capacity_of({key: value for key, value in SCENARIO.items() if key != "slo"}, options=FAST)
    with pytest.raises(SimulationError, match="replcas"):
        capacity_of(SCENARIO, ["replcas=2"], options=FAST)


def test_verdicts_say_how_sure_they_are():
    limit = parse_constraint("ttft.p99 <= 1 s")
    assert one_judged(limit, Estimate(0.8, 0.1, (0.8,))) is Verdict.SURELY_KEPT
    assert one_judged(limit, Estimate(0.95, 0.1, (0.95,))) is Verdict.KEPT
    assert one_judged(limit, Estimate(1.05, 0.1, (1.05,))) is Verdict.BROKEN
    assert one_judged(limit, Estimate(1.2, 0.1, (1.2,))) is Verdict.SURELY_BROKEN
    assert one_judged(limit, Estimate(math.inf, math.nan, (math.inf,))) is Verdict.SURELY_BROKEN
    assert one_judged(limit, Estimate(0.1, math.nan, (0.1,))) is Verdict.KEPT
    both = (limit, parse_constraint("tpot.p99 <= 1 s"))
    metrics = {"ttft.p99": Estimate(0.1, 0.01, (0.1,)), "tpot.p99": Estimate(1.05, 0.1, (1.05,))}
    assert judged(both, metrics) is Verdict.BROKEN


@pytest.fixture
def scenario(tmp_path):
    path = tmp_path / "chat.yaml"
    path.write_text(yaml_text(SCENARIO))
    return path


def test_the_command_says_it_and_prints_json(scenario):
    request = CapacityRequest(scenario, seeds="2", tolerance=0.2, window_s=5.0)
    assert "requests/s keep the limits" in capacity(request)
    answer = json.loads(capacity(CapacityRequest(scenario, seeds="2", tolerance=0.2, window_s=5.0, as_json=True)))
    assert answer["rate_per_s"] > 10
    fleet = CapacityRequest(scenario, fleet="replicas=1..4", seeds="1", sets=("workload.rate=60/s",))
    assert capacity(fleet).startswith("replicas=")
    with pytest.raises(AnalysisError, match="--tolerance 2"):
        capacity(CapacityRequest(scenario, tolerance=2))
    with pytest.raises(NoRateError, match=r"even replicas=2 does not keep .*ttft\.p99 <= 1 us") as caught:
        capacity(CapacityRequest(scenario, fleet="replicas=1..2", seeds="1", limits=("ttft.p99 <= 1 us",)))
    assert caught.value.exit_code == 1


def test_a_workload_without_a_rate_is_told_before_anything_is_run():
    mix = {**SCENARIO, "workload": {"mix": [SCENARIO["workload"]]}}
    with pytest.raises(AnalysisError, match=r"kind mix has no rate to search over; .*--rate workload\.mix\.0\.rate"):
        capacity_of(mix, options=FAST)


def test_over_a_trace_the_factor_of_its_rates_is_searched(tmp_path):
    trace = tmp_path / "trace.csv"
    rows = (f"{place * 250_000_000},{1024},{64}" for place in range(240))  # four a second for a minute
    trace.write_text("\n".join(["arrival_ns,prompt_tokens,output_tokens", *rows]) + "\n")
    scenario = {**SCENARIO, "workload": {"trace": str(trace)}}
    found = capacity_of(scenario, options=replace(FAST, window_s=None))
    assert found.dial.factor
    assert found.trace_rate_per_s == pytest.approx(240 / (239 * 0.25))
    assert found.rate_per_s == pytest.approx(found.level * found.trace_rate_per_s)
    runner = session()
    draft = runner.read(scenario)
    for level, kept in ((found.level, True), (min(p.level for p in found.probes if not p.verdict.kept), False)):
        met = point_metrics(runner.run(draft, [f"workload.rate_scale={level}"], 1))["slo_attainment"]
        assert (met >= 0.99) is kept
    path = tmp_path / "replay.yaml"
    path.write_text(yaml_text(scenario))
    words = {"seeds": "3", "tolerance": 0.1, "limits": ("ttft.p99 <= 1 s",)}
    text = capacity(CapacityRequest(path, **words))
    assert re.match(r"[\d.]+ times the rates of the trace \([\d.]+ requests/s on average\) keep the limits", text)
    assert "factors were tried: 1, 2, " in text
    answer = json.loads(capacity(CapacityRequest(path, as_json=True, **words)))
    assert answer["rate_per_s"] == pytest.approx(answer["factor"] * found.trace_rate_per_s)
    with pytest.raises(AnalysisError, match="a longer trace would last"):
        capacity(CapacityRequest(path, limits=("usd_per_h <= 100",), seeds="1"))


def test_a_search_keeps_the_kind_of_arrivals():
    bursty = {"kind": "gamma", "rate": "8/s", "cv": 4}
    base = {key: value for key, value in SCENARIO["workload"].items() if key != "rate"}
    written = {"short": bursty, "nested": {"gamma": {"rate": "8/s", "cv": 4}}}
    found = {
        name: capacity_of({**SCENARIO, "workload": {**base, "arrivals": said}}, options=FAST)
        for name, said in written.items()
    }
    assert found["short"].dial.path == "workload.arrivals.rate"
    assert found["nested"].dial.path == "workload.arrivals.gamma.rate"
    assert found["short"].level == found["nested"].level
    assert found["short"].level < 0.9 * capacity_of(SCENARIO, options=FAST).level, "bursts break the level sooner"


@pytest.mark.parametrize(
    ("arrivals", "message"),
    [
        ({"kind": "closed_loop", "concurrency": 4}, "a closed loop has no rate"),
        ({"stages": [{"rate": "5/s", "duration": "3 s"}]}, "arrivals of the kind stages have no one rate"),
    ],
)
def test_arrivals_without_a_rate_are_told_before_anything_is_run(arrivals, message):
    base = {key: value for key, value in SCENARIO["workload"].items() if key != "rate"}
    with pytest.raises(AnalysisError, match=message):
        capacity_of({**SCENARIO, "workload": {**base, "arrivals": arrivals}}, options=FAST)


def test_several_deployments_at_a_time_give_what_each_gives(scenario):
    pytest.importorskip("joblib", reason="extra sweep")
    base = {"seeds": "2", "tolerance": 0.2, "window_s": 5.0, "as_json": True}
    over = ("hardware.tp=1,2", "hardware.device=h100-sxm,l40s,nothing")
    together = json.loads(capacity(CapacityRequest(scenario, over=over, workers=2, **base)))
    alone = json.loads(capacity(CapacityRequest(scenario, over=over, workers=1, **base)))
    assert together == alone
    assert len(together) == 6
    assert "no device" in together[2]["error"] or "nothing" in together[2]["error"]
    single = json.loads(capacity(CapacityRequest(scenario, sets=("hardware={device: l40s, tp: 2}",), **base)))
    assert together[4]["rate_per_s"] == single["rate_per_s"]
    assert make_executor(workers=1).workers == 1


def test_a_fleet_that_scales_itself_serves_a_day_for_less():
    """Quiet, busy, quiet: a fixed fleet is paid for its peak all day."""
    phases = [{"rate": f"{rate}/s", "duration": "120 s"} for rate in (5, 60, 5)]
    day = {
        **{key: value for key, value in SCENARIO.items() if key != "hardware"},
        "hardware": "h100-sxm",
        "pools": {"chat": {"stages": ["prefill", "decode"], "clients": 1}},
        "workload": {"arrivals": {"stages": phases}, "prompt": 1024, "output": 64},
        "slo": {"ttft": "2 s", "attainment": 0.95},
    }
    scale = "{min: 1, max: 8, target: {queue: 1}, start_up: 5 s, interval: 2 s, cool_down: 30 s}"
    fixed = smallest_fleet(day, parse_axis("pools.chat.clients=1..6"), seeds=(1,))
    scaled = smallest_fleet(
        day, parse_axis("pools.chat.autoscale.max=1..6"), [f"pools.chat.autoscale={scale}"], seeds=(1,)
    )
    assert fixed.smallest == "2"
    assert int(scaled.smallest) >= 2
    prices = [answer.at.metrics["usd_per_h"].mean for answer in (fixed, scaled)]
    assert prices[1] < prices[0]
