"""Reads the operator profiles of LLMServingSim (per-layer latencies measured inside vLLM)."""

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from hermes_core.api.errors import InputError, Place

from hermes_hw.gating import busiest_group
from hermes_hw.models import architecture_from_config, find_model
from hermes_hw.models.architecture import Architecture
from hermes_hw.tables.library import TableLibrary
from hermes_hw.tables.rows import TableRows, checked_rows
from hermes_hw.tables.uneven import Uneven, read_uneven

_COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "dense.csv": ("layer", "tokens", "time_us"),
    "per_sequence.csv": ("layer", "sequences", "time_us"),
    "attention.csv": ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"),
    "moe.csv": ("tokens", "activated_experts", "time_us"),
}
_DTYPE: Final = "bf16"
_GROUPS: Final = (1, 2, 4, 8, 16, 32)
"""Degrees of expert parallelism that a profile is read for."""
_US: Final = 1e-6
_FAULTY: Final = "Measure it again, or take the row out."


def is_profile(folder: Path) -> bool:
    """Return whether `folder` is a tensor-parallel degree of such a profile (`.../<variant>/tp<N>`)."""
    return (folder / "dense.csv").is_file() and folder.name.startswith("tp") and folder.name[2:].isdigit()


def read_profile(folder: Path, longest: Sequence[float] = ()) -> TableLibrary:
    """Read the profile in `folder`, whose parents are named `<hardware>/<owner>/<model>/<variant>/tp<N>`.

    The layers are turned into operators by the architecture of the model (which must be in the catalogue): products
    with their rows and columns, attention alone and mixed. Experts were measured as a whole block, with their router,
    by how many of them tokens activate; they are taken at the number expected of a trained gate. `longest` gives the
    longest context over the mean in batches of 1, 2, 4, 8, ... sequences: attention then takes as much longer as the
    profile measured for such batches; without it contexts are taken as equal. Raises InputError with file and line
    for what is unsound.
    """
    name = "/".join(folder.parts[-4:-2])
    config = find_model(name).config
    model = architecture_from_config(name, config)
    uneven = read_uneven(folder) if longest else None
    reader = _Reader(folder, model, int(folder.name[2:]), uneven, longest)
    origin = f"LLMServingSim profile {'/'.join(folder.parts[-5:])}"
    if uneven is not None:
        origin += " (contexts of a batch as uneven as was said)"
    inside = frozenset({"router"}) if model.moe.layers else frozenset[str]()
    return TableLibrary.of(reader.tables(), origin, inside)


class _Reader:
    """Turns the files of one folder into tables."""

    def __init__(
        self, folder: Path, model: Architecture, tensor_parallel: int, uneven: Uneven | None, longest: Sequence[float]
    ) -> None:
        self.folder, self.model, self.tp = folder, model, tensor_parallel
        self.uneven, self.longest = uneven, longest
        a = model.attention
        self.heads = a.heads // tensor_parallel
        self.kv_heads = max(1, a.kv_heads // tensor_parallel)
        self.shape = {
            "heads": self.heads,
            "kv_heads": self.kv_heads,
            "head_dim": a.head_dim,
            "window": 0,
        }

    def tables(self) -> list[TableRows]:
        """Return all tables of the folder."""
        tables = [*self._dense(), *self._attention()]
        if (self.folder / "moe.csv").is_file():
            groups = [size for size in _GROUPS if self.model.moe.experts % size == 0]
            tables.append(self._experts("moe.experts", groups))
            if len(groups) > 1:
                # Ranks that share experts bring a device no picks but its own, as in this kernel.
                tables.append(self._experts("moe.experts_wide", groups[1:]))
        return tables

    def _dense(self) -> list[TableRows]:
        rows = _read(self.folder / "dense.csv") + _read(self.folder / "per_sequence.csv", shift=True)
        by_layer: dict[str, list[dict[str, float]]] = {}
        for row in rows:
            by_layer.setdefault(str(row["layer"]), []).append(row)
        model, a = self.model, self.model.attention
        width = model.dense.intermediate // self.tp
        products = {
            "qkv_proj": (self.heads * a.head_dim + self.kv_heads * (a.head_dim + a.v_head_dim), model.hidden),
            "o_proj": (model.hidden, self.heads * a.v_head_dim),
            "gate_up_proj": (model.dense.matrices_in * width, model.hidden),
            "down_proj": (model.hidden, width),
            "lm_head": (model.vocab // self.tp, model.hidden),
        }
        gemms = [
            {"m": row["size"], "n": n, "k": k, "us": row["time_us"], "line": row["line"]}
            for layer, (n, k) in products.items()
            for row in by_layer.get(layer, [])
        ]
        if not gemms:
            raise InputError(
                f"no rows of a matrix product (a layer of {', '.join(products)})",
                place=Place(file=str(self.folder / "dense.csv")),
                remedy="Profile these layers, or take the profile of another model.",
            )
        tables = [self._table("gemm", gemms)]
        streams: Mapping[str, tuple[str, Mapping[str, int]]] = {
            "layernorm": ("norm", {"hidden": model.hidden}),
            "act_fn": ("elementwise", {"width": width, "inputs": model.dense.matrices_in}),
            "embedding": ("embedding", {"hidden": model.hidden}),
            "sampler": ("sample", {"vocab": model.vocab}),
        }
        for layer, (kind, fixed) in streams.items():
            key = "sequences" if kind == "sample" else "tokens"
            found = by_layer.get(layer, [])
            if found:
                rows_of = [{key: r["size"], **fixed, "us": r["time_us"], "line": r["line"]} for r in found]
                tables.append(self._table(kind, rows_of))
        if "rotary_emb" in by_layer:
            tables.append(self._rotary(by_layer["rotary_emb"], by_layer.get("qk_norm", [])))
        return tables

    def _rotary(self, rotary: list[dict[str, float]], norms: list[dict[str, float]]) -> TableRows:
        """The rotary embedding, and the norms of queries and keys where there are such."""
        extra = {row["size"]: row["time_us"] for row in norms}
        rows = [
            {
                **{key: self.shape[key] for key in ("heads", "kv_heads", "head_dim")},
                "qk_norm": int(bool(norms)),
                "tokens": row["size"],
                "us": row["time_us"] + extra.get(row["size"], 0.0),
                "line": row["line"],
            }
            for row in rotary
        ]
        return self._table("rotary", rows)

    def _attention(self) -> list[TableRows]:
        alone, decode, mixed = [], [], []
        for row in _read(self.folder / "attention.csv"):
            new, cached = row["prefill_chunk"], row["kv_prefill"]
            us = row["time_us"] * (1.0 + self._added(int(row["n_decode"]), int(new)))
            fixed = {**self.shape, "us": us, "line": row["line"]}
            prompt = {"tokens": new, "cached": cached}
            seqs = {"batch": row["n_decode"], "context": row["kv_decode"]}
            if new and row["n_decode"]:
                mixed.append({**fixed, **prompt, **seqs})
            elif new:
                alone.append({**fixed, **prompt, "batch": 1})
            elif row["n_decode"]:
                decode.append({**fixed, **seqs})
        tables = {"attention.prefill": alone, "attention.decode": decode, "attention.mixed": mixed}
        return [self._table(kind, rows) for kind, rows in tables.items() if rows]

    def _added(self, seqs: int, chunk: int) -> float:
        """Return the share that uneven contexts add to attention of `seqs` sequences beside a chunk."""
        if self.uneven is None or seqs < 1:
            return 0.0
        known = [float(2**i) for i in range(len(self.longest))]
        longest = float(np.interp(math.log2(seqs), np.log2(known), self.longest))
        return self.uneven.added(seqs, chunk, longest)

    def _experts(self, kind: str, shared_by: Sequence[int]) -> TableRows:
        """Experts of a device that holds all of them, or of the busiest of several groups that share them.

        The kernel of a group has the work that a device with all experts has for as many picks of as many experts.
        """
        moe = self.model.moe
        points: dict[int, list[tuple[float, float, float]]] = {}
        for row in _read(self.folder / "moe.csv"):
            points.setdefault(int(row["tokens"]), []).append((row["activated_experts"], row["time_us"], row["line"]))
        measured = {tokens: sorted(found) for tokens, found in sorted(points.items())}
        rows = []
        for groups in shared_by:
            for tokens, found in measured.items():
                load = busiest_group(moe.experts, moe.top_k, groups, tokens * groups)
                rows.append(
                    {
                        "hidden": self.model.hidden,
                        "intermediate": moe.intermediate,
                        "top_k": moe.top_k,
                        "experts": moe.experts,
                        "experts_tensor": self.tp,
                        "expert_parallel": groups,
                        "tokens": tokens * groups,
                        "us": _block_us(measured, load.picks / moe.top_k, load.distinct),
                        "line": found[0][2],
                    }
                )
        return self._table(kind, rows, file="moe.csv")

    def _table(self, kind: str, rows: Sequence[Mapping[str, float]], file: str = "") -> TableRows:
        default = "attention.csv" if kind.startswith("attention") else "dense.csv"
        columns = {
            name: np.array([int(row[name]) for row in rows], dtype=np.int64)
            for name in rows[0]
            if name not in {"us", "line"}
        }
        seconds = np.array([row["us"] for row in rows]) * _US
        path = str(self.folder / (file or default))
        lines = [int(row["line"]) for row in rows]
        return checked_rows(kind, _DTYPE, columns, seconds, self.folder.name, file=path, lines=lines)


def _block_us(measured: Mapping[int, Sequence[tuple[float, float, float]]], tokens: float, activated: float) -> float:
    """Return the time of a block of experts for tokens that activate so many, between those measured."""
    sizes = list(measured)
    times = [float(np.interp(activated, *zip(*(one[:2] for one in found), strict=True))) for found in measured.values()]
    return float(np.interp(math.log(max(tokens, 1.0)), np.log(sizes), times))


def _read(path: Path, *, shift: bool = False) -> list[dict[str, Any]]:
    """Return the rows of a file as numbers, with their lines; tokens (with `shift`, sequences) also as `size`."""
    columns = _COLUMNS[path.name]
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [name for name in columns if name not in (reader.fieldnames or [])]
            if missing:
                raise InputError(
                    f"columns are missing: {', '.join(missing)}",
                    place=Place(file=str(path), line=1),
                    remedy=f"{path.name} of such a profile has {', '.join(columns)}.",
                )
            rows = [_numbers(path, reader.line_num, row, columns) for row in reader]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"not text: {error.reason}", place=Place(file=str(path))) from None
    _refuse_unsorted(path, rows, columns)
    key = "sequences" if shift else "tokens"
    for row in rows:
        if key in row:
            row["size"] = row[key]
    return rows


def _refuse_unsorted(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Raise InputError where rows of a layer do not ascend: what was joined or cut by hand is often not whole."""
    keys = [name for name in columns if name not in {"layer", "time_us"}]
    before: dict[str, list[int]] = {}
    for row in rows:
        layer, sizes = str(row.get("layer", "")), [int(row[name]) for name in keys]
        if sizes < before.get(layer, sizes):
            raise InputError(
                f"rows{f' of {layer}' if layer else ''} must ascend by {', '.join(keys)}",
                place=Place(file=str(path), line=row["line"]),
                remedy="Sort the rows.",
            )
        before[layer] = sizes


def _numbers(path: Path, line: int, row: Mapping[str, str], columns: Sequence[str]) -> dict[str, Any]:
    numbers: dict[str, Any] = {"line": line}
    convert: Callable[[str], Any]
    for name in columns:
        convert = str if name == "layer" else float if name == "time_us" else int
        try:
            numbers[name] = convert(row[name])
        except (TypeError, ValueError):
            problem = f"{name} must be {'a number' if convert is float else 'a whole number'}, found {row[name]!r}"
            raise InputError(problem, place=Place(file=str(path), line=line), remedy=_FAULTY) from None
        _refuse_unsound(path, line, name, numbers[name])
    return numbers


def _refuse_unsound(path: Path, line: int, name: str, value: float | str) -> None:
    """Raise InputError for what no measurement can be; sums and interpolation of times would hide it."""
    place = Place(file=str(path), line=line)
    if name == "time_us" and not (isinstance(value, float) and 0 < value < math.inf):
        raise InputError(f"a latency must be a positive number, found {value} us", place=place, remedy=_FAULTY)
    if isinstance(value, int) and value < 0:
        raise InputError(f"{name} must not be negative, found {value}", place=place, remedy=_FAULTY)
