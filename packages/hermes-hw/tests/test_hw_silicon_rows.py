"""How rows of the package become prices, on made-up tables in its layout."""

import numpy as np
import pytest
from hermes_core.api import Deployment, InputError
from hermes_hw.gating import activated_experts
from hermes_hw.operators import SOURCES, sizes_of
from hermes_hw.resolve import resolve
from hermes_hw.roofline.pricer import RooflinePricer
from hermes_hw.tables.cleaning import cold, fastest, from_memory, joined, rising
from hermes_hw.tables.model import StackedTables, _with_launch
from hermes_hw.tables.pricer import Launch, TablePricer
from hermes_hw.tables.silicon import SiliconTables

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def write(folder, family, framework, name, version="1.0", **columns):
    path = folder / family / framework / version / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    count = max(len(column) for column in columns.values())
    pq.write_table(pa.table({key: column * (count // len(column)) for key, column in columns.items()}), path)


def tables(folder, framework="vllm", distribution="auto", bandwidth=float("inf")):
    return SiliconTables(folder, framework, distribution, "made up", bandwidth)


def gemm(folder, framework, dtype, sizes, latency, version="1.0"):
    columns = dict(zip("mnk", ([size[i] for size in sizes] for i in range(3)), strict=True))
    write(folder, "gemm", framework, "gemm_perf", version, gemm_dtype=[dtype], **columns, latency=latency)


def seconds_of(rows, **sizes):
    chosen = np.ones(len(rows), bool)
    for name, value in sizes.items():
        chosen &= rows.columns[name] == value
    (place,) = np.flatnonzero(chosen)
    return float(rows.seconds[place])


def test_a_layer_in_eight_bits_narrows_its_activations_itself(tmp_path):
    gemm(tmp_path, "vllm", "fp8", [(16, 4096, 4096)], [0.010])
    write(tmp_path, "quantize", "vllm", "scale_matrix_perf", m=[16], k=[4096], latency=[0.002])
    write(tmp_path, "quantize", "vllm", "computescale_perf", m=[16], k=[4096], latency=[0.003])
    assert tables(tmp_path).rows("gemm", "fp8").seconds[0] == pytest.approx(10e-6)


def test_scales_that_are_fixed_are_not_paid_for(tmp_path):
    gemm(tmp_path, "trtllm", "fp8", [(16, 4096, 4096), (16, 8192, 4096)], [0.020, 0.007])
    write(tmp_path, "quantize", "trtllm", "computescale_perf", m=[16], k=[4096], latency=[0.008])
    rows = tables(tmp_path, "trtllm").rows("gemm", "fp8")
    assert seconds_of(rows, n=4096) == pytest.approx(12e-6)
    assert seconds_of(rows, n=8192) == pytest.approx(0.2 * 7e-6)


def test_products_that_show_launches_give_way_to_those_of_another_framework(tmp_path):
    gemm(tmp_path, "vllm", "fp8_block", [(1, 128, 128), (16, 4096, 4096)], [0.065, 0.090])
    gemm(tmp_path, "sglang", "fp8_block", [(1, 128, 128), (16, 4096, 4096)], [0.004, 0.009])
    assert seconds_of(tables(tmp_path).rows("gemm", "fp8"), m=16) == pytest.approx(9e-6)


def test_products_in_sixteen_bits_are_the_least_of_all_frameworks_and_rise_with_rows(tmp_path):
    gemm(tmp_path, "vllm", "bfloat16", [(1, 64, 64), (2, 64, 64), (4, 64, 64)], [0.004, 0.009, 0.005])
    gemm(tmp_path, "trtllm", "bfloat16", [(1, 64, 64), (4, 64, 64)], [0.006, 0.0045])
    rows = tables(tmp_path).rows("gemm", "bf16")
    assert rows.seconds.tolist() == pytest.approx([4e-6, 4.5e-6, 4.5e-6])


def test_what_is_faster_than_memory_was_read_from_a_cache(tmp_path):
    gemm(tmp_path, "vllm", "bfloat16", [(1, 1000, 1000), (1, 2000, 1000)], [0.0005, 0.005])
    rows = tables(tmp_path, bandwidth=2e12).rows("gemm", "bf16")
    assert rows.columns["n"].tolist() == [2000]


def experts(folder, framework, version, tokens, latency, kernel="triton", **fixed):
    sizes = {"hidden_size": 64, "inter_size": 128, "topk": 2, "num_experts": 8, "moe_tp_size": 1, "moe_ep_size": 1}
    sizes |= fixed.pop("sizes", {})
    texts = {"moe_dtype": "bfloat16", "distribution": "balanced", "kernel_source": kernel, **fixed}
    columns = {key: [value] for key, value in {**sizes, **texts}.items()}
    write(folder, "moe", framework, "moe_perf", version, num_tokens=tokens, latency=latency, **columns)


def test_few_experts_that_took_turns_are_priced_as_drawn(tmp_path):
    # Taking turns, four tokens reach all 8 experts; drawn by chance 5.5 of them.
    experts(tmp_path, "vllm", "1.0", [1, 2, 4, 64], [0.02, 0.04, 0.08, 0.09])
    rows = tables(tmp_path).rows("moe.experts", "bf16")
    drawn = float(activated_experts(8, 2, 4))
    assert drawn < 5.6
    assert seconds_of(rows, tokens=4) == pytest.approx(drawn * 10e-6, rel=0.01)
    assert seconds_of(rows, tokens=64) == pytest.approx(90e-6)


def test_models_with_many_experts_are_priced_as_their_gates_prefer_some(tmp_path):
    many = {"num_experts": 128, "topk": 8}
    experts(tmp_path, "vllm", "1.0", [8], [0.05], sizes=many)
    assert tables(tmp_path).rows("moe.experts", "bf16") is None
    assert tables(tmp_path, distribution="balanced").rows("moe.experts", "bf16") is not None
    experts(tmp_path, "vllm", "1.0", [8], [0.04], sizes=many, distribution="power_law_1.01")
    assert tables(tmp_path).rows("moe.experts", "bf16").seconds[0] == pytest.approx(40e-6)


def test_a_newer_version_with_new_models_alone_does_not_hide_the_older(tmp_path):
    experts(tmp_path, "trtllm", "1.0", [64, 128], [0.05, 0.06])
    experts(tmp_path, "trtllm", "1.1", [64, 128], [0.5, 0.6], sizes={"hidden_size": 32})
    rows = tables(tmp_path, "trtllm").rows("moe.experts", "bf16")
    assert seconds_of(rows, hidden=64, tokens=64) == pytest.approx(50e-6)
    assert seconds_of(rows, hidden=32, tokens=64) == pytest.approx(500e-6)


@pytest.mark.parametrize(("system", "expected"), [("b200_sxm", 30e-6), ("h200_sxm", 90e-6)])
def test_kernels_that_frameworks_share_count_for_each_on_blackwell(tmp_path, system, expected):
    folder = tmp_path / system
    experts(folder, "trtllm", "1.0", [64], [0.09], kernel="deepgemm")
    experts(folder, "sglang", "1.0", [64], [0.03], kernel="sglang_flashinfer_trtllm_moe")
    assert tables(folder, "trtllm").rows("moe.experts", "bf16").seconds[0] == pytest.approx(expected)


def attention(folder, framework, phase, rows, kernel="vllm_flash_attn_fa3"):
    """Write rows (heads, kv_heads, batch, tokens, cached, ms)."""
    names = ("num_heads", "num_key_value_heads", "batch_size", "isl", "step", "latency")
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    fixed = {"head_dim": [128], "window_size": [0], "kv_cache_dtype": ["bfloat16"], "kernel_source": [kernel]}
    write(folder, "attention", framework, f"{phase}_attention_perf", **fixed, **columns)


def test_heads_that_the_own_framework_lacks_come_from_another(tmp_path):
    attention(tmp_path, "vllm", "generation", [(32, 8, 1, 1, 1023, 0.02)])
    attention(tmp_path, "sglang", "generation", [(32, 8, 1, 1, 1023, 0.01), (32, 32, 1, 1, 1023, 0.04)], "fa3")
    rows = tables(tmp_path).rows("attention.decode", "bf16")
    assert seconds_of(rows, kv_heads=8) == pytest.approx(20e-6)
    assert seconds_of(rows, kv_heads=32) == pytest.approx(40e-6)


def test_keys_that_a_cache_holds_are_left_out(tmp_path):
    # 4 KiB a token of 8 key-value heads: 1,000 tokens are a tenth of 40 MB, 8,000 fit it, 16,000 do not.
    contexts = [512, 8192, 16384]
    attention(tmp_path / "a100_sxm", "vllm", "generation", [(32, 8, 1, 1, c - 1, 0.01 * c) for c in contexts])
    rows = tables(tmp_path / "a100_sxm").rows("attention.decode", "bf16")
    assert rows.columns["context"].tolist() == [512, 16384]


def one_call(folder, model="llama-3.1-8b", engine="vllm", **options):
    deployment = Deployment(model=model, device="h100", engine=engine, options=options)
    resolved = resolve(deployment, tuple(options))
    pricer = TablePricer(tables(folder), RooflinePricer(resolved.device, resolved.efficiency))
    stacked = StackedTables([tables(folder)])
    return resolved, _with_launch(resolved, stacked, TablePricer(stacked, pricer.roofline))


def test_prompts_beside_decoding_sequences_are_one_call_of_flash_attention(tmp_path):
    decode = [(32, 8, b, 1, c - 1, 0.010 + 1e-6 * b * c) for b in (1, 8) for c in (2, 1024)]
    prefill = [(32, 8, 1, x, 0, 0.012 + 1e-5 * x) for x in (1, 1024)]
    attention(tmp_path, "vllm", "generation", decode)
    attention(tmp_path, "vllm", "context", prefill)
    resolved, pricer = one_call(tmp_path)
    one = sizes_of(1)
    launch = float(pricer.price(resolved.graph.attention_launch()).seconds[0])
    sequences = float(pricer.price(resolved.graph.decode_attention(one * 8, one * 8192, windowed=False)).seconds[0])
    sizes = {"batch": one, "tokens": one * 1024, "pairs2": one * 1024 * 1025, "keys": one * 1024}
    prompt = float(pricer.price(resolved.graph.prefill_attention(sizes, windowed=False)).seconds[0])
    assert launch + sequences == pytest.approx(10e-6 + 8192e-9, rel=1e-3)
    assert prompt == pytest.approx(1e-8 * 1023 + 2e-6, rel=0.02)

    attention(tmp_path, "vllm", "generation", decode, "vllm_flashinfer_trtllmdecode")
    _, apart = one_call(tmp_path)
    assert apart.launch is None
    assert float(apart.price(resolved.graph.attention_launch()).seconds[0]) == 0


def test_recurrences_are_affine_in_sequences_and_tokens(tmp_path):
    fixed = {"num_v_heads": [8], "head_k_dim": [128], "head_v_dim": [128]}
    recurrent = {"phase": ["generation"] * 3, "kernel_source": ["recurrent"] * 3, "seq_len": [1] * 3}
    chunked = {"phase": ["context"] * 3, "kernel_source": ["chunk"] * 2 + ["causal_conv1d_fn"]}
    columns = {
        key: recurrent[key] + chunked.get(key, [256, 8192, 8192]) for key in ("phase", "kernel_source", "seq_len")
    }
    columns |= {"batch_size": [1, 16, 256, 1, 1, 1], "latency": [0.004, 0.02, 0.26, 0.02, 0.1788, 9.0]}
    write(tmp_path, "linear_attention", "vllm", "gdn_perf", **fixed, **columns)
    resolved = resolve(Deployment(model="qwen3-next-80b-a3b", device="h100", tensor_parallel=4))
    pricer = TablePricer(tables(tmp_path), RooflinePricer(resolved.device, resolved.efficiency))
    price = pricer.price(resolved.graph.linear_attention(sizes_of([10, 0]), sizes_of([0, 1000])))
    assert price.seconds.tolist() == pytest.approx([10e-6, 20e-6], rel=1e-3)
    assert SOURCES[int(price.source[0])] == "measured"
    launch = Launch.of(pricer, resolved.graph, one_call=False)
    linear = resolved.graph.model.linear.layers
    assert launch.seconds * resolved.graph.attention_launch().count == pytest.approx(linear * 3e-6)


def test_products_of_latents_go_head_by_head(tmp_path):
    columns = {"num_tokens": [16, 16], "num_heads": [16, 16], "bmm_dtype": ["bfloat16"] * 2}
    names = ["mla_gen_pre", "mla_gen_post"]
    write(tmp_path, "mla_bmm", "sglang", "mla_bmm_perf", op_name=names, **columns, latency=[0.003, 0.004])
    resolved = resolve(Deployment(model="deepseek-v3", device="h200", tensor_parallel=8))
    pricer = TablePricer(tables(tmp_path, "sglang"), RooflinePricer(resolved.device, resolved.efficiency))
    prices = {one.name: pricer.price(one) for one in resolved.graph.layer_operators(sizes_of(16))}
    assert float(prices["k_up"].seconds[0]) == pytest.approx(3e-6)
    assert float(prices["v_up"].seconds[0]) == pytest.approx(4e-6)
    assert SOURCES[int(prices["v_up"].source[0])] == "measured"
    assert SOURCES[int(prices["o_proj"].source[0])] == "analytical"


def test_the_index_of_sparse_attention_is_what_a_layer_takes_longer_with_it(tmp_path):
    rows = [("dsa_generation_module", 1, 0.060), ("dsa_generation_module", 8191, 0.075)]
    rows += [("dsa_generation_module_skip_indexer", 1, 0.040), ("dsa_generation_module_skip_indexer", 8191, 0.044)]
    columns = {key: [row[i] for row in rows] for i, key in enumerate(("op_name", "step", "latency"))}
    fixed = {"batch_size": [4], "num_heads": [8], "kv_cache_dtype": ["fp8"], "model": ["zai-org/GLM-5"]}
    write(tmp_path, "sparse_attention", "sglang", "dsa_generation_module_perf", **fixed, **columns)
    sizes = {"batch_size": [1, 1], "isl": [64, 1024], "step": [0, 0]}
    write(tmp_path, "sparse_attention", "sglang", "glm5_mqa_logits_module_perf", **sizes, latency=[0.005, 0.02])
    topk = {key: value * 2 for key, value in sizes.items()}
    write(tmp_path, "sparse_attention", "sglang", "glm5_topk_module_perf", **topk, latency=[0.0, 0.01, 0.0, 0.03])
    decode = tables(tmp_path, "sglang").rows("attention.index_decode", "fp8")
    # 20 us with the shortest context, 31 with the longer: 11 more than the least kernel.
    assert seconds_of(decode, context=8191) == pytest.approx(16e-6)
    assert seconds_of(decode, context=1) == pytest.approx(5e-6)
    prefill = tables(tmp_path, "sglang").rows("attention.index_prefill", "fp8")
    assert seconds_of(prefill, tokens=1024) == pytest.approx(40e-6)


def test_tokens_go_to_expert_groups_as_measured_by_what_a_device_sends(tmp_path):
    sizes = {"num_token": [16], "hidden_size": [7168], "num_topk": [8], "node_num": [1]}
    times = {"dispatch_avg_t_us": [20.0], "combine_avg_t_us": [30.0]}
    write(tmp_path, "comm", "sglang", "wideep_deepep_ll_perf", **sizes, **times)
    slower = {f"{way}_{part}_us": [25.0] for way in ("dispatch", "combine") for part in ("transmit", "notify")}
    write(tmp_path, "comm", "sglang", "wideep_deepep_normal_perf", **sizes, **slower)
    deployment = Deployment(model="deepseek-v3", device="h200", data_parallel=8, expert_parallel=8)
    resolved = resolve(deployment)
    pricer = TablePricer(tables(tmp_path, "sglang"), RooflinePricer(resolved.device, resolved.efficiency))
    prices = {one.name: pricer.price(one) for one in resolved.graph.layer_operators(sizes_of(16))}
    assert float(prices["experts_dispatch"].seconds[0]) == pytest.approx(20e-6, rel=1e-3)
    assert float(prices["experts_combine"].seconds[0]) == pytest.approx(30e-6, rel=1e-3)


def test_wide_groups_of_experts_have_rows_of_their_own(tmp_path):
    sizes = {"num_tokens": [128], "hidden_size": [7168], "inter_size": [2048], "topk": [8], "num_experts": [256]}
    sizes |= {"moe_tp_size": [1], "moe_ep_size": [8], "moe_dtype": ["fp8_block"], "distribution": ["power_law_1.01"]}
    write(tmp_path, "moe", "sglang", "wideep_generation_moe_perf", **sizes, latency=[0.3])
    write(tmp_path, "moe", "sglang", "moe_perf", **sizes, kernel_source=["triton"], latency=[0.5])
    expected = {8: 0.3e-3, 1: 0.5e-3}
    for data, seconds in expected.items():
        deployment = Deployment(
            model="deepseek-v3",
            device="h200",
            tensor_parallel=8 // data,
            data_parallel=data,
            expert_parallel=8,
        )
        resolved = resolve(deployment)
        pricer = TablePricer(tables(tmp_path, "sglang"), RooflinePricer(resolved.device, resolved.efficiency))
        operators = resolved.graph.layer_operators(sizes_of(128 // data))
        (found,) = (one for one in operators if one.kind == "moe.experts")
        assert float(pricer.price(found).seconds[0]) == pytest.approx(seconds, rel=0.01)


def test_a_latency_that_is_none_is_named_with_its_file_and_shape(tmp_path):
    gemm(tmp_path, "vllm", "bfloat16", [(1, 64, 64), (2, 64, 64)], [0.004, float("nan")])
    with pytest.raises(InputError, match=r"gemm_perf\.parquet: a latency of nan ms at m 2, n 64, k 64"):
        tables(tmp_path).rows("gemm", "bf16")


def test_a_file_that_is_damaged_is_named(tmp_path):
    path = tmp_path / "gemm" / "vllm" / "1.0" / "gemm_perf.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not a table")
    with pytest.raises(InputError, match=r"cannot read .*gemm_perf\.parquet"):
        tables(tmp_path).rows("gemm", "bf16")


def test_rows_are_cleaned():
    columns = {"n": np.array([1, 1, 1, 2]), "m": np.array([4, 1, 1, 1])}
    rows = rising(fastest(columns, np.array([3.0, 5.0, 4.0, 9.0])), "m")
    assert (rows["n"].tolist(), rows["m"].tolist()) == ([1, 1, 2], [1, 4, 1])
    assert rows["latency"].tolist() == [3.0, 3.0, 9.0]
    assert from_memory({"latency": np.array([1.0, 3.0])}, np.array([2e-3, 2e-3]), 1.0)["latency"].tolist() == [3.0]
    kept = cold({"latency": np.array([1.0, 2.0, 3.0])}, np.array([5.0, 50.0, 500.0]), 100)
    assert kept["latency"].tolist() == [1.0, 3.0]
    first = {"n": np.array([1]), "latency": np.array([1.0])}
    second = {"n": np.array([1, 2]), "latency": np.array([0.5, 2.0])}
    assert joined([first, second], ("n",))["latency"].tolist() == [1.0, 2.0]
