"""Operators of NumPy and the BLAS that it was built with, in float32."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from hermes_hw.profiling import machine
from hermes_hw.profiling.backend import Call, Timing
from hermes_hw.profiling.timing import host_times

_TOKENS: Final = 256
"""Queries of a prompt that are worked on at a time: keys that none of them sees are left out."""
_PATTERN: Final = ((np.arange(13 * 4096, dtype=np.float32) % 13.0) / 13.0 - 0.5).astype(np.float32)


class NumpyBackend:
    """NumPy on the processor. Implements `Backend`."""

    name = "numpy"
    dtype = "fp32"

    def __init__(self) -> None:
        self.cache_bytes = machine.cache_bytes()

    def array(self, *shape: int) -> Any:
        """Return an array of small numbers."""
        return np.resize(_PATTERN, shape)

    def pool(self, elements: int) -> Any:
        """Return a flat array of small numbers."""
        return np.resize(_PATTERN, elements)

    def view(self, pool: Any, begin: int, shape: Sequence[int]) -> Any:
        """Return a part of a pool."""
        return pool[begin : begin + int(np.prod(shape))].reshape(shape)

    def matmul(self, a: Any, b: Any) -> Any:
        """Return the product of `a` and `b`."""
        return a @ b

    def attention(self, q: Any, k: Any, v: Any) -> Any:
        """Return causal attention, some queries at a time. Pairs that are masked within those are computed too."""
        batch, heads, tokens, dim = q.shape
        kv_heads, keys = k.shape[1], k.shape[2]
        out = np.empty_like(q)
        turned = np.swapaxes(k, -1, -2)
        for begin in range(0, tokens, _TOKENS):
            end = min(begin + _TOKENS, tokens)
            seen = keys - tokens + end
            # Query heads that share a key head are rows beside each other.
            rows = q[:, :, begin:end].reshape(batch, kv_heads, heads // kv_heads * (end - begin), dim)
            weights = self.softmax(rows @ turned[..., :seen])
            out[:, :, begin:end] = (weights @ v[:, :, :seen]).reshape(batch, heads, end - begin, dim)
        return out

    def softmax(self, a: Any) -> Any:
        """Return the softmax over the last dimension."""
        e = np.exp(a - a.max(axis=-1, keepdims=True))
        e /= e.sum(axis=-1, keepdims=True)
        return e

    def norm(self, a: Any) -> Any:
        """Return the root-mean-square norm over the last dimension."""
        return a / np.sqrt((a * a).mean(axis=-1, keepdims=True) + 1e-6)

    def gate(self, a: Any, b: Any) -> Any:
        """Return silu(a) * b."""
        return a / (1.0 + np.exp(-a)) * b

    def rotate(self, a: Any, cosines: Any, sines: Any) -> Any:
        """Return the rotary embedding of `a`."""
        half = a.shape[-1] // 2
        turned = np.concatenate((-a[..., half:], a[..., :half]), axis=-1)
        return a * cosines + turned * sines

    def gather(self, table: Any, rows: int, turn: int) -> Any:
        """Return `rows` rows of a table, far apart and other ones every turn."""
        return table[(np.arange(rows) * 7919 + turn * 104_729) % len(table)]

    def times(self, call: Call, turns: int, timing: Timing) -> list[float]:  # noqa: ARG002 - every run is timed alone
        """Return the seconds of single runs of `call`."""
        return host_times(call, lambda: None, timing)

    def memory_error(self, error: Exception) -> bool:
        """Return whether an exception says that memory ran out."""
        return isinstance(error, MemoryError)

    def versions(self) -> dict[str, str]:
        """Return versions of libraries."""
        config: Any = np.show_config(mode="dicts")
        blas = config.get("Build Dependencies", {}).get("blas", {})
        return {"numpy": np.__version__, "blas": f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()}

    def facts(self) -> dict[str, Any]:
        """Return what the machine tells of itself."""
        return {
            "vendor": machine.processor_name(),
            "family": "cpu",
            "compute_units": machine.processors(),
            "memory_bytes": machine.memory_bytes(),
        }

    def threads(self) -> Mapping[str, str | int]:
        """Return what decides how many threads the BLAS takes."""
        return machine.thread_settings()
