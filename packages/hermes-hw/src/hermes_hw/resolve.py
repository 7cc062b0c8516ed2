"""Turns the names and degrees of a deployment into a model, a device and a plan."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from hermes_core.api.errors import InputError
from hermes_core.api.hardware import Deployment

from hermes_hw.devices import Device, find_device
from hermes_hw.dtypes import DTYPES, DType, dtype_named
from hermes_hw.efficiency import Efficiency, efficiency_of
from hermes_hw.graph import StepGraph
from hermes_hw.lookup import find_name, normalised
from hermes_hw.memory import check_tensor_parallel
from hermes_hw.models.architecture import Architecture
from hermes_hw.models.catalogue import find_model
from hermes_hw.models.hf_config import architecture_from_config
from hermes_hw.models.quantization import uniform_quantization
from hermes_hw.options import option_error, place_of
from hermes_hw.parallel import parallel_plan

COMMON_OPTIONS: Final = ("efficiency", "expert_imbalance", "part", "context_parallel", "redundant_experts", "top_p")
"""Options of every hardware model: constants laid over those of the family, load of the busiest experts over the mean,
the part of a model that is served ("language", of a multimodal one "vision", or a head by its name), how many
tensor-parallel devices share the tokens of a sequence's KV cache in decoding, the copies of experts beside one of
each, and whether answers are drawn from the likeliest tokens alone (else as the model's publisher says)."""
_OWN_DEFAULTS: Final = "vllm-v0"
"""The engine that does not take the publisher's sampling for requests that say nothing (vLLM does since 0.7)."""
_BETWEEN_PASSES: Final = 16
"""Small kernels between two passes of what drafts: positions, lengths, slots of the next token, copies into buffers
(counted in vLLM 0.15, v1/spec_decode/eagle.py, propose)."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """A deployment with its names resolved."""

    graph: StepGraph
    device: Device
    efficiency: Efficiency
    notes: tuple[str, ...]


def resolve(deployment: Deployment, options: Sequence[str] = ()) -> Resolved:
    """Resolve `deployment`; `options` are those that its hardware model takes beside the common ones.

    Raises InputError for names, formats, degrees and options that cannot be.
    """
    _check_limits(deployment)
    known = (*COMMON_OPTIONS, *options)
    for key in deployment.options:
        spellings = {normalised(name): name for name in known}
        find_name(str(key), spellings, "option of the hardware model", known, place_of(key))
    config = deployment.model_config
    name = deployment.model
    if config is None:
        # Before the device: of that a scenario is told before anything is compiled.
        entry = find_model(name)
        name, config = entry.name, entry.config
    device = find_device(deployment.device, deployment.device_spec)
    model = architecture_from_config(name, config, part=str(deployment.options.get("part", "language")))
    if deployment.weight_dtype is not None:
        weights = dtype_named(deployment.weight_dtype, "weight_dtype")
        model = dataclasses.replace(model, quantization=uniform_quantization(weights, model.activation))
    check_tensor_parallel(model, device, deployment.tensor_parallel)
    plan = parallel_plan(deployment, model, _imbalance(deployment))
    overrides = deployment.options.get("efficiency", {})
    if not isinstance(overrides, Mapping):
        raise option_error("efficiency", f"must be a mapping of constants, found {overrides!r}")
    efficiency = efficiency_of(device.family, overrides, deployment.engine)
    narrowed = tuple(name for name, dtype in DTYPES.items() if device.narrows(dtype))
    if deployment.within_step:
        efficiency = dataclasses.replace(efficiency, step_s=_BETWEEN_PASSES * efficiency.elementwise_s, seq_s=0.0)
    top_p = _top_p(deployment, model) and efficiency.sort_s + efficiency.sort_unit_s > 0
    graph = StepGraph(model, plan, _kv_dtype(deployment, model), narrowed, top_p)
    return Resolved(graph, device, efficiency, tuple(_notes(graph, device)))


def _kv_dtype(deployment: Deployment, model: Architecture) -> DType:
    if deployment.kv_dtype in {None, "auto"}:
        return model.activation
    return dtype_named(str(deployment.kv_dtype), "kv_dtype")


def _top_p(deployment: Deployment, model: Architecture) -> bool:
    value: Any = deployment.options.get("top_p")
    if value is None:
        return model.top_p and deployment.engine != _OWN_DEFAULTS
    if not isinstance(value, bool):
        raise option_error("top_p", f"must be true or false, found {value!r}")
    return value


def _imbalance(deployment: Deployment) -> float:
    value: Any = deployment.options.get("expert_imbalance", 1.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 1:
        raise option_error("expert_imbalance", f"must be a number of at least 1, found {value!r}")
    return float(value)


def _check_limits(deployment: Deployment) -> None:
    for name in ("max_batched_tokens", "max_seqs", "block_size_tokens"):
        if getattr(deployment, name) < 1:
            raise InputError(f"{name} must be at least 1, found {getattr(deployment, name)}")
    if not 0 < deployment.memory_utilization <= 1:
        raise InputError(f"memory_utilization must be above 0 and at most 1, found {deployment.memory_utilization}")
    sizes = deployment.graph_sizes or ()
    if any(size < 1 for size in sizes) or any(b <= a for a, b in pairwise(sizes)):
        raise InputError(f"graph_sizes must be positive and ascending, found {list(sizes)}")


def _notes(graph: StepGraph, device: Device) -> list[str]:
    model, plan = graph.model, graph.plan
    notes = list(model.assumptions)
    q = model.quantization
    formats: dict[str, DType] = {item.name: item for item in (q.attention, q.dense, q.experts, q.shared_experts)}
    for item in formats.values():
        used = device.compute_dtype(item)
        if used != item.compute:
            notes.append(f"{device.name} has no {item.compute} units: {item.name} weights are multiplied in {used}.")
    domain = device.interconnect.domain_devices
    if plan.tensor > domain:
        notes.append(
            f"tensor_parallel {plan.tensor} spans nodes of {domain} devices: collectives go over {device.network.kind}."
        )
    if plan.pipeline > 1:
        notes.append(
            f"Pipeline of {plan.pipeline} stages: a step is a batch that passes through all of them, one after another."
        )
    if plan.data > 1 and not model.moe.layers:
        notes.append(f"data_parallel {plan.data} of a dense model: ranks are independent; a step is one rank's.")
    elif plan.data > 1:
        notes.append(f"data_parallel {plan.data}: a step is one rank's, with as many tokens on every other rank.")
    if plan.redundant:
        held = model.moe.experts + plan.redundant
        notes.append(
            f"{plan.redundant} of {held} experts in memory are copies of the most popular, so that each of "
            f"{plan.expert} groups holds {held // plan.expert}."
        )
    if plan.expert > 1 and plan.imbalance == 1:
        notes.append("Experts are picked evenly: the busiest group has no more load than chance gives it.")
    return notes
