"""Every key of a workload can be written in a scenario, with units; what contradicts itself is told with its place."""

import jsonschema
import pytest
from hermes_core.api.errors import InputError
from hermes_core.config import load_scenario
from hermes_core.config.schema import scenario_schema

BASE = {"model": "meta-llama/Llama-3.1-8B", "hardware": "h100-sxm"}
S = 10**9
MS = 10**6


@pytest.fixture(scope="module")
def validator():
    return jsonschema.Draft202012Validator(scenario_schema())


def canonical(workload):
    return load_scenario(data={**BASE, "workload": workload}).workload


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ({"poisson": {"rate": "1/s", "tick": "3 s"}}, {"kind": "poisson", "rate_per_s": 1.0, "tick_ns": 3 * S}),
        ({"renewal": {"rate": "2/s", "cv": 3}}, {"kind": "renewal", "rate_per_s": 2.0, "cv": 3.0}),
        (
            {"renewal": {"rate": "2/s", "gaps": {"values": [0, 1, 9], "probabilities": [0, 0.5, 1]}}},
            {
                "kind": "renewal",
                "rate_per_s": 2.0,
                "gaps": {"values": [0.0, 1.0, 9.0], "probabilities": [0.0, 0.5, 1.0]},
            },
        ),
        (
            {"curve": {"rates": ["1/s", "90/min"], "step": "15 min", "cv": 2}},
            {"kind": "curve", "rates_per_s": [1.0, 1.5], "step_ns": 900 * S, "cv": 2.0},
        ),
        (
            {"curve": {"rates": ["1/s", "2/s"], "durations": ["5 s", "1 min"], "counted": True}},
            {"kind": "curve", "rates_per_s": [1.0, 2.0], "durations_ns": [5 * S, 60 * S], "counted": True},
        ),
        (
            {"drift": {"rate": "5/s", "sigma": 0.2, "memory": "10 min", "step": "1 min"}},
            {"kind": "drift", "rate_per_s": 5.0, "sigma": 0.2, "memory_ns": 600 * S, "step_ns": 60 * S},
        ),
        (
            {"diurnal": {"rate": "5/s", "peak_to_trough": 4, "period": "24 h", "phase": 0.25}},
            {
                "kind": "diurnal",
                "rate_per_s": 5.0,
                "peak_to_trough": 4.0,
                "period_ns": 86_400 * S,
                "phase": 0.25,
            },
        ),
        (
            {"weekly": {"rate": "5/s", "peak_to_trough": 4, "days": [1, 1, 1, 1, 1, 0.4, 0.3]}},
            {
                "kind": "weekly",
                "rate_per_s": 5.0,
                "peak_to_trough": 4.0,
                "days": [1.0, 1.0, 1.0, 1.0, 1.0, 0.4, 0.3],
                "phase": 0.0,
            },
        ),
        (
            {"spike": {"rate": "5/s", "at": "1 min", "for": "10 s", "factor": 8, "cv": 2}},
            {"kind": "spike", "rate_per_s": 5.0, "at_ns": 60 * S, "for_ns": 10 * S, "factor": 8.0, "cv": 2.0},
        ),
        (
            {"mmpp": {"rates": ["1/s", "9/s"], "mean_dwell": ["1 min", "5 s"]}},
            {"kind": "mmpp", "rates_per_s": [1.0, 9.0], "mean_dwell_ns": [60 * S, 5 * S]},
        ),
        (
            {"closed_loop": {"concurrency": 8, "think": "2 s"}},
            {"kind": "closed_loop", "concurrency": 8, "think_ns": 2 * S},
        ),
    ],
)
def test_every_arrival_process(validator, written, meant):
    workload = {"arrivals": written, "requests": 5}
    assert canonical(workload)["arrivals"] == meant
    assert validator.is_valid({**BASE, "workload": workload})


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (
            {"documents": {"count": "10k", "per_request": 4, "tokens": 512, "exponent": 0.8}},
            {"count": 10_000, "per_request": 4, "tokens": {"kind": "fixed", "tokens": 512}, "exponent": 0.8},
        ),
        (
            {"sessions": {"turns": 6, "think": {"mean": "20 s", "cv": 2}, "later_prompt": {"uniform": [5, 9]}}},
            {
                "turns": {"kind": "fixed", "tokens": 6},
                "think": {"mean_ns": 20 * S, "cv": 2.0},
                "later_prompt": {"kind": "uniform", "low": 5, "high": 9},
            },
        ),
        (
            {"tools": {"rounds": {"uniform": [1, 5]}, "result": 800, "call": 60, "latency": "400 ms"}},
            {
                "rounds": {"kind": "uniform", "low": 1, "high": 5},
                "result": {"kind": "fixed", "tokens": 800},
                "call": {"kind": "fixed", "tokens": 60},
                "latency": {"mean_ns": 400 * MS, "cv": 1.0},
            },
        ),
        (
            {"reasoning": {"quantiles": {"values": [10, 100, "8k"], "probabilities": [0, 0.5, 1]}}},
            {"kind": "quantiles", "values": [10, 100, 8000], "probabilities": [0.0, 0.5, 1.0]},
        ),
        (
            {"reasoning_share": {"values": [0.4, 0.95], "weights": [1, 3]}},
            {"values": [0.4, 0.95], "weights": [1.0, 3.0]},
        ),
        ({"system_prompt": {"tokens": "1k", "groups": 3}}, {"tokens": 1000, "groups": 3}),
        ({"prompt": {"fixed": 100, "add": 576}}, {"kind": "fixed", "tokens": 100, "add": 576}),
        ({"adapters": {"count": 16, "exponent": 1, "base": 0.5}}, {"count": 16, "exponent": 1.0, "base": 0.5}),
        (
            {"adapters": {"names": ["sql", "legal"], "weights": [3, 1]}},
            {"names": ["sql", "legal"], "weights": [3.0, 1.0], "exponent": 0.0, "base": 0.0},
        ),
        (
            {"joint": {"correlated": {"prompt": 5, "output": {"uniform": [1, 9]}, "rank_correlation": -0.3}}},
            {
                "kind": "correlated",
                "prompt": {"kind": "fixed", "tokens": 5},
                "output": {"kind": "uniform", "low": 1, "high": 9},
                "rank_correlation": -0.3,
            },
        ),
        (
            {"joint": {"conditional": {"prompt": {"values": [1, 9]}, "output": {"values": [[1, 5], [5, 9]]}}}},
            {"kind": "conditional", "prompt": {"values": [1, 9]}, "output": {"values": [[1, 5], [5, 9]]}},
        ),
    ],
)
def test_every_part_of_a_request(validator, written, meant):
    (key,) = written
    workload = {"rate": "1/s", "requests": 5, **written}
    spec = canonical(workload)
    assert spec[key] == meant
    assert (spec["prompt"] is None) == (key == "joint")
    assert validator.is_valid({**BASE, "workload": workload})


def test_kinds_that_stand_in_files(validator, tmp_path):
    (tmp_path / "trace.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,1,1\n")
    file = str(tmp_path / "trace.csv")
    for workload, meant in (
        ({"trace": file, "sort_window": 10, "arrivals": {"constant": "1/s"}}, {"sort_window": 10}),
        ({"file": file, "rate": "5/s", "requests": 9}, {"kind": "file", "rate_per_s": 5.0, "requests": 9}),
        ({"servegen": str(tmp_path), "start": "2 h", "rate": "5/s"}, {"start_ns": 7200 * S, "duration_ns": 3600 * S}),
        ({"experiment": str(tmp_path), "served_length": False}, {"served_length": False}),
        ({"inference_perf": file, "priority": -1}, {"kind": "inference_perf", "priority": -1}),
    ):
        assert validator.is_valid({**BASE, "workload": workload}), workload
        assert meant.items() <= canonical(workload).items()
        assert canonical({"mix": [workload, {"rate": "1/s", "requests": 3}]})["entries"][0].items() >= meant.items()


def test_shares_that_change():
    entries = [{"share": [1, 0], "prompt": 5}, {"share": [0, 1], "prompt": 9}]
    spec = canonical({"rate": "1/s", "requests": 5, "share_step": "30 s", "mix": entries})
    assert spec["share_step_ns"] == 30 * S
    assert [entry["share"] for entry in spec["entries"]] == [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("workload", "said"),
    [
        ({"rate": "1/s", "joint": {"conditional": {}}, "prompt": 5}, "the key 'prompt' is missing"),
        (
            {"rate": "1/s", "joint": {"correlated": {"prompt": 1, "output": 1, "rank_correlation": 2}}},
            "2 is out of range",
        ),
        (
            {"rate": "1/s", "joint": {"correlated": {"prompt": 1, "output": 1, "rank_correlation": 0}}, "prompt": 1},
            "both `joint` and `prompt`",
        ),
        ({"rate": "1/s", "cycle": {"prompts": 5}, "sessions": {"turns": 2}}, "`cycle` with `sessions`"),
        ({"rate": "1/s", "reasoning": 5, "reasoning_share": {"values": [0.5]}}, "both `reasoning` and"),
        ({"rate": "1/s", "reasoning_share": {"values": [1.5]}}, "1.5 is out of range"),
        ({"rate": "1/s", "reasoning_share": {"values": [0.5], "weights": [0]}}, "1 shares and 1 weights"),
        ({"rate": "1/s", "adapters": {"exponent": 1}}, "adapters need `names` or a `count`"),
        ({"rate": "1/s", "adapters": {"count": 2, "weights": [1]}}, "1 weights for 2 adapters"),
        ({"rate": "1/s", "adapters": {"names": ["a", "a"]}}, "an adapter is named twice"),
        ({"rate": "1/s", "adapters": {"count": 2, "base": 1}}, "a base of 1 leaves no request an adapter"),
        ({"rate": "1/s", "prompt": {"quantiles": [9, 5]}}, "quantiles that decrease"),
        (
            {"rate": "1/s", "prompt": {"quantiles": {"values": [1, 5], "probabilities": [0, 0.5]}}},
            "do not rise from 0 to 1",
        ),
        ({"arrivals": {"curve": {"rates": ["0/s"], "step": "1 s"}}}, "a curve of zeros"),
        ({"arrivals": {"curve": {"rates": [1], "step": "1 s"}}}, "1 has no unit"),
        ({"arrivals": {"curve": {"rates": ["1/s"]}}}, "needs a `step` or `durations`"),
        ({"arrivals": {"curve": {"rates": ["1/s"], "durations": ["1 s", "1 s"]}}}, "1 rates and 2 durations"),
        ({"arrivals": {"weekly": {"rate": "1/s", "days": [0, 0, 0, 0, 0, 0, 0]}}}, "without a request"),
        ({"arrivals": {"renewal": {"rate": "1/s", "cv": 1, "gaps": {"values": [0, 1]}}}}, "both `cv` and `gaps`"),
        ({"arrivals": {"renewal": {"rate": "1/s", "gaps": {"values": [0, 0]}}}}, "the largest gap is 0"),
        ({"arrivals": {"drift": {"rate": "1/s", "sigma": 1, "memory": "1 s"}}}, "the key 'step' is missing"),
        ({"rate": "1/s", "tools": {"rounds": 2, "result": 5}}, "the key 'call' is missing"),
        ({"rate": "1/s", "tools": {"rounds": 2, "result": 5, "call": 5, "latencyy": 1}}, "'latency'"),
        (
            {"rate": "1/s", "mix": [{"share": [1, 2], "prompt": 1}, {"share": [1, 1], "prompt": 1}]},
            "add `share_step: 60 s`",
        ),
        (
            {"rate": "1/s", "share_step": "1 s", "mix": [{"share": [1, 2], "prompt": 1}, {"share": 1, "prompt": 1}]},
            "shares that do not change alike",
        ),
        ({"servegen": __file__}, "name the folder of the pool"),
        ({"file": "nowhere.json"}, "there is no file"),
    ],
)
def test_what_contradicts_itself_is_told(workload, said):
    with pytest.raises(InputError) as caught:
        canonical({"requests": 5, **workload} if "servegen" not in workload else workload)
    assert said in str(caught.value)


def test_another_kind_of_workload_replaces_the_whole_of_it(tmp_path):
    (tmp_path / "fit.json").write_text("{}")
    (tmp_path / "base.yaml").write_text("model: m\nhardware: h100-sxm\nworkload: {rate: 8/s, prompt: 5, requests: 9}\n")
    (tmp_path / "top.yaml").write_text("extends: base.yaml\nworkload: {file: fit.json, requests: 3}\n")
    spec = load_scenario(tmp_path / "top.yaml").workload
    assert (spec["kind"], spec["requests"]) == ("file", 3)
