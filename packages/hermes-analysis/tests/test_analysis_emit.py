"""What is written to deploy: valid, and what was simulated."""

import json
import shlex

import pytest
from hermes_analysis.emit import TARGETS, EmitError, emit_all, emitted, engine_pools, other_engines
from hermes_analysis.emit.engines import sglang_command, vllm_command
from hermes_analysis.emit.manifests import compose, kubernetes
from hermes_analysis.emit.scenario import chosen_scenario
from hermes_analysis.emit.yaml_text import yaml_documents, yaml_text
from hermes_analysis.errors import OutputError
from hermes_analysis.optimize.tasks import SearchRequest, optimize
from hermes_analysis.simulator import SimulationError, session
from hypothesis import given, settings
from hypothesis import strategies as st

for needed in ("hermes_core", "hermes_hw", "hermes_workload"):
    pytest.importorskip(needed, reason="resolves scenarios")

BASE = {
    "name": "Shop Chat",
    "model": {"ref": "meta-llama/Llama-3.1-70B", "quantization": "fp8"},
    "workload": {"rate": "5/s", "prompt": 500, "output": 50, "requests": 50},
}
COLOCATED = {**BASE, "hardware": {"device": "h100-sxm", "tp": 2}, "replicas": 3}
APART = {
    **BASE,
    "pools": {
        "prompts": {"stages": ["prefill"], "clients": 2, "hardware": {"device": "h100-sxm", "tp": 4}},
        "answers": {"stages": ["decode"], "clients": 1, "hardware": {"device": "mi300x", "tp": 4}},
    },
}
SGLANG = {**COLOCATED, "engine": "sglang"}

# The part of the Compose Specification (compose-spec.json of compose-spec/compose-spec, 2025) that is used here.
TEXTS = {"type": "array", "items": {"type": "string"}}
COMPOSE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["services"],
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]*$"},
        "volumes": {"type": "object", "additionalProperties": {"type": ["object", "null"]}},
        "services": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": False,
            "patternProperties": {"^[a-zA-Z0-9._-]+$": {"$ref": "#/$defs/service"}},
        },
    },
    "$defs": {
        "service": {
            "type": "object",
            "additionalProperties": False,
            "required": ["image"],
            "properties": {
                "image": {"type": "string"},
                "command": TEXTS,
                "entrypoint": TEXTS,
                "devices": TEXTS,
                "volumes": TEXTS,
                "privileged": {"type": "boolean"},
                "shm_size": {"type": "string", "pattern": "^[0-9]+[bkmg]$"},
                "restart": {"enum": ["no", "always", "on-failure", "unless-stopped"]},
                "ports": {"type": "array", "items": {"type": "string", "pattern": "^[0-9]+:[0-9]+$"}},
                "environment": {"type": "object", "additionalProperties": {"type": ["string", "number"]}},
                "healthcheck": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "test": TEXTS,
                        "interval": {"type": "string", "pattern": "^[0-9]+s$"},
                        "timeout": {"type": "string", "pattern": "^[0-9]+s$"},
                        "retries": {"type": "integer"},
                    },
                },
                "depends_on": {
                    "type": "object",
                    "additionalProperties": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["condition"],
                        "properties": {"condition": {"enum": ["service_started", "service_healthy"]}},
                    },
                },
                "deploy": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "resources": {
                            "type": "object",
                            "additionalProperties": False,
                            "properties": {
                                "reservations": {
                                    "type": "object",
                                    "additionalProperties": False,
                                    "properties": {
                                        "devices": {
                                            "type": "array",
                                            "items": {
                                                "type": "object",
                                                "additionalProperties": False,
                                                "required": ["capabilities"],
                                                "properties": {
                                                    "capabilities": TEXTS,
                                                    "device_ids": TEXTS,
                                                    "driver": {"type": "string"},
                                                },
                                            },
                                        }
                                    },
                                }
                            },
                        }
                    },
                },
            },
        }
    },
}


def parsed(text):
    from ruamel.yaml import YAML  # noqa: PLC0415 - comes with hermes-core

    return list(YAML(typ="safe", pure=True).load_all(text))


def options(command):
    """Return the options of a command by name; a flag is True."""
    found = {}
    for at, word in enumerate(command):
        if word.startswith("--"):
            following = command[at + 1] if at + 1 < len(command) else "--"
            found[word] = True if following.startswith("--") else following
    return found


@pytest.mark.parametrize("scenario", [COLOCATED, APART, SGLANG], ids=["colocated", "apart", "sglang"])
def test_compose_files_follow_the_specification(scenario):
    jsonschema = pytest.importorskip("jsonschema", reason="validates")
    name, pools = engine_pools(scenario)
    (document,) = parsed(emitted(name, pools, "compose"))
    assert document == compose(name, pools)
    jsonschema.Draft202012Validator(COMPOSE).validate(document)
    engines = [key for key in document["services"] if key != "router"]
    assert len(engines) == sum(pool.clients for pool in pools)
    assert list(document["services"]["router"]["depends_on"]) == engines
    assert all(f"http://{engine}:8000" in " ".join(document["services"]["router"]["command"]) for engine in engines)


def test_no_two_engines_of_a_compose_file_share_an_accelerator():
    name, pools = engine_pools(COLOCATED)
    services = compose(name, pools)["services"]
    used = [
        device
        for service in services.values()
        if "deploy" in service
        for device in service["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"]
    ]
    assert used == ["0", "1", "2", "3", "4", "5"]


@pytest.mark.parametrize("scenario", [COLOCATED, APART, SGLANG], ids=["colocated", "apart", "sglang"])
def test_manifests_are_valid_for_kubernetes(scenario):
    validation = pytest.importorskip("kubernetes_validate", reason="has Kubernetes' own schemas")
    name, pools = engine_pools(scenario)
    documents = parsed(emitted(name, pools, "k8s"))
    assert documents == kubernetes(name, pools)
    for document in documents:
        validation.validate(document, validation.latest_version(), strict=True)
    kinds = [document["kind"] for document in documents]
    assert kinds.count("StatefulSet") == len(pools)
    sets = [document["spec"] for document in documents if document["kind"] == "StatefulSet"]
    assert [spec["replicas"] for spec in sets] == [pool.clients for pool in pools]


def test_the_resource_is_that_of_the_make():
    name, pools = engine_pools(APART)
    limits = [
        document["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
        for document in kubernetes(name, pools)
        if document["kind"] == "StatefulSet"
    ]
    assert {"amd.com/gpu": 4} in limits
    assert {"nvidia.com/gpu": 4} in limits


def test_another_engine_than_was_simulated_is_said():
    _, pools = engine_pools(COLOCATED, [])
    (note,) = other_engines(pools, "sglang")
    assert "was simulated as vllm-" in note
    assert other_engines(pools, "vllm") == other_engines(pools, "compose") == []
    assert "simulated as vllm-" in emitted("x", pools, "sglang")


def test_a_manifest_of_another_engine_than_was_simulated_says_so():
    _, pools = engine_pools(COLOCATED, ["engine=tensorrt-llm"])
    for target in ("compose", "k8s"):
        (note,) = other_engines(pools, target)
        assert "was simulated as tensorrt-llm" in note
    _, pools = engine_pools(SGLANG)
    assert other_engines(pools, "compose") == []


EXPERTS = {
    **BASE,
    "model": {"ref": "Qwen/Qwen3-30B-A3B", "kv_dtype": "fp8"},
    "engine": {"preset": "sglang", "max_num_seqs": 48, "max_num_batched_tokens": 1000},
}


def test_ranks_of_sglang_share_its_limits_and_devices():
    _, pools = engine_pools({**EXPERTS, "hardware": {"device": "h100-sxm", "tp": 2, "dp": 4, "ep": 8}})
    found = options(sglang_command(pools[0]))
    assert found["--enable-dp-attention"] is True
    assert (found["--tp-size"], found["--dp-size"], found["--ep-size"]) == ("8", "4", "8"), "of all devices"
    assert (found["--chunked-prefill-size"], found["--max-running-requests"]) == ("4000", "192"), "of all ranks"
    assert found["--kv-cache-dtype"] == "fp8_e4m3", "SGLang knows no plain fp8"
    assert other_engines(pools, "sglang") == []
    _, pools = engine_pools({**EXPERTS, "hardware": {"device": "h100-sxm", "tp": 2, "dp": 4, "ep": 8}}, ["engine=vllm"])
    ours = options(vllm_command(pools[0]))
    assert (ours["--tensor-parallel-size"], ours["--data-parallel-size"], "--enable-expert-parallel" in ours) == (
        "2",
        "4",
        True,
    )
    _, (alone,) = engine_pools({**EXPERTS, "hardware": {"device": "h100-sxm", "tp": 2}})
    found = options(sglang_command(alone))
    assert "--enable-dp-attention" not in found
    assert (found["--tp-size"], found["--chunked-prefill-size"], found["--max-running-requests"]) == ("2", "1000", "48")


def test_ranks_of_a_model_that_may_have_no_experts_are_noted():
    _, pools = engine_pools({**SGLANG, "hardware": {"device": "h100-sxm", "tp": 2, "dp": 2}})
    for target in ("sglang", "k8s"):
        (note,) = other_engines(pools, target)
        assert "more clients" in note


def test_vllm_is_told_what_was_simulated():
    _, (pool,) = engine_pools(
        COLOCATED,
        ["engine={max_num_seqs: 99, max_num_batched_tokens: 3000, prefix_caching: false, max_model_len: 9000}"],
    )
    command = vllm_command(pool)
    assert command[:3] == ["vllm", "serve", "meta-llama/Llama-3.1-70B"]
    found = options(command)
    assert found["--tensor-parallel-size"] == "2"
    assert found["--max-num-seqs"] == "99"
    assert found["--max-num-batched-tokens"] == "3000"
    assert found["--max-model-len"] == "9000"
    assert found["--no-enable-prefix-caching"] is True
    assert found["--quantization"] == "fp8"
    assert "--pipeline-parallel-size" not in found


def test_prefill_and_decode_know_their_parts():
    name, pools = engine_pools(APART)
    by_name = {pool.name: pool for pool in pools}
    roles = {
        key: json.loads(options(vllm_command(pool))["--kv-transfer-config"])["kv_role"] for key, pool in by_name.items()
    }
    assert roles == {"prompts": "kv_producer", "answers": "kv_consumer"}
    assert options(sglang_command(by_name["answers"]))["--disaggregation-mode"] == "decode"
    script = emitted(name, pools, "sglang").replace("\\\n", " ")
    lines = [line for line in script.splitlines() if line.startswith("python3")]
    assert [shlex.split(line) for line in lines] == [sglang_command(pool) for pool in pools]
    router = " ".join(compose(name, pools)["services"]["router"]["command"])
    assert "--vllm-pd-disaggregation" in router
    assert "--prefill http://prompts-0:8000" in router
    assert "--decode http://answers-0:8000" in router


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["engine.queue=shortest_prompt"], "vLLM has no queue order 'shortest_prompt'"),
        (["engine.batching=static"], "vLLM has no batching 'static'"),
        (["hardware={device: h100-sxm, tp: 8, pp: 2}"], "has 16 accelerators, more than a node's 8"),
    ],
)
def test_what_an_engine_cannot_do_is_refused(sets, message):
    def write():
        name, pools = engine_pools(COLOCATED, sets)
        emitted(name, pools, "vllm")

    with pytest.raises(EmitError, match=message):
        write()


def test_a_scenario_that_is_none_is_told():
    with pytest.raises(SimulationError, match="replcas"):
        engine_pools(COLOCATED, ["replcas=2"])


def test_files_are_not_overwritten_unasked(tmp_path):
    written = emit_all(COLOCATED, list(TARGETS), tmp_path / "out")
    assert sorted(path.name for path in written) == sorted(TARGETS.values())
    emit_all(COLOCATED, ["k8s"], tmp_path / "out")  # the same once more
    with (tmp_path / "out/k8s.yaml").open("a") as stream:
        stream.write("# by hand\n")
    with pytest.raises(OutputError, match="exists already"):
        emit_all(COLOCATED, ["k8s"], tmp_path / "out")
    emit_all(COLOCATED, ["k8s"], tmp_path / "out", force=True)


def test_a_search_leaves_its_answer_as_a_scenario_and_manifests(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scenario = tmp_path / "chat.yaml"
    scenario.write_text(yaml_text({**COLOCATED, "model": "meta-llama/Llama-3.1-8B"}))
    request = SearchRequest(
        scenario,
        objectives=("usd_per_h",),
        limits=("ttft.p99 <= 1 s",),
        devices="h100-sxm,l40s",
        count="1..3",
        layout="colocated,disaggregated",
        degrees={"tp": "1"},
        seeds="1",
        executor="serial",
        emit=("k8s", "vllm"),
        out=tmp_path / "out",
    )
    text = optimize(request)
    assert "min usd_per_h" in text
    answer = json.loads((tmp_path / "out/answer.json").read_text())
    runner = session()
    best = runner.resolved(runner.read(tmp_path / "out/best.yaml"))
    assert best["pools"] == runner.resolved(runner.read(scenario), answer["best"]["sets"])["pools"]
    device = answer["best"]["choices"]["device"]
    assert f"hermes/device: {device}" in (tmp_path / "out/k8s.yaml").read_text()
    assert (tmp_path / "out/vllm.sh").exists()
    assert optimize(request) == text
    (tmp_path / "out/k8s.yaml").write_text("# by hand\n")
    with pytest.raises(OutputError, match="exists already"):
        optimize(request)


def test_the_chosen_scenario_takes_values_away_too(tmp_path):
    scenario = tmp_path / "base.yaml"
    scenario.write_text(yaml_text(COLOCATED))
    sets = (
        "replicas=null",
        "pools={prefill: {stages: [prefill], clients: 1}, decode: {stages: [decode], clients: 2}}",
    )
    (tmp_path / "best.yaml").write_text(chosen_scenario(scenario, sets, tmp_path))
    runner = session()
    chosen = runner.resolved(runner.read(tmp_path / "best.yaml"))
    assert {name: pool["clients"] for name, pool in chosen["pools"].items()} == {"prefill": 1, "decode": 2}


TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126) | st.sampled_from("é→漢"), max_size=6)


@settings(max_examples=150, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-9, 9) | TEXT | st.sampled_from(["yes", "1e3", "a: b", "- x", "#"]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=10,
    )
)
def test_yaml_is_read_as_it_was_meant(value):
    assert parsed(yaml_text({"x": value})) == [{"x": value}]
    assert parsed(yaml_documents([{"x": value}, {"y": [value]}])) == [{"x": value}, {"y": [value]}]
