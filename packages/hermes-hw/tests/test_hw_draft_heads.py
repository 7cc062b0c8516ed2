"""Heads that draft: their weights against the published ones, their KV, and what a pass is made of, by hand."""

import pytest
from hermes_core.api.errors import InputError
from hermes_core.api.hardware import Deployment, HostOverhead, StepShape
from hermes_hw.efficiency import efficiency_of
from hermes_hw.memory import kv_transfer_bytes_per_token, weights_bytes_per_device
from hermes_hw.models.catalogue import find_model
from hermes_hw.models.hf_config import architecture_from_config
from hermes_hw.parallel import ParallelPlan
from hermes_hw.roofline.model import RooflineModel

LLAMA, DEEPSEEK = "meta-llama/Llama-3.1-8B", "deepseek-ai/DeepSeek-V3"


def head(name, kind):
    entry = find_model(name)
    return architecture_from_config(entry.name, entry.config, kind)


def operators(part, **changes):
    deployment = Deployment(LLAMA, "h100-sxm", options={"part": part}, **changes)
    shape = StepShape(decode_seqs=8, decode_context=8_000, decode_windowed=8_000, sampled_seqs=8)
    return {price.operator: price for price in RooflineModel().breakdown(deployment, shape)}


@pytest.mark.parametrize(
    ("model", "kind", "millions"),
    [
        # A layer (218.1), and 2 x 4096 x 4096: EAGLE-LLaMA3-Instruct-8B is published with 0.25 billion weights.
        (LLAMA, "eagle", 251.66),
        # The attention reads 2 h, 3 h are fused, 32,000 tokens: EAGLE3-LLaMA3.1-Instruct-8B has 0.43 billion.
        (LLAMA, "eagle3", 218.10 + 4096 * 6144 / 1e6 + 3 * 4096**2 / 1e6 + 4096 * 32_000 / 1e6),
        # DeepSeek-V3's README_WEIGHTS.md: 11.5 billion, without the embedding and output head that it shares.
        (DEEPSEEK, "mtp", 11_610.0),
    ],
)
def test_weights_are_those_of_the_published_heads(model, kind, millions):
    assert head(model, kind).parameters / 1e6 == pytest.approx(millions, rel=1e-4)


def test_a_head_keeps_the_kv_of_one_layer():
    for model, layers in ((LLAMA, 32), (DEEPSEEK, 61)):
        large = head(model, "language")
        for kind in ("mtp", "eagle", "eagle3"):
            one = head(model, kind)
            assert kv_transfer_bytes_per_token(one, one.activation) * layers == kv_transfer_bytes_per_token(
                large, large.activation
            )


def test_what_fuses_hidden_states_is_on_every_device_and_the_embedding_on_none():
    one = head(LLAMA, "eagle")
    fused = 2 * 4096**2 * 2
    alone = weights_bytes_per_device(one, plan=ParallelPlan(1))
    assert alone == pytest.approx(251.66e6 * 2, rel=1e-4)
    assert weights_bytes_per_device(one, plan=ParallelPlan(4)) == pytest.approx((alone - fused) / 4 + fused, rel=1e-6)


def test_a_head_of_a_mixture_of_experts_has_experts_only_where_it_is_a_layer_of_the_model():
    assert head(DEEPSEEK, "mtp").moe.layers == 1
    assert head(DEEPSEEK, "mtp").quantization == head(DEEPSEEK, "language").quantization
    dense = head(DEEPSEEK, "eagle")
    assert (dense.moe.layers, dense.dense.layers, dense.dense.intermediate) == (0, 1, 18_432)
    experts_alone = head("mistralai/Mixtral-8x7B-v0.1", "eagle")
    assert experts_alone.dense.intermediate == 2 * 14_336
    assert "28672 wide" in experts_alone.assumptions[0]


def test_a_pass_runs_one_layer_the_fusing_product_and_the_output_head():
    whole, mtp, third = operators("language"), operators("mtp"), operators("eagle3")
    for operator in ("qkv_proj", "o_proj", "gate_up_proj", "down_proj", "attention_decode"):
        assert mtp[operator].duration_s * 32 == pytest.approx(whole[operator].duration_s), operator
    assert mtp["lm_head"].duration_s == pytest.approx(whole["lm_head"].duration_s)
    assert mtp["fuse_proj"].bytes == pytest.approx(2 * 4096**2 * 2, rel=0.02)
    assert third["fuse_proj"].bytes == pytest.approx(3 * 4096**2 * 2, rel=0.02)
    assert third["qkv_proj_more"].bytes == pytest.approx(4096 * 6144 * 2, rel=0.02)
    assert third["lm_head"].bytes == pytest.approx(4096 * 32_000 * 2, rel=0.02)


def test_a_pass_within_a_step_does_not_pay_for_what_surrounds_the_step():
    host = {"host": HostOverhead(10**12, 10**9)}
    alone, within = operators("eagle", **host), operators("eagle", within_step=True)
    assert alone["step_inputs"].duration_s > 0.0004
    assert within["step_inputs"].duration_s == pytest.approx(16 * efficiency_of("hopper", {}).elementwise_s)


def test_a_part_that_is_none_is_told_with_those_that_are():
    with pytest.raises(InputError, match="part 'medusa'") as refused:
        head(LLAMA, "medusa")
    assert refused.value.remedy == "Known: language, vision, mtp, eagle, eagle3."
