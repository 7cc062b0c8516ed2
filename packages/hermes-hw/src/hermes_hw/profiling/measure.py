"""Measures GEMM, attention and element-wise operators over a grid."""

import os
import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from hermes_hw.dtypes import DTYPES
from hermes_hw.profiling.backends import Backend, package_version, run_seconds
from hermes_hw.tables.rows import TableRows, checked_rows
from hermes_hw.tables.vocabulary import KINDS


@dataclass(frozen=True, slots=True)
class ProfilePlan:
    """Which shapes are measured. Shapes of more than `most_flop` or `most_bytes` are left out."""

    widths: tuple[int, ...] = (1024, 2048, 4096, 8192)
    rows: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    contexts: tuple[int, ...] = (16, 64, 256, 1024, 4096)
    heads: tuple[tuple[int, int], ...] = ((32, 8), (32, 32), (8, 2))
    """Query and key-value heads."""
    head_dim: int = 128
    vocab: int = 32_000
    most_flop: float = 4e10
    most_bytes: float = 5e8


_TOLD_EVERY: Final = 25
"""Shapes, after which progress is told."""

QUICK = ProfilePlan(
    widths=(512, 2048),
    rows=(1, 8, 64),
    batches=(1, 8),
    contexts=(16, 256),
    heads=((8, 2),),
    vocab=8000,
    most_flop=4e9,
    most_bytes=1e8,
)
"""A plan of seconds instead of minutes."""


def profile(
    backend: Backend, name: str, plan: ProfilePlan, progress: Callable[[str], None]
) -> tuple[list[TableRows], dict[str, Any]]:
    """Return tables of what was measured, and the content of `meta.json` with a device called `name`.

    The device's peaks are the best that the machine reached; its power and price are not measured and left at zero.
    """
    measured: list[TableRows] = []
    for kind, runs in (
        ("gemm", _gemms(backend, plan)),
        ("attention.prefill", _prefills(backend, plan)),
        ("attention.decode", _decodes(backend, plan)),
        ("norm", _norms(backend, plan)),
        ("elementwise", _gates(backend, plan)),
        ("embedding", _embeddings(backend, plan)),
        ("sample", _samples(backend, plan)),
    ):
        measured.append(_measured(backend, kind, runs, progress))
    progress("measuring memory bandwidth")
    return measured, _meta(backend, name, measured)


def _measured(
    backend: Backend,
    kind: str,
    runs: Iterable[tuple[Mapping[str, int], Callable[[], Any]]],
    progress: Callable[[str], None],
) -> TableRows:
    shapes: list[Mapping[str, int]] = []
    seconds: list[float] = []
    for shape, work in runs:
        if len(shapes) % _TOLD_EVERY == 0:
            progress(f"measuring {kind}" + (f", {len(shapes)} shapes done" if shapes else ""))
        shapes.append(shape)
        seconds.append(run_seconds(backend, work))
    columns = {name: np.array([shape[name] for shape in shapes], np.int64) for name in KINDS[kind].columns}
    return checked_rows(kind, backend.dtype, columns, np.array(seconds), "profile", file=kind)


def _gemms(backend: Backend, plan: ProfilePlan) -> Iterable[tuple[Mapping[str, int], Callable[[], Any]]]:
    width = DTYPES[backend.dtype].bytes
    for n in plan.widths:
        for k in plan.widths:
            if n * k * width > plan.most_bytes:
                continue
            weights = backend.array(k, n)
            for m in plan.rows:
                if 2.0 * m * n * k <= plan.most_flop:
                    rows = backend.array(m, k)
                    yield {"m": m, "n": n, "k": k}, lambda a=rows, b=weights: backend.matmul(a, b)  # type: ignore[misc]


def _attention(backend: Backend, q: Any, k: Any, v: Any) -> Any:
    """Softmax(q k^T) v, queries of a group of heads beside each other as rows."""
    return backend.matmul(backend.softmax(backend.matmul(q, backend.transposed(k))), v)


def _prefills(backend: Backend, plan: ProfilePlan) -> Iterable[tuple[Mapping[str, int], Callable[[], Any]]]:
    d = plan.head_dim
    for heads, kv_heads in plan.heads:
        for tokens in plan.contexts:
            for cached in (0, *plan.contexts):
                # Scores of all pairs, masked ones too: what a plain implementation computes.
                flop = 4.0 * heads * d * tokens * (tokens + cached)
                if flop > plan.most_flop or heads * tokens * (tokens + cached) * 4.0 > plan.most_bytes:
                    continue
                q = backend.array(kv_heads, heads // kv_heads * tokens, d)
                k, v = backend.array(kv_heads, tokens + cached, d), backend.array(kv_heads, tokens + cached, d)
                shape = {"heads": heads, "kv_heads": kv_heads, "head_dim": d, "window": 0}
                shape |= {"batch": 1, "tokens": tokens, "cached": cached}
                yield shape, lambda q=q, k=k, v=v: _attention(backend, q, k, v)  # type: ignore[misc]


def _decodes(backend: Backend, plan: ProfilePlan) -> Iterable[tuple[Mapping[str, int], Callable[[], Any]]]:
    d = plan.head_dim
    for heads, kv_heads in plan.heads:
        for batch in plan.batches:
            for context in plan.contexts:
                if 2.0 * batch * context * kv_heads * d * DTYPES[backend.dtype].bytes > plan.most_bytes:
                    continue
                q = backend.array(batch, kv_heads, heads // kv_heads, d)
                k, v = backend.array(batch, kv_heads, context, d), backend.array(batch, kv_heads, context, d)
                shape = {"heads": heads, "kv_heads": kv_heads, "head_dim": d, "window": 0}
                shape |= {"batch": batch, "context": context}
                yield shape, lambda q=q, k=k, v=v: _attention(backend, q, k, v)  # type: ignore[misc]


def _norms(backend: Backend, plan: ProfilePlan) -> Iterable[tuple[Mapping[str, int], Callable[[], Any]]]:
    for hidden in plan.widths:
        for tokens in plan.rows:
            x = backend.array(tokens, hidden)
            yield {"hidden": hidden, "tokens": tokens}, lambda x=x: backend.norm(x)  # type: ignore[misc]


def _gates(backend: Backend, plan: ProfilePlan) -> Iterable[tuple[Mapping[str, int], Callable[[], Any]]]:
    for width in plan.widths:
        for tokens in plan.rows:
            x = backend.array(tokens, width)
            yield {"inputs": 2, "width": width, "tokens": tokens}, lambda x=x: backend.gate(x, x)  # type: ignore[misc]


def _embeddings(backend: Backend, plan: ProfilePlan) -> Iterable[tuple[Mapping[str, int], Callable[[], Any]]]:
    for hidden in plan.widths:
        table = backend.array(min(plan.vocab, int(plan.most_bytes // (4 * hidden))), hidden)
        for tokens in plan.rows:
            yield {"hidden": hidden, "tokens": tokens}, lambda n=tokens, t=table: backend.gather(t, n)  # type: ignore[misc]


def _samples(backend: Backend, plan: ProfilePlan) -> Iterable[tuple[Mapping[str, int], Callable[[], Any]]]:
    for sequences in plan.batches:
        x = backend.array(sequences, plan.vocab)
        yield {"vocab": plan.vocab, "sequences": sequences}, lambda x=x: backend.softmax(x)  # type: ignore[misc]


def _meta(backend: Backend, name: str, measured: list[TableRows]) -> dict[str, Any]:
    gemm = next(table for table in measured if table.kind == "gemm")
    c = gemm.columns
    flops = float((2.0 * c["m"] * c["n"] * c["k"] / gemm.seconds).max())
    # Weights of a product with one row are read once: the largest that do not fit a cache show the bandwidth.
    single = c["m"] == c["m"].min()
    weights = c["n"] * c["k"] * DTYPES[backend.dtype].bytes
    large = single & (weights == weights[single].max())
    bandwidth = max(float((weights[large] / gemm.seconds[large]).max()), _copy_bytes_per_s(backend))
    return {
        "source": f"hermes hw profile on {name}",
        "measured_at": datetime.now(UTC).replace(microsecond=0).isoformat(),
        "backend": backend.name,
        "versions": {**backend.versions(), "hermes-hw": package_version("hermes-hw")},
        "machine": {"system": platform.system(), "processor": platform.processor() or platform.machine()},
        "device": {
            "name": name,
            "vendor": platform.processor() or platform.machine(),
            "family": "cpu",
            "compute_units": os.cpu_count() or 1,
            "memory_bytes": _memory_bytes(),
            "memory_bandwidth_bytes_per_s": bandwidth,
            "flops": {backend.dtype: flops},
        },
    }


def _copy_bytes_per_s(backend: Backend) -> float:
    """Return the bytes a second that adding two large arrays reads and writes."""
    size = 16_000_000
    x = backend.array(size)
    seconds = run_seconds(backend, lambda: x + x, least=5)
    return 2.0 * size * DTYPES[backend.dtype].bytes / seconds


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 16 * 1024**3
