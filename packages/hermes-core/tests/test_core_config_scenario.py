"""Scenarios resolved into plans: defaults, short forms, origins."""

import dataclasses
import json
import sys
import types

import pytest
from hermes_core.api import InputError
from hermes_core.config import load_scenario, parts, traffic
from hermes_core.config.engine_section import EngineSection, yaml_key
from hermes_core.serving.llm.settings import EngineSettings
from hermes_core.serving.plan import KvTransferPlan

SMALLEST = """
model: meta-llama/Llama-3.1-8B
hardware: h100-sxm
replicas: 2
workload: {rate: 8/s, prompt: 1024, output: 256, requests: 1000}
slo: {ttft: 500 ms, tpot: 50 ms}
"""
HEAD = "model: m\nhardware: d\n"
FEW = "workload: {rate: 8/s, requests: 10}\n"


@pytest.fixture(autouse=True)
def presets(monkeypatch):
    """Presets that no release of the real ones can change."""

    def engine_preset(name, *, device_memory_bytes, device):
        known = {"vllm": "vllm-0.33", "vllm-0.33": "vllm-0.33", "sglang": "sglang-0.5"}
        if name not in known:
            raise InputError(f"there is no engine preset {name!r}", remedy="known: vllm, sglang")
        tokens = 16384 if (device_memory_bytes or 0) > 100 * 2**30 else 8192
        return EngineSettings(preset=known[name], max_num_batched_tokens=tokens, host_base_ns=7)

    module = types.ModuleType("hermes_core.serving.llm.presets")
    module.engine_preset = engine_preset
    monkeypatch.setitem(sys.modules, "hermes_core.serving.llm.presets", module)
    monkeypatch.setattr(parts, "DEVICE_CATALOGUES", "hermes.no_such_group")


def workload(text, head=HEAD, **kwargs):
    return load_scenario(text=f"{head}workload: {text}\n", **kwargs).workload


def origins(text, **kwargs):
    return dict(load_scenario(text=text, **kwargs).origins)


def test_the_smallest_scenario_is_sugar_for_one_pool():
    plan = load_scenario(text=SMALLEST)
    (pool,) = plan.pools
    assert (pool.name, pool.clients, pool.stages, pool.router) == ("default", 2, ("prefill", "decode"), "least_tokens")
    assert (pool.deployment.model, pool.deployment.device) == ("meta-llama/Llama-3.1-8B", "h100-sxm")
    assert pool.engine.preset == "vllm-0.33"
    assert plan.pipelines == {"default": ("prefill", "decode")}
    assert plan.service_levels[0].name == "*"
    assert (plan.service_levels[0].ttft_ns, plan.service_levels[0].tpot_ns) == (500_000_000, 50_000_000)
    assert (plan.seed, plan.name, plan.duration_ns) == (0, "scenario", None)
    assert plan.workload == {
        "kind": "synthetic",
        "arrivals": {"kind": "poisson", "rate_per_s": 8.0},
        "prompt": {"kind": "fixed", "tokens": 1024},
        "output": {"kind": "fixed", "tokens": 256},
        "requests": 1000,
        "duration_ns": None,
        "pipeline": "default",
        "tenant": "default",
        "service_class": "default",
        "priority": 0,
        "deadline_ns": 0,
        "joint": None,
        "system_prompt": None,
        "documents": None,
        "sessions": None,
        "tools": None,
        "reasoning": None,
        "reasoning_share": None,
        "adapters": None,
        "cycle": None,
    }


def test_file_text_and_python_values_give_one_scenario(tmp_path):
    path = tmp_path / "scenario.yaml"
    path.write_text(SMALLEST)
    data = {
        "model": "meta-llama/Llama-3.1-8B",
        "hardware": "h100-sxm",
        "replicas": 2,
        "workload": {"rate": "8/s", "prompt": 1024, "output": 256, "requests": 1000},
        "slo": {"ttft": "500 ms", "tpot": "50 ms"},
    }
    texts = {load_scenario(path).canonical_json, load_scenario(text=SMALLEST).canonical_json}
    assert texts == {load_scenario(data=data).canonical_json}
    with pytest.raises(TypeError):
        load_scenario(path, text=SMALLEST)


def test_null_means_not_given():
    text = SMALLEST.replace("replicas: 2", "replicas: null").replace("output: 256", "output: 256, system_prompt: null")
    plan = load_scenario(text=text + "engine: {max_num_seqs: null}\nrouting:\n", sets=["slo=null"])
    assert (plan.pools[0].clients, plan.pools[0].engine.max_num_seqs) == (1, 1024)
    assert plan.service_levels == ()
    assert dict(plan.origins)["/pools/default/clients"] == "default"


def test_equal_scenarios_written_differently_are_the_same_bytes():
    long = SMALLEST.replace("rate: 8/s", "arrivals: {kind: poisson, rate: 480/min}").replace("1024", "{fixed: 1024}")
    assert load_scenario(text=long).canonical_json == load_scenario(text=SMALLEST).canonical_json
    canonical = load_scenario(text=SMALLEST).canonical_json
    assert canonical == json.dumps(json.loads(canonical), sort_keys=True, separators=(",", ":"))


def test_every_leaf_has_an_origin():
    plan = load_scenario(text=SMALLEST, sets=["workload.output=300", "hardware.tp=2"], seed=5)
    leaves = set()

    def walk(node, pointer):
        if isinstance(node, dict | list) and node:
            for key, value in node.items() if isinstance(node, dict) else enumerate(node):
                walk(value, f"{pointer}/{key}")
        else:
            leaves.add(pointer)

    walk(json.loads(plan.canonical_json), "")
    found = dict(plan.origins)
    assert set(found) == leaves
    assert found["/pools/default/clients"] == "scenario:4:11"
    assert found["/workload/arrivals/rate_per_s"] == "scenario:5:18"
    assert found["/workload/output/tokens"] == "--set workload.output=300"
    assert found["/pools/default/hardware/tensor_parallel"] == "--set hardware.tp=2"
    assert found["/pools/default/hardware/device"] == "scenario:3:11"
    assert found["/pools/default/engine/max_num_seqs"] == "preset vllm-0.33"
    assert found["/slo/*/attainment"] == "default"
    assert found["/seed"] == "--seed"
    assert json.loads(plan.canonical_json)["seed"] == 5


def test_a_file_names_itself_in_origins_and_gives_its_name(tmp_path):
    path = tmp_path / "night.yaml"
    path.write_text(SMALLEST)
    plan = load_scenario(path)
    assert plan.name == "night"
    assert dict(plan.origins)["/pools/default/model/ref"] == f"{path}:2:8"


def test_exactness_is_no_part_of_the_scenario():
    plan = load_scenario(text=SMALLEST)
    assert dataclasses.replace(plan, exact=True).canonical_json == plan.canonical_json
    assert "exact" not in plan.canonical_json


# --- hardware, models, devices ---------------------------------------------------------------------------------------


def test_parallel_degrees_and_types_reach_the_deployment():
    plan = load_scenario(
        text="model: {ref: a/b, quantization: fp8, kv_dtype: fp8}\n"
        "hardware: {device: h100-sxm, tp: 2, pp: 2, dp: 3, ep: 6, options: {efficiency: 0.5}}\n" + FEW
    )
    deployment = plan.pools[0].deployment
    assert deployment.devices == 12
    assert (deployment.expert_parallel, deployment.options) == (6, {"efficiency": 0.5})
    assert (deployment.weight_dtype, deployment.kv_dtype) == ("fp8", "fp8")
    assert plan.pools[0].hardware_model == "auto"


def test_a_model_may_bring_its_config(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine.json").write_text('{"hidden_size": 64}')
    path = tmp_path / "s.yaml"
    path.write_text(f"models: {{mine: {{ref: me/mine, config: models/mine.json}}}}\nmodel: mine\nhardware: d\n{FEW}")
    plan = load_scenario(path)
    assert plan.pools[0].deployment.model == "me/mine"
    assert plan.pools[0].deployment.model_config == {"hidden_size": 64}
    assert json.loads(plan.canonical_json)["pools"]["default"]["model"]["config"] == {"hidden_size": 64}


def test_a_device_is_described_in_canonical_units():
    plan = load_scenario(
        text="model: m\nhardware: mine\ndevices:\n  mine:\n    memory: 128 GiB\n    bandwidth: 2 TB/s\n"
        "    flops: {bf16: 500 TFLOP/s}\n    tdp: 500 W\n    idle_power: 50 W\n    price: 3.10 USD/h\n"
        "    interconnect: {kind: ring, bandwidth: 100 GB/s, latency: 5 us, domain_devices: 4}\n" + FEW
    )
    assert plan.pools[0].deployment.device_spec == {
        "memory_bytes": 128 * 2**30,
        "memory_bandwidth_bytes_per_s": 2 * 10**12,
        "flops": {"bf16": 5e14},
        "tdp_w": 500.0,
        "idle_w": 50.0,
        "price_usd_per_h": 3.1,
        "interconnect": {
            "kind": "ring",
            "bandwidth_bytes_per_s": 100 * 10**9,
            "latency_s": 5e-6,
            "domain_devices": 4,
        },
    }
    # The preset knew how much memory there is.
    assert plan.pools[0].engine.max_num_batched_tokens == 16384
    assert plan.pools[0].deployment.max_batched_tokens == 16384


def test_one_figure_of_flops_is_for_bf16():
    plan = load_scenario(text=f"model: m\nhardware: d\ndevices: {{d: {{flops: 1 PFLOP/s}}}}\n{FEW}")
    assert plan.pools[0].deployment.device_spec == {"flops": {"bf16": 1e15}}


# --- engine ----------------------------------------------------------------------------------------------------------


def test_every_engine_setting_can_be_written():
    written = {yaml_key(field.name) for field in dataclasses.fields(EngineSettings)}
    assert set(EngineSection.keys()) == written
    assert {"block_size", "host_base", "aging", "max_num_batched_tokens"} <= written


def test_engine_settings_override_the_preset_in_human_units():
    text = (
        HEAD
        + FEW
        + (
            "engine:\n  preset: vllm\n  max_num_seqs: 64\n  host_base: 1 ms\n  host_per_seq: 3.5 us\n  block_size: 32\n"
            "  gpu_memory_utilization: 0.8\n  asynchronous_scheduling: false\n  graph_sizes: [1, 2, 4]\n"
            "  front_end: {request: 5 ms, per_stream: 75 us}\n  admission: {kind: token_bucket, rate: 5/s, burst: 3}\n"
        )
    )
    pool = load_scenario(text=text).pools[0]
    engine, deployment = pool.engine, pool.deployment
    assert (engine.preset, engine.max_num_seqs, engine.host_base_ns, engine.host_per_seq_ns) == (
        "vllm-0.33",
        64,
        1_000_000,
        3_500,
    )
    assert (engine.front_end.request_ns, engine.front_end.per_prompt_token_ns) == (5_000_000, 0)
    assert (engine.admission.kind, engine.admission.rate_per_s, engine.admission.burst) == ("token_bucket", 5.0, 3)
    assert (deployment.host.base_fs, deployment.host.per_seq_fs) == (10**12, 3_500_000_000)
    assert deployment.host.asynchronous is False
    assert (deployment.max_seqs, deployment.block_size_tokens, deployment.memory_utilization) == (64, 32, 0.8)
    assert deployment.graph_sizes == (1, 2, 4)
    found = origins(text)
    assert found["/pools/default/engine/front_end/request_ns"] == "scenario:13:24"
    assert found["/pools/default/engine/front_end/per_prompt_token_ns"] == "preset vllm-0.33"  # noqa: S105
    assert found["/pools/default/engine/graph_sizes/2"] == "scenario:12:16"


def test_a_pool_changes_the_common_engine_or_begins_anew():
    text = (
        HEAD + "engine: {max_num_seqs: 64, block_size: 32}\npools:\n"
        "  a: {stages: [prefill], engine: {block_size: 64}}\n  b: {stages: [decode], engine: sglang}\n" + FEW
    )
    first, second = load_scenario(text=text).pools
    assert (first.engine.max_num_seqs, first.engine.block_size_tokens) == (64, 64)
    assert (second.engine.preset, second.engine.max_num_seqs, second.engine.block_size_tokens) == (
        "sglang-0.5",
        1024,
        16,
    )


# --- pools, routing, pipelines ---------------------------------------------------------------------------------------


def test_pools_take_what_they_leave_out_from_the_top():
    plan = load_scenario(
        text="model: m\nhardware: d\npools:\n  p: {stages: [prefill], clients: 4, hardware: {device: e, tp: 2}}\n"
        "  q: {stages: [decode], model: {ref: n}}\nrouting: {p: round_robin}\n" + FEW
    )
    p, q = plan.pools
    assert (p.name, p.clients, p.stages, p.router) == ("p", 4, ("prefill",), "round_robin")
    assert (p.deployment.model, p.deployment.device, p.deployment.tensor_parallel) == ("m", "e", 2)
    assert (q.clients, q.deployment.model, q.deployment.device, q.router) == (1, "n", "d", "least_tokens")


def test_a_pool_says_how_it_gets_kv():
    text = (
        HEAD + "pools:\n  p: {stages: [prefill]}\n"
        "  q: {stages: [decode], kv_transfer: {bandwidth: 400 Gbit/s, latency: 5 us, pairing: local}}\n" + FEW
    )
    p, q = load_scenario(text=text).pools
    assert p.kv_transfer == KvTransferPlan()
    assert q.kv_transfer == KvTransferPlan(50 * 10**9, 5_000, layer_wise=False, pairing="local")
    assert origins(text)["/pools/q/kv_transfer/latency_ns"] == "scenario:5:71"
    assert origins(text)["/pools/q/kv_transfer/layer_wise"] == "default"


@pytest.mark.parametrize("text", ["random", "{kind: random}", "{default: random}", "{default: {kind: random}}"])
def test_routing_is_for_all_pools_or_by_pool(text):
    assert load_scenario(text=f"{HEAD}{FEW}routing: {text}\n").pools[0].router == "random"


def test_router_options_are_passed_on():
    pool = load_scenario(text=f"{HEAD}{FEW}routing: {{kind: random, refresh: 100 ms}}\n").pools[0]
    assert pool.router_options == {"refresh": "100 ms"}


def test_a_workload_takes_the_only_pipeline_by_itself():
    plan = load_scenario(text=f"{HEAD}{FEW}pipelines: {{chat: [prefill: {{pool: default}}, decode]}}\n")
    assert [(stage.kind, stage.pool) for stage in plan.pipelines["chat"]] == [
        ("prefill", "default"),
        ("decode", "default"),
    ]
    assert plan.workload["pipeline"] == "chat"


def test_service_levels_by_pipeline_or_class():
    plan = load_scenario(
        text=f"{HEAD}workload: {{rate: 1/s, requests: 5, service_class: gold}}\n"
        "slo: {default: {ttft: 1 s}, gold: {e2e: 3 s, attainment: 0.9}}\n"
    )
    assert [(level.name, level.ttft_ns, level.e2e_ns, level.attainment) for level in plan.service_levels] == [
        ("default", 10**9, 0, 0.99),
        ("gold", 0, 3 * 10**9, 0.9),
    ]


def test_cost_and_record():
    plan = load_scenario(
        text=f"{HEAD}{FEW}cost: {{electricity: 0.12 USD/kWh, pue: 1.2, carbon: 350 g/kWh}}\n"
        "record: {steps: none, transfers: false}\nduration: 30 min\nwarm_up: 1 min\nseed: 7\nname: x\n"
    )
    assert (plan.cost.electricity_usd_per_kwh, plan.cost.pue, plan.cost.carbon_g_per_kwh) == (0.12, 1.2, 350.0)
    assert (plan.record.steps, plan.record.stage_jobs, plan.record.transfers) == (False, True, False)
    assert (plan.duration_ns, plan.warm_up_ns, plan.seed, plan.name) == (1800 * 10**9, 60 * 10**9, 7, "x")


# --- workloads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("{poisson: {rate: 2/s}}", {"kind": "poisson", "rate_per_s": 2.0}),
        ("{poisson: 2/s}", {"kind": "poisson", "rate_per_s": 2.0}),
        ("{kind: constant, rate: 2/s}", {"kind": "constant", "rate_per_s": 2.0}),
        ("{gamma: {rate: 12/s, cv: 2}}", {"kind": "gamma", "rate_per_s": 12.0, "cv": 2.0}),
        ("{weibull: {rate: 1/s, shape: 0.7}}", {"kind": "weibull", "rate_per_s": 1.0, "shape": 0.7}),
        ("burst", {"kind": "burst"}),
        ("{closed_loop: 32}", {"kind": "closed_loop", "concurrency": 32, "think_ns": 0}),
        (
            "{closed_loop: {concurrency: 32, think: 2 s}}",
            {"kind": "closed_loop", "concurrency": 32, "think_ns": 2 * 10**9},
        ),
        (
            "{stages: [{rate: 1/s, duration: 1 min}, {rate: 0/s, duration: 5 s}]}",
            {
                "kind": "stages",
                "of": "poisson",
                "stages": [
                    {"rate_per_s": 1.0, "duration_ns": 60 * 10**9},
                    {"rate_per_s": 0.0, "duration_ns": 5 * 10**9},
                ],
            },
        ),
        (
            "{diurnal: {rate: 5/s, peak_to_trough: 3, period: 24 h}}",
            {"kind": "diurnal", "rate_per_s": 5.0, "peak_to_trough": 3.0, "period_ns": 86400 * 10**9, "phase": 0.0},
        ),
        (
            "{mmpp: {rates: [1/s, 9/s], mean_dwell: [10 s, 1 s]}}",
            {"kind": "mmpp", "rates_per_s": [1.0, 9.0], "mean_dwell_ns": [10 * 10**9, 10**9]},
        ),
        (
            "{spike: {rate: 1/s, at: 0 s, for: 2 s, factor: 10}}",
            {"kind": "spike", "rate_per_s": 1.0, "at_ns": 0, "for_ns": 2 * 10**9, "factor": 10.0},
        ),
    ],
)
def test_arrivals_in_all_their_forms(text, canonical):
    assert workload(f"{{arrivals: {text}, requests: 5}}")["arrivals"] == canonical


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("300", {"kind": "fixed", "tokens": 300}),
        ("2k", {"kind": "fixed", "tokens": 2000}),
        ("{fixed: 300}", {"kind": "fixed", "tokens": 300}),
        ("{uniform: [128, 512]}", {"kind": "uniform", "low": 128, "high": 512}),
        ("{uniform: {low: 128, high: 512}}", {"kind": "uniform", "low": 128, "high": 512}),
        ("{kind: normal, mean: 10.5, std: 2}", {"kind": "normal", "mean": 10.5, "std": 2.0}),
        ("{lognormal: {median: 300, p95: 2000}}", {"kind": "lognormal", "median": 300.0, "p95": 2000.0}),
        ("{lognormal: {median: 1.5k, p95: 12k tokens}}", {"kind": "lognormal", "median": 1500.0, "p95": 12000.0}),
        ("{normal: {mean: 100.5, std: 0}}", {"kind": "normal", "mean": 100.5, "std": 0.0}),
        ("{lognormal: {mean: 300, cv: 2, max: 4k}}", {"kind": "lognormal", "mean": 300.0, "cv": 2.0, "max": 4000}),
        ("{lognormal: {mean: 300, cv: 2}, max: 4k}", {"kind": "lognormal", "mean": 300.0, "cv": 2.0, "max": 4000}),
        ("{zipf: {exponent: 1.1, low: 1, high: 9}}", {"kind": "zipf", "exponent": 1.1, "low": 1, "high": 9}),
        ("{pareto: {minimum: 5, shape: 1.5, min: 6}}", {"kind": "pareto", "minimum": 5, "shape": 1.5, "min": 6}),
        ("{empirical: [1, 2, 3]}", {"kind": "empirical", "values": [1, 2, 3]}),
        (
            "{empirical: {values: [1, 2], weights: [0.5, 3]}}",
            {"kind": "empirical", "values": [1, 2], "weights": [0.5, 3.0]},
        ),
        (
            "{mixture: [{weight: 1, of: 5}, {weight: 2, of: {uniform: [1, 9]}}]}",
            {
                "kind": "mixture",
                "parts": [
                    {"weight": 1.0, "of": {"kind": "fixed", "tokens": 5}},
                    {"weight": 2.0, "of": {"kind": "uniform", "low": 1, "high": 9}},
                ],
            },
        ),
    ],
)
def test_sizes_in_all_their_forms(text, canonical):
    assert workload(f"{{rate: 1/s, prompt: {text}, requests: 5}}")["prompt"] == canonical


def test_the_rest_of_a_synthetic_workload():
    spec = workload(
        "{rate: 1/s, duration: 1 min, system_prompt: {tokens: 600, groups: 12}, sessions: {turns: 6, think: 20 s},"
        " reasoning: 500, tenant: t, priority: -2, deadline: 3 s}"
    )
    assert (spec["requests"], spec["duration_ns"]) == (None, 60 * 10**9)
    assert spec["system_prompt"] == {"tokens": 600, "groups": 12}
    assert spec["sessions"] == {"turns": {"kind": "fixed", "tokens": 6}, "think": {"mean_ns": 20 * 10**9, "cv": 1.0}}
    assert spec["reasoning"] == {"kind": "fixed", "tokens": 500}
    cycled = workload("{rate: 1/s, duration: 1 min, cycle: {prompts: 10, group_prefix: 100}}")
    assert cycled["cycle"] == {"prompts": 10, "groups": 1, "group_prefix_tokens": 100}
    assert (spec["tenant"], spec["priority"], spec["deadline_ns"]) == ("t", -2, 3 * 10**9)


def test_a_workload_without_an_end_takes_the_scenarios():
    text = HEAD + "workload: {rate: 1/s}\nduration: 90 s\n"
    assert load_scenario(text=text).workload["duration_ns"] == 90 * 10**9
    assert origins(text)["/workload/duration_ns"] == "scenario:4:11"
    assert (
        workload("{arrivals: {stages: [{rate: 1/s, duration: 3 s}, {rate: 2/s, duration: 4 s}]}}")["duration_ns"]
        == 7 * 10**9
    )


def test_a_trace_is_found_from_the_scenarios_folder(tmp_path, monkeypatch):
    (tmp_path / "azure.csv").write_text("x\n")
    path = tmp_path / "s.yaml"
    path.write_text(HEAD + "workload: {trace: azure.csv, rate_scale: 1.5, start: 10 s, skip_bad: true}\n")
    plan = load_scenario(path)
    assert plan.workload == {
        "kind": "trace",
        "path": str(tmp_path / "azure.csv"),
        "format": "auto",
        "rate_scale": 1.5,
        "time_scale": 1.0,
        "start_ns": 10 * 10**9,
        "duration_ns": None,
        "requests": None,
        "skip_bad": True,
        "sort_window": 65_536,
        "arrivals": None,
        "pipeline": "default",
        "tenant": "default",
        "service_class": "default",
        "priority": 0,
        "deadline_ns": 0,
    }
    # The canonical form says what was written: the same bytes wherever the folder lies.
    assert json.loads(plan.canonical_json)["workload"]["path"] == "azure.csv"
    monkeypatch.chdir(tmp_path)
    assert workload("{kind: trace, path: azure.csv}")["path"] == str(tmp_path / "azure.csv")


def test_a_named_workload():
    spec = workload("{name: azure-conversation, rate: 20/s, requests: 20k}")
    assert (spec["kind"], spec["name"], spec["rate_per_s"], spec["requests"]) == (
        "named",
        "azure-conversation",
        20.0,
        20000,
    )


def test_a_mix_with_one_stream_of_arrivals():
    spec = workload("{rate: 10/s, requests: 100, mix: [{share: 3, prompt: 10}, {prompt: 20, tenant: b}]}")
    assert (spec["kind"], spec["requests"], spec["arrivals"]) == ("mix", 100, {"kind": "poisson", "rate_per_s": 10.0})
    assert [(part["share"], part["prompt"]["tokens"], part["tenant"]) for part in spec["entries"]] == [
        (3.0, 10, "default"),
        (1.0, 20, "b"),
    ]
    assert spec["entries"][0]["kind"] == "synthetic"


def test_a_mix_with_arrivals_in_each_entry(tmp_path):
    (tmp_path / "a.csv").write_text("x\n")
    path = tmp_path / "s.yaml"
    path.write_text(
        HEAD + "workload:\n  mix:\n    - {rate: 1/s, requests: 5}\n    - {trace: a.csv}\n"
        "    - {name: azure-code, duration: 1 min}\n"
    )
    spec = load_scenario(path).workload
    assert spec["arrivals"] is None
    assert "share" not in spec["entries"][0]
    assert [part["kind"] for part in spec["entries"]] == ["synthetic", "trace", "named"]
    assert spec["entries"][1]["path"] == str(tmp_path / "a.csv")
    assert dict(load_scenario(path).origins)["/workload/entries/1/path"] == f"{path}:6:15"


def test_another_packages_workload_is_passed_on(monkeypatch):
    monkeypatch.setattr(traffic, "plugin_names", lambda group: ["mine"])
    assert workload("{kind: mine, anything: {goes: 1}}") == {"kind": "mine", "anything": {"goes": 1}}
