"""What `hermes validate` makes of experiments from elsewhere: other spellings, keys left out, figures that are none."""

import copy
import json
import re

import pytest

pytest.importorskip("typer", reason="the extra cli is not installed")

import typer
from hermes_analysis.validate import static_batch
from hermes_analysis.validate.command import validate as validate_command
from hermes_analysis.validate.engines import preset_of
from hermes_analysis.validate.experiments import NotRepresentedError, ValidationError, read_experiment
from hermes_analysis.validate.folder import validate_folder
from hermes_analysis.validate.mixtures import is_mixture
from hermes_analysis.validate.rows import read_rows
from hermes_analysis.validate.scenarios import case_of, config_of
from hermes_analysis.validate.traffic import MOST_REQUESTS
from typer.testing import CliRunner

INPUTS = {
    "id": "tiny",
    "model": "meta-llama/Llama-3.2-1B",
    "hardware": {"id": "h100_sxm"},
    "parallel": {"tp": 1},
    "engine": {"name": "vllm", "version": "0.15.1"},
    "workload": {
        "arrival": {"process": "poisson", "stages": [{"rate_rps": 2, "duration_s": 5}]},
        "prompt": {"requested_total": 200},
        "output": {"tokens": 20},
    },
}
MEASURED = {
    "summary": {"ttft_ms": {"mean": 10.0, "p99": 12.0}, "tpot_ms": {"mean": 2.0}, "e2e_ms": {"mean": 50.0}},
    "stages": [{"rate_rps": 2, "duration_s": 5, "ttft_ms": {"mean": 10.0}}],
}


def changed(values, changes):
    """`values` with those at dotted paths replaced; a value of `...` takes the key away."""
    values = copy.deepcopy(values)
    for path, value in changes.items():
        part = values
        *above, last = path.split(".")
        for key in above:
            part = part[int(key) if isinstance(part, list) else key]
        if value is ...:
            del part[last]
        else:
            part[last] = value
    return values


def write(folder, inputs=None, measured=None):
    """Write an experiment and return its folder."""
    place = folder / "tiny"
    place.mkdir()
    (place / "experiment.json").write_text(json.dumps(changed(INPUTS, inputs or {})), encoding="utf-8")
    (place / "measured.json").write_text(json.dumps(changed(MEASURED, measured or {})), encoding="utf-8")
    return place


def case(folder, inputs):
    """The scenario of an experiment."""
    return case_of(read_experiment(write(folder, inputs)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": ["fast"]}, r"stages\[0\] is 'fast'"),
        ({"stages": 7}, r"stages\[0\] is 7"),
        ({"stages.0.rate_rps": "fast"}, r"stages\[0\]\.rate_rps is 'fast', not a number"),
        ({"stages.0.duration_s": -1}, r"duration_s is -1, less than 0"),
        ({"summary.ttft_ms": 12.5}, r"summary\.ttft_ms is 12\.5, not a group"),
        ({"summary.ttft_ms.mean": "fast"}, r"ttft_ms\.mean is 'fast'"),
        ({"summary.tpot_ms.mean": -1}, r"tpot_ms\.mean is -1, not a positive number; write null"),
        ({"summary.e2e_ms.mean": float("inf")}, r"e2e_ms\.mean is inf"),
        ({"summary": {}}, "no figure to compare with"),
        ({"summary": ...}, "no section 'summary'"),
    ],
)
def test_a_strange_measurement_is_named_with_its_place(tmp_path, change, message):
    with pytest.raises(NotRepresentedError, match=message):
        read_experiment(write(tmp_path, measured=change))


@pytest.mark.parametrize("nothing", [None, float("nan"), ...])
def test_what_was_not_measured_is_not_compared(tmp_path, nothing):
    experiment = read_experiment(write(tmp_path, measured={"summary.ttft_ms.p99": nothing, "stages": None}))
    assert experiment.metrics["ttft_p99"] is None
    assert experiment.metrics["ttft_mean"] == 10.0
    assert experiment.stages == ()


def test_peers_that_are_no_figures_are_passed_over(tmp_path):
    place = write(tmp_path)
    peers = {"headline_summary": {"sim": {"ttft_mean_ape_pct": 3, "e2e_mean_ape_pct": "low"}, "other": None}}
    (place / "peers.json").write_text(json.dumps(peers), encoding="utf-8")
    assert read_experiment(place).peers == {"sim": {"ttft_mean": 3}}
    (place / "peers.json").write_text('{"headline_summary": null}', encoding="utf-8")
    assert read_experiment(place).peers == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parallel.tp": "two"}, "parallel.tp is 'two', not a number"),
        ({"parallel.tp": 1.5}, "parallel.tp is 1.5, not a whole number"),
        ({"parallel.tp": -1}, "parallel.tp is -1, less than 0"),
        ({"workload.output.tokens": float("nan")}, "workload.output.tokens is nan"),
        ({"workload.prompt": {}}, "workload.prompt.requested_total is None"),
        ({"workload.arrival.stages": 2.5}, "workload.arrival.stages is 2.5, not a list of stages"),
        ({"workload.arrival.stages": ["x"]}, r"workload.arrival.stages\[0\] is 'x'"),
        ({"workload.arrival.stages.0.rate_rps": -2}, r"stages\[0\]\.rate_rps is -2, less than 0"),
        ({"workload.arrival.stages.0.rate_rps": 0.01}, "bring 0 requests"),
        ({"workload.arrival.stages.0.rate_rps": MOST_REQUESTS}, "bring 10,000,000 requests; from 1 to 2,000,000"),
        ({"workload.shared_prefix": "all"}, "no section 'shared_prefix'"),
        ({"engine": "vllm"}, "no section 'engine'"),
        ({"hardware": {}}, "names no hardware.id"),
    ],
)
def test_a_strange_input_is_named_with_its_place(tmp_path, change, message):
    with pytest.raises(NotRepresentedError, match=message):
        case(tmp_path, change)


@pytest.mark.parametrize(
    ("change", "arrivals", "requests"),
    [
        (
            {"workload.arrival": {"rate_rps": 4}, "workload.num_requests": 100},
            {"kind": "stages", "of": "poisson", "stages": [{"rate": "4/s", "duration": "25.0 s"}]},
            100,
        ),
        (
            {"workload.arrival": {"process": "constant", "rate_rps": 4}, "workload.duration_s": 30},
            {"kind": "stages", "of": "constant", "stages": [{"rate": "4/s", "duration": "30 s"}]},
            120,
        ),
        (
            {"workload.arrival": {"concurrency": 32}, "workload.num_requests": 100},
            {"closed_loop": {"concurrency": 32}},
            100,
        ),
    ],
)
def test_requests_may_come_without_stages(tmp_path, change, arrivals, requests):
    workload = case(tmp_path, change).scenario["workload"]
    assert (workload["arrivals"], workload["requests"]) == (arrivals, requests)


def test_lengths_may_be_given_as_means(tmp_path):
    workload = case(tmp_path, {"workload.prompt": {"mean": 300.4}, "workload.output": {"mean": 63.6}}).scenario[
        "workload"
    ]
    assert (workload["prompt"]["mean"], workload["output"]) == (300, 64)


@pytest.mark.parametrize(
    ("change", "model"),
    [
        ({"quantization": "none"}, {}),
        ({"quantization": "FP8 (dynamic)"}, {"quantization": "fp8"}),
        ({"dtype": "fp8"}, {"quantization": "fp8"}),
        ({"dtype": "bf16", "quantization": None}, {}),
        ({"model": "some/Llama-3.2-1B-AWQ", "quantization": "awq_marlin"}, {}),
        ({"engine.kv_cache_dtype": "fp8_e4m3"}, {"kv_dtype": "fp8_e4m3"}),
        ({"engine.kv_cache_dtype": "auto"}, {}),
    ],
)
def test_formats_are_taken_from_where_they_stand(tmp_path, change, model):
    scenario = case(tmp_path, change).scenario
    assert {key: value for key, value in scenario["model"].items() if key != "ref"} == model


def test_settings_that_no_scenario_has_are_named(tmp_path):
    told = case(tmp_path, {"engine.speculative_config": {"k": 3}, "engine.seed": None, "engine.notes": "x"}).assumptions
    assert [one for one in told if one.startswith("engine.")] == ["engine.speculative_config left out"]


def test_an_eager_engine_has_no_graphs_and_an_early_one_is_synchronous(tmp_path):
    engine = case(tmp_path, {"engine.enforce_eager": True, "engine.version": "0.10.2"}).scenario["engine"]
    assert engine["graph_sizes"] == []
    assert engine["asynchronous_scheduling"] is False


@pytest.mark.parametrize(
    ("name", "version", "preset"),
    [
        ("vllm", "0.6.6.post1", "vllm-v0"),
        ("vllm", "V0", "vllm-v0"),
        ("vllm-v1", "", "vllm"),
        ("vLLM", "v0.15.1", "vllm-0.15"),
        ("vllm", "0.33.0rc1", "vllm-0.33"),
        ("SGLang", "0.4.6.post5", "sglang-0.5"),
        ("TensorRT LLM", "1.0", "tensorrt-llm"),
    ],
)
def test_engines_are_known_in_their_spellings(name, version, preset):
    assert preset_of(name, version)[0] == preset


@pytest.mark.parametrize(
    "name",
    [
        "mistralai/Mixtral-8x7B-v0.1",
        "Qwen/Qwen3-30B-A3B-FP8",
        "Qwen/Qwen1.5-MoE-A2.7B",
        "openai/gpt-oss-20b",
        "deepseek-ai/DeepSeek-V2-Lite",
        "deepseek-ai/DeepSeek-R1",
        "deepseek-ai/DeepSeek-R1-0528",
        "moonshotai/Kimi-K2.5",
        "MiniMaxAI/MiniMax-M2",
        "zai-org/GLM-4.5-Air",
        "zai-org/GLM-5-FP8",
        "meta-llama/Llama-4-Scout-17B-16E-Instruct",
        "Qwen/Qwen3-Next-80B-A3B",
        "databricks/dbrx-instruct",
    ],
)
def test_mixtures_are_told_by_their_names(name):
    assert is_mixture(name)


@pytest.mark.parametrize(
    "name",
    [
        "meta-llama/Llama-3.1-8B",
        "deepseek-ai/DeepSeek-R1-Distill-Llama-70B",
        "Qwen/Qwen3-32B-FP8",
        "zai-org/GLM-4-9B-0414",
        "google/gemma-3-27b-it",
        "microsoft/phi-4",
        "deepseek-ai/deepseek-llm-67b-chat",
        "01-ai/Yi-34B",
        "Qwen/Qwen2.5-Coder-32B",
    ],
)
def test_dense_models_are_no_mixtures(name):
    assert not is_mixture(name)


def test_ranks_of_a_mixture_step_together_and_those_of_a_dense_model_do_not(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    mixture = case(tmp_path / "a", {"model": "Qwen/Qwen3-30B-A3B", "parallel": {"tp": 1, "dp": 2, "ep": 2}}).scenario
    assert mixture["hardware"]["dp"] == 2
    assert case(tmp_path / "b", {"parallel": {"tp": 1, "dp": 2}}).scenario["replicas"] == 2


def test_an_experiment_whose_requests_fit_no_window_is_not_represented(tmp_path):
    write(tmp_path, {"model": "meta-llama/Llama-2-7b-hf", "workload.prompt": {"mean": 6000}})
    report = validate_folder(tmp_path)
    assert not report.scores
    assert "no request is answered" in report.refusals[0].reason
    assert "longer than the context window (4,096 tokens)" in report.refusals[0].reason


def test_cells_that_say_they_have_no_value_are_empty(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("a, b ,c,d\n1,NaN, None ,fp8\n", encoding="utf-8")
    assert read_rows(file) == [{"a": "1", "b": "", "c": "", "d": "fp8"}]
    file.write_text("", encoding="utf-8")
    with pytest.raises(ValidationError, match=r"rows\.csv: has no rows"):
        read_rows(file)


def validate(*arguments):
    """Run the command."""
    app = typer.Typer()
    app.command()(validate_command)
    return CliRunner().invoke(app, [str(one) for one in arguments])


def test_nothing_to_compare_is_no_success_and_is_still_written(tmp_path):
    place = write(tmp_path, {"engine.name": "llama.cpp"})
    result = validate(place, "--json", tmp_path / "out.json")
    assert result.exit_code == 2
    assert "nothing could be compared" in result.stderr
    (refusal,) = json.loads((tmp_path / "out.json").read_text())["not_represented"]
    reason = "there is no preset for the engine 'llama.cpp'; there are vLLM, SGLang and TensorRT-LLM"
    assert refusal == {"id": "tiny", "reason": reason}


ROW = {
    "id": "one",
    "silicon_data_source": "silicon_concurrency=2",
    "backend": "vllm",
    "backend_version": "0.15.1",
    "model_path": "meta-llama/Llama-3.2-1B",
    "system": "h100_sxm",
    "mode": "agg",
    "isl": "100",
    "osl": "8",
    "batch_size": "2",
    "silicon_ttft_ms": "10",
    "silicon_tpot_ms": "3",
}


def table(folder, *rows, without=()):
    """Write rows that differ from `ROW`."""
    names = [name for name in ROW if name not in without]
    lines = [",".join({**ROW, **row}[name] for name in names) for row in rows]
    file = folder / "rows.csv"
    file.write_text("\n".join([",".join(names), *lines]) + "\n", encoding="utf-8")
    return file


def test_an_absent_column_is_named_with_its_file(tmp_path):
    result = validate(table(tmp_path, {}, without=("isl",)), "--json", tmp_path / "out.json")
    assert result.exit_code == 2
    assert "rows.csv: the header has no column 'isl'" in result.stderr
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"isl": "NaN"}, "isl is empty"),
        ({"osl": "-5"}, "osl is '-5', not a whole number"),
        ({"silicon_ttft_ms": "-1"}, "silicon_ttft_ms is '-1', not a positive number"),
        ({"backend": "lmdeploy"}, "no preset for the engine 'lmdeploy'"),
        ({"model_path": ""}, "model_path is empty"),
        (
            {"isl": "200000"},
            "no request is answered in the simulation; 20 requests were dropped: longer than the context",
        ),
        ({"system": "zz9000"}, "unknown device 'zz9000'"),
    ],
)
def test_a_row_of_nonsense_is_listed_and_the_others_are_compared(tmp_path, change, reason):
    result = validate(table(tmp_path, {}, {"id": "bad", **change}), "--jobs", 1, "--json", tmp_path / "out.json")
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "out.json").read_text())
    assert [row["id"] for row in content["rows"]] == ["one"]
    (refusal,) = content["not_represented_rows"]
    assert refusal["id"] == "bad"
    assert reason in refusal["reason"]


def test_rows_of_nothing_but_nonsense_are_no_success(tmp_path):
    result = validate(table(tmp_path, {"backend": "lmdeploy"}), "--jobs", 2)
    assert result.exit_code == 2
    assert "not represented, 1 rows from one on: there is no preset" in result.stdout


@pytest.mark.parametrize(
    ("kind", "known"), [("dense", True), (None, True), ("moe", True), ("hybrid", False), ("ssm", False)]
)
def test_only_plain_architectures_are_taken_from_the_experiment(kind, known):
    shape = {"layers": 4, "hidden_size": 64, "heads": 4, "intermediate_size": 128, "kind": kind}
    assert (config_of({"architecture": shape}) is not None) == known


BATCH = {
    "model": "llama2-70b",
    "hardware": "a100-80gb",
    "prompt_size": "512",
    "batch_size": "1",
    "token_size": "128",
    "average_power": "0.7",
    "prompt_time": "196",
    "token_time": "54.9",
    "e2e_time": "7169",
    "tensor_parallel": "2",
}


@pytest.mark.parametrize(("power", "watts"), [("0.7", 280.0), ("0.0", None), ("0", None), ("", None)])
def test_power_that_was_not_measured_is_not_compared(power, watts):
    assert static_batch.case_of({**BATCH, "average_power": power}).measured["power"] == (watts and pytest.approx(watts))


@pytest.mark.parametrize(("column", "value"), [("average_power", "much"), ("average_power", "-1"), ("token_size", "x")])
def test_strange_cells_of_a_static_batch_are_named(column, value):
    with pytest.raises(NotRepresentedError, match=f"{column} is '{value}'"):
        static_batch.case_of({**BATCH, column: value})


@pytest.mark.parametrize(
    ("engine", "policy"),
    [
        ({"name": "vllm", "version": "0.15.1"}, "mixed"),
        ({"name": "tensorrt-llm"}, "mixed"),
        ({"name": "vllm", "version": "0.6.3"}, "continuous"),
        ({"name": "sglang", "version": "0.5.3"}, "continuous"),
    ],
)
def test_without_chunks_prompts_are_whole_as_the_engine_has_them(tmp_path, engine, policy):
    scenario = case(tmp_path, {"engine": {**engine, "chunked_prefill": False}}).scenario
    assert scenario["engine"]["batching"] == policy


@pytest.mark.parametrize(
    ("said", "graphs"),
    [
        ("enforce_eager", []),
        ("off", []),
        (False, []),
        ("disabled (enforce_eager=True)", []),
        ("default (on)", None),
        (True, None),
        (None, None),
    ],
)
def test_what_is_said_of_graphs_is_understood(tmp_path, said, graphs):
    assert case(tmp_path, {"engine.cuda_graphs": said}).scenario["engine"].get("graph_sizes") == graphs


def test_whether_steps_are_planned_ahead_may_be_said(tmp_path):
    assert case(tmp_path, {"engine.async_scheduling": False}).scenario["engine"]["asynchronous_scheduling"] is False


@pytest.mark.parametrize(
    ("arrival", "arrivals", "told"),
    [
        ({"process": "burst"}, "burst", []),
        ({"process": "poisson", "rate_rps": "inf"}, "burst", []),
        ({"rate_rps": float("inf")}, "burst", []),
        ({"process": "gamma", "cv": 2, "rate_rps": 4}, {"kind": "gamma", "rate": "4/s", "cv": 2}, []),
        ({"process": "gamma", "burstiness": 0.25, "rate_rps": 4}, {"kind": "gamma", "rate": "4/s", "cv": 2.0}, []),
        (
            {"process": "deterministic", "stages": [{"rate_rps": 4, "num_requests": 100}]},
            {"kind": "stages", "of": "constant", "stages": [{"rate": "4/s", "duration": "25.0 s"}]},
            [],
        ),
        (
            {"process": "Pareto", "rate_rps": 4},
            {"kind": "stages", "of": "poisson", "stages": [{"rate": "4/s", "duration": "25.0 s"}]},
            ["arrivals of the process 'pareto' as a Poisson process"],
        ),
    ],
)
def test_arrivals_are_as_they_are_said_or_it_is_told(tmp_path, arrival, arrivals, told):
    found = case(tmp_path, {"workload.arrival": arrival, "workload.num_requests": 100})
    assert (found.scenario["workload"]["arrivals"], found.scenario["workload"]["requests"]) == (arrivals, 100)
    assert [one for one in found.assumptions if one.startswith("arrivals")] == told


def test_lengths_that_differ_are_drawn_so_or_it_is_told(tmp_path):
    (tmp_path / "one").mkdir()
    prompt = {"mean": 300, "min": 100, "max": 500, "distribution": "uniform"}
    output = {"mean": 64, "std": 20, "max": 90, "distribution": "normal"}
    shared = {"num_groups": 2, "group_prefix_tokens": 50}
    change = {"workload.prompt": prompt, "workload.output": output, "workload.shared_prefix": shared}
    workload = case(tmp_path / "one", change).scenario["workload"]
    assert workload["prompt"] == {"kind": "uniform", "low": 50, "high": 450}
    assert workload["output"] == {"kind": "normal", "mean": 64, "std": 20, "min": 1, "max": 90}
    assert workload["system_prompt"] == {"tokens": 50, "groups": 2}
    found = case(tmp_path, {"workload.output": {"mean": 64, "distribution": "exponential"}})
    assert found.scenario["workload"]["output"] == 64
    assert "workload.output: lengths near their mean, where exponential is said" in found.assumptions


def test_prompts_in_groups_come_again(tmp_path):
    shared = {"num_groups": 5, "num_prompts_per_group": 20, "group_prefix_tokens": 60}
    workload = case(tmp_path, {"workload.shared_prefix": shared}).scenario["workload"]
    assert workload["cycle"] == {"prompts": 100, "groups": 5, "group_prefix": 60}


@pytest.mark.parametrize("prompt", [{"tokens": 208}, {"system_prompt_tokens": 50, "question_tokens": 150}])
def test_a_prompt_may_be_given_in_parts_or_as_tokens(tmp_path, prompt):
    assert case(tmp_path, {"workload.prompt": prompt}).scenario["workload"]["prompt"]["mean"] == 208


def test_what_no_scenario_has_is_named_wherever_it_stands(tmp_path):
    change = {"speculative": {"k": 2}, "parallel.cp": 2, "workload.think_time_s": 3, "workload.arrival.jitter": 0.1}
    told = case(tmp_path, change).assumptions
    assert [one for one in told if one.endswith(" left out")] == [
        "speculative left out",
        "parallel.cp left out",
        "workload.think_time_s left out",
        "workload.arrival.jitter left out",
    ]


@pytest.mark.parametrize(
    ("change", "degrees", "sentence"),
    [
        ({"parallel": {"tp": 2, "ep": 2}}, (2, 1), "parallel.ep 2 left out: the model has no experts"),
        ({"parallel": ..., "num_gpus": 2}, (2, 1), "the 2 devices of num_gpus as tensor-parallel"),
        ({"num_gpus": 4}, (1, 1), "1 devices, as the degrees say, where num_gpus is 4"),
    ],
)
def test_degrees_that_do_not_go_together_are_told(tmp_path, change, degrees, sentence):
    found = case(tmp_path, change)
    assert (found.scenario["hardware"]["tp"], found.scenario["hardware"]["ep"]) == degrees
    assert any(one.startswith(sentence) for one in found.assumptions)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": "nobody/Foo-9B"}, "unknown model 'nobody/Foo-9B'.*experiment.json describes it: architecture"),
        (
            {"engine.gpu_memory_utilization": 90},
            r"gpu_memory_utilization: 90.0 is not a share of memory; Give a number",
        ),
        ({"hardware": "H100"}, "no section 'hardware': 'H100' stands there"),
    ],
)
def test_a_refusal_says_where_and_what_helps(tmp_path, change, reason):
    write(tmp_path, change)
    (refusal,) = validate_folder(tmp_path).refusals
    assert re.search(reason, refusal.reason)
    assert "\n" not in refusal.reason
