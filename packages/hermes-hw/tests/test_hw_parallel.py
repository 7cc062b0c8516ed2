import dataclasses
import math

import numpy as np
import pytest
from hermes_core.api import Deployment, InputError, StepShape, UnsupportedError
from hermes_hw.devices import find_device
from hermes_hw.graph import expected_distinct_experts
from hermes_hw.links import all_gather_s, all_reduce_s, all_to_all_s, link_facts, link_kinds, p2p_s
from hermes_hw.memory import weights_bytes_per_device
from hermes_hw.models import architecture_from_config, find_model
from hermes_hw.parallel import ParallelPlan
from hermes_hw.roofline import RooflineModel
from hermes_hw.testing import check_step_model

DENSE = Deployment(model="llama-3.1-70b", device="h100", tensor_parallel=4)
EXPERTS = Deployment(model="deepseek-v3", device="h200", tensor_parallel=8)
NVLINK = find_device("h100").interconnect


def compiled(deployment, **change):
    return RooflineModel().compile(dataclasses.replace(deployment, **change))


def run_s(deployment, seqs, context, **change):
    steps = compiled(deployment, **change).steps
    return steps.decode_run(seqs, seqs * context, seqs * context, seqs)[0] * 1e-15


def operators(deployment, shape, **change):
    lines = RooflineModel().breakdown(dataclasses.replace(deployment, **change), shape)
    return {line.operator: line for line in lines}


def decoding(seqs, context=1000):
    return StepShape(decode_seqs=seqs, decode_context=seqs * context, decode_windowed=seqs * context, sampled_seqs=seqs)


@pytest.mark.parametrize(
    "change",
    [
        {"pipeline_parallel": 4, "tensor_parallel": 2},
        {"pipeline_parallel": 3},  # 80 layers do not divide evenly
        {"data_parallel": 2},
    ],
)
def test_plans_keep_the_contract(change):
    check_step_model(compiled(DENSE, **change).steps, points=40)


@pytest.mark.parametrize(
    "change", [{"expert_parallel": 8}, {"tensor_parallel": 1, "data_parallel": 8, "expert_parallel": 8}]
)
def test_plans_of_experts_keep_the_contract(change):
    check_step_model(compiled(EXPERTS, **change).steps, points=40)


@pytest.mark.parametrize("stages", [2, 3, 4])
@pytest.mark.parametrize("seqs", [1, 2, 3, 64, 257])
def test_the_breakdown_of_a_pipeline_sums_to_its_step(stages, seqs):
    deployment = dataclasses.replace(DENSE, pipeline_parallel=stages, graph_sizes=(1, 2, 4, 8))
    chunk = 300
    for shape in (
        decoding(seqs),
        StepShape(seqs, seqs * 900, seqs * 900, 1, chunk, chunk * (chunk + 1), 0, chunk, seqs + 1),
    ):
        total = sum(line.duration_s for line in RooflineModel().breakdown(deployment, shape))
        step_s = RooflineModel().compile(deployment).steps.step(shape)[0] * 1e-15
        assert step_s == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("stages", [2, 4])
@pytest.mark.parametrize("seqs", [1, 64])
def test_a_batch_passes_through_all_stages(stages, seqs):
    """Each of some of the layers: no faster than on one stage, and a hand-over between each two."""
    one, many = run_s(DENSE, seqs, 1000), run_s(DENSE, seqs, 1000, pipeline_parallel=stages)
    far = NVLINK if stages * DENSE.tensor_parallel <= find_device("h100").interconnect.domain_devices else None
    hop = float(p2p_s(seqs * 8192 * 2, far or find_device("h100").network))
    assert many == pytest.approx(one + (stages - 1) * hop, rel=1e-6)


def test_a_prompt_passes_through_all_stages():
    shape = StepShape(prefill_seqs=1, prefill_tokens=8192, prefill_pairs2=8192 * 8193, prefill_context=8192)
    one = compiled(DENSE).steps.step(shape)[0]
    two = compiled(DENSE, pipeline_parallel=2).steps.step(shape)[0]
    assert 1 < two / one < 1.01


def test_stages_in_other_nodes_hand_over_by_the_network():
    inside = operators(DENSE, decoding(64), pipeline_parallel=2)["stage_transfer"]
    outside = operators(DENSE, decoding(64), pipeline_parallel=4)["stage_transfer"]
    network = find_device("h100").network
    assert outside.duration_s == pytest.approx(3 * float(p2p_s(64 * 8192 * 2, network)))
    assert inside.duration_s == pytest.approx(float(p2p_s(64 * 8192 * 2, NVLINK)))


def test_weights_of_a_plan_by_hand():
    model = architecture_from_config("m", find_model("mixtral-8x7b").config)
    whole = weights_bytes_per_device(model)
    for plan in (ParallelPlan(1, 1, 8, 8), ParallelPlan(1, 1, 8, 1)):
        experts = 2 * model.layers * model.moe.experts * model.expert_parameters
        assert weights_bytes_per_device(model, plan=plan) == pytest.approx(whole - experts * 7 / 8, rel=1e-6)
    half = weights_bytes_per_device(model, plan=ParallelPlan(1, 2))
    assert half == pytest.approx((whole - 4 * model.embedding_parameters) / 2 + 2 * model.embedding_parameters)


def test_pipelines_hold_their_layers_kv():
    one, four = compiled(DENSE).memory, compiled(DENSE, pipeline_parallel=4).memory
    assert four.kv_bytes_per_token == one.kv_bytes_per_token / 4


def test_data_parallel_ranks_of_a_dense_model_are_independent():
    alone, many = compiled(DENSE), compiled(DENSE, data_parallel=2)
    assert alone.steps.step(decoding(16)) == many.steps.step(decoding(16))
    assert many.idle_power_w == 2 * alone.idle_power_w
    assert any("independent" in note for note in many.notes)


def test_expert_parallel_reads_the_experts_of_its_rank():
    by_tensor = operators(EXPERTS, decoding(1))["experts"]
    by_expert = operators(EXPERTS, decoding(1), expert_parallel=8)["experts"]
    # One token meets 8 of 256 experts: an eighth of each of 8, or on average one expert of a rank's 32.
    assert by_expert.bytes == pytest.approx(by_tensor.bytes, rel=0.05)


def test_the_busiest_rank_decides():
    even = operators(EXPERTS, decoding(64), expert_parallel=8)["experts"]
    skewed = operators(EXPERTS, decoding(64), expert_parallel=8, options={"expert_imbalance": 3})["experts"]
    assert skewed.flop > 2 * even.flop
    mean = 64 * 8 / 8
    plan = ParallelPlan(8, 1, 1, 8)
    assert float(plan.busiest_picks(np.float64(mean))) == pytest.approx(mean + math.sqrt(2 * mean * math.log(8)))
    assert float(ParallelPlan(8).busiest_picks(np.float64(mean))) == mean


def test_tokens_travel_to_their_experts_and_back():
    change = {"tensor_parallel": 1, "data_parallel": 8, "expert_parallel": 8}
    lines = operators(EXPERTS, decoding(64), **change)
    reached = float(expected_distinct_experts(8, 1, 8.0))
    nbytes = int(64 * 7168 * 2 * reached)
    h200 = find_device("h200")
    each = float(all_to_all_s(nbytes, 8, h200.interconnect, h200.network))
    assert lines["experts_dispatch"].duration_s == pytest.approx(58 * each, rel=1e-4)
    assert lines["experts_combine"].duration_s == lines["experts_dispatch"].duration_s
    assert "all_reduce" not in lines
    gathered = operators(EXPERTS, decoding(64), tensor_parallel=1, data_parallel=8)
    assert {"tokens_gather", "tokens_scatter"} <= set(gathered)


def test_more_ranks_bring_more_tokens_to_each_expert():
    small = operators(EXPERTS, decoding(8), tensor_parallel=1, data_parallel=8, expert_parallel=8)["experts"]
    large = operators(EXPERTS, decoding(64), tensor_parallel=1, data_parallel=8, expert_parallel=8)["experts"]
    assert small.flop < large.flop < 8.5 * small.flop
    # Eight ranks bring eight batches: on average 512 picks for each group instead of 64.
    alone = operators(EXPERTS, decoding(64), expert_parallel=8)["experts"]
    plan = ParallelPlan(8, 1, 1, 8)
    expected = float(plan.busiest_picks(np.float64(512))) / float(plan.busiest_picks(np.float64(64)))
    assert large.flop / alone.flop == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pipeline_parallel": 0}, "pipeline_parallel 0"),
        ({"pipeline_parallel": 81}, "more than the 80 layers"),
        ({"expert_parallel": 2}, "has no experts"),
    ],
)
def test_impossible_plans_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        compiled(DENSE, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"expert_parallel": 3}, "does not divide tensor_parallel x data_parallel = 8"),
        ({"options": {"expert_imbalance": 0.5}}, "expert_imbalance"),
        ({"options": {"expert_imbalance": math.nan}}, "expert_imbalance"),
    ],
)
def test_impossible_expert_plans_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        compiled(EXPERTS, **change)
    with pytest.raises(UnsupportedError):
        compiled(DENSE, expert_parallel=4)


# ---- links -------------------------------------------------------------------------------------------------------


def test_collectives_by_hand():
    b, a, s = NVLINK.bandwidth_bytes_per_s, NVLINK.latency_s, 1e8
    ring = 2 * a * 3 + 14 * (0.2 * a + s / 8 / b)
    plain = dataclasses.replace(NVLINK, algorithm="auto")
    assert float(all_reduce_s(s, 8, plain)) == pytest.approx(ring)
    tree = dataclasses.replace(NVLINK, algorithm="tree")
    assert float(all_reduce_s(s, 8, tree)) == pytest.approx(2 * a * 3 * 1.2 + 2 * s / b)
    switch = dataclasses.replace(NVLINK, algorithm="in_switch")
    assert float(all_reduce_s(s, 8, switch)) == pytest.approx(2 * a + s / b)
    assert float(all_gather_s(s, 4, NVLINK)) == pytest.approx(a * 2 + 0.6 * a + 0.75 * s / b)
    assert float(p2p_s(s, NVLINK)) == pytest.approx(a + s / b)


def test_engines_all_reduces_over_a_switch_read_add_or_leave_it_to_a_ring():
    switched = dataclasses.replace(NVLINK, algorithm="switched")
    b, a = switched.bandwidth_bytes_per_s, switched.latency_s
    assert float(all_reduce_s(0.0, 8, switched)) == float(all_reduce_s(0.0, 2, switched)) == pytest.approx(a)
    # Eight devices read all others' data below 256 KiB, four below 512 KiB, two always.
    few, more = 255 * 1024, 300 * 1024
    assert float(all_reduce_s(few, 8, switched)) == pytest.approx(a + 7 * few / (0.5 * b))
    assert float(all_reduce_s(more, 8, switched)) == pytest.approx(2.4 * a + 14 / 8 * more / (0.7 * b))
    assert float(all_reduce_s(more, 4, switched)) == pytest.approx(a + 3 * more / (0.5 * b))
    large = 1e9
    ring = 2 * a + 2 * (0.2 * a + large / 2 / (0.65 * b))
    assert float(all_reduce_s(large, 2, switched)) == pytest.approx(ring)


def test_all_reduces_of_an_engine_start_in_a_share_of_the_links_latency():
    shape = StepShape(decode_seqs=1, decode_context=64, decode_windowed=64, sampled_seqs=1)

    def embedding_s(engine):
        parts = RooflineModel().breakdown(dataclasses.replace(DENSE, engine=engine), shape)
        return next(part.duration_s for part in parts if part.operator == "all_reduce_embedding")

    assert embedding_s("tensorrt-llm") == pytest.approx(embedding_s("vllm") - 0.28 * NVLINK.latency_s)


def test_a_switch_that_adds_beats_a_ring_on_large_messages():
    switch = dataclasses.replace(NVLINK, algorithm="in_switch")
    assert all_reduce_s(1e9, 8, switch) < 0.6 * all_reduce_s(1e9, 8, NVLINK)


def test_an_all_to_all_beyond_the_node_waits_for_the_network():
    network = find_device("h100").network
    inside = float(all_to_all_s(1e8, 8, NVLINK, network))
    outside = float(all_to_all_s(1e8, 32, NVLINK, network))
    assert outside == pytest.approx(network.latency_s * 5 + 24 / 32 * 1e8 / network.bandwidth_bytes_per_s)
    assert inside < outside / 5


@pytest.mark.parametrize("kind", link_kinds())
def test_every_kind_of_link_can_be_named(kind):
    device = find_device("h100", {"interconnect": {"kind": kind}, "network": {"kind": kind.lower()}})
    assert device.interconnect.bandwidth_bytes_per_s == link_facts(kind)["bandwidth_bytes_per_s"]
    assert device.network.bandwidth_bytes_per_s == device.interconnect.bandwidth_bytes_per_s


def test_a_figure_of_a_link_can_be_overridden():
    link = find_device("h100", {"interconnect": {"kind": "PCIe 5 x16", "latency_s": 1e-3}}).interconnect
    assert (link.latency_s, link.bandwidth_bytes_per_s) == (1e-3, 64e9)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"interconnect": {"kind": "NVLink 9"}}, "NVLink 5"),
        ({"interconnect": {"algorithm": "magic"}}, "one_shot"),
        ({"network": {"bandwith": 3}}, "bandwidth_bytes_per_s"),
        ({"network": 3}, "must be a mapping"),
    ],
)
def test_a_mistake_in_a_link_is_named(spec, message):
    with pytest.raises(InputError, match=message):
        find_device("h100", spec)
