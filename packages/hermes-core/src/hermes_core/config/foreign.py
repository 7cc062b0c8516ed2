"""What engines call the settings that have another name in a scenario, so that a habit gets an answer.

Names are the command-line arguments of vLLM 0.33 (`vllm serve --help`) and SGLang 0.5 (`server_args.py`), with
underscores, and the fields of TensorRT-LLM 1.x (`llmapi/llm_args.py`).
"""

from collections.abc import Mapping
from typing import Final

_KV_DTYPE: Final = "the type of the KV cache is the model's: `model: {ref: ..., kv_dtype: fp8}`"
_GPU_MEMORY: Final = "the key is `gpu_memory_utilization`, of the whole memory"
_PREFIXES: Final = "the key is `prefix_caching`, true or false"
_DRAFTS: Final = "the key is `speculation`: {method: eagle3, draft_tokens: 3, acceptance: 0.7}"
_BATCH: Final = "the key is `max_num_seqs`"
_BUDGET: Final = "the key is `max_num_batched_tokens`, of a step"


def _degree(key: str) -> str:
    return f"degrees are the hardware's: `hardware: {{device: ..., {key}: 2}}`"


_DEGREES: Final = {
    long: key
    for key, words in {
        "tp": ("tensor_parallel_size", "tp_size", "tensor_parallel"),
        "pp": ("pipeline_parallel_size", "pp_size", "pipeline_parallel"),
        "dp": ("data_parallel_size", "dp_size", "data_parallel"),
        "ep": ("expert_parallel_size", "ep_size", "expert_parallel", "moe_expert_parallel_size"),
    }.items()
    for long in words
}

HARDWARE: Final[Mapping[str, str]] = {name: f"the key is `{key}`" for name, key in _DEGREES.items()}
"""Keys of `hardware`, and what to write instead."""
ENGINE: Final[Mapping[str, str]] = {
    **{name: _degree(key) for name, key in _DEGREES.items()},
    **{key: _degree(key) for key in ("tp", "pp", "dp", "ep")},
    "enable_prefix_caching": _PREFIXES,
    "no_enable_prefix_caching": _PREFIXES,
    "disable_radix_cache": _PREFIXES,
    "enable_block_reuse": _PREFIXES,
    "chunked_prefill_size": _BUDGET,
    "chunk_size": _BUDGET,
    "max_prefill_tokens": _BUDGET,
    "max_num_tokens": _BUDGET,
    "max_running_requests": _BATCH,
    "max_batch_size": _BATCH,
    "batch_size": _BATCH,
    "mem_fraction_static": _GPU_MEMORY,
    "free_gpu_memory_fraction": _GPU_MEMORY,
    "kv_cache_free_gpu_memory_fraction": _GPU_MEMORY,
    "num_gpu_blocks_override": "the key is `kv_blocks`",
    "page_size": "the key is `block_size`",
    "tokens_per_block": "the key is `block_size`",
    "context_length": "the key is `max_model_len`",
    "max_seq_len": "the key is `max_model_len`",
    "kv_cache_dtype": _KV_DTYPE,
    "kv_dtype": _KV_DTYPE,
    "quantization": "weights are the model's: `model: {ref: ..., quantization: fp8}`",
    "dtype": "weights are the model's: `model: {ref: ..., quantization: bf16}`",
    "speculative": _DRAFTS,
    "speculative_config": _DRAFTS,
    "speculative_algorithm": _DRAFTS,
    "num_speculative_tokens": _DRAFTS,
    "speculative_num_draft_tokens": _DRAFTS,
    "enable_lora": "the key is `lora`: {max_loras: 4}",
    "max_loras": "the key is `lora`: {max_loras: 4}",
    "enable_chunked_prefill": "the key is `batching`: chunked, or continuous for whole prompts",
    "async_scheduling": "the key is `asynchronous_scheduling`, true or false",
    "disable_overlap_schedule": "the key is `asynchronous_scheduling`, true or false",
    "cudagraph_capture_sizes": "the key is `graph_sizes`",
    "cuda_graph_bs": "the key is `graph_sizes`",
    "enforce_eager": "without captured graphs: `graph_sizes: []`",
    "disable_cuda_graph": "without captured graphs: `graph_sizes: []`",
    "scheduling_policy": "the key is `queue`",
    "schedule_policy": "the key is `queue`",
    "api_server_count": "the key is `front_end`: {workers: 4}",
    "model": "the model stands beside the engine: `model: NAME`",
}
"""Keys of `engine`, and what to write instead."""
