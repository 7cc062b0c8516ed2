"""Shapes that the kit asks about: those of an 8-billion-parameter model, within what the service has measured."""

import json
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from hermes_proto.hw.v1 import hardware_model_pb2 as pb

from hermes_hw.client import DIMENSIONS, OperatorKey, ServiceDescription, StepQuestion

_ATTENTION: Final = {
    "heads": 32,
    "kv_heads": 8,
    "head_dim": 128,
    "v_head_dim": 128,
    "rope_dim": 0,
    "latent": 0,
    "window": 0,
}
_EXPERTS: Final = {"hidden": 4096, "intermediate": 14336, "inputs": 2, "experts": 8, "top_k": 2}
_RETRIEVAL: Final = {
    "vectors": 1_000_000,
    "dim": 768,
    "bits": 32,
    "k": 10,
    "nlist": 1024,
    "nprobe": 16,
    "m": 64,
    "ef": 64,
}
ATTRIBUTES: Final[Mapping[str, Mapping[str, int]]] = {
    "gemm": {"n": 4096, "k": 4096},
    "attention.decode": _ATTENTION,
    "attention.prefill": _ATTENTION,
    "attention.linear": {"value_heads": 32, "key_dim": 128, "value_dim": 128},
    "moe.experts": {**_EXPERTS, "expert_parallel": 1, "data_parallel": 1, "experts_tensor": 1},
    "norm": {"hidden": 4096},
    "rotary": {"heads": 32, "kv_heads": 8, "head_dim": 128, "hidden": 4096, "qk_norm": 0},
    "elementwise": {"width": 14336, "inputs": 2},
    "embedding": {"hidden": 4096},
    "sample": {"vocab": 128_256},
    **{kind: {"ranks": 2} for kind in DIMENSIONS if kind.startswith("collective.")},
    "transfer.p2p": {"far": 0},
    **{kind: _RETRIEVAL for kind in DIMENSIONS if kind.startswith("retrieve.")},
}
"""Attributes of a shape of each kind."""
_RANGES: Final[Mapping[str, tuple[int, int]]] = {
    "batch": (1, 64),
    "context": (1, 4096),
    "cached": (0, 4096),
    "bytes": (1024, 1 << 24),
    "queries": (1, 64),
}
_RANGE: Final = (1, 1024)
_LAYERS: Final = 32


def keys_of(description: ServiceDescription) -> tuple[OperatorKey, ...]:
    """Return one shape of each kind that a service lists, in the first of its formats."""
    found = []
    for kind, support in description.operators.items():
        if kind in ATTRIBUTES and support.dtypes:
            dtype = "bf16" if "bf16" in support.dtypes else support.dtypes[0]
            found.append(OperatorKey.of(kind, dtype, **ATTRIBUTES[kind]))
    return tuple(found)


def range_of(key: OperatorKey, dimension: str, description: ServiceDescription) -> tuple[int, int]:
    """Return the sizes along a dimension that are asked about: ours, within what was measured."""
    low, high = _RANGES.get(dimension, _RANGE)
    measured = description.operators[key.kind].measured.get(dimension)
    if measured is None:
        return low, high
    return (max(low, measured[0]), min(high, measured[1])) if measured[0] <= high else measured


def drawn_dims(draws: np.random.Generator, key: OperatorKey, description: ServiceDescription) -> tuple[int, ...]:
    """Return random sizes of an operator."""
    ranges = (range_of(key, name, description) for name in key.dimensions)
    return tuple(int(draws.integers(low, max(high, low) + 1)) for low, high in ranges)


def step_drawn(draws: np.random.Generator) -> StepQuestion:
    """Return a random step: sequences that decode, and now and then a prompt chunk."""
    seqs = int(draws.integers(1, 17))
    contexts = draws.integers(1, 4096, seqs).tolist()
    new = [1] * seqs
    if draws.integers(0, 2):
        new.append(int(draws.integers(2, 512)))
        contexts.append(int(draws.integers(0, 2048)))
    return StepQuestion(tuple(new), tuple(contexts))


def served() -> pb.ServedModel:
    """Return the model whose steps are asked about: a dense one with the published shape of Llama-3.1-8B."""
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "torch_dtype": "bfloat16",
    }
    return pb.ServedModel(
        model="conformance-8b",
        model_config_json=json.dumps(config),
        tensor_parallel=1,
        pipeline_parallel=1,
        data_parallel=1,
        expert_parallel=1,
        max_batched_tokens=8192,
        max_seqs=256,
        block_size_tokens=16,
    )
