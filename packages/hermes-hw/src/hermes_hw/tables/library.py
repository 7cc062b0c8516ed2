"""A collection of tables, and the curves that it gives for an operator."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Protocol

import numpy as np

from hermes_hw.dtypes import DTYPES, DType
from hermes_hw.gating import activated_experts
from hermes_hw.operators import EXTRAPOLATED, Figures, Operator, Pricer, Sizes
from hermes_hw.tables.grid import Grid
from hermes_hw.tables.rows import TableRows
from hermes_hw.tables.vocabulary import KINDS


class Tables(Protocol):
    """Where tables come from: files that were read, or a package that reads when asked."""

    @property
    def origin(self) -> str:
        """What they are called in notes."""
        ...

    def rows(self, kind: str, dtype: str) -> TableRows | None:
        """Return the measurements of a kind in a number format; None when there are none."""
        ...


@dataclass(frozen=True)
class TableLibrary:
    """Tables held in memory. Implements `Tables`. Two tables of one kind and format are joined, the first wins."""

    tables: Mapping[tuple[str, str], TableRows]
    origin: str
    inside: frozenset[str] = frozenset()
    """Names of operators whose time is in that of others here: they cost nothing on top."""

    @classmethod
    def of(cls, tables: Iterable[TableRows], origin: str, inside: frozenset[str] = frozenset()) -> "TableLibrary":
        """Return the library of `tables`."""
        return cls({(table.kind, table.dtype): table for table in tables}, origin, inside)

    def rows(self, kind: str, dtype: str) -> TableRows | None:
        """Return the measurements of a kind in a number format; None when there are none."""
        return self.tables.get((kind, dtype))


@dataclass(frozen=True)
class Curves:
    """Ratios of measured to analytical price of one kind and format, by shape.

    What varies smoothly is how far measurements are from the roofline, not the times themselves: so ratios are
    interpolated, and outside the grid the roofline at least carries the shape.
    """

    rows: TableRows
    base: Pricer
    _grids: dict[tuple[int, ...], Grid] = field(default_factory=dict)

    def ratio(self, operator: Operator, sizes: Mapping[str, Figures | Sizes | int]) -> tuple[Figures, Sizes]:
        """Return measured over analytical seconds, and sources, for `operator` at `sizes` (the columns of its kind)."""
        spec = KINDS[self.rows.kind]
        wanted = tuple(int(np.asarray(sizes[name]).flat[0]) for name in spec.shape)
        shape = self._nearest(wanted)
        value, source = self._grid(shape, operator).lookup({name: sizes[name] for name in spec.axes})
        if shape != wanted:
            source = np.full_like(source, EXTRAPOLATED)
        return np.asarray(np.exp(value)), np.asarray(source)

    def _nearest(self, wanted: tuple[int, ...]) -> tuple[int, ...]:
        shapes = self.shapes
        if wanted in shapes:
            return wanted
        point = np.log1p(np.asarray(wanted, dtype=np.float64))
        distance = [float(np.abs(np.log1p(np.asarray(shape, dtype=np.float64)) - point).sum()) for shape in shapes]
        return shapes[int(np.argmin(distance))]

    @cached_property
    def shapes(self) -> list[tuple[int, ...]]:
        """Return the measured shapes in ascending order."""
        names = KINDS[self.rows.kind].shape
        if not names:
            return [()]
        keys = np.unique(np.stack([self.rows.columns[name] for name in names], axis=1), axis=0)
        return [tuple(int(value) for value in key) for key in keys]

    def _grid(self, shape: tuple[int, ...], operator: Operator) -> Grid:
        grid = self._grids.get(shape)
        if grid is None:
            grid = self._grids[shape] = self._fit(shape, operator)
        return grid

    def _fit(self, shape: tuple[int, ...], operator: Operator) -> Grid:
        spec, rows = KINDS[self.rows.kind], self.rows
        chosen = np.ones(len(rows), bool)
        for name, value in zip(spec.shape, shape, strict=True):
            chosen &= rows.columns[name] == value
        columns = {name: rows.columns[name][chosen] for name in spec.columns}
        analytical = self.base.price(operator_at(rows.kind, rows.dtype, operator.activation, columns)).seconds
        return Grid.of(spec.axes, columns, np.log(rows.seconds[chosen] / analytical))


_LATENT: Final = {"attention.latent_prefill": "attention.prefill", "attention.latent_decode": "attention.decode"}
"""Kinds of tables whose operators are of a broader kind."""
_BROADER: Final = {
    "moe.experts_wide": "moe.experts",
    "collective.dispatch": "collective.all_to_all",
    "collective.combine": "collective.all_to_all",
}
"""Kinds of tables that hold one way of what operators of a broader kind do."""
LATENT_PRODUCT: Final = {"latent.keys": (512, 128), "latent.values": (128, 512)}
"""Columns of a head and inner size of the products of latent attention that go head by head."""
_LATENT_HEAD: Final = {"head_dim": 128, "v_head_dim": 128, "rope_dim": 64}
"""Widths of a head in attention over latents: those of all models that have it (DeepSeek-V2, arXiv:2405.04434)."""


def operator_at(kind: str, dtype: str, activation: DType, columns: Mapping[str, Sizes]) -> Operator:
    """Return the operator whose sizes are the columns of a table."""
    c = {key: np.asarray(value) for key, value in columns.items()}
    one = np.ones(len(next(iter(c.values()))), np.int64)
    attributes: dict[str, Any] = {}
    sent = kind == "moe.experts_wide"
    kind = _BROADER.get(kind, kind)
    if kind == "gemm":
        sizes = {"m": c["m"]}
        attributes = {"n": c["n"], "k": c["k"]}
    elif kind in LATENT_PRODUCT:
        sizes = {"m": c["tokens"]}
        columns_of, inner = LATENT_PRODUCT[kind]
        kind, attributes = "gemm", {"n": columns_of * c["heads"], "k": inner * one}
    elif kind.startswith("attention.index_"):
        plain = {**c, "kv_heads": one, "window": 0 * one}
        kind = f"attention.{kind.removeprefix('attention.index_')}"
        sizes, attributes = _attention_at(kind, plain, one)
        attributes["v_head_dim"] = 0 * one
    elif kind.startswith(("attention.linear_", "attention.kda_")):
        kind, sizes = "attention.linear", {"batch": c.get("batch", 0 * one), "tokens": c.get("tokens", 0 * one)}
        attributes = {name: c[name] for name in ("value_heads", "key_dim", "value_dim")}
    elif kind in _LATENT:
        kind = _LATENT[kind]
        sizes, attributes = _latent_at(c, one)
    elif kind.startswith("attention."):
        sizes, attributes = _attention_at(kind, c, one)
    elif kind == "moe.experts":
        sizes, attributes = _experts_at(c)
        # Of several ranks, or of one with all tokens there.
        attributes["data_parallel"] = 2 if sent else 1
    elif kind.startswith(("collective.", "transfer.")):
        sizes = {"bytes": c["bytes"]}
        attributes = {"ranks": c["ranks"]} if "ranks" in c else {}
    else:
        key = "sequences" if kind == "sample" else "tokens"
        sizes = {key: c[key]}
        attributes = {name: value for name, value in c.items() if name != key}
        if kind == "rotary":
            attributes["hidden"] = c["heads"] * c["head_dim"]
    # Who computes in fp32 keeps activations in it.
    activation = DTYPES[dtype] if dtype == "fp32" else activation
    return Operator(kind, kind, DTYPES[dtype], activation, sizes, attributes)


def _latent_at(c: Mapping[str, Sizes], one: Sizes) -> tuple[dict[str, Sizes], dict[str, Any]]:
    plain = {**c, "head_dim": _LATENT_HEAD["head_dim"] * one, "kv_heads": one, "window": 0 * one}
    sizes, attributes = _attention_at("attention.decode" if "context" in c else "attention.prefill", plain, one)
    # Rows of one curve are of one shape.
    return sizes, {
        **attributes,
        **{name: width * one for name, width in _LATENT_HEAD.items()},
        "latent": c["latent"][0],
    }


def _attention_at(kind: str, c: Mapping[str, Sizes], one: Sizes) -> tuple[dict[str, Sizes], dict[str, Any]]:
    attributes: dict[str, Any] = {name: c[name] for name in ("heads", "kv_heads", "head_dim")}
    attributes |= {"v_head_dim": c["head_dim"], "rope_dim": 0 * one, "latent": 0, "window": c["window"]}
    window = np.where(c["window"] > 0, c["window"], np.iinfo(np.int64).max)
    sizes: dict[str, Sizes] = {}
    if "context" in c:
        sizes = {"batch": c["batch"], "context": c["batch"] * np.minimum(c["context"], window)}
    if "tokens" in c:
        x, cached = c["tokens"], c["cached"]
        batch = c["batch"] if kind == "attention.prefill" else one
        # Queries beyond the window see `window` keys, the first ones fewer.
        short = np.clip(window - cached, 0, x)
        pairs2 = short * (2 * cached + short + 1) + np.where(
            x > short, 2 * (x - short) * np.minimum(window, 1 << 40), 0
        )
        keys = np.minimum(x + cached, np.where(window < 1 << 40, window, 1 << 40) + x)
        sizes |= {"batch": batch, "tokens": batch * x, "pairs2": batch * pairs2, "keys": batch * keys}
    return sizes, attributes


def _experts_at(c: Mapping[str, Sizes]) -> tuple[dict[str, Any], dict[str, Any]]:
    picks = c["tokens"] * c["top_k"] / c["expert_parallel"]
    distinct = np.zeros(len(picks))
    for experts, top_k in np.unique(np.stack([c["experts"], c["top_k"]], axis=1), axis=0).tolist():
        same = (c["experts"] == experts) & (c["top_k"] == top_k)
        distinct[same] = activated_experts(experts, top_k, c["tokens"][same])
    sizes: dict[str, Any] = {
        "tokens": c["tokens"],
        "picks": picks,
        "distinct": distinct / c["expert_parallel"],
    }
    attributes = {
        "hidden": c["hidden"],
        "intermediate": -(-c["intermediate"] // c["experts_tensor"]),
        "inputs": 2 * np.ones(len(c["tokens"]), np.int64),
        "experts": c["experts"],
        "top_k": c["top_k"],
    }
    return sizes, attributes
