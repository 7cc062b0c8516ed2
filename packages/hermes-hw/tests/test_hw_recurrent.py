"""Layers that keep a state: what is read of a configuration, and what they cost."""

import dataclasses

import numpy as np
import pytest
from hermes_core.api import Deployment, InputError, UnsupportedError
from hermes_hw.compiler import mixed_shape
from hermes_hw.devices import find_device
from hermes_hw.dtypes import dtype_named
from hermes_hw.efficiency import efficiency_of
from hermes_hw.graph import StepGraph
from hermes_hw.memory import weights_bytes_per_device
from hermes_hw.models import architecture_from_config, find_model
from hermes_hw.models.recurrent import RULES, LinearAttention
from hermes_hw.operators import Operator, sizes_of
from hermes_hw.parallel import parallel_plan
from hermes_hw.roofline import RooflineModel, RooflinePricer
from hermes_hw.testing import check_step_model

BF16 = dtype_named("bf16")
HYBRIDS = (
    "Nemotron-Nano-9B-v2",
    "Nemotron-3-Nano-30B-A3B",
    "jamba",
    "granite-4.0-h-tiny",
    "granite-4.0-h-micro",
    "Bamba-9B",
    "Falcon-H1-7B-Instruct",
    "Mamba-Codestral-7B-v0.1",
    "falcon-mamba-7b",
    "kimi-linear",
    "LFM2-1.2B",
    "LFM2-8B-A1B",
)


def architecture(name):
    entry = find_model(name)
    return architecture_from_config(entry.name, entry.config)


def parts(name, tensor_parallel=1, tokens=16):
    model = architecture(name)
    deployment = Deployment(model=model.name, device="b300", tensor_parallel=tensor_parallel)
    graph = StepGraph(model, parallel_plan(deployment, model, 1.0), BF16)
    return model, {one.name: one for one in graph.layer_operators(sizes_of(tokens))}, graph


@pytest.mark.parametrize(
    ("name", "rule", "recurrent", "attending", "dense", "experts"),
    [
        ("Nemotron-Nano-9B-v2", "mamba2", 27, 4, 25, 0),
        ("Nemotron-3-Super-120B-A12B", "mamba2", 40, 8, 0, 40),
        ("jamba", "mamba1", 28, 4, 16, 16),
        ("granite-4.0-h-small", "mamba2", 36, 4, 0, 40),
        ("granite-4.0-h-micro", "mamba2", 36, 4, 40, 0),
        ("Falcon-H1-34B-Instruct", "mamba2", 72, 72, 72, 0),
        ("falcon-mamba-7b", "mamba1", 64, 0, 0, 0),
        ("kimi-linear", "kda", 20, 7, 1, 26),
        ("MiniMax-Text-01", "lightning", 70, 10, 0, 80),
        ("LFM2-8B-A1B", "short_conv", 18, 6, 2, 22),
        ("Qwen3-Next-80B-A3B", "gated_delta", 36, 12, 0, 48),
    ],
)
def test_layers_of_a_hybrid_are_counted_by_kind(name, rule, recurrent, attending, dense, experts):
    model = architecture(name)
    assert model.linear.rule == rule
    assert (model.linear.layers, model.attention_layers) == (recurrent, attending)
    assert (model.dense.layers, model.moe.layers) == (dense, experts)
    assert model.assumptions == ()


@pytest.mark.parametrize(
    ("name", "active_b"),
    # As published on the model cards: 3.6, 12.7, 12 and 94 billion (Jamba), 9, 3 (Kimi), 45.9 (MiniMax), 1.5.
    [
        ("Nemotron-3-Nano-30B-A3B", 3.6),
        ("Nemotron-3-Super-120B-A12B", 12.7),
        ("Jamba-v0.1", 12.0),
        ("Jamba-1.5-Large", 94.0),
        ("granite-4.0-h-small", 9.0),
        ("LFM2-8B-A1B", 1.5),
    ],
)
def test_what_a_token_meets_is_as_published(name, active_b):
    assert architecture(name).active_parameters / 1e9 == pytest.approx(active_b, rel=0.05)


@pytest.mark.parametrize("name", HYBRIDS)
@pytest.mark.parametrize("tensor_parallel", [1, 2])
def test_a_hybrid_keeps_the_contract_and_its_parts_sum_to_its_steps(name, tensor_parallel):
    deployment = Deployment(model=name, device="b300", tensor_parallel=tensor_parallel)
    compiled = RooflineModel().compile(deployment)
    check_step_model(compiled.steps, points=10)
    for shape in (mixed_shape(16, 1000, 300, 0), mixed_shape(16, 1000, 0, 0), mixed_shape(0, 0, 4096, 0)):
        total = sum(line.duration_s for line in RooflineModel().breakdown(deployment, shape))
        assert compiled.steps.step(shape)[0] * 1e-15 == pytest.approx(total, rel=1e-5)


def test_a_mamba2_layer_by_hand():
    # Granite: one group of B and C, which every device of a tensor-parallel group has.
    model, names, _ = parts("granite-4.0-h-small", tensor_parallel=4)
    linear = model.linear
    assert (linear.value_heads, linear.value_dim, linear.key_dim, linear.key_heads) == (128, 64, 128, 1)
    inner = 128 * 64 // 4
    assert names["linear_in_proj"].attributes == {"n": 2 * inner + 2 * 128 + 32, "k": 4096}
    assert names["linear_out_proj"].attributes == {"n": 4096, "k": inner}
    assert names["linear_convolution"].attributes["width"] == inner + 2 * 128
    assert names["linear_norm"].attributes["hidden"] == inner
    assert "linear_gates" not in names
    assert names["linear_in_proj"].count == names["linear_out_proj"].count == 36
    # Projections, a convolution over four tokens, three constants a head, a norm.
    whole = 4096 * (2 * 8192 + 256 + 128) + 8192 * 4096 + 4 * (8192 + 256) + 3 * 128 + 8192
    assert model.linear_parameters == whole


def test_a_mamba1_layer_adds_up_what_its_scan_needs():
    model, names, _ = parts("jamba", tensor_parallel=2)
    inner = 2 * 4096
    assert names["linear_scan_inputs"].attributes == {"n": 256 + 32, "k": inner // 2}
    assert names["linear_steps"].attributes == {"n": inner // 2, "k": 256}
    partial = names["linear_scan_inputs_all_reduce"]
    assert (partial.sizes["bytes"].tolist(), partial.count) == ([16 * 288 * 2], 28)
    assert "linear_scan_inputs_all_reduce" not in parts("jamba")[1]
    assert model.linear.state_values == inner * 16


def test_kimi_delta_attention_by_hand():
    model, names, graph = parts("kimi-linear", tensor_parallel=2)
    wide = 32 * 128
    assert names["linear_in_proj"].attributes["n"] == 3 * wide // 2
    assert names["linear_gates"].attributes["n"] == 16
    assert names["linear_decay_down"].attributes == {"n": 128, "k": 2304}
    assert names["linear_gate_up"].attributes == {"n": wide // 2, "k": 128}
    assert graph.linear_attention(sizes_of(8), sizes_of(0)).name == "attention_kda"
    assert model.attention.latent


def test_each_part_that_adds_to_the_hidden_state_is_reduced_once():
    model, names, _ = parts("Nemotron-Nano-9B-v2", tensor_parallel=2)
    assert names["all_reduce"].count == names["norm"].count == model.layers == 56
    model, names, _ = parts("Falcon-H1-7B-Instruct", tensor_parallel=2)
    # Attention and Mamba-2 side by side share a norm, and each adds up its own.
    assert (names["norm"].count, names["all_reduce"].count) == (2 * model.layers, 3 * model.layers)
    assert names["rotary"].count == model.layers


def test_states_take_the_format_that_the_configuration_names():
    entry = find_model("Nemotron-3-Nano-30B-A3B")
    assert entry.config["mamba_ssm_cache_dtype"] == "float32"
    state, convolved = 64 * 64 * 128, 3 * (64 * 64 + 2 * 8 * 128)
    for change, each in (({}, 4), ({"mamba_ssm_cache_dtype": None}, 2), ({"mamba_ssm_cache_dtype": "float16"}, 2)):
        config = {**entry.config, **change}
        deployment = Deployment(model="nano", device="b200", model_config=config)
        compiled = RooflineModel().compile(deployment)
        assert compiled.memory.state_bytes_per_seq == 23 * (state * each + convolved * 2)
    with pytest.raises(InputError, match="mamba_ssm_cache_dtype must be one of float32"):
        architecture_from_config("nano", {**entry.config, "mamba_ssm_cache_dtype": "int3"})


def test_a_model_without_attention_keeps_no_cache():
    compiled = RooflineModel().compile(Deployment(model="falcon-mamba-7b", device="h100"))
    assert compiled.memory.kv_groups == ()
    assert compiled.memory.state_bytes_per_seq == 64 * 8192 * (16 + 3) * 2


def pricer(device="h100"):
    found = find_device(device)
    return RooflinePricer(found, efficiency_of(found.family))


def recurrence(batch, tokens, **attributes):
    shape = {"value_heads": 64, "key_dim": 128, "value_dim": 64, **attributes}
    sizes = {"batch": sizes_of(batch), "tokens": sizes_of(tokens)}
    return Operator("r", "attention.linear", BF16, BF16, sizes, shape)


def test_the_price_of_a_parallel_scan_by_hand():
    state, width, chunk = 64 * 64 * 128, 64 * 64, 256
    scan = {"chunk": chunk, "groups": 8, "state_bytes": 2}
    decode = pricer().price(recurrence(10, 0, **scan))
    assert decode.bytes.tolist() == [10 * 2 * state * 2]
    prompt = pricer().price(recurrence(0, 1024, **scan))
    # States of four chunks, written, passed on (read and written), read; values four times.
    assert prompt.bytes.tolist() == [4 * 4 * state * 4 + 1024 * 4 * width * 2]
    assert prompt.flop.tolist() == [1024 * (4 * state + 2 * chunk * (width + 8 * 128))]
    with_state = pricer().price(recurrence(10, 0, **{**scan, "state_bytes": 4}))
    assert with_state.seconds == pytest.approx(2 * decode.seconds)


def test_a_scan_by_element_does_not_use_matrix_units():
    state = 64 * 64 * 128
    prompt = pricer().price(recurrence(0, 1024, chunk=0, groups=64, state_bytes=2))
    assert prompt.flop.tolist() == [1024 * 9 * state]
    rate = find_device("h100").flops["fp32"] * efficiency_of("hopper").compute
    assert prompt.compute_s == pytest.approx(1024 * 9 * state / rate)


@pytest.mark.parametrize("rule", RULES)
def test_a_recurrence_grows_in_proportion_to_sequences_and_tokens(rule):
    model = dataclasses.replace(
        architecture("Nemotron-3-Nano-30B-A3B"), linear=LinearAttention(23, 8, 64, 128, 64, 4, rule=rule)
    )
    deployment = Deployment(model=model.name, device="b300")
    graph = StepGraph(model, parallel_plan(deployment, model, 1.0), BF16)
    price = pricer("b300").price
    for batch, tokens in ((7, 0), (0, 900)):
        one = price(graph.linear_attention(sizes_of(batch), sizes_of(tokens))).seconds
        three = price(graph.linear_attention(sizes_of(3 * batch), sizes_of(3 * tokens))).seconds
        assert three == pytest.approx(3 * one)
        assert np.all(one > 0)


def test_experts_in_a_narrower_space_are_priced_there():
    model, names, _ = parts("Nemotron-3-Super-120B-A12B", tensor_parallel=2)
    assert (model.moe.latent, model.hidden) == (1024, 4096)
    assert names["experts"].attributes["hidden"] == 1024
    assert names["latent_down"].attributes == {"n": 1024, "k": 4096}
    assert names["latent_up"].attributes == {"n": 4096, "k": 1024}
    assert names["shared_up_proj"].attributes == {"n": 5376 // 2, "k": 4096, "beside": 1}
    # Without a gate: two matrices an expert.
    assert model.expert_parameters == 2 * 1024 * 2688


def test_weights_over_devices_are_those_of_the_model():
    for name in ("Nemotron-Nano-9B-v2", "jamba", "kimi-linear"):
        model = architecture(name)
        one, two = (weights_bytes_per_device(model, degree) for degree in (1, 2))
        assert one == pytest.approx(2 * model.parameters, rel=1e-3)
        assert one / 2 <= two < one * 0.52


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("Nemotron-Nano-9B-v2", {"hybrid_override_pattern": "M-*"}, "the list of 56 layers has 3 of them"),
        ("Nemotron-Nano-9B-v2", {"hybrid_override_pattern": "X" * 56}, "has the kinds X"),
        ("Nemotron-Nano-9B-v2", {"hybrid_override_pattern": None}, "cannot read hybrid_override_pattern"),
        ("granite-4.0-h-small", {"layer_types": ["mamba"]}, "layer_types must name the kinds of 40 layers"),
        ("kimi-linear", {"linear_attn_config": None}, "cannot read linear_attn_config"),
        ("kimi-linear", {"linear_attn_config": {"full_attn_layers": 3}}, "full_attn_layers must list layers"),
        (
            "kimi-linear",
            {"linear_attn_config": {"full_attn_layers": [4]}},
            "linear_attn_config.: cannot read num_heads",
        ),
        ("falcon-mamba-7b", {"state_size": "16"}, "state_size must be a whole number"),
    ],
)
def test_a_strange_list_of_layers_is_named(name, change, message):
    with pytest.raises(InputError, match=message):
        architecture_from_config("m", {**find_model(name).config, **change})


def test_state_space_layers_of_an_unknown_model_are_refused_with_those_known():
    config = {**find_model("Llama-3.1-8B").config, "model_type": "zamba2", "mamba_d_state": 64}
    with pytest.raises(UnsupportedError, match="state-space layers, which are not priced for model_type 'zamba2'") as e:
        architecture_from_config("m", config)
    assert "nemotron_h" in str(e.value)


def test_a_format_for_each_module_gives_each_group_what_most_of_it_has():
    layers = {
        f"model.layers.{layer}.{name}": {"quant_algo": algorithm}
        for layer in (0, 1)
        for name, algorithm in (
            ("self_attn.q_proj", "FP8"),
            ("mlp.experts.0.down_proj", "W4A16_NVFP4"),
            ("mlp.experts.1.down_proj", "W4A16_NVFP4"),
            ("mlp.shared_expert.up_proj", "FP8"),
        )
    }
    layers |= {"lm_head": {"quant_algo": "NVFP4"}, "model.layers.0.mlp.experts.2.down_proj": {"quant_algo": "FP8"}}
    section = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
    config = {**find_model("Qwen3-30B-A3B").config, "quantization_config": section}
    formats = architecture_from_config("m", config).quantization
    assert (formats.attention.name, formats.experts.name, formats.shared_experts.name) == ("fp8", "nvfp4", "fp8")
    assert (formats.dense.name, formats.lm_head.name) == ("bf16", "nvfp4")
    for broken, message in (
        ({}, "expected the formats"),
        ({"a.mlp.up_proj": {"quant_algo": "INT3"}}, "'INT3' of a.mlp"),
    ):
        with pytest.raises((InputError, UnsupportedError), match=message):
            architecture_from_config("m", {**config, "quantization_config": {**section, "quantized_layers": broken}})


def test_an_export_of_modelopt_may_leave_out_its_name():
    section = {"quant_algo": "FP8", "ignore": ["lm_head"], "producer": {"name": "modelopt"}}
    formats = architecture_from_config("m", {**find_model("Qwen3-32B").config, "quantization_config": section})
    assert (formats.quantization.dense.name, formats.quantization.lm_head.name) == ("fp8", "bf16")


def test_layers_with_experts_may_be_flagged_one_by_one():
    config = {**find_model("Qwen3-30B-A3B").config, "moe_layer_freq": [0] + [1] * 47}
    model = architecture_from_config("m", config)
    assert (model.moe.layers, model.dense.layers) == (47, 1)


def test_the_output_gate_of_latent_attention_is_a_product_of_its_own():
    model, names, _ = parts("kimi-k3", tensor_parallel=8)
    assert names["output_gate"].attributes == {"n": 96 * 128 // 8, "k": 7168}
    gated = dataclasses.replace(model, attention=dataclasses.replace(model.attention, output_gate=False))
    assert model.attention_parameters - gated.attention_parameters == 7168 * 96 * 128


def test_a_conversion_of_a_wide_checkpoint_drops_its_word():
    assert (
        find_model("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-NVFP4").name == "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-NVFP4"
    )
