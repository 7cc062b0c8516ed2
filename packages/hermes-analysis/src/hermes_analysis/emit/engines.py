"""Command lines of the serving engines, from a pool's settings.

Options are those of `vllm serve` (vLLM documentation, "Engine Arguments") and of `sglang.launch_server` (SGLang
documentation, "Server Arguments"), as of 2025-11; only what differs from what the engine would do by itself is written.
"""

import json
from collections.abc import Iterator
from typing import Final

from hermes_analysis.emit.pools import EmitError, EnginePool

PORT: Final = 8000
SGLANG_BOOTSTRAP: Final = 8998
_VLLM_DTYPES: Final = {"fp8": "fp8", "int8": "compressed-tensors", "int4": "awq", "fp4": "modelopt_fp4"}
_SGLANG_DTYPES: Final = {"fp8": "fp8", "int8": "w8a8_int8", "int4": "awq", "fp4": "modelopt_fp4"}
_VLLM_KV: Final = {"fp8": "fp8", "bf16": "auto"}
_SGLANG_KV: Final = {"fp8": "fp8_e4m3", "bf16": "bf16"}
"""SGLang has no plain "fp8": of its two kinds the one that vLLM's stands for."""


def vllm_command(pool: EnginePool) -> list[str]:
    """Return the command that starts one engine of the pool with vLLM. Raises EmitError for what vLLM cannot do."""
    if pool.engine["batching"] not in {"chunked", "continuous"}:
        raise EmitError(f"pool {pool.name!r}: vLLM has no batching {pool.engine['batching']!r}; it does chunked")
    return ["vllm", "serve", pool.model, *_flat(_vllm_options(pool))]


def sglang_command(pool: EnginePool) -> list[str]:
    """Return the command that starts one engine of the pool with SGLang. Raises EmitError for what SGLang cannot do."""
    if pool.engine["queue"] not in {"fcfs", "priority"}:
        raise EmitError(f"pool {pool.name!r}: SGLang has no queue order {pool.engine['queue']!r}")
    return ["python3", "-m", "sglang.launch_server", "--model-path", pool.model, *_flat(_sglang_options(pool))]


def router_command(pools: tuple[EnginePool, ...], urls: dict[str, list[str]], *, sglang: bool) -> list[str]:
    """Return the command of the router in front; `urls` has the addresses of each pool's engines.

    vLLM: vllm-router 0.1 (PyPI); SGLang: sglang_router. Both take the same words.
    """
    program = ["python3", "-m", "sglang_router.launch_router"] if sglang else ["vllm-router"]
    address = ["--host", "0.0.0.0", "--port", str(PORT)]  # noqa: S104 - it is to be reached
    prefill = [url for pool in pools if pool.role == "prefill" for url in urls[pool.name]]
    decode = [url for pool in pools if pool.role == "decode" for url in urls[pool.name]]
    if prefill and decode:
        apart = "--pd-disaggregation" if sglang else "--vllm-pd-disaggregation"
        words = [*program, apart, *address]
        for url in prefill:
            words += ["--prefill", url, *([str(SGLANG_BOOTSTRAP)] if sglang else [])]
        for url in decode:
            words += ["--decode", url]
        return words
    return [
        *program,
        *address,
        "--policy",
        "power_of_two",
        "--worker-urls",
        *(u for pool in pools for u in urls[pool.name]),
    ]


def _flat(options: Iterator[tuple[str, object]]) -> list[str]:
    words: list[str] = []
    for name, value in options:
        words.append(f"--{name}")
        if value is not True:
            words.append(str(value))
    return words


def _vllm_options(pool: EnginePool) -> Iterator[tuple[str, object]]:
    engine = pool.engine
    yield "port", PORT
    names = ("tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size")
    yield from _degrees(names, (pool.tp, pool.pp, pool.dp))
    if pool.ep > 1:
        yield "enable-expert-parallel", True
    yield "max-num-seqs", engine["max_num_seqs"]
    yield "max-num-batched-tokens", engine["max_num_batched_tokens"]
    yield "gpu-memory-utilization", engine["gpu_memory_utilization"]
    yield "block-size", engine["block_size_tokens"]
    yield ("enable-prefix-caching" if engine["prefix_caching"] else "no-enable-prefix-caching"), True
    if engine["batching"] == "continuous":
        yield "no-enable-chunked-prefill", True
    if engine["asynchronous_scheduling"]:
        yield "async-scheduling", True
    if engine["max_model_len"] is not None:
        yield "max-model-len", engine["max_model_len"]
    if engine["long_prefill_token_threshold"]:
        yield "long-prefill-token-threshold", engine["long_prefill_token_threshold"]
    if engine["kv_blocks"] is not None:
        yield "num-gpu-blocks-override", engine["kv_blocks"]
    if engine["queue"] == "priority":
        yield "scheduling-policy", "priority"
    elif engine["queue"] != "fcfs":
        raise EmitError(f"pool {pool.name!r}: vLLM has no queue order {engine['queue']!r}; it has fcfs and priority")
    yield from _types(pool, _VLLM_DTYPES, _VLLM_KV)
    if pool.role:
        role = "kv_producer" if pool.role == "prefill" else "kv_consumer"
        yield "kv-transfer-config", json.dumps({"kv_connector": "NixlConnector", "kv_role": role})


def _sglang_options(pool: EnginePool) -> Iterator[tuple[str, object]]:
    engine = pool.engine
    yield "host", "0.0.0.0"  # noqa: S104 - it is to be reached
    yield "port", PORT
    # With data-parallel attention --tp-size counts the devices of all ranks, and the ranks share both limits evenly
    # (`server_args.py`, `_handle_data_parallelism`; `model_runner.py`, `max_running_requests`); settings are a rank's.
    yield from _degrees(("tp-size", "pp-size", "dp-size"), (pool.tp * pool.dp, pool.pp, pool.dp))
    if pool.dp > 1:
        yield "enable-dp-attention", True
    if pool.ep > 1:
        yield "ep-size", pool.ep
    yield "max-running-requests", engine["max_num_seqs"] * pool.dp
    yield "chunked-prefill-size", engine["max_num_batched_tokens"] * pool.dp
    yield "mem-fraction-static", engine["gpu_memory_utilization"]
    yield "page-size", engine["block_size_tokens"]
    if not engine["prefix_caching"]:
        yield "disable-radix-cache", True
    if engine["max_model_len"] is not None:
        yield "context-length", engine["max_model_len"]
    if engine["queue"] == "priority":
        yield "enable-priority-scheduling", True
    yield from _types(pool, _SGLANG_DTYPES, _SGLANG_KV)
    if pool.role:
        yield "disaggregation-mode", pool.role
        yield "disaggregation-transfer-backend", "nixl"
        if pool.role == "prefill":
            yield "disaggregation-bootstrap-port", SGLANG_BOOTSTRAP


def _degrees(names: tuple[str, str, str], degrees: tuple[int, int, int]) -> Iterator[tuple[str, object]]:
    for name, degree in zip(names, degrees, strict=True):
        if degree > 1:
            yield name, degree


def _types(pool: EnginePool, known: dict[str, str], known_kv: dict[str, str]) -> Iterator[tuple[str, object]]:
    """Yield the options of number formats; weights in the model's own need none."""
    weights, kv = pool.quantization, pool.kv_dtype
    if weights not in {None, "bf16", "auto"}:
        if weights not in known:
            raise EmitError(f"pool {pool.name!r}: no option of the engine is known for weights in {weights!r}")
        yield "quantization", known[str(weights)]
    if kv not in {None, "auto"}:
        if kv not in known_kv:
            raise EmitError(f"pool {pool.name!r}: no option of the engine is known for a KV cache in {kv!r}")
        yield "kv-cache-dtype", known_kv[str(kv)]
