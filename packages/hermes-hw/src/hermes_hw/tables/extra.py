"""Kinds of the package's tables beside those of every transformer: latents, indexers, recurrences, wide expert groups.

Each function returns the columns of a kind with `latency` in milliseconds, and the file; None where there is none.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np

from hermes_hw.graph import expected_distinct_experts
from hermes_hw.tables.cleaning import fastest
from hermes_hw.tables.package import read_columns

Found: TypeAlias = "tuple[dict[str, Any], Path] | None"
Files: TypeAlias = Callable[[str, str], Path | None]
"""The newest file of a family by its name, of the own framework where it has one."""

_INDEX_HEADS: Final = 32
_INDEX_DIM: Final = 128
"""Heads of the indexer of GLM-5, whose kernels were measured, and their width (its `config.json`)."""
_NODE: Final = 8
_US: Final = 1e-3
_LINEAR: Final = {"num_v_heads": "value_heads", "head_k_dim": "key_dim", "head_v_dim": "value_dim"}
_CONVOLVED: Final = ("conv1d", "fused_kda_decode", "kda_fused_decode")
"""Kernels of the convolution, or that hold it, by what their names hold."""
EXPERTS: Final = {
    "num_tokens": "tokens",
    "hidden_size": "hidden",
    "inter_size": "intermediate",
    "topk": "top_k",
    "num_experts": "experts",
    "moe_tp_size": "experts_tensor",
    "moe_ep_size": "expert_parallel",
}


def latent_products(files: Files, kind: str) -> Found:
    """Return the batched products that take heads' queries to latents, or latents to heads' values, in 16 bits."""
    path = files("mla_bmm", "mla_bmm_perf")
    if path is None:
        return None
    where = {"bmm_dtype": "bfloat16", "op_name": "mla_gen_pre" if kind == "latent.keys" else "mla_gen_post"}
    columns = read_columns(path, ("num_tokens", "num_heads"), where)
    return {"heads": columns["num_heads"], "tokens": columns["num_tokens"], "latency": columns["latency"]}, path


def index_decode(files: Files, kv: str) -> Found:
    """Return what the scores of an indexer and its choice take for one new token of each sequence.

    Measured were whole attention modules with their indexer and without. The difference holds the indexer's products
    too, which do not grow with the context: so what counts is what it grows by, and the least of such kernels.
    """
    path = files("sparse_attention", "dsa_generation_module_perf")
    scores = files("sparse_attention", "glm5_mqa_logits_module_perf")
    if path is None or scores is None:
        return None
    modules = read_columns(
        path, ("batch_size", "step", "num_heads"), {"kv_cache_dtype": kv}, texts=("op_name", "model")
    )
    keep = np.array(["GLM" in str(model) for model in modules["model"]], bool)
    skipped = np.array([str(name).endswith("skip_indexer") for name in modules["op_name"]], bool)
    with_it = _by_shape(modules, keep & ~skipped)
    without = _by_shape(modules, keep & skipped)
    least_ms = float(read_columns(scores, (), {})["latency"].min())
    taken: dict[tuple[int, int], list[float]] = {}
    for (batch, step, heads), latency in with_it.items():
        bare = without.get((batch, step, heads))
        if bare is not None:
            taken.setdefault((batch, step), []).append(latency - bare)
    if not taken:
        return None
    first = {batch: min(step for one, step in taken if one == batch) for batch, _ in taken}
    rows = [
        (batch, step, max(float(np.median(taken[batch, step]) - np.median(taken[batch, first[batch]])), 0.0) + least_ms)
        for batch, step in sorted(taken)
    ]
    names = ("batch", "context", "latency")
    columns = {name: np.array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
    return {**_indexer(len(rows)), **columns}, path


def index_prefill(files: Files) -> Found:
    """Return what the scores of an indexer and its choice take for prompts, the choice at the mean of its two cases."""
    path = files("sparse_attention", "glm5_mqa_logits_module_perf")
    chosen = files("sparse_attention", "glm5_topk_module_perf")
    if path is None or chosen is None:
        return None
    names = ("batch_size", "isl", "step")
    scores, picks = read_columns(path, names, {}), read_columns(chosen, names, {})
    added: dict[tuple[int, ...], list[float]] = {}
    for *key, latency in zip(*(picks[name].tolist() for name in (*names, "latency")), strict=True):
        added.setdefault(tuple(key), []).append(latency)
    keys = list(zip(*(scores[name].tolist() for name in names), strict=True))
    latency = scores["latency"] + np.array([float(np.mean(added.get(key, [0.0]))) for key in keys])
    columns = {"batch": scores["batch_size"], "tokens": scores["isl"], "cached": scores["step"]}
    return {**_indexer(len(latency)), **columns, "latency": latency}, path


def linear_attention(files: Files, kind: str) -> Found:
    """Return a recurrence, of prompts of one sequence or of a new token of each: gated delta nets, or KDA's.

    The convolution before it is an operator of its own, so kernels that hold both are left out.
    """
    delta = kind.startswith("attention.linear_")
    path = files("linear_attention", "gdn_perf") if delta else files("kda", "kda_perf")
    if path is None:
        return None
    prompts = kind.endswith("_prefill")
    names = (*_LINEAR, "batch_size", "seq_len")
    columns = read_columns(path, names, {"phase": "context" if prompts else "generation"}, texts=("kernel_source",))
    kernels = [str(text) for text in columns.pop("kernel_source")]
    chosen = np.array([not any(word in name for word in _CONVOLVED) for name in kernels], bool)
    if prompts:
        chosen &= columns["batch_size"] == 1
    table = {_LINEAR[name]: columns[name][chosen] for name in _LINEAR}
    table["tokens" if prompts else "batch"] = columns["seq_len" if prompts else "batch_size"][chosen]
    return ({**table, "latency": columns["latency"][chosen]}, path) if chosen.any() else None


def wide_experts(files: Files, dtype: str, distribution: str) -> Found:
    """Return experts as engines run them in wide groups, on tokens that were dispatched to them (DeepEP's kernels)."""
    parts, path = [], None
    for name in ("wideep_generation_moe_perf", "wideep_context_moe_perf", "wideep_moe_perf"):
        file = files("moe", name)
        if file is None:
            continue
        where = {"distribution": distribution, "moe_dtype": {"fp8": "fp8_block"}.get(dtype, dtype)}
        columns = read_columns(file, tuple(EXPERTS), where)
        if len(columns["latency"]):
            parts.append({EXPERTS.get(key, key): value for key, value in columns.items()})
            path = path or file
    if path is None:
        return None
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, path


def expert_exchange(files: Files, kind: str, node: int = _NODE) -> Found:
    """Return sending tokens to the groups of their experts, or their outputs back, by the bytes that a device sends.

    Of several kernels (for many tokens, for few) and shares of the device, the fastest.
    """
    way = kind.rsplit(".", maxsplit=1)[1]
    parts: list[dict[str, Any]] = []
    first = None
    for name in ("moe_a2a_perf", "wideep_deepep_ll_perf", "wideep_deepep_normal_perf"):
        path = files("comm", name)
        if path is None:
            continue
        first = first or path
        parts.append(_exchange(path, name, way, node))
    if first is None:
        return None
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}, first


def _exchange(path: Path, name: str, way: str, node: int) -> dict[str, Any]:
    if name == "moe_a2a_perf":
        names = ("num_tokens", "hidden_size", "topk", "ep_size")
        columns = read_columns(path, names, {"phase": way})
        tokens, top_k, ranks, microseconds = (
            columns["num_tokens"],
            columns["topk"],
            columns["ep_size"],
            columns["latency"],
        )
    else:
        names = ("num_token", "hidden_size", "num_topk", "node_num")
        column = f"{way}_avg_t_us" if name.endswith("ll_perf") else f"{way}_transmit_us"
        columns = read_columns(path, names, {}, latency=column)
        tokens, top_k, ranks = columns["num_token"], columns["num_topk"], columns["node_num"] * node
        microseconds = columns[column]
        if not name.endswith("ll_perf"):
            microseconds = microseconds + read_columns(path, (), {}, latency=f"{way}_notify_us")[f"{way}_notify_us"]
    reached = np.array(
        [float(expected_distinct_experts(int(r), 1, float(k))) for r, k in zip(ranks, top_k, strict=True)]
    )
    sent = np.rint(tokens * columns["hidden_size"] * 2 * reached).astype(np.int64)
    return {"ranks": ranks, "bytes": sent, "latency": microseconds * _US}


def _by_shape(columns: dict[str, Any], chosen: Any) -> dict[tuple[int, int, int], float]:
    shape = {name: columns[name][chosen] for name in ("batch_size", "step", "num_heads")}
    rows = fastest(shape, columns["latency"][chosen])
    return dict(zip(zip(*(rows[name].tolist() for name in shape), strict=True), rows["latency"].tolist(), strict=True))


def _indexer(rows: int) -> dict[str, Any]:
    return {"heads": np.full(rows, _INDEX_HEADS), "head_dim": np.full(rows, _INDEX_DIM)}
