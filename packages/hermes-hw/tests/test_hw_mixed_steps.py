import dataclasses

import pytest
from hermes_core.api import Deployment, InputError, StepShape
from hermes_hw.roofline import RooflineModel
from hermes_hw.testing import check_step_model

LLAMA = Deployment(model="llama-3.1-8b", device="a100-sxm-80gb", engine="vllm-0.15")
LAYERS = 32


def shape(seqs, context, prompt):
    """A step of decoding sequences and of one prompt of so many new tokens."""
    keys = seqs * context
    step = StepShape(decode_seqs=seqs, decode_context=keys, decode_windowed=keys, sampled_seqs=seqs)
    if prompt:
        step.prefill_seqs, step.prefill_tokens, step.prefill_context = 1, prompt, prompt
        step.prefill_pairs2 = step.prefill_windowed_pairs2 = prompt * (prompt + 1)
    return step


def decoding_us(deployment, seqs, context, prompt):
    """Attention of the decoding sequences of a step in one layer."""
    lines = RooflineModel().breakdown(deployment, shape(seqs, context, prompt))
    return sum(line.duration_s for line in lines if line.kind == "attention.decode") / LAYERS * 1e6


@pytest.mark.parametrize(
    ("seqs", "context", "measured_us"),
    # One call of FlashAttention 2 with a prompt of 16 tokens on an RTX 4090, Llama-3.1-8B: LLMServingSim, 5daddb2.
    [
        (32, 1024, 304.3),
        (32, 2048, 555.7),
        (64, 512, 364.9),
        (64, 1024, 633.3),
        (64, 2048, 1172.6),
        (128, 1024, 1427.5),
    ],
)
def test_sequences_beside_a_prompt_fill_tiles_as_measured(seqs, context, measured_us):
    card = dataclasses.replace(LLAMA, device="rtx-4090")
    assert decoding_us(card, seqs, context, 16) == pytest.approx(measured_us, rel=0.2)


def test_tiles_are_filled_only_beside_prompts_and_by_flash_attention_2():
    alone, beside = (decoding_us(LLAMA, 64, 1024, prompt) for prompt in (0, 16))
    assert beside > 1.8 * alone
    # One query each: nothing fills a tile.
    assert decoding_us(LLAMA, 64, 1024, 1) == pytest.approx(alone)
    for change in ({"engine": "sglang-0.5"}, {"engine": "vllm-v0"}, {"device": "h100"}):
        other = dataclasses.replace(LLAMA, **change)
        assert decoding_us(other, 64, 1024, 16) == pytest.approx(decoding_us(other, 64, 1024, 0))


def test_heads_of_keys_do_not_matter_beside_prompts():
    # Every query head has a tile of its own, so half as many heads of keys change nothing.
    config = {"num_attention_heads": 32, "num_hidden_layers": LAYERS, "hidden_size": 4096, "vocab_size": 32_000}
    config |= {"model_type": "llama", "intermediate_size": 11_008, "torch_dtype": "bfloat16"}
    times = [
        decoding_us(dataclasses.replace(LLAMA, model_config={**config, "num_key_value_heads": heads}), 64, 1024, 16)
        for heads in (8, 4)
    ]
    assert times[0] == pytest.approx(times[1])


@pytest.mark.parametrize("model", ["llama-3.1-8b", "gemma-2-9b"])
def test_steps_with_tiles_keep_the_contract(model):
    deployment = dataclasses.replace(LLAMA, model=model)
    compiled = RooflineModel().compile(deployment)
    assert compiled.compile_error < 1e-6
    check_step_model(compiled.steps, points=60)
    step = shape(48, 900, 40)
    lines = RooflineModel().breakdown(deployment, step)
    assert sum(line.duration_s for line in lines) == pytest.approx(compiled.steps.step(step)[0] * 1e-15, rel=1e-6)


@pytest.mark.parametrize("rows", [0, 1.5])
def test_rows_are_whole(rows):
    odd = dataclasses.replace(LLAMA, options={"efficiency": {"mixed_rows": rows}})
    with pytest.raises(InputError, match=r"efficiency\.mixed_rows: must be"):
        RooflineModel().compile(odd)
