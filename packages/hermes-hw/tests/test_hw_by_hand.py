"""Figures worked out on paper, from published architectures, datasheets and the formulas that docstrings quote."""

import dataclasses

import numpy as np
import pytest
from hermes_core.api import Deployment, HostOverhead
from hermes_hw.compiler import mixed_shape, representative_shape
from hermes_hw.devices import find_device
from hermes_hw.energy import Energy
from hermes_hw.fitted import fit_efficiency
from hermes_hw.gating import busiest_group, popularity
from hermes_hw.graph import StepGraph
from hermes_hw.memory import activation_bytes_per_device, kv_bytes_per_token
from hermes_hw.models import architecture_from_config, find_model
from hermes_hw.operators import sizes_of
from hermes_hw.parallel import ParallelPlan, parallel_plan
from hermes_hw.roofline import RooflineModel

H100 = find_device("h100-sxm")
LLAMA_70B = Deployment(model="meta-llama/Llama-3.1-70B", device="h100-sxm", tensor_parallel=4)


def architecture(name):
    return architecture_from_config(name, find_model(name).config)


def operators_of(name, plan, tokens=1):
    model = architecture(name)
    graph = StepGraph(model, plan, model.activation)
    sizes = sizes_of(tokens)
    every = [*graph.embedding_operators(sizes), *graph.layer_operators(sizes), *graph.sampled_operators(sizes)]
    return {item.name: item for item in every}


# --- a step of Llama-3.1-70B on four H100 -----------------------------------------------------------------------------


def test_matrices_of_a_device_by_hand():
    # 64 query and 8 key-value heads of 128, hidden 8,192, inner 28,672, 80 layers, 128,256 words; over four devices.
    found = operators_of("meta-llama/Llama-3.1-70B", ParallelPlan(tensor=4), tokens=32)
    shapes = {
        "qkv_proj": (16 * 128 + 2 * 2 * 128, 8192, 80),
        "o_proj": (8192, 16 * 128, 80),
        "gate_up_proj": (2 * 7168, 8192, 80),
        "down_proj": (8192, 7168, 80),
        "lm_head": (32_064, 8192, 1),
    }
    for name, (n, k, count) in shapes.items():
        item = found[name]
        assert (item.attributes["n"], item.attributes["k"], item.count) == (n, k, count), name


def test_collectives_of_a_step_by_hand():
    # Hidden states of 8,192 in bfloat16: after the embedding, after both parts of each layer; and logits.
    found = operators_of("meta-llama/Llama-3.1-70B", ParallelPlan(tensor=4), tokens=32)
    expected = {
        "all_reduce_embedding": (32 * 8192 * 2, 1),
        "all_reduce": (32 * 8192 * 2, 160),
        "logits_gather": (32 * 128_256 * 2, 1),
    }
    collectives = {name: item for name, item in found.items() if item.kind.startswith("collective")}
    assert collectives.keys() == expected.keys()
    for name, (nbytes, count) in expected.items():
        item = collectives[name]
        assert (int(item.sizes["bytes"][0]), item.count, item.attributes["ranks"]) == (nbytes, count, 4), name
    alone = operators_of("meta-llama/Llama-3.1-8B", ParallelPlan(), tokens=32)
    assert not [item.kind for item in alone.values() if item.kind.startswith("collective")]


def test_a_decode_step_by_hand():
    """32 sequences with 2,048 tokens each: every weight and every key once, at shipped shares of 3.35 TB/s.

    For each layer 26,112 x 8,192 weights; a product starts after 3.05 us and 0.3 ns for each of its inner length, a
    small kernel after 2.4 us; all-reduces of 0.5 MB go over NVLink 4 in two rounds, at 0.7 of 450 GB/s.
    """
    shape = mixed_shape(32, 2048, 0, 0)
    lines = {line.operator: line for line in RooflineModel().breakdown(LLAMA_70B, shape)}
    weights = 80 * (2560 + 2048 + 14_336 + 7168) * 8192 * 2
    moved = 80 * 32 * 2 * ((2560 + 8192) + (8192 + 2048) + (14_336 + 8192) + (8192 + 7168))
    products = 4 * 80 * 3.05e-6 + 80 * 0.3e-9 * (3 * 8192 - 8192 + 2048 + 7168) + (weights + moved) / (0.93 * 3.35e12)
    names = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
    assert sum(lines[name].duration_s for name in names) == pytest.approx(products, rel=0.01)
    # Two key-value heads of 128 on each device, keys and values, in bfloat16: 1,024 bytes a layer and token.
    keys = 80 * 1024 * 32 * 2048
    assert lines["attention_decode"].bytes == pytest.approx(keys)
    assert lines["attention_decode"].duration_s == pytest.approx(keys / (0.92 * 3.35e12), rel=0.01)
    reduce = 2.4 * 4.4e-6 + 2 * 3 / 4 * 32 * 8192 * 2 / (0.7 * 450e9)
    assert lines["all_reduce"].duration_s == pytest.approx(160 * reduce, rel=0.01)
    compiled = RooflineModel().compile(LLAMA_70B)
    step_s = compiled.steps.step(shape)[0] * 1e-15
    around = 0.5e-3 + 32 * 12e-6
    assert step_s == pytest.approx(sum(line.duration_s for line in lines.values()), rel=0.01)
    assert step_s > products + keys / (0.92 * 3.35e12) + 160 * reduce + around


# --- energy and money -------------------------------------------------------------------------------------------------


def test_power_of_an_operator_by_hand():
    # H100: 630 W above idle. Active 0.31 of it, 0.56 with the memory at full bandwidth, the rest with the multipliers.
    energy = Energy.of(H100)
    one = np.ones(1)
    assert energy.joules(one, 0 * one, 0 * one)[0] == pytest.approx(630 * 0.31)
    assert energy.joules(one, 0 * one, 3.35e12 * one)[0] == pytest.approx(630 * 0.87)
    assert energy.joules(one, one, 3.35e12 * one)[0] == pytest.approx(630)
    assert energy.joules(one, 0.5 * one, 0.25 * 3.35e12 * one)[0] == pytest.approx(630 * (0.31 + 0.345 + 0.14))


def test_energy_of_a_transfer_by_hand():
    # 10 pJ a bit: 1 GB takes 80 mJ, on top of 0.31 of 630 W for 10 ms; and never more than 630 W.
    energy = Energy.of(H100)
    assert energy.network_joules(np.full(1, 0.01), np.full(1, 1e9))[0] == pytest.approx(630 * 0.31 * 0.01 + 0.08)
    assert energy.network_joules(np.full(1, 1e-4), np.full(1, 1e12))[0] == pytest.approx(630 * 1e-4)


def test_joules_and_dollars_of_a_token_by_hand():
    """64 sequences of Llama-3.1-8B on an H100: nearly all of a step is reading, at 0.92 of the bandwidth or so.

    While kernels read they draw 70 W idle and 630 W x (0.31 + 0.56 x 0.92 or so), while the host works 0.31 of 630 W.
    """
    deployment = Deployment(model="meta-llama/Llama-3.1-8B", device="h100-sxm")
    compiled = RooflineModel().compile(deployment)
    step_fs, _, _, dynamic_nj, _ = compiled.steps.decode_run(64, 64 * 2048, 64 * 2048, 64)
    seconds, joules = step_fs * 1e-15, dynamic_nj * 1e-9
    lines = RooflineModel().breakdown(deployment, mixed_shape(64, 2048, 0, 0))
    flop, nbytes = sum(line.flop for line in lines), sum(line.bytes for line in lines)
    # Weights but for the embedding, and keys; activations of 64 tokens come on top, 0.8 GB of them.
    assert nbytes == pytest.approx(2 * 7.505e9 + 64 * 2048 * 131_072 + 0.8e9, rel=0.01)
    by_hand = 630 * (0.31 * seconds + 0.56 * nbytes / 3.35e12 + 0.69 * flop / (0.7 * 989.4e12))
    assert joules == pytest.approx(by_hand, rel=0.03)
    assert compiled.idle_power_w == 70
    # 2.99 USD an hour, 64 tokens a step: dollars of a million tokens.
    per_million = compiled.price_usd_per_h / 3600 * seconds / 64 * 1e6
    assert per_million == pytest.approx(2.99 / 3600 * 1e6 / (64 / seconds))
    assert 0.1 < per_million < 0.2


# --- memory -----------------------------------------------------------------------------------------------------------


def test_working_memory_by_hand():
    # 8,192 tokens: 4,096 of the residual stream twice, gate, up and down inputs of 14,336; 1.35 GB of runtime.
    model = architecture("meta-llama/Llama-3.1-8B")
    step = 8192 * (2 * 4096 + 2 * 14_336 + 14_336) * 2
    assert activation_bytes_per_device(model, 1, 8192, 256) == 1_350_000_000 + step
    # 4,096 sequences and few tokens: their logits in float32, twice.
    assert activation_bytes_per_device(model, 1, 256, 4096) == 1_350_000_000 + 2 * 4096 * 128_256 * 4
    # Mixtral: two of eight experts, each with gate and up of 14,336 and an output of 4,096.
    mixture = architecture("mistralai/Mixtral-8x7B-v0.1")
    step = 8192 * (2 * 4096 + 2 * (2 * 14_336 + 4096)) * 2
    assert activation_bytes_per_device(mixture, 1, 8192, 16) == 1_350_000_000 + step


def test_keys_of_an_indexer_have_a_scale_for_each_128_values():
    # DeepSeek-V3.2: a latent of 512 and 64 rotary values in bfloat16, an index key of 128 in fp8 with one float32.
    model = architecture("deepseek-ai/DeepSeek-V3.2")
    assert kv_bytes_per_token(model, model.activation) == 61 * (576 * 2 + 128 + 4)
    wide = dataclasses.replace(model, attention=dataclasses.replace(model.attention, index_dim=129))
    assert kv_bytes_per_token(wide, model.activation) == 61 * (576 * 2 + 129 + 8)


# --- kernels ----------------------------------------------------------------------------------------------------------


def test_kernels_of_layers_by_hand():
    def kernels(name, plan):
        model = architecture(name)
        return StepGraph(model, plan, model.activation).kernels

    # Nine a layer; with four devices two all-reduces more.
    assert kernels("meta-llama/Llama-3.1-70B", ParallelPlan()) == 80 * 9
    assert kernels("meta-llama/Llama-3.1-70B", ParallelPlan(tensor=4)) == 80 * 11
    # Five of latents in each of 61 layers, six of experts in 58; V3.2 has eight of its indexer in each layer more.
    v3 = kernels("deepseek-ai/DeepSeek-V3", ParallelPlan())
    assert v3 == 61 * (9 + 5) + 58 * 6
    assert kernels("deepseek-ai/DeepSeek-V3.2", ParallelPlan()) == v3 + 61 * 8


def test_norms_over_all_heads_take_two_kernels_where_devices_add_up_between():
    for tensor, passes in ((1, 1), (4, 2)):
        found = operators_of("MiniMaxAI/MiniMax-M2.5", ParallelPlan(tensor=tensor))
        assert {found[name].count for name in ("query_norm", "key_norm")} == {62 * passes}


def test_an_indexer_turns_64_heads_of_128():
    found = operators_of("deepseek-ai/DeepSeek-V3.2", ParallelPlan(tensor=8))
    assert found["index_rotary"].attributes["hidden"] == 64 * 128
    assert found["index_rotary"].count == 61


def test_attention_of_a_mixed_step_is_of_the_layers_that_see_all():
    model = architecture("google/gemma-3-12b-it")
    graph = StepGraph(model, ParallelPlan(), model.activation)
    sizes = {key: sizes_of(1) for key in ("batch", "context", "tokens", "pairs2", "keys")}
    mixed = graph.mixed_attention(sizes)
    # One of six of 48 layers.
    assert (mixed.count, mixed.attributes["window"]) == (8, 0)


def test_experts_of_two_ranks_exchange_tokens_and_one_rank_reduces():
    def exchanged(**degrees):
        deployment = Deployment(model="mixtral-8x7b", device="h100-sxm", **degrees)
        found = operators_of("mistralai/Mixtral-8x7B-v0.1", parallel_plan(deployment, MIXTRAL, 1.0), tokens=64)
        return {
            name: (int(item.sizes["bytes"][0]), item.count) for name, item in found.items() if "bytes" in item.sizes
        }

    hidden = 64 * 4096 * 2
    logits = 64 * 32_000 * 2
    apart = exchanged(tensor_parallel=2)
    assert apart == {"all_reduce_embedding": (hidden, 1), "all_reduce": (hidden, 64), "logits_gather": (logits, 1)}
    # Without groups of experts all ranks' tokens come to every device, and their sums go back.
    assert exchanged(data_parallel=2) == {"tokens_gather": (2 * hidden, 32), "tokens_scatter": (2 * hidden, 32)}
    # With two groups, a token's two experts are in 1.5 of them on average.
    dispatched = exchanged(data_parallel=2, expert_parallel=2)
    assert dispatched == {"experts_dispatch": (1.5 * hidden, 32), "experts_combine": (1.5 * hidden, 32)}


MIXTRAL = architecture("mistralai/Mixtral-8x7B-v0.1")


# --- steps ------------------------------------------------------------------------------------------------------------


def test_a_host_that_works_before_each_step_does_so_before_launches_too():
    """Without a captured graph a step lasts as long as its launches; a host in turn comes on top of that."""
    base = Deployment(model="meta-llama/Llama-3.1-8B", device="h100-sxm", graph_sizes=(1, 2, 4))
    # 32 layers of nine kernels of 30 us.
    launches_s = 32 * 9 * 30e-6
    host = HostOverhead(base_fs=2 * 10**12, per_seq_fs=10**10, asynchronous=False)
    steps = RooflineModel().compile(dataclasses.replace(base, host=host)).steps
    run = steps.decode_run(8, 800, 800, 8)
    assert run[0] * 1e-15 == pytest.approx(launches_s + 2e-3 + 8 * 1e-5)
    assert run[1] == 0
    assert steps.step(mixed_shape(8, 100, 0, 0))[0] == run[0]


def test_shapes_that_stand_for_steps_keep_to_the_engines_limits():
    deployment = Deployment(model="m", device="d", max_seqs=8, max_batched_tokens=100)
    small = representative_shape(deployment, 0)
    assert (small.decode_seqs, small.prefill_tokens, small.prefill_seqs) == (8, 100, 1)
    usual = representative_shape(dataclasses.replace(deployment, max_seqs=512, max_batched_tokens=8192), 0)
    assert (usual.decode_seqs, usual.decode_context, usual.prefill_tokens) == (32, 32 * 1024, 256)
    assert mixed_shape(4, 10, 0, 0).prefill_seqs == 0


@pytest.mark.parametrize(("chunk", "window", "cached"), [(10, 4, 0), (10, 4, 2), (10, 4, 7), (3, 8, 2), (5, 0, 3)])
def test_pairs_of_a_window_one_by_one(chunk, window, cached):
    # Query i sees itself and what was before, or the newest of the window.
    seen = [min(cached + i + 1, window or cached + i + 1) for i in range(chunk)]
    shape = mixed_shape(0, 0, chunk, window, cached)
    assert shape.prefill_windowed_pairs2 == 2 * sum(seen)
    assert shape.prefill_pairs2 == 2 * sum(cached + i + 1 for i in range(chunk))


# --- experts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("groups", "tokens"), [(1, 4), (2, 16), (8, 32), (8, 256)])
def test_the_busiest_of_groups_as_drawn(groups, tokens):
    """128 experts of which each token picks 8, dealt to groups at random: means over draws."""
    random = np.random.default_rng(5)
    p = popularity(128, 8)
    distinct, picks = [], []
    for _ in range(1500):
        # Independent picks: each expert by each token with its own probability.
        load = random.binomial(tokens, p)
        dealt = random.permutation(load).reshape(groups, -1)
        distinct.append((dealt > 0).sum(axis=1).max())
        picks.append(dealt.sum(axis=1).max())
    found = busiest_group(128, 8, groups, tokens)
    assert found.distinct == pytest.approx(np.mean(distinct), rel=0.03)
    assert found.picks == pytest.approx(np.mean(picks), rel=0.05)


# --- what a calibration may move --------------------------------------------------------------------------------------


def seen_of(model, counts=(2, 4, 8, 16, 32, 64), prompts=0.0):
    steps = RooflineModel().compile(Deployment(model=model, device="h100-sxm", tensor_parallel=2)).steps
    return [
        {"run": "a", "seqs": seqs, "context": 500.0, "prompts": prompts, "new_tokens": 400.0, "cached_tokens": 0.0}
        | {"seconds": 1.1e-15 * steps.decode_run(seqs, seqs * 500, seqs * 500, seqs)[0] + prompts * 0.02}
        for seqs in counts
    ]


def test_a_fit_takes_the_constant_of_the_weights_that_there_are():
    deployment = {"model": "mixtral-8x7b", "device": "h100-sxm", "tensor_parallel": 2}
    wide = fit_efficiency(deployment, seen_of("mixtral-8x7b"))["efficiency"]
    assert list(wide) == ["step_s", "experts_memory", "seq_s"]
    narrow = fit_efficiency({**deployment, "weight_dtype": "fp8"}, seen_of("mixtral-8x7b"))["efficiency"]
    assert list(narrow) == ["step_s", "quantized_experts_memory", "seq_s"]


def test_a_fit_moves_compute_where_most_steps_have_a_prompt():
    deployment = {"model": "llama-3.1-8b", "device": "h100-sxm", "tensor_parallel": 2}
    half = [*seen_of("llama-3.1-8b", (2, 4, 8), prompts=1.0), *seen_of("llama-3.1-8b", (16, 32, 64))]
    assert "compute" not in fit_efficiency(deployment, half)["efficiency"]
    most = [*half, *seen_of("llama-3.1-8b", (3, 6), prompts=1.0)]
    assert "compute" in fit_efficiency(deployment, most)["efficiency"]
