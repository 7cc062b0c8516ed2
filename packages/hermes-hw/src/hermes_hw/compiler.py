"""Compiles a resolved deployment with a source of prices into what the engine asks."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np
from hermes_core.api.hardware import CompiledDeployment, Deployment, OperatorPrice, StepModel, StepShape
from hermes_core.api.streams import stream

from hermes_hw.adapters import adapter_prices
from hermes_hw.direct import DirectPrices, PartPrice
from hermes_hw.memory import kv_transfer_bytes_per_token, plan_memory
from hermes_hw.operators import SOURCES, sizes_of
from hermes_hw.resolve import Resolved
from hermes_hw.steps import StepTables, Surroundings

_CHECK_POINTS = 16
_HOST_SOURCE = SOURCES[-1]


class CompiledSteps(StepModel, Protocol):
    """A step model with the parts that do not depend on contexts, which breakdowns need."""

    @property
    def tables(self) -> StepTables:
        """What does not depend on contexts."""
        ...

    @property
    def around(self) -> Surroundings:
        """What surrounds the operators."""
        ...


def compile_deployment(
    deployment: Deployment,
    resolved: Resolved,
    direct: DirectPrices,
    steps: CompiledSteps,
    *,
    kind: str,
    content: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> CompiledDeployment:
    """Put together memory, money, notes and the compiled prices; `content` is what else prices depend on.

    Raises DoesNotFitError when the weights leave no room for KV cache.
    """
    model, device, plan = resolved.graph.model, resolved.device, resolved.graph.plan
    memory = plan_memory(
        model,
        device,
        resolved.graph.kv,
        plan,
        max_tokens=deployment.max_batched_tokens,
        max_seqs=deployment.max_seqs,
        utilization=deployment.memory_utilization,
        block_size_tokens=deployment.block_size_tokens,
    )
    representative = breakdown_parts(direct, steps, representative_shape(deployment, steps.window))
    return CompiledDeployment(
        deployment=deployment,
        steps=steps,
        memory=memory,
        kv_transfer_bytes_per_token=kv_transfer_bytes_per_token(model, resolved.graph.kv),
        max_model_len=model.max_model_len,
        idle_power_w=device.idle_w * deployment.devices,
        price_usd_per_h=device.price_usd_per_h * deployment.devices,
        waiting_power_w=direct.waiting_joules(1.0),
        fingerprint=_fingerprint(deployment, resolved, kind, content or {}),
        layers=model.layers,
        adapter=adapter_prices(resolved),
        compile_error=_compile_error(direct, steps, deployment),
        source_share=source_share(representative),
        notes=(*resolved.notes, *notes),
    )


def breakdown_parts(direct: DirectPrices, steps: CompiledSteps, shape: StepShape) -> list[OperatorPrice]:
    """Price one step operator by operator, directly; the durations sum to the step's.

    FLOPs, bytes and bound are of one device.
    """
    tokens = shape.decode_seqs + shape.prefill_tokens
    seqs = shape.decode_seqs + shape.prefill_seqs
    parts: list[PartPrice] = []
    if tokens:
        parts += direct.tokens(sizes_of(steps.tables.padded(tokens)))
    parts += direct.attention(shape)
    if shape.sampled_seqs:
        parts += direct.sampled(sizes_of(shape.sampled_seqs))
    prices = [_line(part) for part in parts]
    step_s, seq_s = direct.inputs_s()
    prices.append(_waiting("step_inputs", step_s + seq_s * seqs))
    device_s = sum(price.duration_s for price in prices)
    floor_fs, add_fs = steps.around.floor_add(steps.tables.floor_fs(tokens), seqs)
    waiting_s = max(floor_fs * 1e-15 - device_s, 0.0) + add_fs * 1e-15
    if waiting_s > 0:
        prices.append(_waiting("host", waiting_s))
    return prices


def source_share(prices: Sequence[OperatorPrice]) -> dict[str, float]:
    """Return the share of each source in the time of a breakdown."""
    total_s = sum(price.duration_s for price in prices)
    shares: dict[str, float] = {}
    for source in SOURCES:
        share = sum(price.duration_s for price in prices if price.source == source) / total_s
        if share > 0:
            shares[source] = share
    return shares


def representative_shape(deployment: Deployment, window: int) -> StepShape:
    """Return a step as serving meets them: 32 sequences with a context of 1,024 tokens, and a prompt of 256."""
    seqs, context = min(32, deployment.max_seqs), 1024
    chunk = min(256, deployment.max_batched_tokens)
    return mixed_shape(seqs, context, chunk, window)


def mixed_shape(seqs: int, context: int, chunk: int, window: int, cached: int = 0) -> StepShape:
    """Return a step of `seqs` decoding sequences of equal contexts and one prompt chunk after `cached` tokens."""
    windowed_pairs2 = chunk * (2 * cached + chunk + 1)
    if window:
        free = min(max(window - cached, 0), chunk)
        windowed_pairs2 = free * (2 * cached + free + 1) + 2 * (chunk - free) * window
    return StepShape(
        decode_seqs=seqs,
        decode_context=seqs * context,
        decode_windowed=seqs * (min(context, window) if window else context),
        prefill_seqs=min(chunk, 1),
        prefill_tokens=chunk,
        prefill_pairs2=chunk * (2 * cached + chunk + 1),
        prefill_windowed_pairs2=windowed_pairs2,
        prefill_context=cached + chunk if chunk else 0,
        sampled_seqs=seqs + min(chunk, 1),
    )


def _line(part: PartPrice) -> OperatorPrice:
    operator, price = part.operator, part.price
    once = float(price.seconds[0])
    runs = float(part.seconds[0]) / once if once > 0 else 0.0
    return OperatorPrice(
        operator=operator.name,
        kind=operator.kind,
        duration_s=float(part.seconds[0]),
        flop=float(price.flop[0]) * runs,
        bytes=float(price.bytes[0]) * runs,
        bound=price.bound(),
        source=SOURCES[int(price.source[0])],
        count=round(runs),
    )


def _waiting(name: str, seconds: float) -> OperatorPrice:
    return OperatorPrice(name, "host.overhead", seconds, 0.0, 0.0, "latency", _HOST_SOURCE)


def _compile_error(direct: DirectPrices, steps: CompiledSteps, deployment: Deployment) -> float:
    """Return the worst relative difference between compiled and direct prices at random shapes."""
    draws = stream(0, "hermes_hw.compile.check")
    longest = min(direct.graph.model.max_model_len, 32_768)
    shapes = []
    for _ in range(_CHECK_POINTS):
        seqs = int(draws.integers(1, deployment.max_seqs + 1))
        context = int(draws.integers(1, longest + 1))
        mixed = int(draws.integers(0, 2))
        # Without graphs a number of tokens beyond the largest batch would have all of them priced here.
        chunk = mixed * int(draws.integers(1, deployment.max_batched_tokens + 1))
        shape = mixed_shape(seqs, context, min(chunk, max(deployment.max_batched_tokens - seqs, 0)), steps.window)
        shape.sampled_seqs = seqs
        shapes.append(shape)
    exact_s = _direct_seconds(direct, steps, shapes)
    return max(abs(steps.step(shape)[0] * 1e-15 / exact - 1.0) for shape, exact in zip(shapes, exact_s, strict=True))


def _direct_seconds(direct: DirectPrices, steps: CompiledSteps, shapes: Sequence[StepShape]) -> list[float]:
    """Return the durations of steps with tokens and samples, as the lines of their breakdowns sum to.

    What does not depend on contexts is priced for all of them at once.
    """
    padded = np.array([steps.tables.padded(shape.decode_seqs + shape.prefill_tokens) for shape in shapes])
    sampled = np.array([shape.sampled_seqs for shape in shapes])
    device_s = np.zeros(len(shapes))
    for part in (*direct.tokens(padded), *direct.sampled(sampled)):
        device_s += part.seconds
    step_s, seq_s = direct.inputs_s()
    answer = []
    for shape, common_s in zip(shapes, device_s.tolist(), strict=True):
        seqs = shape.decode_seqs + shape.prefill_seqs
        attention_s = sum(float(part.seconds[0]) for part in direct.attention(shape))
        floor_fs, add_fs = steps.around.floor_add(steps.tables.floor_fs(shape.decode_seqs + shape.prefill_tokens), seqs)
        answer.append(max(common_s + attention_s + step_s + seq_s * seqs, floor_fs * 1e-15) + add_fs * 1e-15)
    return answer


def _fingerprint(deployment: Deployment, resolved: Resolved, kind: str, content: Mapping[str, Any]) -> str:
    """Return a digest of all that a price depends on."""
    device = dataclasses.asdict(resolved.device)
    device.pop("sources")
    everything: dict[str, Any] = {
        "package": version("hermes-hw"),
        "kind": kind,
        "graph": dataclasses.asdict(resolved.graph),
        "device": device,
        "efficiency": dataclasses.asdict(resolved.efficiency),
        "graph_sizes": deployment.graph_sizes,
        "host": dataclasses.asdict(deployment.host),
        "content": content,
    }
    plain: Callable[[Any], Any] = dict
    text = json.dumps(everything, sort_keys=True, default=plain)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
