"""Stages that run a model forward once: embedding, reranking, encoding images and audio, classifying.

A batch is a step of prompts over the operators of `hermes_hw.graph`: products and streams by its tokens, attention
by the pairs of query and key. Encoders see every token of a text, so that its pairs are its length squared; a decoder
that classifies (a guard, a router) sees those before, about half of them, and makes one token or a few.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from hermes_core.api.errors import DoesNotFitError, InputError
from hermes_core.api.stages import CompiledStage, StageDeployment

from hermes_hw.devices import Device
from hermes_hw.direct import DirectPrices, PartPrice
from hermes_hw.dtypes import dtype_named
from hermes_hw.efficiency import Efficiency, efficiency_of
from hermes_hw.graph import StepGraph
from hermes_hw.memory import activation_bytes_per_device, check_tensor_parallel, weights_bytes_per_device
from hermes_hw.models.architecture import Architecture
from hermes_hw.models.quantization import uniform_quantization
from hermes_hw.operators import sizes_of
from hermes_hw.parallel import ParallelPlan
from hermes_hw.roofline.pricer import RooflinePricer
from hermes_hw.stages.encoders import PARTS, encoder_architecture, find_encoder
from hermes_hw.stages.options import Options
from hermes_hw.stages.processing import compile_processing
from hermes_hw.stages.worker import (
    NJ_PER_J,
    checked_device,
    femtos,
    fingerprint,
    missing_memory_joules,
    share_of,
)

_KNOWN: Final = ("efficiency", "part", "output_tokens", "overhead_us", "max_tokens", "eager")
_RULES: Final = ("guard", "route")
"""Stages that may do without a model."""
_BLOCK: Final = 2048
"""Token counts that are priced at once."""
_PROBE: Final = 1 << 24
"""Pairs at which the price of one is taken."""


class EncoderModel:
    """Prices forward passes of one model on one worker. Implements `StageModel`.

    Products and streams are priced for every number of tokens, in blocks, when the first of a block comes; attention
    is the larger of a line in pairs (its FLOPs) and one in tokens (its bytes).
    """

    __slots__ = (
        "_device",
        "_direct",
        "_eager_s",
        "_fixed",
        "_heads",
        "_lines",
        "_output",
        "_overhead_s",
        "_tokens",
        "_waiting_w",
        "_workers",
    )

    def __init__(self, direct: DirectPrices, resolved: "Resolved", workers: int) -> None:
        self._direct = direct
        self._device = resolved.device
        self._workers = workers
        self._output = resolved.output
        self._overhead_s = resolved.overhead_s
        self._eager_s = direct.eager_s() if resolved.eager else 0.0
        self._tokens: dict[int, tuple[float, float, float]] = {}
        self._heads: dict[int, tuple[float, float, float]] = {}
        self._waiting_w = direct.waiting_joules(1.0)
        self._fixed = _sum(direct.launch())
        self._lines = self._attention_lines()

    def price(self, jobs: int, items: int, tokens: int, pairs: int) -> tuple[int, int, int]:
        """Price one batch; see `StageModel.price`."""
        del jobs
        tokens = max(tokens, items, 1)
        seconds, joules, nbytes = self._by_tokens(tokens)
        seconds += self._fixed[0]
        joules += self._fixed[1]
        attention = self._attention(tokens, max(pairs, tokens))
        head = self._head(items)
        seconds += attention[0] + head[0]
        joules += attention[1] + head[1]
        nbytes += attention[2] + head[2]
        for _ in range(1, self._output):
            more = self._by_tokens(items)
            seconds += more[0] + self._fixed[0] + head[0]
            joules += more[1] + self._fixed[1] + head[1]
            nbytes += more[2] + head[2]
        eager_s = self._eager_s * self._output
        step_s, seq_s = self._direct.inputs_s()
        waiting_s = max(eager_s - seconds, 0.0) + self._overhead_s + (step_s + seq_s * items) * self._output
        joules += self._waiting_w * waiting_s
        nbytes *= self._direct.graph.plan.tensor
        joules += missing_memory_joules(self._device, self._workers, nbytes)
        return femtos(seconds + waiting_s), round(nbytes), round(joules * NJ_PER_J)

    def _by_tokens(self, tokens: int) -> tuple[float, float, float]:
        found = self._tokens.get(tokens)
        if found is None:
            first = (tokens - 1) // _BLOCK * _BLOCK + 1
            counts = np.arange(first, first + _BLOCK, dtype=np.int64)
            columns = _columns(self._direct.tokens(counts), counts.shape)
            self._tokens.update(zip(counts.tolist(), zip(*columns, strict=True), strict=True))
            found = self._tokens[tokens]
        return found

    def _head(self, items: int) -> tuple[float, float, float]:
        found = self._heads.get(items)
        if found is None:
            found = self._heads[items] = _sum(self._direct.sampled(sizes_of(max(items, 1))))
        return found

    def _attention_lines(self) -> tuple[float, float, float, float, float]:
        """Return seconds of a pair and of a key, joules of both, bytes of a key."""
        causal = self._direct.graph.model.attention.causal
        pairs2 = _PROBE if causal else 2 * _PROBE
        by_pairs = self._prefill(pairs2, 1)
        by_keys = self._prefill(1, _PROBE)
        return (
            by_pairs[0] / _PROBE,
            by_keys[0] / _PROBE,
            by_pairs[1] / _PROBE,
            by_keys[1] / _PROBE,
            by_keys[2] / _PROBE,
        )

    def _prefill(self, pairs2: int, keys: int) -> tuple[float, float, float]:
        figures = {"batch": 1, "tokens": 1, "pairs2": pairs2, "keys": keys}
        sizes = {key: sizes_of(value) for key, value in figures.items()}
        return _sum(self._direct.prefill_at(sizes, windowed=False) + self._direct.prefill_at(sizes, windowed=True))

    def _attention(self, tokens: int, pairs: int) -> tuple[float, float, float]:
        pair_s, key_s, pair_j, key_j, key_bytes = self._lines
        return max(pair_s * pairs, key_s * tokens), pair_j * pairs + key_j * tokens, key_bytes * tokens


def _columns(parts: list[PartPrice], shape: tuple[int, ...]) -> tuple[list[float], list[float], list[float]]:
    """Return the sums over `parts` as columns: seconds, joules of all devices, bytes of one."""
    seconds, joules, nbytes = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for part in parts:
        seconds = seconds + part.seconds
        joules = joules + part.joules
        if part.operator.kind.split(".")[0] not in {"collective", "transfer"}:
            nbytes = nbytes + part.price.bytes * part.operator.count
    return seconds.tolist(), joules.tolist(), nbytes.tolist()


def _sum(parts: list[PartPrice]) -> tuple[float, float, float]:
    seconds, joules, nbytes = _columns(parts, (1,))
    return seconds[0], joules[0], nbytes[0]


@dataclass(frozen=True, slots=True)
class Resolved:
    """A stage deployment with its names resolved."""

    model: Architecture
    device: Device
    efficiency: Efficiency
    output: int
    overhead_s: float
    eager: bool
    max_tokens: int


def compile_encoder(deployment: StageDeployment) -> CompiledStage:
    """Compile a stage that runs a model forward: `embed`, `rerank`, `encode`, `guard`, `route`.

    Options: `efficiency` (constants laid over those of the kernel family), `part` (`language`, `vision`, `audio`),
    `output_tokens` that a decoder makes to answer (1), `overhead_us` of the host for a batch (0), `max_tokens` of a
    batch for the working memory, `eager` for a runtime that launches kernel by kernel from Python (a batch then lasts
    at least as long as the launches; compiled runtimes and graphs do not wait for them). `guard` and `route` without a
    model are host code: see `compile_processing`.
    Raises InputError for names, formats and options that cannot be, DoesNotFitError when the weights and the working
    memory of a batch do not fit the device.
    """
    if deployment.model is None and deployment.model_config is None:
        if deployment.stage in _RULES:
            return compile_processing(deployment)
        raise InputError(
            f"{deployment.stage}: a model is needed", remedy="Name one of the catalogue, or give its model_config."
        )
    resolved = _resolve(deployment)
    model, device = resolved.model, resolved.device
    share = share_of(device, deployment.workers)
    plan = ParallelPlan(tensor=deployment.devices)
    graph = StepGraph(model, plan, model.activation)
    pricer = RooflinePricer(share, resolved.efficiency)
    direct = DirectPrices(graph, share, resolved.efficiency, pricer)
    weights = weights_bytes_per_device(model, plan=plan)
    _check_memory(deployment, resolved, weights)
    content: dict[str, Any] = {
        "graph": dataclasses.asdict(graph),
        "efficiency": dataclasses.asdict(resolved.efficiency),
        "output": resolved.output,
        "overhead_s": resolved.overhead_s,
        "eager": resolved.eager,
    }
    return CompiledStage(
        deployment=deployment,
        model=EncoderModel(direct, resolved, deployment.workers),
        memory_bandwidth_bytes_per_s=device.memory_bandwidth_bytes_per_s
        * resolved.efficiency.memory
        * deployment.devices,
        idle_power_w=device.idle_w * deployment.devices,
        price_usd_per_h=device.price_usd_per_h * deployment.devices,
        fingerprint=fingerprint(deployment, device, content),
        memory_bytes=weights,
        source_share={"analytical": 1.0},
        notes=list(model.assumptions),
    )


def _resolve(deployment: StageDeployment) -> Resolved:
    stage = deployment.stage
    options = Options(stage, deployment.options, _KNOWN)
    device = checked_device(deployment)
    name, config = deployment.model or "the model of the user", deployment.model_config
    if config is None:
        entry = find_encoder(name)
        name, config = entry.name, entry.config
    default = "vision" if stage == "encode" and "vision_config" in config else None
    part = options.choice("part", PARTS) if "part" in options else default
    model = encoder_architecture(name, config, part)
    if deployment.weight_dtype is not None:
        weights = dtype_named(deployment.weight_dtype, "weight_dtype")
        model = dataclasses.replace(model, quantization=uniform_quantization(weights, model.activation))
    check_tensor_parallel(model, device, deployment.devices)
    output = options.count("output_tokens", 1)
    if output > 1 and not model.attention.causal:
        raise InputError(f"{stage}: option output_tokens is {output}, but {model.name} is an encoder and makes none")
    longest = deployment.max_batch * min(model.max_model_len, 512)
    return Resolved(
        model=model,
        device=device,
        efficiency=efficiency_of(device.family, options.mapping("efficiency")),
        output=output,
        overhead_s=options.number("overhead_us", 0.0) * 1e-6,
        eager=bool(options.flag("eager")),
        max_tokens=options.count("max_tokens", longest),
    )


def _check_memory(deployment: StageDeployment, resolved: Resolved, weights: int) -> None:
    model, device = resolved.model, resolved.device
    working = activation_bytes_per_device(model, deployment.devices, resolved.max_tokens, deployment.max_batch)
    needed = weights + working * deployment.workers
    if needed > device.memory_bytes:
        raise DoesNotFitError(
            f"{model.name} does not fit {deployment.devices} x {device.name}: weights {weights / 1e9:.1f} GB and "
            f"working memory {working * deployment.workers / 1e9:.1f} GB of {resolved.max_tokens:,} tokens and "
            f"{deployment.workers} workers, of {device.memory_bytes / 1e9:.1f} GB",
            remedy="Take narrower weights (weight_dtype), a smaller max_batch, fewer workers or more devices.",
        )
