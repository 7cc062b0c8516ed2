"""The roofline hardware model: datasheet figures times efficiency curves, operator by operator."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from typing import Any

from hermes_core.api.errors import InputError, UnsupportedError
from hermes_core.api.hardware import CompiledDeployment, Deployment, OperatorPrice, StepShape
from hermes_core.api.streams import stream

from hermes_hw.devices import Device, find_device
from hermes_hw.dtypes import DType, dtype_named
from hermes_hw.lookup import find_name, normalised
from hermes_hw.memory import check_tensor_parallel, kv_transfer_bytes_per_token, plan_memory
from hermes_hw.models.architecture import Architecture
from hermes_hw.models.catalogue import find_model
from hermes_hw.models.hf_config import architecture_from_config
from hermes_hw.models.quantization import uniform_quantization
from hermes_hw.roofline.cost import SOURCE, OperatorCost
from hermes_hw.roofline.efficiency import efficiency_of
from hermes_hw.roofline.graph import StepGraph
from hermes_hw.roofline.step_model import RooflineStepModel

_CHECK_POINTS = 16
_OPTIONS = ("efficiency",)


class RooflineModel:
    """Prices any model on any device from its datasheet. Implements `hermes_core.api.HardwareModel`.

    Option `efficiency`: a mapping that overrides constants of `hermes_hw.roofline.efficiency.Efficiency`.
    """

    def compile(self, deployment: Deployment) -> CompiledDeployment:
        """Compile `deployment`; see `HardwareModel.compile`.

        Raises InputError for names, formats, degrees and options that cannot be, DoesNotFitError when the weights
        leave no room for KV cache, UnsupportedError for pipeline, data and expert parallelism.
        """
        plan = _resolve(deployment)
        graph, device, model = plan.graph, plan.graph.device, plan.graph.model
        memory = plan_memory(
            model,
            device,
            graph.kv,
            tensor_parallel=deployment.tensor_parallel,
            max_tokens=deployment.max_batched_tokens,
            max_seqs=deployment.max_seqs,
            utilization=deployment.memory_utilization,
            block_size_tokens=deployment.block_size_tokens,
        )
        steps = RooflineStepModel(graph, deployment)
        return CompiledDeployment(
            deployment=deployment,
            steps=steps,
            memory=memory,
            kv_transfer_bytes_per_token=kv_transfer_bytes_per_token(model, graph.kv),
            max_model_len=model.max_model_len,
            idle_power_w=device.idle_w * deployment.devices,
            price_usd_per_h=device.price_usd_per_h * deployment.devices,
            fingerprint=_fingerprint(deployment, graph),
            compile_error=_compile_error(plan, steps, deployment),
            source_share={SOURCE: 1.0},
            notes=plan.notes,
        )

    def breakdown(self, deployment: Deployment, shape: StepShape) -> Sequence[OperatorPrice]:
        """Price one step operator by operator; see `HardwareModel.breakdown`.

        The durations sum to the step's; flop, bytes and bound are of one device.
        """
        plan = _resolve(deployment)
        return _breakdown(plan.graph, RooflineStepModel(plan.graph, deployment), shape)


@dataclass(frozen=True, slots=True)
class _Plan:
    """A deployment with its names resolved."""

    graph: StepGraph
    notes: tuple[str, ...]


def _resolve(deployment: Deployment) -> _Plan:
    _check_degrees(deployment)
    for key in deployment.options:
        find_name(str(key), {normalised(name): name for name in _OPTIONS}, "option of the hardware model", _OPTIONS)
    device = find_device(deployment.device, deployment.device_spec)
    config = deployment.model_config
    name = deployment.model
    if config is None:
        entry = find_model(name)
        name, config = entry.name, entry.config
    model = architecture_from_config(name, config)
    if deployment.weight_dtype is not None:
        weights = dtype_named(deployment.weight_dtype, "weight_dtype")
        model = dataclasses.replace(model, quantization=uniform_quantization(weights, model.activation))
    check_tensor_parallel(model, device, deployment.tensor_parallel)
    kv = (
        model.activation if deployment.kv_dtype in {None, "auto"} else dtype_named(str(deployment.kv_dtype), "kv_dtype")
    )
    overrides = deployment.options.get("efficiency", {})
    if not isinstance(overrides, Mapping):
        raise InputError(f"options.efficiency must be a mapping of constants, found {overrides!r}")
    graph = StepGraph(model, device, efficiency_of(device.family, overrides), deployment.tensor_parallel, kv)
    return _Plan(graph, tuple(_notes(model, device)))


def _check_degrees(deployment: Deployment) -> None:
    for name in ("pipeline_parallel", "data_parallel", "expert_parallel"):
        degree = getattr(deployment, name)
        if degree != 1:
            raise UnsupportedError(f"{name} {degree} is not priced yet", remedy="Use tensor_parallel, or more clients.")
    for name in ("max_batched_tokens", "max_seqs", "block_size_tokens"):
        if getattr(deployment, name) < 1:
            raise InputError(f"{name} must be at least 1, found {getattr(deployment, name)}")
    if not 0 < deployment.memory_utilization <= 1:
        raise InputError(f"memory_utilization must be above 0 and at most 1, found {deployment.memory_utilization}")
    sizes = deployment.graph_sizes
    if any(size < 1 for size in sizes) or any(b <= a for a, b in pairwise(sizes)):
        raise InputError(f"graph_sizes must be positive and ascending, found {list(sizes)}")


def _notes(model: Architecture, device: Device) -> list[str]:
    notes = list(model.assumptions)
    q = model.quantization
    formats: dict[str, DType] = {item.name: item for item in (q.attention, q.dense, q.experts, q.shared_experts)}
    for item in formats.values():
        used = device.compute_dtype(item)
        if used != item.compute:
            notes.append(f"{device.name} has no {item.compute} units: {item.name} weights are multiplied in {used}.")
    if model.attention.windowed_layers:
        notes.append("KV memory counts windowed layers in full: capacity is a lower bound.")
    return notes


def _breakdown(graph: StepGraph, steps: RooflineStepModel, shape: StepShape) -> list[OperatorPrice]:
    tokens = shape.decode_seqs + shape.prefill_tokens
    seqs = shape.decode_seqs + shape.prefill_seqs
    costs = [*graph.token_operators(steps.padded(tokens)), graph.attention_launch()]
    costs.extend(_decode_attention(graph, shape))
    if shape.prefill_tokens:
        costs.extend(graph.prefill_attention(shape))
    costs.extend([*graph.sampled_operators(shape.sampled_seqs), graph.step_inputs(seqs)])
    prices = [cost.price() for cost in costs]
    device_s = sum(price.duration_s for price in prices)
    floor_fs, add_fs = steps.surroundings(tokens, seqs)
    waiting_s = max(floor_fs * 1e-15 - device_s, 0.0) + add_fs * 1e-15
    if waiting_s > 0:
        prices.append(OperatorPrice("host", "host.overhead", waiting_s, 0.0, 0.0, "latency", SOURCE))
    return prices


def _decode_attention(graph: StepGraph, shape: StepShape) -> list[OperatorCost]:
    a = graph.model.attention
    operators = []
    if shape.decode_seqs and a.full_layers:
        operators.append(graph.decode_attention(shape.decode_context, a.full_layers, "attention_decode"))
    if shape.decode_seqs and a.windowed_layers:
        operators.append(graph.decode_attention(shape.decode_windowed, a.windowed_layers, "attention_decode_window"))
    return operators


def _compile_error(plan: _Plan, steps: RooflineStepModel, deployment: Deployment) -> float:
    """Return the worst relative difference between compiled and direct prices at random shapes."""
    draws = stream(0, "hermes_hw.roofline.check")
    window = plan.graph.model.attention.window
    worst = 0.0
    for _ in range(_CHECK_POINTS):
        seqs = int(draws.integers(1, deployment.max_seqs + 1))
        each = int(draws.integers(1, min(plan.graph.model.max_model_len, 32_768) + 1))
        chunk = int(draws.integers(0, 2)) * int(draws.integers(1, deployment.max_batched_tokens + 1))
        shape = StepShape(
            decode_seqs=seqs,
            decode_context=seqs * each,
            decode_windowed=seqs * (min(each, window) if window else each),
            prefill_seqs=min(chunk, 1),
            prefill_tokens=chunk,
            prefill_pairs2=chunk * (chunk + 1),
            prefill_windowed_pairs2=chunk * (chunk + 1),
            prefill_context=chunk,
            sampled_seqs=seqs,
        )
        direct = sum(price.duration_s for price in _breakdown(plan.graph, steps, shape))
        worst = max(worst, abs(steps.step(shape)[0] * 1e-15 / direct - 1.0))
    return worst


def _fingerprint(deployment: Deployment, graph: StepGraph) -> str:
    """Return a digest of all that a price depends on."""
    content: dict[str, Any] = {
        "package": version("hermes-hw"),
        "kind": "roofline",
        "graph": dataclasses.asdict(graph),
        "graph_sizes": deployment.graph_sizes,
        "host": dataclasses.asdict(deployment.host),
    }
    content["graph"]["device"].pop("sources")
    text = json.dumps(content, sort_keys=True, default=dict)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
