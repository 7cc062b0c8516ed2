"""Reads the measured operator tables of the package aiconfigurator-core (NVIDIA, Apache-2.0), as they are installed."""

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
from hermes_core.api.errors import InputError, MissingExtraError

from hermes_hw.lookup import find_name, normalised
from hermes_hw.operators import Figures, Sizes
from hermes_hw.tables.rows import TableRows, checked_rows

_PACKAGE: Final = "aiconfigurator_core"
_MS: Final = 1e-3
_FRAMEWORKS: Final = {"vllm": "vllm", "sglang": "sglang", "trtllm": "trtllm", "tensorrt-llm": "trtllm"}
_SYSTEMS: Final[Mapping[str, str]] = {
    "a100-sxm-80gb": "a100_sxm",
    "a100-sxm-40gb": "a100_sxm",
    "a100-pcie": "a100_pcie",
    "h100-sxm": "h100_sxm",
    "h100-pcie": "h100_pcie",
    "h200": "h200_sxm",
    "h200-sxm": "h200_sxm",
    "b200": "b200_sxm",
    "b200-sxm": "b200_sxm",
    "b300": "b300_sxm",
    "gb200": "gb200",
    "gb300": "gb300",
    "l40s": "l40s",
    "l4": "l4",
    "a30": "a30",
    "rtx-pro-6000": "rtx_pro_6000_server",
}
"""Devices of our catalogue, and the folders of the package."""
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
_KV_TYPES: Final = {"bf16": "bfloat16", "fp8": "fp8", "int8": "int8"}
_LATENT: Final = 512
"""Dimensions of the latents in the tables of attention over them."""
_COLLECTIVES: Final = {
    "collective.all_gather": "all_gather",
    "collective.reduce_scatter": "reduce_scatter",
    "collective.all_to_all": "alltoall",
}

_VERSION: Final = re.compile(r"(\d+(?:\.\d+)*)(?:\.?(dev|rc|post)(\d+))?")
_STAGES: Final = {"dev": -2, "rc": -1, "": 0, "post": 1}


def framework_of(engine: str) -> str:
    """Return the framework whose kernels stand for an engine's, by its name or preset; vLLM's where there are none."""
    return next((name for begin, name in _FRAMEWORKS.items() if engine.lower().startswith(begin)), "vllm")


def silicon_folder() -> Path | None:
    """Return the folder of the installed package's tables; None when it is not installed. Imports nothing."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / "systems" / "data"


def silicon_system(device: str, folder: Path) -> str | None:
    """Return the folder name of a device of our catalogue; None when there are no tables for it."""
    name = _SYSTEMS.get(device)
    return name if name and any((folder / name).glob("*/*/*/*.parquet")) else None


@dataclass(frozen=True)
class SiliconTables:
    """The tables of one system and framework. Implements `Tables`; files are read when first asked for.

    Of several versions the newest is taken (for each family of operators), of several kernels for a shape the
    fastest. `distribution` is how unevenly experts were picked in the measurements.
    """

    folder: Path
    framework: str
    distribution: str
    origin: str
    _read: dict[tuple[str, str], TableRows | None] = field(default_factory=dict)

    @classmethod
    @cache
    def of(cls, device: str, framework: str = "vllm", distribution: str = "power_law_1.01") -> "SiliconTables":
        """Return the tables of `device`.

        Raises MissingExtraError without the package (or without pyarrow), InputError for a device without tables.
        """
        folder = silicon_folder()
        if folder is None or importlib.util.find_spec("pyarrow") is None:
            raise MissingExtraError(
                "the hardware model silicon needs the tables of aiconfigurator-core: pip install 'hermes-hw[silicon]'"
            )
        system = silicon_system(device, folder)
        if system is None:
            known = ", ".join(sorted(name for name in _SYSTEMS if silicon_system(name, folder)))
            raise InputError(f"aiconfigurator-core has no tables of {device!r}", remedy=f"It has: {known}.")
        name = _FRAMEWORKS[
            find_name(framework, {normalised(key): key for key in _FRAMEWORKS}, "framework", _FRAMEWORKS)
        ]
        if not any((folder / system).glob(f"*/{name}/*/*.parquet")):
            raise InputError(f"aiconfigurator-core has no tables of {device!r} with {name}")
        origin = f"aiconfigurator-core {version('aiconfigurator-core')}, {system}, {name}"
        return cls(folder / system, name, distribution, origin)

    def rows(self, kind: str, dtype: str) -> TableRows | None:
        """Return the measurements of a kind in a number format; None when there are none."""
        key = (kind, dtype)
        if key not in self._read:
            self._read[key] = self._find(kind, dtype)
        return self._read[key]

    def _find(self, kind: str, dtype: str) -> TableRows | None:
        if kind == "gemm":
            return self._gemm(dtype)
        if kind == "moe.experts":
            return self._experts(dtype)
        if kind in {"attention.decode", "attention.prefill"}:
            return self._attention(kind, dtype)
        if kind.startswith("attention.latent_"):
            return self._latent(kind, dtype)
        if kind == "collective.all_reduce":
            return self._all_reduce(dtype)
        return self._nccl(kind, dtype) if kind in _COLLECTIVES else None

    def file(self, family: str, name: str, framework: str | None = None) -> Path | None:
        """Return the file of the newest version of a family; None when the system has none."""
        folder = self.folder / family / (framework or self.framework)
        versions = sorted((path.parent for path in folder.glob(f"*/{name}.parquet")), key=_version_key)
        return versions[-1] / f"{name}.parquet" if versions else None

    # ---- families --------------------------------------------------------------------------------------------

    def _gemm(self, dtype: str) -> TableRows | None:
        path = self.file("gemm", "gemm_perf")
        for written in _GEMM_TYPES.get(dtype, ()) if path else ():
            columns = _read(path, ("m", "n", "k"), {"gemm_dtype": written})
            if len(columns["latency"]):
                if dtype in {"fp8", "nvfp4"}:
                    columns["latency"] = columns["latency"] + self._quantize_ms(columns["m"], columns["k"])
                return self._rows("gemm", dtype, columns, path)
        return None

    def _quantize_ms(self, m: Sizes, k: Sizes) -> Figures:
        """Return what narrowing the activations takes before a product: by their scale, and finding it."""
        total = np.zeros(len(m))
        for name in ("scale_matrix_perf", "computescale_perf"):
            path = self.file("quantize", name)
            if path is None:
                continue
            table = _read(path, ("m", "k"), {})
            found = {
                (int(a), int(b)): float(c) for a, b, c in zip(table["m"], table["k"], table["latency"], strict=True)
            }
            total += np.array([found.get((int(a), int(b)), 0.0) for a, b in zip(m, k, strict=True)])
        return total

    def _experts(self, dtype: str) -> TableRows | None:
        path = self.file("moe", "moe_perf")
        names = {
            "num_tokens": "tokens",
            "hidden_size": "hidden",
            "inter_size": "intermediate",
            "topk": "top_k",
            "num_experts": "experts",
            "moe_tp_size": "experts_tensor",
            "moe_ep_size": "expert_parallel",
        }
        parts = [
            _read(path, tuple(names), {"moe_dtype": written, "distribution": self.distribution})
            for written in (_MOE_TYPES.get(dtype, ()) if path else ())
        ]
        parts = [part for part in parts if len(part["latency"])]
        if not parts:
            return None
        # A model's shape was measured in the format that it is published in: rarely in several.
        columns = {names.get(key, key): np.concatenate([part[key] for part in parts]) for key in parts[0]}
        return self._rows("moe.experts", dtype, columns, path)

    def _attention(self, kind: str, dtype: str) -> TableRows | None:
        decode = kind == "attention.decode"
        path = self.file("attention", "generation_attention_perf" if decode else "context_attention_perf")
        if path is None or dtype not in _KV_TYPES:
            return None
        names = {"num_heads": "heads", "num_key_value_heads": "kv_heads", "batch_size": "batch", "head_dim": "head_dim"}
        names |= {"window_size": "window", "isl": "tokens", "step": "cached"}
        columns = _read(path, tuple(names), {"kv_cache_dtype": _KV_TYPES[dtype]}, optional={"window_size": 0})
        table = {names.get(key, key): value for key, value in columns.items()}
        if decode:
            # `step` tokens are in the cache, and the new one.
            table["context"] = table.pop("cached") + table.pop("tokens")
        table["kv_heads"] = np.where(table["kv_heads"] > 0, table["kv_heads"], table["heads"])
        return self._rows(kind, dtype, table, path) if len(table["latency"]) else None

    def _latent(self, kind: str, dtype: str) -> TableRows | None:
        """Return attention over latents of 512 dimensions: DeepSeek's, Kimi's and their kin."""
        decode = kind == "attention.latent_decode"
        name = "generation_mla_perf" if decode else "context_mla_perf"
        path = next((path for path in (self.file("mla", name, other) for other in self._frameworks) if path), None)
        if path is None or dtype not in _KV_TYPES:
            return None
        names = {"num_heads": "heads", "batch_size": "batch", "isl": "tokens", "step": "cached"}
        columns = _read(path, tuple(names), {"kv_cache_dtype": _KV_TYPES[dtype]})
        table = {names.get(key, key): value for key, value in columns.items()}
        if decode:
            table["context"] = table.pop("cached") + table.pop("tokens")
        table["latent"] = np.full(len(table["latency"]), _LATENT)
        return self._rows(kind, dtype, table, path) if len(table["latency"]) else None

    @property
    def _frameworks(self) -> tuple[str, ...]:
        """The own framework, then others whose kernels it calls too (FlashInfer's, FlashMLA)."""
        return (self.framework, *(name for name in ("sglang", "trtllm") if name != self.framework))

    def _all_reduce(self, dtype: str) -> TableRows | None:
        path = self.file("comm", "custom_allreduce_perf")
        if path is None or dtype != "bf16":
            return None
        columns = _read(path, ("num_gpus", "message_size"), {}, graph=True)
        return self._rows("collective.all_reduce", dtype, _ranks_bytes(columns), path)

    def _nccl(self, kind: str, dtype: str) -> TableRows | None:
        path = self.file("comm", "nccl_perf", "nccl")
        if path is None or dtype != "bf16":
            return None
        columns = _read(path, ("num_gpus", "message_size"), {"op_name": _COLLECTIVES[kind], "nccl_dtype": "half"})
        return self._rows(kind, dtype, _ranks_bytes(columns), path) if len(columns["latency"]) else None

    def _rows(self, kind: str, dtype: str, columns: Mapping[str, Any], path: Path | None) -> TableRows:
        unique = _fastest({key: value for key, value in columns.items() if key != "latency"}, columns["latency"])
        seconds = unique.pop("latency") * _MS
        return checked_rows(kind, dtype, unique, seconds, self.origin, file=str(path))


def _ranks_bytes(columns: Mapping[str, Any]) -> dict[str, Any]:
    # Messages are counted in elements of two bytes.
    return {
        "ranks": columns["num_gpus"],
        "bytes": columns["message_size"] * 2,
        "latency": columns["latency"],
    }


def _version_key(folder: Path) -> tuple[tuple[int, ...], int, int, str]:
    """Return what orders versions: by number, development and candidates before the release, posts after it."""
    found = _VERSION.match(folder.name)
    if found is None:
        return (), 0, 0, folder.name
    release, kind, number = found.groups()
    return tuple(int(part) for part in release.split(".")), _STAGES[kind or ""], int(number or 0), folder.name


def _read(
    path: Path | None,
    names: tuple[str, ...],
    where: Mapping[str, str],
    *,
    optional: Mapping[str, int] | None = None,
    graph: bool = False,
) -> dict[str, Any]:
    """Return columns of whole numbers, and `latency` in milliseconds, of the rows where text columns have a value."""
    import pyarrow.compute as pc  # noqa: PLC0415 - an extra
    import pyarrow.parquet as pq  # noqa: PLC0415

    if path is None:
        raise AssertionError("no file")
    schema = pq.read_schema(path).names
    absent = [name for name in (*names, *where, "latency") if name not in schema and name not in (optional or {})]
    if absent:
        raise InputError(f"{path}: columns are missing: {', '.join(absent)}")
    wanted = [name for name in (*names, *where, "latency", *(("backend",) if graph else ())) if name in schema]
    table = pq.read_table(path, columns=wanted)
    for name, value in where.items():
        table = table.filter(pc.equal(table[name], value))
    if graph and "backend" in wanted and pc.any(pc.ends_with(table["backend"], "graph")).as_py():
        table = table.filter(pc.ends_with(table["backend"], "graph"))
    columns: dict[str, Any] = {
        name: table[name].to_numpy().astype(np.int64)
        if name in wanted
        else np.full(table.num_rows, (optional or {})[name], np.int64)
        for name in names
    }
    columns["latency"] = table["latency"].to_numpy()
    return columns


def _fastest(columns: Mapping[str, Sizes], latency: Figures) -> dict[str, Any]:
    """Return the rows with one latency for each shape, the least."""
    keys = np.stack(list(columns.values()))
    order = np.lexsort((latency, *keys[::-1]))
    first = np.ones(len(order), bool)
    first[1:] = (np.diff(keys[:, order], axis=1) != 0).any(axis=0)
    chosen = order[first]
    return {**{name: value[chosen] for name, value in columns.items()}, "latency": latency[chosen]}
