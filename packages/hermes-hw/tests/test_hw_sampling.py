import dataclasses

import pytest
from hermes_core.api import Deployment, InputError
from hermes_hw.devices import find_device
from hermes_hw.dtypes import dtype_named
from hermes_hw.efficiency import efficiency_of
from hermes_hw.models import architecture_from_config, find_model
from hermes_hw.operators import Operator, sizes_of
from hermes_hw.resolve import resolve
from hermes_hw.roofline import RooflineModel, RooflinePricer
from hermes_hw.testing import check_step_model

SORTING = Deployment(model="llama-3.1-8b-instruct", device="h100", engine="vllm-0.15")


def sorts(**change):
    """Whether a step of the deployment sorts its logits."""
    return resolve(dataclasses.replace(SORTING, **change)).graph.top_p


def sampler_s(rows, vocab, device="h100", **attributes):
    bf16 = dtype_named("bf16")
    operator = Operator("sampler", "sample", bf16, bf16, {"sequences": sizes_of(rows)}, {"vocab": vocab, **attributes})
    board = find_device(device)
    pricer = RooflinePricer(board, efficiency_of(board.family, engine="vllm-0.15"))
    return float(pricer.price(operator).seconds[0])


@pytest.mark.parametrize(
    ("device", "rows", "vocab", "published_ms", "within"),
    [
        # vllm-project/vllm, pull request 33538: masking in PyTorch on an H100; 51507: on a GB200.
        ("h100", 48, 32_768, 0.350, 0.04),
        ("h100", 56, 32_768, 0.393, 0.04),
        ("h100", 512, 32_768, 2.252, 0.04),
        ("h100", 1024, 131_072, 16.31, 0.04),
        ("gb200", 64, 131_072, 1.132, 0.12),
    ],
)
def test_sorting_takes_what_was_published(device, rows, vocab, published_ms, within):
    sorting_s = sampler_s(rows, vocab, device, top_p=1) - sampler_s(rows, vocab, device)
    assert sorting_s * 1e3 == pytest.approx(published_ms, rel=within)


def test_a_vllm_of_that_time_samples_as_the_publisher_says_and_others_do_not_sort():
    assert sorts()
    assert not sorts(model="mixtral-8x7b")
    assert not sorts(model="mistral-nemo")
    assert sorts(model="mixtral-8x7b", options={"top_p": True})
    assert not sorts(options={"top_p": False})
    for engine in ("", "vllm", "vllm-0.33", "sglang-0.5", "tensorrt-llm"):
        assert not sorts(engine=engine, options={"top_p": True})
    # The early engine asks the request alone.
    assert not sorts(engine="vllm-v0")
    assert sorts(engine="vllm-v0", options={"top_p": True})


def test_a_base_model_is_published_without_sampling():
    tuned, base = (find_model(name).config for name in ("Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-7B"))
    assert tuned["top_p"] == 0.8
    assert base == {key: value for key, value in tuned.items() if key != "top_p"}
    assert not architecture_from_config("base", base).top_p
    assert not architecture_from_config("whole", {**base, "top_p": 1.0}).top_p


def test_sorting_is_in_the_step_and_in_its_breakdown():
    plain = dataclasses.replace(SORTING, options={"top_p": False})
    longer = [RooflineModel().compile(one).steps.decode_run(64, 64_000, 64_000, 0)[0] for one in (SORTING, plain)]
    logits = 64 * 128_256
    assert (longer[0] - longer[1]) * 1e-15 == pytest.approx(165e-6 + logits * 16e-9 / 132, rel=1e-3)
    check_step_model(RooflineModel().compile(SORTING).steps, points=40)


@pytest.mark.parametrize("value", ["yes", 0.9, 1])
def test_an_option_that_is_no_yes_or_no_is_refused(value):
    with pytest.raises(InputError, match=r"options\.top_p: must be true or false, found"):
        sorts(options={"top_p": value})


@pytest.mark.parametrize("value", [0, -0.1, 1.5, True, "0.9"])
def test_a_top_p_that_cannot_be_is_refused(value):
    config = {**find_model("llama-3.1-8b").config, "top_p": value}
    with pytest.raises(InputError, match=r"config\.json of odd: top_p must be above 0 and at most 1, found"):
        architecture_from_config("odd", config)
