"""Contradictory settings are refused before the run, with the place and the reason."""

from dataclasses import replace

import pytest
from hermes_core.api.errors import InputError, UnsupportedError
from hermes_core.serving.checks import check_settings
from hermes_core.serving.presets import PRESET_NAMES, engine_preset
from hermes_core.serving.settings import AdmissionSettings, EngineSettings, FrontEndSettings, SpeculationSettings
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
        ({"client_timeout_ns": 5, "front_end": FrontEndSettings(request_ns=9)}, "client_timeout", "give up before"),
    ],
)
def test_a_contradiction_is_refused(changes, key, words):
    plan = small_plan(replace(EngineSettings(kv_blocks=100), **changes))
    with pytest.raises(InputError, match=words) as caught:
        simulate(plan, ScriptedSource([(0, 1, 1)]))
    assert str(caught.value.place) == f"pools.default.engine.{key}"
    assert caught.value.remedy


def test_what_is_not_there_yet_is_refused_not_ignored():
    settings = replace(EngineSettings(kv_blocks=100), speculation=SpeculationSettings(2, (0.7, 0.5)))
    with pytest.raises(UnsupportedError, match="speculative decoding is not supported yet"):
        simulate(small_plan(settings), ScriptedSource([(0, 1, 1)]))
