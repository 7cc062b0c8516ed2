"""Reads the measured operator tables of the package aiconfigurator-core (NVIDIA, Apache-2.0), as they are installed."""

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from hermes_core.api.errors import InputError, MissingExtraError

from hermes_hw.devices import find_device
from hermes_hw.dtypes import DTYPES
from hermes_hw.gating import activated_experts, popularity
from hermes_hw.lookup import find_name, normalised
from hermes_hw.operators import Figures, Sizes
from hermes_hw.tables import extra
from hermes_hw.tables.cleaning import L2_BYTES, cold, fastest, from_memory, joined, rising
from hermes_hw.tables.package import (
    FRAMEWORKS,
    SYSTEMS,
    kernel_of,
    read_columns,
    silicon_folder,
    silicon_system,
    versions,
)
from hermes_hw.tables.rows import TableRows, checked_rows
from hermes_hw.tables.vocabulary import KINDS

_MS: Final = 1e-3
_GEMM_TYPES: Final = {
    "bf16": ("bfloat16",),
    "fp8": ("fp8", "fp8_block"),
    "int8": ("int8_wo", "sq"),
    "int4": ("int4_wo",),
    "nvfp4": ("nvfp4",),
    "mxfp4": ("mxfp4", "w4a16_mxfp4"),
}
"""Names in the tables of each of our formats, best first."""
_MOE_TYPES: Final = {**_GEMM_TYPES, "mxfp4": ("w4a8_mxfp4_mxfp8", "w4a16_mxfp4", "mxfp4")}
_SHARED: Final = "trtllm"
"""Experts' kernels of TensorRT-LLM for Blackwell, by what their names hold: FlashInfer has them too, and through it
vLLM and SGLang, but not each framework was measured with them in each format."""
_BLACKWELL: Final = ("b200_sxm", "b300_sxm", "gb200", "gb300")
_KV_TYPES: Final = {"bf16": "bfloat16", "fp8": "fp8", "int8": "int8"}
_LATENT: Final = 512
"""Dimensions of the latents in the tables of attention over them."""
_LATENT_ROPE: Final = 64
_COLLECTIVES: Final = {
    "collective.all_gather": "all_gather",
    "collective.reduce_scatter": "reduce_scatter",
    "collective.all_to_all": "alltoall",
}
_LAUNCHED_MS: Final = 0.03
"""Least time of a table of products from which on it shows launches: replayed from a graph the smallest products take
2 to 14 us whatever the format, launched one by one from PyTorch 57 to 310 us."""
_LEAST_SHARE: Final = 0.2
_NODE: Final = 8
_NODE_OF_GRACE: Final = 4
"""Devices of a node."""
_ONE_CALL: Final = "flash_attn"
"""Kernels that take prompts and decoding sequences in one call, by what their names hold."""
DISTRIBUTIONS: Final = ("auto", "balanced", "power_law_1.01", "power_law_1.2")
"""How unevenly experts were picked: as said, or even where gates of so many experts pick evenly."""
_UNEVEN: Final = "power_law_1.01"


@dataclass(frozen=True)
class SiliconTables:
    """The tables of one system and framework. Implements `Tables`; files are read when first asked for.

    Of several versions the newest is taken (for each family of operators), of several kernels for a shape the
    fastest. `distribution` is how unevenly experts were picked in the measurements, one of `DISTRIBUTIONS`.
    """

    folder: Path
    framework: str
    distribution: str
    origin: str
    bytes_per_s: float = math.inf
    """Memory bandwidth of the device, which tells rows that were read from a cache."""
    _read: dict[tuple[str, str], TableRows | None] = field(default_factory=dict)

    @classmethod
    @cache
    def of(cls, device: str, framework: str = "vllm", distribution: str = "auto") -> "SiliconTables":
        """Return the tables of `device`.

        Raises MissingExtraError without the package (or without pyarrow), InputError for a device without tables and
        for an unknown framework or distribution.
        """
        folder = silicon_folder()
        if folder is None or importlib.util.find_spec("pyarrow") is None:
            raise MissingExtraError(
                "the hardware model silicon needs the tables of aiconfigurator-core: pip install 'hermes-hw[silicon]'"
            )
        system = silicon_system(device, folder)
        if system is None:
            known = ", ".join(sorted(name for name in SYSTEMS if silicon_system(name, folder)))
            raise InputError(f"aiconfigurator-core has no tables of {device!r}", remedy=f"It has: {known}.")
        name = FRAMEWORKS[find_name(framework, {normalised(key): key for key in FRAMEWORKS}, "framework", FRAMEWORKS)]
        if distribution not in DISTRIBUTIONS:
            raise InputError(
                f"options.expert_distribution {distribution!r} is unknown", remedy=f"Known: {', '.join(DISTRIBUTIONS)}."
            )
        if not any((folder / system).glob(f"*/{name}/*/*.parquet")):
            raise InputError(f"aiconfigurator-core has no tables of {device!r} with {name}")
        origin = f"aiconfigurator-core {version('aiconfigurator-core')}, {system}, {name}"
        return cls(folder / system, name, distribution, origin, find_device(device).memory_bandwidth_bytes_per_s)

    def rows(self, kind: str, dtype: str) -> TableRows | None:
        """Return the measurements of a kind in a number format; None when there are none."""
        key = (kind, dtype)
        if key not in self._read:
            self._read[key] = self._find(kind, dtype)
        return self._read[key]

    @cached_property
    def one_call(self) -> bool:
        """Whether prompts and decoding sequences are one call of attention."""
        path = self.file("attention", "generation_attention_perf")
        return path is not None and _ONE_CALL in kernel_of(path)

    def file(self, family: str, name: str, framework: str | None = None) -> Path | None:
        """Return the file of the newest version of a family; None when the system has none."""
        return next(iter(self.files(family, name, framework)), None)

    def files(self, family: str, name: str, framework: str | None = None) -> list[Path]:
        """Return the files of all versions of a family, the newest first: a newer one may hold new models alone."""
        return versions(self.folder, family, framework or self.framework, name)

    def _find(self, kind: str, dtype: str) -> TableRows | None:
        readers: Mapping[str, Callable[[], TableRows | None]] = {
            "gemm": lambda: self._gemm(dtype),
            "moe.experts": lambda: self._experts(dtype),
            "attention.decode": lambda: self._attention(kind, dtype),
            "attention.prefill": lambda: self._attention(kind, dtype),
            "attention.latent_decode": lambda: self._latent(kind, dtype),
            "attention.latent_prefill": lambda: self._latent(kind, dtype),
            "collective.all_reduce": lambda: self._all_reduce(dtype),
            **dict.fromkeys(_COLLECTIVES, lambda: self._nccl(kind, dtype)),
        }
        return readers.get(kind, lambda: self._beside(kind, dtype))()

    def _beside(self, kind: str, dtype: str) -> TableRows | None:
        """Return rows of a kind that only some models have."""
        found: extra.Found = None
        if dtype == "bf16":
            if kind.startswith("latent."):
                found = extra.latent_products(self._nearest, kind)
            elif kind.startswith(("attention.linear_", "attention.kda_")):
                found = extra.linear_attention(self._nearest, kind)
            elif kind in {"collective.dispatch", "collective.combine"}:
                node = _NODE_OF_GRACE if self.folder.name.startswith("gb") else _NODE
                found = extra.expert_exchange(self._nearest, kind, node)
        elif dtype == "fp8" and kind == "attention.index_decode":
            found = extra.index_decode(self._nearest, "fp8")
        elif dtype == "fp8" and kind == "attention.index_prefill":
            found = extra.index_prefill(self._nearest)
        if kind == "moe.experts_wide":
            found = extra.wide_experts(self.file, dtype, _UNEVEN)
        if found is None:
            return None
        columns, path = found
        return self._rows(kind, dtype, columns, path, along=KINDS[kind].axes[-1])

    def _nearest(self, family: str, name: str) -> Path | None:
        """Return the file of the own framework, else of one whose kernels it calls."""
        return next((path for one in self._frameworks if (path := self.file(family, name, one))), None)

    @property
    def _frameworks(self) -> tuple[str, ...]:
        """The own framework, then others whose kernels it calls too (cuBLAS's, FlashAttention's, FlashInfer's)."""
        return (self.framework, *(name for name in ("sglang", "trtllm", "vllm") if name != self.framework))

    # ---- products --------------------------------------------------------------------------------------------

    def _gemm(self, dtype: str) -> TableRows | None:
        """Return products: their layer as the framework calls it, so with the narrowing of activations.

        Those of 16 bits are PyTorch's in every framework: the least of them is the least disturbed. Others are taken
        of another framework where the own one was timed launch by launch, which shows the host and not the device.
        """
        parts: list[tuple[dict[str, Any], Path]] = []
        for framework in self._frameworks:
            part = self._products(dtype, framework)
            if part is not None and (not parts or dtype == "bf16"):
                parts.append(part)
        if not parts:
            return None
        columns = {key: np.concatenate([part[key] for part, _ in parts]) for key in parts[0][0]}
        return self._rows("gemm", dtype, columns, parts[0][1], along="m")

    def _products(self, dtype: str, framework: str) -> tuple[dict[str, Any], Path] | None:
        written = _GEMM_TYPES.get(dtype, ())
        for path, name in ((path, name) for path in self.files("gemm", "gemm_perf", framework) for name in written):
            columns = read_columns(path, ("m", "n", "k"), {"gemm_dtype": name})
            columns = from_memory(columns, columns["n"] * columns["k"] * DTYPES[dtype].bytes, self.bytes_per_s)
            latency = columns["latency"]
            if not len(latency) or float(latency.min()) > _LAUNCHED_MS:
                continue
            if name == "fp8" and framework == "trtllm":
                # Its checkpoints (ModelOpt's) have fixed scales; finding them was timed in PyTorch.
                found = self._scales_ms(columns["m"], columns["k"])
                columns["latency"] = np.maximum(latency - found, _LEAST_SHARE * latency)
            return columns, path
        return None

    def _scales_ms(self, m: Sizes, k: Sizes) -> Figures:
        """Return what finding the scales of activations adds to a product."""
        path = self.file("quantize", "computescale_perf", "trtllm")
        if path is None:
            return np.zeros(len(m))
        table = read_columns(path, ("m", "k"), {})
        found = {(int(a), int(b)): float(c) for a, b, c in zip(table["m"], table["k"], table["latency"], strict=True)}
        return np.array([found.get((int(a), int(b)), 0.0) for a, b in zip(m, k, strict=True)])

    # ---- experts ---------------------------------------------------------------------------------------------

    def _experts(self, dtype: str) -> TableRows | None:
        """Return experts: of each model's shape the newest version that has it."""
        written = _MOE_TYPES.get(dtype, ())
        files = self.files("moe", "moe_perf")
        parts = [part for file in files for part in [self._experts_of(file, written)] if len(part["latency"])]
        if self.folder.name in _BLACKWELL:
            others = (file for one in self._frameworks[1:] for file in self.files("moe", "moe_perf", one)[:1])
            shared = [self._experts_of(file, written, _SHARED) for file in others]
            parts = [{key: np.concatenate([part[key] for part in (one, *shared)]) for key in one} for one in parts]
        if not parts:
            return None
        shape = ("hidden", "intermediate", "top_k", "experts", "experts_tensor", "expert_parallel")
        return self._rows("moe.experts", dtype, joined(parts, shape), files[0], along="tokens")

    def _experts_of(self, path: Path, written: Sequence[str], kernel: str = "") -> dict[str, Any]:
        """Return rows in the formats `written`, of kernels whose name holds `kernel`.

        A model's shape was measured in the format that it is published in.
        """
        texts = ("moe_dtype", "distribution", "kernel_source")
        columns = read_columns(path, tuple(extra.EXPERTS), {}, texts=texts, among={"moe_dtype": written})
        formats, distributions, kernels = (columns.pop(name) for name in texts)
        if kernel:
            named = np.array([kernel in str(name) for name in kernels], bool)
            formats = np.where(named, formats, "")
        parts = []
        for distribution in self._distributions:
            chosen = np.isin(formats, np.array(written, object)) & (distributions == distribution)
            part = {extra.EXPERTS.get(key, key): value[chosen] for key, value in columns.items()}
            parts.append(self._as_picked(part, distribution))
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    @property
    def _distributions(self) -> tuple[str, ...]:
        return ("balanced", _UNEVEN) if self.distribution == "auto" else (self.distribution,)

    def _as_picked(self, part: dict[str, Any], distribution: str) -> dict[str, Any]:
        """Return the rows of models whose gates pick as was measured, and experts that took turns as drawn."""
        if self.distribution == "auto":
            even = _pick_evenly(part["experts"], part["top_k"])
            chosen = even if distribution == "balanced" else ~even
            part = {key: value[chosen] for key, value in part.items()}
        return _as_drawn(part) if distribution == "balanced" else part

    # ---- attention -------------------------------------------------------------------------------------------

    def _attention(self, kind: str, dtype: str) -> TableRows | None:
        """Return attention: the own framework's, and others' of head counts that it has no rows of."""
        if dtype not in _KV_TYPES:
            return None
        parts, files = [], []
        name = "generation_attention_perf" if kind == "attention.decode" else "context_attention_perf"
        for path in (path for one in self._frameworks for path in self.files("attention", name, one)):
            table = self._attention_of(path, kind, dtype)
            if len(table["latency"]):
                parts.append(table)
                files.append(path)
        if not parts:
            return None
        columns = joined(parts, ("head_dim", "window", "heads", "kv_heads"))
        return self._rows(kind, dtype, columns, files[0], along="context" if kind == "attention.decode" else "tokens")

    def _attention_of(self, path: Path, kind: str, dtype: str) -> dict[str, Any]:
        names = {"num_heads": "heads", "num_key_value_heads": "kv_heads", "batch_size": "batch", "head_dim": "head_dim"}
        names |= {"window_size": "window", "isl": "tokens", "step": "cached"}
        columns = read_columns(path, tuple(names), {"kv_cache_dtype": _KV_TYPES[dtype]}, optional={"window_size": 0})
        table = {names.get(key, key): value for key, value in columns.items()}
        table["kv_heads"] = np.where(table["kv_heads"] > 0, table["kv_heads"], table["heads"])
        if kind != "attention.decode":
            return table
        # `step` tokens are in the cache, and the new one.
        table["context"] = table.pop("cached") + table.pop("tokens")
        width = 2 * table["head_dim"] * table["kv_heads"] * (2 if dtype == "bf16" else 1)
        seen = np.where(table["window"] > 0, np.minimum(table["context"], table["window"]), table["context"])
        return cold(table, table["batch"] * seen * (1.0 * width), L2_BYTES.get(self.folder.name, 0))

    def _latent(self, kind: str, dtype: str) -> TableRows | None:
        """Return attention over latents of 512 dimensions: DeepSeek's, Kimi's and their kin."""
        decode = kind == "attention.latent_decode"
        name = "generation_mla_perf" if decode else "context_mla_perf"
        path = self._nearest("mla", name)
        if path is None or dtype not in _KV_TYPES:
            return None
        names = {"num_heads": "heads", "batch_size": "batch", "isl": "tokens", "step": "cached"}
        columns = read_columns(path, tuple(names), {"kv_cache_dtype": _KV_TYPES[dtype]})
        table = {names.get(key, key): value for key, value in columns.items()}
        if not len(table["latency"]):
            return None
        if decode:
            table["context"] = table.pop("cached") + table.pop("tokens")
            width = (_LATENT + _LATENT_ROPE) * (2.0 if dtype == "bf16" else 1.0)
            table = cold(table, table["batch"] * table["context"] * width, L2_BYTES.get(self.folder.name, 0))
        table["latent"] = np.full(len(table["latency"]), _LATENT)
        return self._rows(kind, dtype, table, path, along="context" if decode else "tokens")

    # ---- collectives -----------------------------------------------------------------------------------------

    def _all_reduce(self, dtype: str) -> TableRows | None:
        path = self.file("comm", "custom_allreduce_perf")
        if path is None or dtype != "bf16":
            return None
        columns = read_columns(path, ("num_gpus", "message_size"), {}, texts=("kernel_source",))
        graph = np.array([str(text).endswith("graph") for text in columns.pop("kernel_source")], bool)
        if graph.any():
            columns = {key: value[graph] for key, value in columns.items()}
        return self._rows("collective.all_reduce", dtype, _ranks_bytes(columns), path, along="bytes")

    def _nccl(self, kind: str, dtype: str) -> TableRows | None:
        path = self.file("comm", "nccl_perf", "nccl")
        if path is None or dtype != "bf16":
            return None
        where = {"op_name": _COLLECTIVES[kind], "nccl_dtype": "half"}
        columns = read_columns(path, ("num_gpus", "message_size"), where)
        return self._rows(kind, dtype, _ranks_bytes(columns), path, along="bytes") if len(columns["latency"]) else None

    def _rows(self, kind: str, dtype: str, columns: Mapping[str, Any], path: Path, along: str) -> TableRows:
        unique = fastest({key: value for key, value in columns.items() if key != "latency"}, columns["latency"])
        wrong = ~(np.isfinite(unique["latency"]) & (unique["latency"] > 0))
        if wrong.any():
            place = int(np.argmax(wrong))
            shape = ", ".join(f"{name} {int(values[place])}" for name, values in unique.items() if name != "latency")
            raise InputError(
                f"{path}: a latency of {unique['latency'][place]} ms at {shape}",
                remedy="Reinstall the package: pip install --force-reinstall 'hermes-hw[silicon]'.",
            )
        unique = rising(unique, along)
        seconds = unique.pop("latency") * _MS
        return checked_rows(kind, dtype, unique, seconds, self.origin, file=str(path))


def _pick_evenly(experts: Sizes, top_k: Sizes) -> npt.NDArray[np.bool_]:
    """Return where gates of so many experts pick all alike; see `hermes_hw.gating`."""
    even = np.zeros(len(experts), bool)
    for of, picked in np.unique(np.stack([experts, top_k], axis=1), axis=0).tolist():
        chosen = popularity(of, picked)
        even[(experts == of) & (top_k == picked)] = np.allclose(chosen, chosen[0])
    return even


def _as_drawn(part: Mapping[str, Any]) -> dict[str, Any]:
    """Return rows of experts that took turns, at the time of the experts that as many tokens activate by chance.

    Taking turns, `m` tokens activate min(E, k m) experts; picked by chance fewer. Up to where all are activated the
    time is that of reading them.
    """
    rows = fastest({key: value for key, value in part.items() if key != "latency"}, part["latency"])
    shape = ("hidden", "intermediate", "top_k", "experts", "experts_tensor", "expert_parallel")
    keys = np.stack([rows[name] for name in shape], axis=1)
    for key in np.unique(keys, axis=0):
        places = np.flatnonzero((keys == key).all(axis=1))
        places = places[np.argsort(rows["tokens"][places])]
        top_k, experts = int(key[2]), int(key[3])
        tokens, latency = rows["tokens"][places], rows["latency"][places]
        turned = np.minimum(tokens * top_k, experts).astype(np.float64)
        drawn = activated_experts(experts, top_k, tokens)
        read = latency * np.minimum(drawn / turned, 1.0)
        first = int(np.argmax(turned >= experts)) if (turned >= experts).any() else len(turned) - 1
        inner = np.interp(drawn, turned[: first + 1], latency[: first + 1])
        after = np.maximum(latency - latency[first], 0.0)
        rows["latency"][places] = np.where(drawn < turned, np.maximum(inner + after, read), latency)
    return rows


def _ranks_bytes(columns: Mapping[str, Any]) -> dict[str, Any]:
    # Messages are counted in elements of two bytes.
    return {
        "ranks": columns["num_gpus"],
        "bytes": columns["message_size"] * 2,
        "latency": columns["latency"],
    }
