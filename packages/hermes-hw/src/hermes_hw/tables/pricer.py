"""Prices operators from tables of measurements, and by the roofline where there are none."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from hermes_core.api.errors import InputError

from hermes_hw.dtypes import DTYPES
from hermes_hw.energy import ACTIVE_POWER_SHARE, Energy
from hermes_hw.graph import StepGraph
from hermes_hw.operators import EXTRAPOLATED, INTERPOLATED, Figures, Operator, Price, Sizes
from hermes_hw.roofline.pricer import RooflinePricer
from hermes_hw.tables.library import LATENT_PRODUCT, Curves, Tables
from hermes_hw.tables.linear import linear_price
from hermes_hw.tables.rows import TableRows
from hermes_hw.tables.vocabulary import KINDS

_ALIASES: Final = {"fp16": "bf16"}
"""Formats whose kernels take the same time as those of another."""
_WIDE: Final = "fp32"
_LATENT_KINDS: Final = {
    "attention.prefill": "attention.latent_prefill",
    "attention.decode": "attention.latent_decode",
}
"""Tables of attention over latents (MLA)."""
_NAMED: Final = {
    "k_up": "latent.keys",
    "v_up": "latent.values",
    "index_decode": "attention.index_decode",
    "index_prefill": "attention.index_prefill",
    "experts_dispatch": "collective.dispatch",
    "experts_combine": "collective.combine",
}
"""Operators with tables of their own, by their names in the graph."""
_ATTENTION: Final = ("attention.decode", "attention.prefill", "attention.mixed")


@dataclass(frozen=True, slots=True)
class WholeAttention:
    """The roofline with the fixed time of an attention call in the call, as kernels are measured. Implements `Pricer`.

    A mixed call does the work of its prompt chunks and of its decoding sequences.
    """

    roofline: RooflinePricer

    def price(self, operator: Operator) -> Price:
        """Return what one run of `operator` costs; see `Pricer.price`."""
        if operator.kind.startswith("collective."):
            return self._collective(operator)
        if operator.kind not in _ATTENTION:
            return self.roofline.price(operator)
        parts = []
        if "pairs2" in operator.sizes:
            parts.append(self.roofline.price(_as_kind(operator, "attention.prefill")))
        if "context" in operator.sizes:
            parts.append(self.roofline.price(_as_kind(operator, "attention.decode")))
        calls = {"calls": np.ones_like(next(iter(operator.sizes.values())), dtype=np.int64)}
        parts.append(self.roofline.price(Operator("", "attention.launch", operator.dtype, operator.activation, calls)))
        return _sum(parts)

    def _collective(self, operator: Operator) -> Price:
        ranks = np.broadcast_to(np.asarray(operator.attributes["ranks"]), operator.sizes["bytes"].shape)
        parts: list[tuple[Any, Price]] = []
        for degree in np.unique(ranks):
            chosen = ranks == degree
            sizes = {"bytes": operator.sizes["bytes"][chosen]}
            one = Operator(
                operator.name,
                operator.kind,
                operator.dtype,
                operator.activation,
                sizes,
                {"ranks": int(degree)},
            )
            parts.append((chosen, self.roofline.price(one)))
        if len(parts) == 1:
            return parts[0][1]
        columns = {}
        for name in Price.__dataclass_fields__:
            column = np.empty(ranks.shape, dtype=getattr(parts[0][1], name).dtype)
            for chosen, price in parts:
                column[chosen] = getattr(price, name)
            columns[name] = column
        return Price(**columns)


@dataclass(frozen=True, slots=True)
class Launch:
    """One call of attention for prompts and decoding sequences: its fixed time counts once, beside the work of both.

    Kernels that take sequences of any lengths (FlashAttention's) put the tiles of all of them into one grid; tables
    hold calls with either, each with that fixed time. It is what the smallest call takes.
    """

    seconds: float
    """Of a step's calls in a layer, whatever they do."""
    fixed_s: Mapping[tuple[str, bool], float]
    """Of a call in the tables, by kind and by whether it has a window."""

    @classmethod
    def of(cls, pricer: "TablePricer", graph: StepGraph, *, one_call: bool) -> "Launch | None":
        """Return what the smallest calls of `graph` take; None where each is priced whole.

        Recurrences of linear attention are priced by what sequences and tokens add, so their launches are here too.
        """
        a, linear, one = graph.model.attention, graph.model.linear.calls, np.ones(1, np.int64)
        kinds = [(windowed, count) for windowed, count in ((False, a.full_layers), (True, a.windowed_layers)) if count]
        prompt = {"batch": one, "tokens": one, "pairs2": 2 * one, "keys": one}
        fixed: dict[tuple[str, bool], float] = {}
        seconds = 0.0
        for windowed, count in kinds if one_call else ():
            calls = (
                ("attention.decode", graph.decode_attention(one, one, windowed=windowed)),
                ("attention.prefill", graph.prefill_attention(prompt, windowed=windowed)),
            )
            fixed |= {(kind, windowed): float(pricer.price(call).seconds[0]) for kind, call in calls}
            seconds += count * min(fixed[kind, windowed] for kind, _ in calls)
        if linear:
            found = linear_price(pricer.tables, graph.linear_attention(one, 0 * one))
            seconds += linear * (pricer.roofline.efficiency.attention_s if found is None else found.launch_s)
        if not seconds:
            return None
        each = seconds / graph.attention_launch().count
        return cls(each, {key: min(value, each) if not linear else value for key, value in fixed.items()})

    def call(self, price: Price) -> Price:
        """Return the price of a step's calls in a layer beside their work; `price` is the roofline's."""
        factor = self.seconds / float(price.seconds[0]) if price.seconds[0] > 0 else 0.0
        scaled = _scaled(price, factor)
        return dataclasses.replace(scaled, source=np.full_like(price.source, INTERPOLATED))

    def within(self, operator: Operator, price: Price) -> Price:
        """Return the price of a call without what it takes at the least."""
        fixed_s = self.fixed_s.get((operator.kind, bool(operator.attributes.get("window"))))
        if fixed_s is None:
            return price
        left = np.maximum(price.seconds - fixed_s, 0.0)
        return dataclasses.replace(price, seconds=left, joules=price.joules * left / price.seconds)


@dataclass(frozen=True)
class TablePricer:
    """Prices operators from `tables` where they cover them, else by the roofline. Implements `Pricer`.

    With `refuse`, an operator of a covered kind outside the measured grid is an error instead of an extrapolation.
    """

    tables: Tables
    roofline: RooflinePricer
    refuse: bool = False
    inside: frozenset[str] = frozenset()
    """Names of operators whose time is in that of others: they cost nothing on top."""
    launch: Launch | None = None
    """Where prompts and decoding sequences are one call of attention: what that call takes at the least."""
    _curves: dict[tuple[str, str], Curves | None] = field(default_factory=dict)

    @property
    def base(self) -> WholeAttention:
        """What measurements are compared with."""
        return WholeAttention(self.roofline)

    def covers(self, kind: str, dtype: str) -> bool:
        """Return whether there are measurements of a kind in a number format."""
        return self.curves(kind, dtype) is not None

    def curves(self, kind: str, dtype: str) -> Curves | None:
        """Return the curves of a kind in a number format; None when there are none."""
        key = (kind, dtype)
        if key not in self._curves:
            rows = self._rows(kind, dtype)
            self._curves[key] = None if rows is None else Curves(rows, self.base)
        return self._curves[key]

    def _rows(self, kind: str, dtype: str) -> TableRows | None:
        """Return measurements in a format, in one of equal speed, or in that in which the device multiplies it."""
        if kind not in KINDS:
            return None
        for name in (dtype, _ALIASES.get(dtype, dtype), self.roofline.device.compute_dtype(DTYPES[dtype])):
            rows = self.tables.rows(kind, name) if name in DTYPES else None
            if rows is not None:
                return rows
        return None

    def price(self, operator: Operator) -> Price:
        """Return what one run of `operator` costs; see `Pricer.price`."""
        if operator.kind == "attention.launch":
            # In the calls, which are priced whole, unless they are one.
            price = self.roofline.price(operator)
            return _scaled(price, 0.0) if self.launch is None else self.launch.call(price)
        if operator.name in self.inside:
            return _scaled(self.roofline.price(operator), 0.0)
        if operator.kind == "attention.linear":
            return self._linear(operator)
        curves = self._curves_of(operator)
        if curves is None:
            return self.base.price(operator)
        operator = _as_measured(operator, curves.rows.dtype)
        base = self.base.price(operator)
        ratio, source = curves.ratio(operator, table_sizes(operator, curves.rows.kind))
        if self.refuse and (source == EXTRAPOLATED).any():
            raise self._outside(operator, source, curves)
        price = self._measured(base, ratio, source)
        return price if self.launch is None else self.launch.within(operator, price)

    def _curves_of(self, operator: Operator) -> Curves | None:
        """Return the curves that price `operator`: those of what it is called, else those of its kind."""
        a, dtype = operator.attributes, operator.dtype.name
        named = _NAMED.get(operator.name)
        if operator.kind == "moe.experts" and min(a["data_parallel"], a["expert_parallel"]) > 1:
            named = "moe.experts_wide"
        curves = self.curves(named, dtype) if named else None
        if curves is not None or operator.name in {"index_decode", "index_prefill"}:
            # Scores of an indexer are no attention: no values, one key head.
            return curves
        latent = _LATENT_KINDS.get(operator.kind) if a.get("latent") else None
        return self.curves(latent or operator.kind, dtype)

    def _linear(self, operator: Operator) -> Price:
        base, found = self.roofline.price(operator), linear_price(self.tables, operator)
        if found is None:
            return base
        ratio = np.where(base.seconds > 0, found.seconds(operator) / np.where(base.seconds > 0, base.seconds, 1.0), 1.0)
        return self._measured(base, ratio, np.full(base.seconds.shape, found.source))

    def _measured(self, base: Price, ratio: Figures, source: Sizes) -> Price:
        seconds = base.seconds * ratio
        dynamic_w = Energy.of(self.roofline.device).dynamic_w
        # The work's energy stays what it was; only the time over which the device is active changes.
        work = base.joules - dynamic_w * ACTIVE_POWER_SHARE * base.seconds
        joules = np.minimum(dynamic_w * ACTIVE_POWER_SHARE * seconds + work, dynamic_w * seconds)
        return Price(
            seconds,
            joules,
            base.flop,
            base.bytes,
            base.compute_s,
            base.memory_s,
            base.network_s,
            base.fixed_s,
            source.astype(np.int8),
        )

    def _outside(self, operator: Operator, source: Sizes, curves: Curves) -> InputError:
        place = int(np.argmax(source == EXTRAPOLATED))
        sizes = table_sizes(operator, curves.rows.kind)
        spec = KINDS[curves.rows.kind]
        found = ", ".join(
            f"{name} {float(np.broadcast_to(np.asarray(sizes[name]), source.shape)[place]):g}" for name in spec.columns
        )
        ranges = ", ".join(
            f"{name} {int(curves.rows.columns[name].min())} to {int(curves.rows.columns[name].max())}"
            for name in spec.columns
        )
        return InputError(
            f"operator {operator.name}: {found} is outside what was measured ({ranges})",
            remedy="Measure it, lower the engine's limits, or let it be extrapolated with outside: label.",
        )


def table_sizes(operator: Operator, table: str) -> dict[str, Figures | Sizes | int]:
    """Return the columns of a table of the kind `table` at which `operator` stands."""
    a, s = operator.attributes, operator.sizes
    kind = operator.kind
    if table in LATENT_PRODUCT:
        columns, inner = LATENT_PRODUCT[table]
        return {"heads": max(a["n"] * a["k"] // (columns * inner), 1), "tokens": s["m"]}
    if kind == "gemm":
        return {"n": a["n"], "k": a["k"], "m": s["m"]}
    if kind.startswith("attention."):
        return _attention_sizes(a, s)
    if kind == "moe.experts":
        return {
            "hidden": a["hidden"],
            "intermediate": a["intermediate"] * a["experts_tensor"],
            "top_k": a["top_k"],
            "experts": a["experts"],
            "experts_tensor": a["experts_tensor"],
            "expert_parallel": a["expert_parallel"],
            "tokens": s["tokens"] * a["data_parallel"],
        }
    if kind.startswith("collective."):
        return {"ranks": a["ranks"], "bytes": s["bytes"]}
    return {**a, **s}


def _attention_sizes(a: Mapping[str, Any], s: Mapping[str, Sizes]) -> dict[str, Figures | Sizes | int]:
    columns: dict[str, Any] = {name: a[name] for name in ("heads", "kv_heads", "head_dim", "window", "latent")}
    batch = np.maximum(s["batch"], 1)
    if "context" in s:
        columns |= {"batch": s["batch"], "context": s["context"] / batch}
    if "tokens" in s:
        each = s["tokens"] / batch if "context" not in s else s["tokens"] * 1.0
        keys = s["keys"] / batch if "context" not in s else s["keys"] * 1.0
        columns |= {"tokens": each, "cached": np.maximum(keys - each, 0.0), "batch": s["batch"]}
    return columns


def _as_measured(operator: Operator, dtype: str) -> Operator:
    """Return `operator` in the format of the table: what is stored in another is widened to it."""
    if operator.dtype.name in {dtype, *(name for name, other in _ALIASES.items() if other == dtype)}:
        return operator
    activation = DTYPES[dtype] if dtype == _WIDE else operator.activation
    return Operator(
        operator.name, operator.kind, DTYPES[dtype], activation, operator.sizes, operator.attributes, operator.count
    )


def _as_kind(operator: Operator, kind: str) -> Operator:
    return Operator(
        operator.name, kind, operator.dtype, operator.activation, operator.sizes, operator.attributes, operator.count
    )


def _sum(prices: list[Price]) -> Price:
    columns = {name: sum(getattr(price, name) for price in prices) for name in Price.__dataclass_fields__}
    return Price(**{**columns, "source": prices[0].source})


def _scaled(price: Price, factor: float) -> Price:
    columns = {name: getattr(price, name) * factor for name in Price.__dataclass_fields__ if name != "source"}
    return Price(**columns, source=price.source)
