"""Sections, fits and profiles of inference-perf in files of their own."""

import json

import numpy as np
import pytest
from hermes_workload import WorkloadError, open_workload
from hermes_workload.batch import concatenate
from hermes_workload.errors import MissingExtraError
from hermes_workload.opening import open_named

pytest.importorskip("ruamel.yaml")

SECOND = 10**9
PROFILE = """
load:
  type: constant
  interval: 15
  stages:
    - {rate: 8, duration: 10}
    - {rate: 20, duration: 5}
api: {type: completion, streaming: true}
server: {type: vllm, base_url: "http://0.0.0.0:8000"}
data:
  type: shared_prefix
  shared_prefix: {num_groups: 10, num_prompts_per_group: 3, system_prompt_len: 100, question_len: 447, output_len: 248}
"""


def opened(tmp_path, text, **more):
    path = tmp_path / "profile.yml"
    path.write_text(text)
    source = open_workload({"kind": "inference_perf", "path": str(path), **more}, 3)
    return concatenate(list(source.batches())), source


def test_a_shared_prefix_profile_is_what_the_tool_sends(tmp_path):
    batch, source = opened(tmp_path, PROFILE, pipeline="chat")
    assert len(batch) == source.requests == 180
    assert source.pipelines == ("chat",)
    assert set(batch.prompt_tokens.tolist()) == {547}
    assert set(batch.output_tokens.tolist()) == {248}
    assert len(np.unique(batch.segment_id)) == 40
    assert (batch.arrival_ns <= 10 * SECOND).sum() == 80
    direct = concatenate(list(open_named(str(tmp_path / "profile.yml"), {}, 3).batches()))
    assert direct.arrival_ns.tolist() == batch.arrival_ns.tolist()


def test_distributions_and_adapters_of_a_profile(tmp_path):
    text = """
load: {type: poisson, stages: [{rate: 50, duration: 20}, {rate: 100, duration: 30}],
       lora_traffic_split: [{name: sql, split: 0.75}, {name: legal, split: 0.25}]}
data:
  type: random
  input_distribution: {type: uniform, min: 10, max: 20}
  output_distribution: {mean: 100, std_dev: 10, min: 80, max: 120}
"""
    batch, source = opened(tmp_path, text)
    assert len(batch) == pytest.approx(4000, abs=5 * np.sqrt(4000))
    assert (batch.arrival_ns < 20 * SECOND).sum() == pytest.approx(1000, abs=5 * np.sqrt(1000))
    assert (batch.prompt_tokens.min(), batch.prompt_tokens.max()) == (10, 20)
    assert (batch.output_tokens.min(), batch.output_tokens.max()) == (80, 120)
    assert source.adapters == ("sql", "legal")
    assert np.mean(batch.adapter == 1) == pytest.approx(0.75, abs=0.04)


def test_a_concurrent_profile_is_a_closed_loop(tmp_path):
    text = "load: {type: concurrent, stages: [{concurrency_level: 4, num_requests: 40}]}\ndata: {type: mock}\n"
    batch, _ = opened(tmp_path, text)
    assert batch.after_request[:6].tolist() == [-1, -1, -1, -1, 0, 1]
    assert len(batch) == 40


def test_what_a_profile_asks_in_vain_is_told(tmp_path):
    _, source = opened(tmp_path, PROFILE.replace("num_groups: 10", "num_groups: 10, enable_multi_turn_chat: true"))
    assert "enable_multi_turn_chat" in source.notes[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("load: {stages: [", r"profile.yml:\d+, column \d+: is no YAML"),
        ("- 1", "is no mapping"),
        ("data: {}\nload: {}", r"load.stages\): is None"),
        ("load: {}", "lacks the key 'data'"),
        (PROFILE.replace("rate: 8", "rate: eight"), r"load.stages\[0\].rate\): is 'eight'"),
        (PROFILE.replace("type: shared_prefix", "type: visionarena"), r"data.type\): is 'visionarena'"),
        (PROFILE.replace("type: constant", "type: trace_session_replay"), "constant, poisson or concurrent"),
        (PROFILE.replace("num_groups: 10", "num_groups: -1"), "whole number of at least 0"),
    ],
)
def test_a_profile_that_cannot_be_used_is_told_with_its_place(tmp_path, text, said):
    with pytest.raises(WorkloadError, match=said):
        opened(tmp_path, text)


SPEC = {
    "arrivals": {"kind": "poisson", "rate_per_s": 10.0},
    "prompt": {"kind": "fixed", "tokens": 5},
    "output": {"kind": "fixed", "tokens": 5},
}


def test_a_fit_in_a_file_has_the_rate_and_labels_that_are_asked_for(tmp_path):
    path = tmp_path / "fit.json"
    path.write_text(json.dumps({"rate_per_s": 10.0, "requests": 500, "spec": SPEC}))
    source = open_workload({"kind": "file", "path": str(path), "rate_per_s": 40, "tenant": "acme"}, 1)
    batch = concatenate(list(source.batches()))
    assert (len(batch), source.tenants) == (500, ("acme",))
    assert batch.arrival_ns[-1] / SECOND == pytest.approx(12.5, rel=0.2)


def test_a_section_in_a_file(tmp_path):
    path = tmp_path / "section.yaml"
    path.write_text(json.dumps(SPEC))
    assert open_workload({"kind": "file", "path": str(path), "requests": 7}, 1).requests == 7
    with pytest.raises(WorkloadError, match=r"unknown key 'rate_per_s'"):
        open_workload({"kind": "file", "path": str(path), "requests": 7, "rate_per_s": 2}, 1)
    path.write_text("5")
    with pytest.raises(WorkloadError, match="holds no workload section"):
        open_workload({"kind": "file", "path": str(path)}, 1)
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n0,1,1\n")
    with pytest.raises(WorkloadError, match="holds no workload section"):
        open_workload({"kind": "file", "path": str(trace)}, 1)


def test_yaml_names_the_extra_that_it_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ruamel.yaml", None)
    with pytest.raises(MissingExtraError, match=r"hermes-workload\[yaml\]"):
        opened(tmp_path, PROFILE)
