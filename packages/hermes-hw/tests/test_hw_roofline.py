import dataclasses
import importlib.metadata

import pytest
from hermes_core.api import (
    HARDWARE_MODELS,
    Deployment,
    DoesNotFitError,
    HostOverhead,
    InputError,
    StepModel,
    StepShape,
)
from hermes_hw.devices import device_names, find_device
from hermes_hw.dtypes import dtype_named
from hermes_hw.efficiency import efficiency_of
from hermes_hw.graph import StepGraph, expected_distinct_experts
from hermes_hw.links import all_reduce_s
from hermes_hw.memory import kv_bytes_per_token, kv_transfer_bytes_per_token, weights_bytes_per_device
from hermes_hw.models import architecture_from_config, find_model, model_names
from hermes_hw.operators import Operator, sizes_of
from hermes_hw.parallel import parallel_plan
from hermes_hw.resolve import resolve
from hermes_hw.roofline import RooflineModel
from hermes_hw.roofline.cost import gemm_compute_s
from hermes_hw.roofline.pricer import RooflinePricer
from hypothesis import given
from hypothesis import strategies as st

BASE = Deployment(model="llama-3.1-8b", device="h100")
MIXED = StepShape(16, 16_000, 16_000, 1, 512, 512 * 513, 512 * 513, 512, 17)


def architecture(name):
    return architecture_from_config(name, find_model(name).config)


@pytest.mark.parametrize("name", model_names())
def test_every_model_compiles_on_some_devices(name):
    for degree in (1, 2, 4, 8, 16):
        try:
            compiled = RooflineModel().compile(Deployment(model=name, device="gb200", tensor_parallel=degree))
        except DoesNotFitError:
            continue
        assert compiled.compile_error < 1e-6
        assert isinstance(compiled.steps, StepModel)
        return
    pytest.fail("fits nowhere")


@pytest.mark.parametrize("device", device_names())
def test_every_device_prices_a_small_model(device):
    deployment = Deployment(model="llama-3.2-1b", device=device)
    steps = RooflineModel().compile(deployment).steps
    alone, many = steps.decode_run(1, 1000, 1000, 1), steps.decode_run(64, 64_000, 64_000, 64)
    assert alone[0] < many[0] < 64 * alone[0]


@pytest.mark.parametrize("name", ["auto", "roofline"])
def test_the_models_are_registered(name):
    (entry,) = importlib.metadata.entry_points(group=HARDWARE_MODELS, name=name)
    without_tables = Deployment(model="llama-3.1-8b", device="tpu-v6e")  # not even where the extra silicon is installed
    assert entry.load()().compile(without_tables).source_share == {"analytical": 1.0}


@pytest.mark.parametrize(
    "shape", [MIXED, StepShape(decode_seqs=4, decode_context=400, decode_windowed=400, sampled_seqs=4)]
)
@pytest.mark.parametrize(
    "host", [HostOverhead(), HostOverhead(10**14), HostOverhead(10**12, 10**9, asynchronous=False)]
)
@pytest.mark.parametrize(("model", "tp"), [("llama-3.1-8b", 1), ("mixtral-8x7b", 2), ("gemma-3-27b", 2)])
def test_the_breakdown_sums_to_the_step(model, tp, host, shape):
    deployment = Deployment(model=model, device="h100", tensor_parallel=tp, host=host, graph_sizes=(8, 16))
    total = sum(item.duration_s for item in RooflineModel().breakdown(deployment, shape))
    assert RooflineModel().compile(deployment).steps.step(shape)[0] * 1e-15 == pytest.approx(total, rel=1e-7)


@pytest.mark.parametrize("model", ["llama-3.1-8b", "qwen3-30b-a3b", "gpt-oss-20b", "phi-4"])
@pytest.mark.parametrize("device", ["h100", "b200", "mi300x", "gaudi-3"])
def test_no_operator_beats_the_peaks_of_the_device(model, device):
    facts = find_device(device)
    peak = max(facts.flops.values())
    for item in RooflineModel().breakdown(Deployment(model=model, device=device), MIXED):
        assert item.duration_s >= item.flop / peak, item
        assert item.duration_s >= item.bytes / facts.memory_bandwidth_bytes_per_s, item


def test_a_step_reads_all_weights_and_the_kv_cache_by_hand():
    # Llama-3.1-8B: 8.03e9 weights less the input embedding (0.525e9), 2 bytes each; 131,072 bytes of KV a token.
    shape = StepShape(decode_seqs=1, decode_context=10_000, decode_windowed=10_000, sampled_seqs=1)
    read = sum(item.bytes for item in RooflineModel().breakdown(BASE, shape))
    assert read == pytest.approx(2 * (8.030e9 - 0.5253e9) + 131_072 * 10_000, rel=0.005)


def test_flops_by_hand():
    # 2 FLOP for each weight and token, 4 x layers x heads x head width for each pair.
    shape = StepShape(
        prefill_seqs=1, prefill_tokens=1000, prefill_pairs2=1000 * 1001, prefill_context=1000, sampled_seqs=1
    )
    flop = sum(item.flop for item in RooflineModel().breakdown(BASE, shape))
    layers = 2 * 1000 * (8.030e9 - 2 * 0.5253e9)
    attention = 4 * 32 * 32 * 128 * (1000 * 1001 / 2)
    assert flop == pytest.approx(layers + attention + 2 * 0.5253e9, rel=1e-3)


@given(
    m=st.integers(1, 5000),
    n=st.integers(1, 30_000),
    k=st.integers(1, 30_000),
    units=st.sampled_from([1, 64, 132]),
)
def test_a_product_is_never_faster_than_the_peak_nor_slower_when_halved(m, n, k, units):
    seconds = gemm_compute_s(m, n, k, 1e15, units)
    assert seconds >= 2 * m * n * k / 1e15 * (1 - 1e-12)
    for larger in ((2 * m, n, k), (m, 2 * n, k), (m, n, 2 * k)):
        assert gemm_compute_s(*larger, 1e15, units) >= seconds * (1 - 1e-12)


def test_large_products_come_close_to_the_peak():
    assert gemm_compute_s(8192, 8192, 8192, 1e15, 132) < 1.1 * 2 * 8192**3 / 1e15


@given(nbytes=st.floats(0, 1e9), ranks=st.sampled_from([1, 2, 4, 8]))
def test_an_all_reduce_moves_its_bytes(nbytes, ranks):
    link = find_device("h100").interconnect
    seconds = all_reduce_s(nbytes, ranks, link)
    assert seconds >= 2 * (ranks - 1) / ranks * nbytes / link.bandwidth_bytes_per_s / 2
    assert all_reduce_s(2 * nbytes, ranks, link) >= seconds


def test_distinct_experts():
    assert expected_distinct_experts(8, 2, 1) == pytest.approx(2)
    # Of 4 experts with one each, 3 tokens leave one out with probability (3/4)^3.
    assert expected_distinct_experts(4, 1, 3) == pytest.approx(4 * (1 - 27 / 64))
    assert expected_distinct_experts(256, 8, 100_000) == pytest.approx(256)


@pytest.mark.parametrize(
    ("model", "kv", "tp", "expected"),
    [
        ("llama-3.1-8b", "bf16", 1, 131_072),
        ("llama-3.1-8b", "fp8", 2, 32_768),
        ("llama-2-7b", "fp16", 1, 524_288),
        ("llama-3.1-70b", "bf16", 16, 2 * 80 * 128 * 2),  # 8 KV heads over 16 devices: each holds a copy of one
        ("deepseek-v3", "bf16", 8, 61 * 576 * 2),  # the latent is on every device
    ],
)
def test_kv_bytes_by_hand(model, kv, tp, expected):
    assert kv_bytes_per_token(architecture(model), dtype_named(kv), tp) == expected


def test_what_moves_is_the_kv_of_all_heads_once():
    assert kv_transfer_bytes_per_token(architecture("llama-3.1-70b"), dtype_named("bf16")) == 2 * 80 * 8 * 128 * 2


@pytest.mark.parametrize("name", ["llama-3.1-8b", "mixtral-8x7b", "gemma-2-9b", "phi-4"])
def test_weights_by_hand(name):
    model = architecture(name)
    assert weights_bytes_per_device(model) == pytest.approx(2 * model.parameters, rel=1e-9)
    assert weights_bytes_per_device(model, 2) == pytest.approx(model.parameters, rel=1e-3)


def test_key_value_heads_are_copied_when_devices_outnumber_them():
    model = architecture("qwen3-30b-a3b")  # 4 KV heads
    extra = weights_bytes_per_device(model, 8) - weights_bytes_per_device(model, 4) / 2
    per_head = model.layers * model.hidden * 2 * 128 * 2
    assert extra == pytest.approx(per_head / 2 + model.layers * model.hidden * 128 * 2 / 2, rel=0.01)


def test_a_model_too_large_says_by_how_much_and_what_fits():
    with pytest.raises(DoesNotFitError, match=r"GB short") as caught:
        RooflineModel().compile(Deployment(model="llama-3.1-70b", device="h100"))
    fitting = 2 if "tensor_parallel 2 fits" in str(caught.value) else 4
    assert f"tensor_parallel {fitting} fits" in str(caught.value)
    RooflineModel().compile(Deployment(model="llama-3.1-70b", device="h100", tensor_parallel=fitting))


def test_a_model_too_large_for_a_node_says_so():
    with pytest.raises(DoesNotFitError, match="No tensor_parallel degree"):
        RooflineModel().compile(Deployment(model="llama-3.1-405b", device="l4"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tensor_parallel": 3}, "does not divide the 32 attention heads"),
        ({"tensor_parallel": 0}, "not a number of devices"),
        ({"model": "llama-3.1-405b", "tensor_parallel": 12}, "does not divide the 128 attention heads"),
        ({"weight_dtype": "int3"}, "weight_dtype: unknown number format"),
        ({"kv_dtype": "int3"}, "kv_dtype: unknown number format"),
        ({"options": {"efficency": {}}}, "efficiency"),
        ({"options": {"efficiency": 3}}, "must be a mapping"),
        ({"graph_sizes": (8, 4)}, "ascending"),
        ({"memory_utilization": 1.5}, "memory_utilization"),
        ({"max_seqs": 0}, "max_seqs"),
        ({"model": "lama-3.1-8b"}, r"Llama-3\.1-8B"),
    ],
)
def test_a_mistake_is_named(change, message):
    with pytest.raises(InputError, match=message):
        RooflineModel().compile(dataclasses.replace(BASE, **change))


def test_phi_does_not_split_into_four():
    with pytest.raises(InputError, match=r"10 key-value heads[^\n]*\n  Possible: 1, 2"):
        RooflineModel().compile(Deployment(model="phi-4", device="h100", tensor_parallel=4))


@pytest.mark.parametrize("device", device_names())
@pytest.mark.parametrize("shape", [MIXED, StepShape(256, 256_000, 256_000, sampled_seqs=256)])
def test_power_stays_below_the_limit_of_the_board(device, shape):
    deployment = Deployment(model="llama-3.2-1b", device=device, max_batched_tokens=512, max_seqs=256)
    compiled = RooflineModel().compile(deployment)
    fs, nj = compiled.steps.step(shape)
    facts = find_device(device)
    assert 0 < nj * 1e-9 / (fs * 1e-15) <= facts.tdp_w - facts.idle_w
    assert compiled.idle_power_w == facts.idle_w


def test_a_large_prompt_draws_nearly_all_power():
    deployment = Deployment(model="llama-3.1-70b", device="h100", tensor_parallel=4)
    compiled = RooflineModel().compile(deployment)
    tokens = 8192
    shape = StepShape(
        prefill_seqs=1,
        prefill_tokens=tokens,
        prefill_pairs2=tokens * (tokens + 1),
        prefill_context=tokens,
        sampled_seqs=1,
    )
    fs, nj = compiled.steps.step(shape)
    power = nj * 1e-9 / (fs * 1e-15) + compiled.idle_power_w
    assert 0.8 * 4 * 700 < power <= 4 * 700
    assert compiled.price_usd_per_h == pytest.approx(4 * 2.99)


def test_narrow_weights_read_less_and_say_how_they_are_multiplied():
    narrow = RooflineModel().compile(dataclasses.replace(BASE, device="a100", weight_dtype="fp8"))
    wide = RooflineModel().compile(dataclasses.replace(BASE, device="a100"))
    assert narrow.memory.weights_bytes < 0.6 * wide.memory.weights_bytes
    assert narrow.steps.decode_run(1, 10, 10, 1)[0] < 0.7 * wide.steps.decode_run(1, 10, 10, 1)[0]
    assert any("no fp8 units" in note for note in narrow.notes)


def test_the_fingerprint_follows_what_prices_depend_on():
    def fingerprint(**change):
        return RooflineModel().compile(dataclasses.replace(BASE, **change)).fingerprint

    base = fingerprint()
    assert base == fingerprint()
    assert base == fingerprint(device="H100_SXM", model="meta-llama/Llama-3.1-8B")
    changes = [
        {"tensor_parallel": 2},
        {"device": "h200"},
        {"kv_dtype": "fp8"},
        {"graph_sizes": (8,)},
        {"host": HostOverhead(1)},
        {"device_spec": {"memory_bandwidth": 3e12}},
        {"options": {"efficiency": {"memory": 0.9}}},
    ]
    assert len({base, *(fingerprint(**change) for change in changes)}) == len(changes) + 1


def test_a_configuration_of_the_users_own():
    config = dict(find_model("llama-3.1-8b").config)
    mine = RooflineModel().compile(dataclasses.replace(BASE, model="mine", model_config=config))
    assert mine.steps.step(MIXED) == RooflineModel().compile(BASE).steps.step(MIXED)


def test_experts_that_are_widened_compute_more_slowly_than_those_that_are_multiplied_as_they_are():
    def reached(device, weights):
        deployment = Deployment(model="openai/gpt-oss-120b", device=device, weight_dtype=weights, tensor_parallel=8)
        chunk = 16_384
        pairs2 = chunk * (chunk + 1)
        parts = RooflineModel().breakdown(deployment, StepShape(0, 0, 0, 1, chunk, pairs2, pairs2, chunk, 1))
        part = next(part for part in parts if part.kind == "moe.experts")
        assert part.bound == "compute"
        return part.flop / part.duration_s / find_device(device).flops["bf16"]

    # 4-bit weights are widened to bf16 on Hopper, where 16-bit ones need no such work.
    assert reached("h200", "mxfp4") / reached("h200", "bf16") == pytest.approx(0.7, rel=0.02)


def test_latent_attention_launches_more_kernels():
    model = architecture("deepseek-ai/DeepSeek-V3")
    plain = dataclasses.replace(model, attention=dataclasses.replace(model.attention, kv_lora_rank=0))
    plan = parallel_plan(Deployment(model="m", device="h200"), model, 1.0)
    kv = dtype_named("bf16")
    assert StepGraph(model, plan, kv).kernels - StepGraph(plain, plan, kv).kernels == 5 * 61


def test_tiles_of_experts_follow_their_rows():
    device = find_device("h200")
    pricer = RooflinePricer(device, efficiency_of(device.family))
    graph = resolve(Deployment(model="deepseek-ai/DeepSeek-V3", device="h200", weight_dtype="fp8")).graph

    def compute_s(tokens):
        experts = next(one for one in graph.layer_operators(sizes_of(tokens)) if one.kind == "moe.experts")
        return float(pricer.price(experts).compute_s[0]), experts

    # 256 experts, 8 picks a token: 2,048 tokens bring 64 rows to each, which fill a tile and half of another.
    many_s, experts = compute_s(2048)
    eff = efficiency_of(device.family)
    # Filling a pipeline takes as long as so many elements of the inner dimension, in 8 bits as many as bytes.
    parameters = 2 * 2048 * (7168 + eff.experts_fill) + 7168 * (2048 + eff.experts_fill)
    peak = device.flops["fp8"] * eff.narrow_experts_compute * eff.sustained
    distinct = float(experts.sizes["distinct"][0])
    rows = 2048 * 8 / distinct
    assert rows == pytest.approx(64, rel=0.03)
    assert many_s == pytest.approx(distinct * (rows + (32 if rows <= 64 else 64)) * 2 * parameters / peak)
    few_s, experts = compute_s(64)
    distinct = float(experts.sizes["distinct"][0])
    assert few_s == pytest.approx(distinct * 16 * 2 * parameters / peak, rel=0.2)


def _experts_price(tokens, *, weights="fp8", engine="vllm", **plan):
    deployment = Deployment(model="deepseek-ai/DeepSeek-V3", device="b200", weight_dtype=weights, engine=engine, **plan)
    resolved = resolve(deployment)
    pricer = RooflinePricer(resolved.device, resolved.efficiency)
    experts = next(one for one in resolved.graph.layer_operators(sizes_of(tokens)) if one.kind == "moe.experts")
    return pricer.price(experts), resolved


def test_filling_pipelines_counts_more_the_narrower_experts_are():
    whole, resolved = _experts_price(64)
    part, _ = _experts_price(64, tensor_parallel=8)
    assert float(part.bytes[0]) < float(whole.bytes[0]) / 7
    fill = resolved.efficiency.experts_fill
    # Two products in over 7,168 elements, one out over 2,048 or 256.
    more = (2 * (1 + fill / 7168) + 1 + fill / 256) / (2 * (1 + fill / 7168) + 1 + fill / 2048)
    assert more > 1.08
    rate = resolved.device.memory_bandwidth_bytes_per_s * resolved.efficiency.memory
    passes_s = 64 * 8 * 7168 * 2 * resolved.efficiency.experts_passes / rate
    weights_s = [float(price.memory_s[0]) - passes_s for price in (whole, part)]
    assert weights_s[1] * 8 / weights_s[0] == pytest.approx(more, rel=1e-6)


def test_kernels_around_experts_pass_over_all_picks_that_are_there():
    def passes_s(**plan):
        price, resolved = _experts_price(8192, **plan)
        assert price.bound() == "compute"
        return float(price.seconds[0] - price.fixed_s[0] - price.compute_s[0]), resolved

    every, resolved = passes_s(tensor_parallel=8, expert_parallel=8)
    rate = resolved.device.memory_bandwidth_bytes_per_s * resolved.efficiency.memory
    assert every == pytest.approx(8192 * 8 * 7168 * 2 * resolved.efficiency.experts_passes / rate)
    # Kernels in 4 bits leave out what other devices' experts do: an eighth is left.
    narrow, _ = passes_s(tensor_parallel=8, expert_parallel=8, weights="nvfp4")
    assert narrow < every / 4


def test_constants_of_an_engine_may_hold_on_one_family_alone():
    plain = efficiency_of("hopper")
    assert efficiency_of("hopper", None, "sglang").experts_s == 26e-6 != plain.experts_s
    assert efficiency_of("blackwell", None, "sglang").experts_s == efficiency_of("blackwell").experts_s
    assert efficiency_of("hopper", None, "trtllm-1.2").own_experts_passes > 0 == plain.own_experts_passes
    assert efficiency_of("blackwell", None, "trtllm-1.2").own_experts_passes == 0


def test_counts_are_bounded_as_such():
    assert efficiency_of("hopper", {"experts_passes": 7}).experts_passes == 7
    with pytest.raises(InputError, match="experts_fill: must be a number, not negative; found -1"):
        efficiency_of("hopper", {"experts_fill": -1})


def test_chunks_of_linear_attention_follow_one_another():
    resolved = resolve(Deployment(model="Qwen/Qwen3.5-397B-A17B", device="h200", tensor_parallel=8))
    pricer = RooflinePricer(resolved.device, resolved.efficiency)
    prompt = pricer.price(resolved.graph.linear_attention(sizes_of(0), sizes_of(6400)))
    assert float(prompt.seconds[0] - prompt.compute_s[0] - prompt.memory_s[0]) == pytest.approx(100 * 3e-6)


def test_latents_have_norms_of_their_own():
    graph = resolve(Deployment(model="deepseek-ai/DeepSeek-V3", device="h200")).graph
    norms = {one.name: one.count for one in graph.layer_operators(sizes_of(8)) if one.kind == "norm"}
    assert norms == {"norm": 2 * 61, "latent_norm": 2 * 61}
    plain = resolve(Deployment(model="llama-3.1-8b", device="h200")).graph
    assert [one.name for one in plain.layer_operators(sizes_of(8)) if one.kind == "norm"] == ["norm"]


def test_narrow_products_launch_kernels_that_narrow_their_activations():
    model = architecture("deepseek-ai/DeepSeek-V3")
    plan = parallel_plan(Deployment(model="m", device="h200"), model, 1.0)
    kv = dtype_named("bf16")
    more = StepGraph(model, plan, kv, ("fp8",)).kernels - StepGraph(model, plan, kv).kernels
    # Down, up and output projections in 61 layers; two products in 3 dense layers; routed ones at once and shared ones.
    assert more == 2 * (3 * 61 + 2 * 3 + 3 * 58)
    assert resolve(Deployment(model="deepseek-ai/DeepSeek-V3", device="h200")).graph.narrowed == ("fp8", "int8")
    assert "fp8" not in resolve(Deployment(model="deepseek-ai/DeepSeek-V3", device="a100-sxm-80gb")).graph.narrowed


def price_of_product(device, weights, k, **attributes):
    dtype, wide = dtype_named(weights), dtype_named("bf16")
    sizes = {"m": sizes_of(1)}
    operator = Operator("product", "gemm", dtype, wide, sizes, {"n": 512, "k": k, **attributes})
    return RooflinePricer(find_device(device), efficiency_of(find_device(device).family)).price(operator)


@pytest.mark.parametrize(("weights", "name"), [("bf16", "depth_s"), ("fp8", "narrow_depth_s")])
def test_deep_products_start_later(weights, name):
    near, far = (float(price_of_product("b200", weights, k).fixed_s[0]) for k in (1024, 8192))
    assert far - near == pytest.approx(7168 * getattr(efficiency_of("blackwell"), name))
    assert far > 1.4 * near


def test_products_in_4_bits_reach_a_share_of_their_own():
    def share(weights, peak):
        operator = Operator(
            "product",
            "gemm",
            dtype_named(weights),
            dtype_named("bf16"),
            {"m": sizes_of(65_536)},
            {"n": 8192, "k": 8192},
        )
        device = find_device("b200")
        price = RooflinePricer(device, efficiency_of(device.family)).price(operator)
        return float(price.flop[0] / price.compute_s[0]) / device.flops[peak]

    efficiency = efficiency_of("blackwell")
    assert share("nvfp4", "fp4") == pytest.approx(efficiency.fp4_compute * efficiency.sustained, rel=0.03)
    assert share("fp8", "fp8") == pytest.approx(efficiency.narrow_compute * efficiency.sustained, rel=0.03)


def test_what_runs_beside_others_costs_its_bytes_alone():
    alone, beside = price_of_product("h200", "fp8", 4096), price_of_product("h200", "fp8", 4096, beside=1)
    assert float(beside.fixed_s[0]) == 0
    assert float(alone.seconds[0] - beside.seconds[0]) == pytest.approx(float(alone.fixed_s[0]))
    assert float(beside.seconds[0]) == pytest.approx(max(float(beside.memory_s[0]), float(beside.compute_s[0])))
