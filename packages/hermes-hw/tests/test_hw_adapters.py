"""LoRA adapters: their size and the time that they take, from the shapes of a model and the peaks of a device."""

import pytest
from hermes_core.api.hardware import Deployment
from hermes_hw.adapters import adapted_width, adapter_prices
from hermes_hw.models.catalogue import find_model
from hermes_hw.models.hf_config import architecture_from_config
from hermes_hw.resolve import resolve
from hermes_hw.roofline import RooflineModel

LLAMA = "meta-llama/Llama-3.1-8B"


def width_of(name):
    entry = find_model(name)
    return adapted_width(architecture_from_config(entry.name, entry.config))


def test_widths_of_all_seven_matrices():
    """A layer of Llama-3.1-8B: q and o 4096 + 4096, k and v 4096 + 1024, gate, up and down 4096 + 14336; 32 layers."""
    assert width_of(LLAMA) == 32 * (2 * 8192 + 2 * 5120 + 3 * 18432) == 2_621_440


def test_prices_of_an_adapter():
    """16 bits for each of 2.6 million; reading them at most as fast as the memory; split by two devices, half of it."""
    prices = adapter_prices(resolve(Deployment(LLAMA, "h100-sxm")))
    assert prices.size_bytes == 2 * 2_621_440
    assert prices.read_fs > prices.size_bytes / 3.36e12 * 1e15
    assert prices.read_fs < prices.size_bytes / 3.36e12 * 1e15 * 2
    assert prices.token_fs > 2 * 2_621_440 / 990e12 * 1e15
    halves = adapter_prices(resolve(Deployment(LLAMA, "h100-sxm", tensor_parallel=2)))
    assert halves.size_bytes == prices.size_bytes / 2
    assert halves.token_fs == pytest.approx(prices.token_fs / 2, abs=1)
    assert halves.step_fs == prices.step_fs


def test_latent_attention_has_no_price_for_adapters():
    assert adapter_prices(resolve(Deployment("deepseek-ai/DeepSeek-V3", "h200-sxm", tensor_parallel=8))) is None


def test_a_compiled_model_tells_its_layers_and_what_adapters_cost():
    """By the layers KV goes from client to client one after the other."""
    compiled = RooflineModel().compile(Deployment(LLAMA, "h100-sxm"))
    assert compiled.layers == 32
    assert compiled.adapter == adapter_prices(resolve(Deployment(LLAMA, "h100-sxm")))
