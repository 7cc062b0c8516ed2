"""The hardware models of this package as services: what `hermes hw serve` serves."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from hermes_core.api.errors import InputError
from hermes_core.api.hardware import Deployment, HardwareModel, HostOverhead, StepModel, StepShape
from hermes_proto.hw.v1 import hardware_model_pb2 as pb

from hermes_hw.client.questions import Dims, OperatorKey
from hermes_hw.devices import Device, find_device
from hermes_hw.dtypes import DTYPES, dtype_named
from hermes_hw.efficiency import Efficiency, efficiency_of
from hermes_hw.operators import Operator, Pricer
from hermes_hw.roofline import RooflineModel
from hermes_hw.roofline.pricer import RooflinePricer
from hermes_hw.server.base import Column, ConfigError, Description, HardwareService, Prices, Steps
from hermes_hw.tables.library import Tables
from hermes_hw.tables.model import AutoModel, MeasuredModel, SiliconModel, StackedTables, open_tables
from hermes_hw.tables.pricer import TablePricer, WholeAttention
from hermes_hw.tables.silicon import SiliconTables

MODELS: Final[Mapping[str, Callable[[], HardwareModel]]] = {
    "roofline": RooflineModel,
    "measured": MeasuredModel,
    "silicon": SiliconModel,
    "auto": AutoModel,
}
_VERSION: Final = "1"
_KINDS: Final = (
    *("gemm", "attention.decode", "attention.prefill", "attention.linear", "moe.experts", "norm", "rotary"),
    *("elementwise", "embedding", "sample", "collective.all_reduce", "collective.all_gather"),
    *("collective.reduce_scatter", "collective.all_to_all", "transfer.p2p"),
)
_TABLE_SIZES: Final = np.unique(np.rint(np.exp2(np.arange(0, 13.5, 0.5))).astype(np.int64))
_WIDE_SIZES: Final = np.unique(np.rint(np.exp2(np.arange(10, 28.5, 1))).astype(np.int64))
_SCHEMA: Final = {
    "type": "object",
    "properties": {"efficiency": {"type": "object", "additionalProperties": {"type": "number", "minimum": 0}}},
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class _Bound:
    """A session: who prices operators, and the compiled steps of what is served, if anything is."""

    pricer: Pricer
    steps: StepModel | None


class BuiltinService(HardwareService):
    """Serves a device of the catalogue by one of this package's models.

    Steps are priced where the session says what is served (`OpenSessionRequest.served_model`). Raises InputError for an
    unknown device or model, and for tables that cannot be used.
    """

    concurrent = True

    def __init__(self, device: str = "h100-sxm", model: str = "roofline", tables: Path | None = None) -> None:
        if model not in MODELS:
            raise InputError(f"there is no hardware model {model!r} to serve", remedy=f"Known: {', '.join(MODELS)}.")
        if tables is None and model == "measured":
            raise InputError("the hardware model measured needs tables", remedy="Give --tables PATH.")
        self._device = find_device(device)
        self._model = model
        self._tables = tables
        self._layers = self._sources()

    def describe(self) -> Description:
        """Return who this is."""
        device = self._device
        known = [name for name in DTYPES if _usable(device, name)]
        return Description(
            vendor="HERMES",
            model=f"{self._model} {device.name}",
            version=_VERSION,
            operators=dict.fromkeys(_KINDS, known),
            steps=True,
            tables=True,
            energy=True,
            device=device.name,
            memory_bytes=device.memory_bytes,
            memory_bandwidth_bytes_per_s=device.memory_bandwidth_bytes_per_s,
            dtypes=sorted(device.flops),
            idle_power_w=device.idle_w,
            peak_power_w=device.tdp_w,
            config_schema=_SCHEMA,
            max_sessions=64,
        )

    def open(self, config: Mapping[str, Any], model: pb.ServedModel, seed: int) -> _Bound:  # noqa: ARG002 - pure
        """Bind constants of efficiency, and the model that is served."""
        try:
            efficiency = efficiency_of(self._device.family, config.get("efficiency", {}))
            return _Bound(self._pricer(efficiency), self._compiled(config, model))
        except InputError as error:
            raise ConfigError("", str(error)) from error

    def price(self, operator: OperatorKey, sizes: Mapping[str, Column], session: _Bound) -> Prices:
        """Price operators."""
        price = session.pricer.price(operator_of(operator, sizes))
        return Prices(price.seconds, price.joules, price.source)

    def price_steps(self, steps: Steps, session: _Bound) -> Prices:
        """Price whole steps."""
        if session.steps is None:
            count = len(steps)
            why = "the session does not say what is served"
            return Prices(np.ones(count), np.zeros(count), refused=dict.fromkeys(range(count), why))
        ends = steps.offsets.tolist()
        new, before = steps.new_tokens.tolist(), steps.context_tokens.tolist()
        prices = []
        for start, end in pairwise(ends):
            prices.append(session.steps.step(_shape(new[start:end], before[start:end], session.steps.window)))
        return Prices(np.array([fs for fs, _ in prices]) * 1e-15, np.array([nj for _, nj in prices]) * 1e-9)

    def table(self, operator: OperatorKey, session: _Bound) -> Iterator[tuple[Dims, Prices]]:
        """Yield a grid of round sizes."""
        wide = operator.dimensions == ("bytes",)
        axes = [_WIDE_SIZES if wide else _TABLE_SIZES for _ in operator.dimensions]
        if operator.kind == "attention.prefill":
            axes = [_TABLE_SIZES[:8:2], _TABLE_SIZES, np.concatenate([[0], _TABLE_SIZES[8:]])]
        grid = np.meshgrid(*axes, indexing="ij")
        dims = np.stack([axis.ravel() for axis in grid], axis=1)
        yield dims, self.price(operator, {name: dims[:, i] for i, name in enumerate(operator.dimensions)}, session)

    def _sources(self) -> list[Tables]:
        layers: list[Tables] = [open_tables(self._tables)] if self._tables is not None else []
        if self._model == "silicon":
            layers.append(SiliconTables.of(self._device.name, "vllm", "power_law_1.01"))
        return layers

    def _pricer(self, efficiency: Efficiency) -> Pricer:
        roofline = RooflinePricer(self._device, efficiency)
        if not self._layers:
            return WholeAttention(roofline)
        tables = StackedTables(self._layers)
        return TablePricer(tables, roofline, inside=tables.inside)

    def _compiled(self, config: Mapping[str, Any], model: pb.ServedModel) -> StepModel | None:
        if not model.model:
            return None
        options: dict[str, Any] = {"efficiency": config["efficiency"]} if "efficiency" in config else {}
        if self._tables is not None:
            options["tables"] = str(self._tables)
        deployment = Deployment(
            model=model.model,
            device=self._device.name,
            model_config=json.loads(model.model_config_json) if model.model_config_json else None,
            tensor_parallel=max(model.tensor_parallel, 1),
            pipeline_parallel=max(model.pipeline_parallel, 1),
            data_parallel=max(model.data_parallel, 1),
            expert_parallel=max(model.expert_parallel, 1),
            weight_dtype=model.weight_dtype or None,
            kv_dtype=model.kv_dtype or None,
            max_batched_tokens=model.max_batched_tokens or 8192,
            max_seqs=model.max_seqs or 1024,
            block_size_tokens=model.block_size_tokens or 16,
            host=HostOverhead(),
            options=options,
        )
        return MODELS[self._model]().compile(deployment).steps


def operator_of(key: OperatorKey, sizes: Mapping[str, Column]) -> Operator:
    """Return the operator that a question is about, as the pricers of this package take it."""
    attributes: dict[str, Any] = key.fixed
    columns: dict[str, Any] = dict(sizes)
    if key.kind == "attention.decode":
        columns = {"batch": sizes["batch"], "context": sizes["batch"] * sizes["context"]}
    elif key.kind == "attention.prefill":
        columns = _prompt(sizes, int(attributes.get("window", 0)))
    elif key.kind == "moe.experts":
        columns, attributes = _experts(sizes["tokens"], attributes)
    if key.kind.startswith("attention.") and key.kind != "attention.linear":
        heads = {"v_head_dim": attributes.get("head_dim", 0), "rope_dim": 0, "latent": 0, "window": 0}
        attributes = {**heads, **attributes}
    activation = dtype_named(key.activation, "activation_dtype")
    return Operator(key.kind, key.kind, dtype_named(key.dtype), activation, columns, attributes)


def _prompt(sizes: Mapping[str, Column], window: int) -> dict[str, Column]:
    batch, new, cached = sizes["batch"], sizes["tokens"], sizes["cached"]
    pairs2, keys = new * (2 * cached + new + 1), new + cached
    if window:
        # The first queries see all keys so far, the others the last `window`.
        free = np.clip(window - cached, 0, new)
        pairs2 = free * (2 * cached + free + 1) + 2 * (new - free) * window
        keys = np.minimum(keys, new + window)
    return {"batch": batch, "tokens": batch * new, "pairs2": batch * pairs2, "keys": batch * keys}


def _experts(tokens: Column, attributes: Mapping[str, int]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return sizes and attributes of routed experts that `tokens` of all ranks pick evenly."""
    experts, top_k, parallel = attributes["experts"], attributes["top_k"], attributes["expert_parallel"]
    split = attributes.get("experts_tensor", 1)
    left = np.power(1.0 - top_k / experts, tokens)
    sizes = {
        "tokens": tokens / attributes.get("data_parallel", 1),
        "picks": tokens * top_k / parallel,
        "distinct": experts * (1.0 - left) / parallel,
    }
    return sizes, {**attributes, "intermediate": attributes["intermediate"] // split}


def _shape(new: list[int], before: list[int], window: int) -> StepShape:
    shape = StepShape()
    for tokens, cached in zip(new, before, strict=True):
        if tokens == 1:
            shape.decode_seqs += 1
            shape.decode_context += cached
            shape.decode_windowed += min(cached, window) if window else cached
            continue
        pairs2 = tokens * (2 * cached + tokens + 1)
        shape.prefill_seqs += 1
        shape.prefill_tokens += tokens
        shape.prefill_pairs2 += pairs2
        free = min(max(window - cached, 0), tokens)
        shape.prefill_windowed_pairs2 += (
            free * (2 * cached + free + 1) + 2 * (tokens - free) * window if window else pairs2
        )
        shape.prefill_context += cached + tokens
    shape.sampled_seqs = len(new)
    return shape


def _usable(device: Device, name: str) -> bool:
    try:
        device.compute_dtype(DTYPES[name])
    except InputError:
        return False
    return True


__all__ = ["MODELS", "BuiltinService", "operator_of"]
