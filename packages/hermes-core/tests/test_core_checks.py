"""Contradictory settings are refused before the run, with the place and the reason."""

from dataclasses import replace

import pytest
from hermes_core.api.errors import InputError
from hermes_core.serving.llm.checks import check_settings
from hermes_core.serving.llm.presets import PRESET_NAMES, engine_preset
from hermes_core.serving.llm.settings import (
    AdmissionSettings,
    EngineSettings,
    FrontEndSettings,
    LoraSettings,
    SpeculationSettings,
    StructuredOutputSettings,
)
from hermes_core.testing import ScriptedSource, simulate, small_plan


@pytest.mark.parametrize("name", PRESET_NAMES)
@pytest.mark.parametrize("memory", [None, 80 << 30, 192 << 30])
def test_every_preset_is_sound(name, memory):
    check_settings("default", engine_preset(name, device_memory_bytes=memory, device="h100-sxm"))


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"max_num_batched_tokens": 0}, "max_num_batched_tokens", "not a size"),
        ({"max_num_batched_tokens": 100}, "max_num_batched_tokens", "cannot serve 1024 sequences"),
        ({"kv_blocks": 1}, "kv_blocks", "hold nothing"),
        ({"gpu_memory_utilization": 1.5}, "gpu_memory_utilization", "not a share"),
        ({"watermark": 1.0}, "watermark", "not a share"),
        ({"graph_sizes": (4, 2)}, "graph_sizes", "do not ascend"),
        ({"aging_ns": 5}, "aging", "changes nothing"),
        ({"batching": "mixed", "long_prefill_token_threshold": 10}, "long_prefill_token_threshold", "does not cut"),
        ({"admission": AdmissionSettings("token_bucket")}, "admission", "needs a rate"),
        ({"admission": AdmissionSettings("queue_cap")}, "admission", "needs max_waiting"),
        ({"client_retries": 2}, "client_retries", "nothing is ever tried again"),
        ({"speculation": SpeculationSettings(0, (0.7,))}, "speculation.draft_tokens", "nothing to verify"),
        (
            {"speculation": SpeculationSettings(1, (0.7, 0.5))},
            "speculation.acceptance",
            "2 acceptance probabilities for 1",
        ),
        ({"speculation": SpeculationSettings(1, (1.7,))}, "speculation.acceptance", "not a list of probabilities"),
        ({"speculation": SpeculationSettings(1, (0.7,), method="ngram")}, "speculation", "does not have yet"),
        ({"speculation": SpeculationSettings(8, (0.7,))}, "max_num_batched_tokens", "9 tokens, drafts among them"),
        ({"lora": LoraSettings(max_loras=4, max_cpu_loras=3)}, "lora.max_cpu_loras", "below the 4 slots"),
        ({"lora": LoraSettings(max_loras=2000)}, "lora.max_loras", "2000 slots for adapters of at most 1024"),
        ({"lora": LoraSettings(rank=0)}, "lora.rank", "a slot and a rank"),
        ({"structured_output": StructuredOutputSettings(share=1.5)}, "structured_output.share", "not a share"),
        (
            {"structured_output": StructuredOutputSettings(0.5, grammars=0)},
            "structured_output.grammars",
            "at least one grammar",
        ),
        ({"batching": "prefill_only"}, "batching", "never serves decode"),
        ({"batching": "decode_only"}, "batching", "never serves prefill"),
        ({"client_timeout_ns": 5, "front_end": FrontEndSettings(request_ns=9)}, "client_timeout", "give up before"),
    ],
)
def test_a_contradiction_is_refused(changes, key, words):
    plan = small_plan(replace(EngineSettings(kv_blocks=100), **changes))
    with pytest.raises(InputError, match=words) as caught:
        simulate(plan, ScriptedSource([(0, 1, 1)]))
    assert str(caught.value.place) == f"pools.default.engine.{key}"
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("lora", "words"),
    [(None, "has 3 adapters, and the engine none"), (LoraSettings(max_loras=2, on_demand=False), "3 adapters for 2")],
)
def test_a_workload_with_more_adapters_than_the_engine_takes_is_refused(lora, words):
    source = ScriptedSource([(0, 1, 1)], adapters=("a", "b", "c"))
    with pytest.raises(InputError, match=words):
        simulate(small_plan(replace(EngineSettings(kv_blocks=100), lora=lora)), source)
