import dataclasses

import pytest
from hermes_core.api import Deployment, InputError, StepShape
from hermes_hw.compiler import mixed_shape
from hermes_hw.devices import find_device
from hermes_hw.dtypes import dtype_named
from hermes_hw.graph import StepGraph
from hermes_hw.memory import kv_groups
from hermes_hw.models import architecture_from_config, find_model
from hermes_hw.operators import sizes_of
from hermes_hw.parallel import parallel_plan
from hermes_hw.roofline import RooflineModel
from hermes_hw.testing import check_step_model

BERT = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "num_hidden_layers": 24,
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "torch_dtype": "float16",
}
VISION = {
    "hidden_size": 1408,
    "num_hidden_layers": 34,
    "num_attention_heads": 16,
    "intermediate_size": 5632,
    "model_type": "llama4_vision_model",
}
BF16 = dtype_named("bf16")


def architecture(name):
    return architecture_from_config(name, find_model(name).config)


@pytest.mark.parametrize("name", ["gemma-3-27b", "gpt-oss-20b"])
def test_groups_of_layers_sum_to_the_whole_cache(name):
    model = architecture(name)
    full, windowed = kv_groups(model, BF16)
    a = model.attention
    each = a.kv_heads * (a.head_dim + a.v_head_dim) * 2
    assert (full.bytes_per_token, full.window) == (a.full_layers * each, 0)
    assert (windowed.bytes_per_token, windowed.window) == (a.windowed_layers * each, a.window)
    compiled = RooflineModel().compile(Deployment(model=name, device="b200", tensor_parallel=2))
    total = sum(group.bytes_per_token for group in compiled.memory.kv_groups)
    assert total == compiled.memory.kv_bytes_per_token


def test_chunked_attention_is_priced_by_its_window_and_keeps_all_tokens():
    model = architecture("llama-4-scout")
    assert (model.attention.windowed_layers, model.attention.window) == (36, 8192)
    (group,) = kv_groups(model, BF16)
    assert (group.bytes_per_token, group.window) == (48 * 8 * 256 * 2, 0)


def test_a_model_without_windows_is_one_group():
    (group,) = kv_groups(architecture("llama-3.1-8b"), BF16, 2)
    assert (group.bytes_per_token, group.window) == (65_536, 0)


def encoder(tokens, seqs=1):
    pairs2 = seqs * tokens * (tokens + 1)
    return StepShape(
        prefill_seqs=seqs, prefill_tokens=seqs * tokens, prefill_pairs2=pairs2, prefill_context=seqs * tokens
    )


def test_an_encoder_is_a_forward_pass_over_all_pairs():
    deployment = Deployment(model="bge-large", device="h100", model_config=BERT, max_batched_tokens=16_384)
    lines = {line.operator: line for line in RooflineModel().breakdown(deployment, encoder(500, 8))}
    assert "lm_head" not in lines
    assert "sampler" not in lines
    # Scores and values of every pair: 4 x layers x hidden x tokens^2 for each sequence.
    assert lines["attention_prefill"].flop == pytest.approx(4 * 24 * 1024 * 8 * 500**2)
    layers = sum(lines[name].flop for name in ("qkv_proj", "o_proj", "up_proj", "down_proj"))
    assert layers == pytest.approx(2 * 24 * 12 * 1024**2 * 8 * 500)
    compiled = RooflineModel().compile(deployment)
    total = sum(line.duration_s for line in lines.values())
    assert compiled.steps.step(encoder(500, 8))[0] * 1e-15 == pytest.approx(total, rel=1e-6)
    assert compiled.memory.kv_groups == ()
    assert compiled.kv_transfer_bytes_per_token == 0


def test_an_encoder_costs_more_attention_than_a_decoder_of_the_same_size():
    decoder = {**BERT, "model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    deployment = Deployment(model="m", device="h100", model_config=BERT)
    ours = RooflineModel().compile(deployment).steps.step(encoder(4096))[0]
    theirs = RooflineModel().compile(dataclasses.replace(deployment, model_config=decoder)).steps.step(encoder(4096))[0]
    assert ours != theirs


def test_the_vision_tower_is_an_encoder_of_its_own():
    config = {"text_config": dict(find_model("llama-3.1-8b").config), "vision_config": VISION}
    deployment = Deployment(model="m", device="h100", model_config=config, options={"part": "vision"})
    compiled = RooflineModel().compile(deployment)
    model = architecture_from_config("m", config, part="vision")
    assert model.parameters == pytest.approx(34 * (4 * 1408**2 + 2 * 1408 * 5632))
    flop = sum(line.flop for line in RooflineModel().breakdown(deployment, encoder(576)))
    assert flop == pytest.approx(2 * 576 * model.parameters + 4 * 34 * 1408 * 576**2)
    assert 0 < compiled.steps.step(encoder(576))[0] * 1e-15 < 0.1


@pytest.mark.parametrize(("part", "message"), [("vision", "no vision_config"), ("audio", "Known: language, vision")])
def test_a_part_that_is_not_there_is_named(part, message):
    with pytest.raises(InputError, match=message):
        RooflineModel().compile(Deployment(model="llama-3.1-8b", device="h100", options={"part": part}))


def test_a_network_stands_beside_the_interconnect():
    device = find_device("h100")
    assert device.network.domain_devices > device.interconnect.domain_devices
    assert device.network.bandwidth_bytes_per_s == 50e9


NEXT = {
    # Qwen/Qwen3-Next-80B-A3B-Instruct, as published on the Hugging Face hub, 2025-09.
    "model_type": "qwen3_next",
    "num_hidden_layers": 48,
    "hidden_size": 2048,
    "vocab_size": 151936,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "full_attention_interval": 4,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "num_experts": 512,
    "num_experts_per_tok": 10,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "intermediate_size": 5120,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "max_position_embeddings": 262144,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def test_linear_attention_layers_are_read():
    model = architecture_from_config("next", NEXT)
    assert (model.linear.layers, model.attention.full_layers) == (36, 12)
    # Published: 80 billion parameters, 3 billion active.
    assert model.parameters == pytest.approx(80e9, rel=0.01)
    assert model.active_parameters == pytest.approx(3e9, rel=0.35)
    listed = {**NEXT, "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 12}
    assert architecture_from_config("next", listed) == model


@pytest.mark.parametrize("change", [{}, {"tensor_parallel": 2}, {"pipeline_parallel": 3}])
def test_linear_attention_keeps_a_state_instead_of_a_cache(change):
    deployment = Deployment(model="next", device="b200", model_config=NEXT, **change)
    compiled = RooflineModel().compile(deployment)
    check_step_model(compiled.steps, points=30)
    tp, pp = change.get("tensor_parallel", 1), change.get("pipeline_parallel", 1)
    # KV of 12 layers with two heads of 256, keys and values, two bytes each.
    assert compiled.memory.kv_bytes_per_token == 12 / pp * 2 / tp * 512 * 2
    state = 32 * 128 * 128 * 4 + 3 * (2 * 16 * 128 + 32 * 128) * 2
    assert compiled.memory.state_bytes_per_seq == 36 / pp * state / tp
    for shape in (mixed_shape(16, 1000, 300, 0), mixed_shape(16, 1000, 0, 0)):
        total = sum(line.duration_s for line in RooflineModel().breakdown(deployment, shape))
        assert compiled.steps.step(shape)[0] * 1e-15 == pytest.approx(total, rel=1e-5)


def test_the_state_of_each_decoding_sequence_is_read_and_written():
    deployment = Deployment(model="next", device="b200", model_config=NEXT)
    lines = {line.operator: line for line in RooflineModel().breakdown(deployment, mixed_shape(16, 1000, 0, 0))}
    assert lines["attention_linear"].bytes == 36 * 16 * 2 * 32 * 128 * 128 * 4
    prompts = {line.operator: line for line in RooflineModel().breakdown(deployment, mixed_shape(0, 0, 640, 0))}
    assert prompts["attention_linear"].bytes == 36 * 10 * 2 * 32 * 128 * 128 * 4


def test_a_norm_over_all_heads_is_added_up_by_tensor_parallel_devices():
    model = architecture_from_config("m2", find_model("MiniMax-M2.5").config)
    for degree, reductions in ((1, 0), (4, model.layers)):
        plan = parallel_plan(Deployment(model="m2", device="h100", tensor_parallel=degree), model, 1.0)
        operators = StepGraph(model, plan, model.activation).layer_operators(sizes_of(32))
        assert sum(item.count for item in operators if item.name == "norm_all_reduce") == reductions


def sharing_tokens(degree):
    options = {"context_parallel": degree}
    return Deployment(model="deepseek-v3", device="h200", tensor_parallel=8, options=options)


def test_context_parallelism_shares_the_cache_by_tokens_for_two_exchanges_a_layer():
    alone, shared = (RooflineModel().compile(sharing_tokens(degree)) for degree in (1, 8))
    assert shared.memory.kv_bytes_per_token == pytest.approx(alone.memory.kv_bytes_per_token / 8)
    check_step_model(shared.steps, points=20)
    parts = {
        part.operator: part for part in RooflineModel().breakdown(sharing_tokens(8), mixed_shape(8, 100_000, 0, 0))
    }
    before = {
        part.operator: part for part in RooflineModel().breakdown(sharing_tokens(1), mixed_shape(8, 100_000, 0, 0))
    }
    # As many FLOPs, an eighth of the bytes.
    assert parts["attention_decode"].bytes == pytest.approx(before["attention_decode"].bytes / 8, rel=0.01)
    assert parts["attention_decode"].flop == pytest.approx(before["attention_decode"].flop, rel=0.01)
    assert {"queries_gather", "outputs_scatter"} == parts.keys() - before.keys()


@pytest.mark.parametrize(
    ("model", "tensor", "degree", "message"),
    [
        ("llama-3.1-8b", 8, 2, "keeps 1 copy of each of the 8 key-value heads"),
        ("deepseek-v3", 8, 3, "keeps 8 copies"),
        ("deepseek-v3", 8, 0, "whole number"),
        ("deepseek-v3", 8, "two", "whole number"),
    ],
)
def test_a_context_degree_that_cannot_be_is_named(model, tensor, degree, message):
    deployment = Deployment(model=model, device="h200", tensor_parallel=tensor, options={"context_parallel": degree})
    with pytest.raises(InputError, match=message):
        RooflineModel().compile(deployment)


def test_an_indexer_goes_over_all_keys_and_attention_over_those_picked():
    deployment = Deployment(model="deepseek-ai/DeepSeek-V3.2", device="h200", tensor_parallel=8, max_seqs=64)
    plan = parallel_plan(deployment, architecture("deepseek-v3.2"), 1.0)
    graph = StepGraph(architecture("deepseek-v3.2"), plan, BF16)
    scores = graph.decode_attention(sizes_of(4), sizes_of(40_000), windowed=False)
    assert (scores.name, scores.kind, scores.count, scores.dtype.name) == (
        "index_decode",
        "attention.decode",
        61,
        "fp8",
    )
    model = RooflineModel()
    lines = {line.operator: line for line in model.breakdown(deployment, mixed_shape(4, 10_000, 0, 2048))}
    # 64 heads of 128 for each of 40,000 keys, on every device; 128 bytes of each key.
    assert lines["index_decode"].flop == pytest.approx(61 * 2 * 64 * 128 * 40_000)
    assert lines["index_decode"].bytes == pytest.approx(61 * 128 * 40_000)
    assert lines["attention_decode_window"].bytes == pytest.approx(61 * 576 * 2 * 4 * 2048)
    # New tokens: queries, key and head weights, 2 m n k each.
    assert lines["index_query"].flop == pytest.approx(61 * 2 * 4 * 8192 * 1536, rel=1e-6)
    assert lines["index_key"].flop == pytest.approx(61 * 2 * 4 * 128 * 7168, rel=1e-6)
    prompt = {line.operator: line for line in model.breakdown(deployment, mixed_shape(0, 0, 1000, 2048))}
    # Pairs of query and key of a prompt of 1,000.
    assert prompt["index_prefill"].flop == pytest.approx(61 * 2 * 64 * 128 * 1000 * 1001 / 2)
    plain = RooflineModel().compile(dataclasses.replace(deployment, model="deepseek-v3"))
    sparse = model.compile(deployment)
    long = 64 * 100_000
    times = [one.steps.decode_run(64, long, 64 * 2048, 0)[0] for one in (plain, sparse)]
    assert times[1] < times[0]
    check_step_model(sparse.steps, points=40)


def test_a_gated_delta_net_by_hand():
    model = architecture("Qwen3.5-397B-A17B")
    linear = model.linear
    deployment = Deployment(model=model.name, device="h200", tensor_parallel=8)
    graph = StepGraph(model, parallel_plan(deployment, model, 1.0), BF16)
    parts = {one.name: one for one in graph.layer_operators(sizes_of(16)) if one.name.startswith("linear_")}
    heads, keys = linear.value_heads // 8, linear.key_heads // 8
    # Queries and keys, values and output gates; decay and step are a product of their own.
    assert parts["linear_in_proj"].attributes["n"] == 2 * keys * linear.key_dim + 2 * heads * linear.value_dim
    assert parts["linear_gates"].attributes == {"n": 2 * heads, "k": model.hidden}
    assert parts["linear_convolution"].attributes["width"] == 2 * keys * linear.key_dim + heads * linear.value_dim
    assert parts["linear_norm"].attributes["hidden"] == heads * linear.value_dim
    assert {one.count for one in parts.values()} == {linear.layers}
    weights = sum(one.attributes["n"] * one.attributes["k"] for one in parts.values() if one.kind == "gemm")
    assert weights == pytest.approx(model.linear_parameters / 8, rel=1e-3)


def test_norms_over_all_heads_by_hand():
    model = architecture("MiniMax-M2.5")
    a, layers = model.attention, model.layers

    def parts(degree):
        plan = parallel_plan(Deployment(model=model.name, device="b200", tensor_parallel=degree), model, 1.0)
        return {one.name: one for one in StepGraph(model, plan, BF16).layer_operators(sizes_of(16))}

    alone, four = parts(1), parts(4)
    assert (alone["query_norm"].count, four["query_norm"].count) == (layers, 2 * layers)
    assert four["query_norm"].attributes["width"] == a.heads // 4 * a.head_dim
    assert four["key_norm"].attributes["width"] == a.kv_heads // 4 * a.head_dim
    # Two sums of squares in float32 for each of 16 tokens, once a layer.
    assert (four["norm_all_reduce"].count, four["norm_all_reduce"].sizes["bytes"][0]) == (layers, 128)
    assert "norm_all_reduce" not in alone


def test_shared_experts_are_marked_as_beside_the_routed_ones():
    model = architecture("deepseek-v3")
    graph = StepGraph(model, parallel_plan(Deployment(model="deepseek-v3", device="h200"), model, 1.0), BF16)
    marked = {one.name for one in graph.layer_operators(sizes_of(4)) if one.attributes.get("beside")}
    assert marked == {"shared_gate_up_proj", "shared_activation", "shared_down_proj"}
