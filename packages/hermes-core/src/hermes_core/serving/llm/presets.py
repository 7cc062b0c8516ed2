"""Engine presets: the defaults and habits of an engine at a version, as settings.

The facts were read in the released packages vLLM 0.15.1, vLLM 0.33.0 and SGLang 0.5.23 and in NVIDIA's TensorRT-LLM
documentation; `docs/engines/` has a page for each. Front-end costs of vLLM were fitted on the mean TTFT of 46 stages of
published serving runs of vLLM 0.15 over streaming HTTP (2.5 steps, and 5 ms for a request, 2 us for each prompt token,
45 us for each stream; `docs/validation/` has the error when a model is left out) and are kept for 0.33.
"""

from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from typing import Final

from hermes_core.api.errors import InputError
from hermes_core.serving.llm.settings import EngineSettings, FrontEndSettings

_GIB: Final = 2**30
_VLLM_FRONT_END: Final = FrontEndSettings(request_ns=2_000_000, per_prompt_token_ns=7_000, per_stream_ns=45_000)


def _graphs(limit: int) -> tuple[int, ...]:
    """Return vLLM's captured batch sizes: 1, 2, 4, then by 8 below 256, by 16 from there, up to `limit`."""
    return tuple(size for size in (1, 2, 4, *range(8, 256, 8), *range(256, 1025, 16)) if size <= limit)


def _large(device_memory_bytes: int | None, device: str) -> bool:
    """Return whether vLLM takes its larger defaults: 70 GiB and more, but not an A100."""
    return device_memory_bytes is not None and device_memory_bytes >= 70 * _GIB and "a100" not in device.lower()


def _vllm_015(device_memory_bytes: int | None, device: str) -> EngineSettings:
    large = _large(device_memory_bytes, device)
    seqs = 1024 if large else 256
    return EngineSettings(
        preset="vllm-0.15",
        max_num_seqs=seqs,
        max_num_batched_tokens=8192 if large else 2048,
        gpu_memory_utilization=0.90,
        reserve_full_prompt=False,
        graph_sizes=_graphs(min(2 * seqs, 512)),
        host_base_ns=1_500_000,
        host_per_seq_ns=15_000,
        front_end=_VLLM_FRONT_END,
    )


def _vllm_033(device_memory_bytes: int | None, device: str) -> EngineSettings:
    settings = _vllm_015(device_memory_bytes, device)
    huge = device_memory_bytes is not None and device_memory_bytes >= 160 * _GIB
    return replace(
        settings,
        preset="vllm-0.33",
        max_num_batched_tokens=16384 if huge else settings.max_num_batched_tokens,
        gpu_memory_utilization=0.92,
        reserve_full_prompt=True,
        graph_sizes=_graphs(min(2 * settings.max_num_seqs, 1024 if huge else 512)),
    )


def _vllm_v0(device_memory_bytes: int | None, device: str) -> EngineSettings:  # noqa: ARG001 - the port's
    """VLLM before V1 (0.6): prompts first, synchronous, 256 sequences, one per cent of blocks as watermark."""
    return EngineSettings(
        preset="vllm-v0",
        batching="continuous",
        max_num_seqs=256,
        max_num_batched_tokens=8192,
        gpu_memory_utilization=0.90,
        prefix_caching=False,
        watermark=0.01,
        asynchronous_scheduling=False,
        graph_sizes=_graphs(256),
        host_base_ns=3_000_000,
        host_per_seq_ns=30_000,
        front_end=_VLLM_FRONT_END,
    )


def _sglang_05(device_memory_bytes: int | None, device: str) -> EngineSettings:
    large = _large(device_memory_bytes, device)
    return EngineSettings(
        preset="sglang-0.5",
        batching="prefill_first",
        max_num_seqs=1024 if large else 256,
        max_num_batched_tokens=8192 if large else 4096,
        long_prefill_token_threshold=0,
        block_size_tokens=1,
        gpu_memory_utilization=0.88,
        reservation="new_token_ratio",
        preempt="fewest_output",
        graph_sizes=_graphs(512 if large else 160),
        host_base_ns=1_000_000,
        host_per_seq_ns=10_000,
        front_end=FrontEndSettings(request_ns=2_000_000, per_prompt_token_ns=7_000, per_stream_ns=50_000),
    )


def _tensorrt_llm(device_memory_bytes: int | None, device: str) -> EngineSettings:  # noqa: ARG001 - the port's
    """In-flight batching under GUARANTEED_NO_EVICT, the default capacity policy."""
    return EngineSettings(
        preset="tensorrt-llm",
        batching="chunked",
        max_num_seqs=2048,
        max_num_batched_tokens=8192,
        block_size_tokens=32,
        gpu_memory_utilization=0.90,
        reservation="full_output",
        graph_sizes=_graphs(256),
        host_base_ns=800_000,
        host_per_seq_ns=5_000,
        front_end=FrontEndSettings(request_ns=2_000_000, per_prompt_token_ns=7_000, per_stream_ns=40_000),
    )


_PRESETS: Final[dict[str, Callable[[int | None, str], EngineSettings]]] = {
    "vllm-0.15": _vllm_015,
    "vllm-0.33": _vllm_033,
    "vllm": _vllm_033,
    "vllm-v0": _vllm_v0,
    "sglang-0.5": _sglang_05,
    "sglang": _sglang_05,
    "tensorrt-llm": _tensorrt_llm,
}

PRESET_NAMES: Final = tuple(_PRESETS)


def engine_preset(name: str, *, device_memory_bytes: int | None, device: str) -> EngineSettings:
    """Return the settings of a preset on a device, whose memory decides some defaults (None: take the smaller ones).

    Raises InputError for an unknown name.
    """
    make = _PRESETS.get(name)
    if make is None:
        near = get_close_matches(name.lower(), _PRESETS, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise InputError(f"there is no engine preset {name!r}", remedy=f"{hint}Known: {', '.join(_PRESETS)}.")
    return make(device_memory_bytes, device)
