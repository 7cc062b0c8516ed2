"""Prices operators by the roofline: fixed time, and the larger of compute and memory time.

An operator with the attribute `beside` runs on a stream of its own beside others (shared experts beside routed
ones): it costs bytes and FLOPs, but no fixed time.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
from hermes_core.api.errors import UnsupportedError

from hermes_hw.devices import NARROW, Device
from hermes_hw.dtypes import DType
from hermes_hw.efficiency import Efficiency
from hermes_hw.energy import Energy
from hermes_hw.links import Interconnect, all_gather_s, all_reduce_s, all_to_all_s, p2p_s
from hermes_hw.operators import ANALYTICAL, Figures, Operator, Price
from hermes_hw.roofline.cost import gemm_compute_s

_NORM_PASSES: Final = 4
"""Reads and writes of the hidden state by a norm with its residual: both in, both out."""
_ROTARY_PASSES: Final = 2
"""The same of the rotary embedding with the cache write."""
_SAMPLER_PASSES: Final = 4
"""Reads and writes of the float32 logits: temperature, softmax, draw."""
_STATE_BYTES: Final = 4
"""Recurrent states are float32."""
_LINEAR_CHUNK: Final = 64
"""Tokens of a prompt that linear attention works on at once."""
_LINEAR_CHUNK_S: Final = 3e-6
"""Time of a chunk, since each starts from the state that the one before it left: what vLLM's kernels take on H100,
H200, B200 and B300 for prompts of 8,192 tokens, 2.5 to 3.2 us whatever the heads (aiconfigurator-core 0.12.0)."""
_WIDENED: Final = 0.7
"""What grouped products reach of that bandwidth, and of that peak, with 4-bit experts on a device that cannot multiply
them: they are widened within the kernel. Fitted on gpt-oss-120b on H200 under vLLM and TensorRT-LLM (closed loops,
InferenceMAX), by TPOT."""
_EXPERT_TILES: Final = ((8, 16), (64, 64), (math.inf, 128))
"""Rows of an expert up to which a grouped product takes a tile, and the rows of that tile: what measured kernels of
vLLM and SGLang follow (aiconfigurator-core 0.12.0, 128 to 512 experts in 8 and 4 bits, 1 to 16,384 tokens)."""


@dataclass(frozen=True)
class RooflinePricer:
    """Prices operators on `device` from its datasheet and efficiency constants. Implements `Pricer`."""

    device: Device
    efficiency: Efficiency

    def price(self, operator: Operator) -> Price:
        """Return what one run of `operator` costs; see `Pricer.price`."""
        family = operator.kind.split(".", maxsplit=1)[0]
        method = self._methods.get(operator.kind) or self._methods.get(family)
        if method is None:
            raise UnsupportedError(
                f"operator {operator.name}: the roofline has no price for kind {operator.kind!r}",
                remedy=f"Known: {', '.join(self._methods)}.",
            )
        return method(operator)

    @cached_property
    def _methods(self) -> Mapping[str, Callable[[Operator], Price]]:
        return {
            "gemm": self._gemm,
            "attention.decode": self._decode,
            "attention.prefill": self._prefill,
            "attention.launch": self._launch,
            "attention.linear": self._linear,
            "moe.experts": self._experts,
            "embedding": self._stream,
            "norm": self._stream,
            "rotary": self._stream,
            "elementwise": self._stream,
            "sample": self._sample,
            "collective": self._collective,
            "transfer.p2p": self._collective,
        }

    # ---- bounds ----------------------------------------------------------------------------------------------

    def peak_flops(self, dtype: DType) -> float:
        """Return the datasheet's FLOP/s for weights stored as `dtype`."""
        return self.device.flops[self.device.compute_dtype(dtype)]

    def attention_flops(self, activation: DType) -> float:
        """Return the FLOP/s that attention reaches."""
        return self.peak_flops(activation) * self.efficiency.prefill_attention

    @property
    def kv_bytes_per_s(self) -> float:
        """Bytes a second at which attention reads the KV cache."""
        return self.device.memory_bandwidth_bytes_per_s * self.efficiency.decode_attention

    def _bounded(self, fixed_s: float, flop: Figures, compute_s: Figures, nbytes: Figures, bytes_per_s: float) -> Price:
        memory_s = nbytes / bytes_per_s
        seconds = fixed_s + np.maximum(compute_s, memory_s)
        # What counts for energy is the time that the FLOPs need at the attainable peak, not lost in tiles.
        joules = Energy.of(self.device).joules(seconds, np.minimum(compute_s, seconds), nbytes)
        return _price(seconds, joules, flop, nbytes, compute_s=compute_s, memory_s=memory_s, fixed_s=fixed_s)

    def quantizes(self, weights: DType) -> bool:
        """Whether activations are narrowed by a kernel of their own before a product."""
        return self.device.narrows(weights)

    # ---- products and streams --------------------------------------------------------------------------------

    def _gemm(self, op: Operator) -> Price:
        m, n, k = op.sizes["m"], op.attributes["n"], op.attributes["k"]
        share, fixed_s = self._product(op.dtype, k)
        peak = self.peak_flops(op.dtype) * share
        tiled_s = gemm_compute_s(m, n, k, peak, self.device.compute_units)
        nbytes = n * k * op.dtype.bytes + m * ((n + k) * op.activation.bytes)
        if self.quantizes(op.dtype):
            fixed_s += self.efficiency.elementwise_s
        if op.attributes.get("beside"):
            fixed_s = 0.0
        flop = 2.0 * n * k * m
        memory_s = nbytes / (self.device.memory_bandwidth_bytes_per_s * self.efficiency.memory)
        seconds = fixed_s + np.maximum(tiled_s, memory_s)
        joules = Energy.of(self.device).joules(seconds, flop / peak, nbytes)
        return _price(seconds, joules, flop, nbytes, compute_s=tiled_s, memory_s=memory_s, fixed_s=fixed_s)

    def _product(self, weights: DType, k: Any) -> tuple[float, Any]:
        """Return the share of the peak that large products of such weights reach, and their time before any work.

        A tile goes through the inner dimension step by step, however few its rows.
        """
        eff, used = self.efficiency, self.device.compute_dtype(weights)
        if used not in NARROW:
            return eff.compute * eff.sustained, eff.gemm_s + eff.depth_s * k
        share = eff.fp4_compute if used == "fp4" else eff.narrow_compute
        return share * eff.sustained, eff.narrow_gemm_s + eff.narrow_depth_s * k

    def _stream(self, op: Operator) -> Price:
        """Element-wise kernels: a fixed time, and bytes at the bandwidth of streaming."""
        nbytes = stream_bytes(op)
        rate = self.device.memory_bandwidth_bytes_per_s * self.efficiency.memory
        memory_s = nbytes / rate
        fixed_s = 0.0 if op.attributes.get("beside") else self.efficiency.elementwise_s
        seconds = fixed_s + memory_s
        zero = np.zeros_like(nbytes)
        joules = Energy.of(self.device).joules(seconds, zero, nbytes)
        return _price(seconds, joules, zero, nbytes, memory_s=memory_s, fixed_s=fixed_s)

    def _sample(self, op: Operator) -> Price:
        """Passes over the logits; to keep the likeliest tokens alone, all of them are sorted first."""
        price, eff = self._stream(op), self.efficiency
        if not op.attributes.get("top_p"):
            return price
        logits = op.sizes["sequences"] * float(op.attributes["vocab"])
        sorting_s = eff.sort_s + logits * (eff.sort_unit_s / self.device.compute_units)
        seconds = price.seconds + sorting_s
        joules = Energy.of(self.device).joules(seconds, price.flop, price.bytes)
        fixed_s = price.fixed_s + sorting_s
        return _price(seconds, joules, price.flop, price.bytes, memory_s=price.memory_s, fixed_s=fixed_s)

    def _experts(self, op: Operator) -> Price:
        """The grouped products of the routed experts: each picked expert is read once and fills whole tiles."""
        a, eff = op.attributes, self.efficiency
        picks, distinct = op.sizes["picks"].astype(np.float64), op.sizes["distinct"].astype(np.float64)
        hidden, inner, inputs = a["hidden"], a["intermediate"], a["inputs"]
        parameters = hidden * inner * (inputs + 1)
        # As many as the products would have if filling and emptying were elements of their inner dimensions.
        fill = eff.experts_fill / op.dtype.bytes
        occupied = inputs * inner * (hidden + fill) + hidden * (inner + fill)
        # Tokens that were sent to the device of their experts brought no other picks; kernels in 4 bits leave them out.
        own = a.get("data_parallel", 1) > 1 or self.device.compute_dtype(op.dtype) == "fp4"
        there = picks if own else op.sizes["tokens"] * (1.0 * a["top_k"])
        state = hidden * op.activation.bytes
        passed = there * (eff.experts_passes * state) + picks * (eff.own_experts_passes * state)
        share, reached = self._grouped(op.dtype, op.activation)
        bandwidth = self.device.memory_bandwidth_bytes_per_s
        passes_s = passed / (bandwidth * eff.memory)
        memory_s = distinct * (occupied * op.dtype.bytes / (bandwidth * share))
        peak = self.peak_flops(op.dtype) * reached
        rows = picks / distinct
        tile = np.select([rows <= most for most, _ in _EXPERT_TILES], [float(size) for _, size in _EXPERT_TILES])
        # On average the last tile of an expert is half empty.
        padded = np.maximum(rows + tile / 2.0, tile) * distinct
        compute_s = padded * (2.0 * occupied / peak)
        seconds = eff.experts_s + np.maximum(compute_s, memory_s) + passes_s
        flop = picks * (2.0 * parameters)
        nbytes = distinct * (parameters * op.dtype.bytes) + passed
        joules = Energy.of(self.device).joules(seconds, flop / peak, nbytes)
        bounds = {"compute_s": compute_s, "memory_s": memory_s + passes_s, "fixed_s": eff.experts_s}
        return _price(seconds, joules, flop, nbytes, **bounds)

    def _grouped(self, weights: DType, activation: DType) -> tuple[float, float]:
        """Return what grouped products with such weights reach: of the bandwidth, and of the peak."""
        eff, used = self.efficiency, self.device.compute_dtype(weights)
        share = eff.experts_memory if weights.bits >= activation.bits else eff.quantized_experts_memory
        reached = eff.experts_compute
        if used in NARROW:
            reached = eff.fp4_experts_compute if used == "fp4" else eff.narrow_experts_compute
        reached *= eff.sustained
        if weights.bits < activation.bits / 2 and used != weights.compute:
            return share * _WIDENED, reached * _WIDENED
        return share, reached

    # ---- attention -------------------------------------------------------------------------------------------

    def _launch(self, op: Operator) -> Price:
        seconds = np.full(op.sizes["calls"].shape, self.efficiency.attention_s)
        zero = np.zeros_like(seconds)
        joules = Energy.of(self.device).joules(seconds, zero, zero)
        return _price(seconds, joules, zero, zero, fixed_s=self.efficiency.attention_s)

    def _decode(self, op: Operator) -> Price:
        """Every key of every sequence is read once; scores and weighted values for every query head.

        With the attribute `rows` each head is multiplied as that many.
        """
        keys = op.sizes["context"].astype(np.float64)
        flop = keys * decode_flop_per_key(op)
        compute_s = flop / self.attention_flops(op.activation) * op.attributes.get("rows", 1)
        return self._bounded(0.0, flop, compute_s, keys * kv_bytes_per_key(op), self.kv_bytes_per_s)

    def _prefill(self, op: Operator) -> Price:
        flop = op.sizes["pairs2"] * prefill_flop_per_pair2(op)
        compute_s = flop / self.attention_flops(op.activation)
        return self._bounded(0.0, flop, compute_s, op.sizes["keys"] * kv_bytes_per_key(op), self.kv_bytes_per_s)

    def _linear(self, op: Operator) -> Price:
        """A decoding sequence reads and writes its state; prompts do so once for each chunk, beside their FLOPs.

        FLOPs of a token: state update and read-out, `4 dk dv` a head, and within a chunk of C tokens
        `2 C (dk + dv)` (chunkwise form, Yang et al., arXiv:2412.06464). The two are added, so the time is affine;
        chunks follow one another. Where an attribute `chunk` says that they do not, see `_parallel_scan`.
        """
        if "chunk" in op.attributes:
            return self._parallel_scan(op)
        a, batch, tokens = op.attributes, op.sizes["batch"] * 1.0, op.sizes["tokens"] * 1.0
        state = 2.0 * a["value_heads"] * a["key_dim"] * a["value_dim"] * _STATE_BYTES
        nbytes = (batch + tokens / _LINEAR_CHUNK) * state
        each = 4.0 * a["key_dim"] * a["value_dim"] + 2.0 * _LINEAR_CHUNK * (a["key_dim"] + a["value_dim"])
        flop = (batch + tokens) * (a["value_heads"] * each)
        memory_s = nbytes / (self.device.memory_bandwidth_bytes_per_s * self.efficiency.memory)
        compute_s = tokens * (a["value_heads"] * each / self.attention_flops(op.activation))
        seconds = compute_s + memory_s + tokens * (_LINEAR_CHUNK_S / _LINEAR_CHUNK)
        joules = Energy.of(self.device).joules(seconds, compute_s, nbytes)
        return _price(seconds, joules, flop, nbytes, compute_s=compute_s, memory_s=memory_s)

    def _parallel_scan(self, op: Operator) -> Price:
        """Mamba's and lightning attention's recurrences: chunks are worked on at once, or tokens one after another.

        With chunks of C tokens, states of all chunks are written, passed on from chunk to chunk (read and written) and
        read again, beside values four times: both kernels read and the last one writes them, with their gate. FLOPs of
        a token: `4 dk dv` a head, `2 C dv` a head and `2 C dk` a group within the chunk (state-space duality, Dao and
        Gu, arXiv:2405.21060, section 6). A chunk of 0 tokens is a scan by element (Mamba-1): 9 operations for a value
        of the state (state-spaces/mamba, issue 110), not on the units for matrix products. Decoding reads and writes
        the state.
        """
        a, batch, tokens = op.attributes, op.sizes["batch"] * 1.0, op.sizes["tokens"] * 1.0
        width, chunk = a["value_heads"] * a["value_dim"], a["chunk"]
        state = 1.0 * width * a["key_dim"]
        passed = 4.0 * state * _STATE_BYTES / chunk if chunk else 0.0
        nbytes = batch * (2.0 * state * a["state_bytes"]) + tokens * (passed + 4.0 * width * op.activation.bytes)
        each = 4.0 * state + 2.0 * chunk * (width + a["groups"] * a["key_dim"]) if chunk else 9.0 * state
        rate = self.attention_flops(op.activation)
        if not chunk:
            rate = self.device.flops.get("fp32", self.peak_flops(op.activation)) * self.efficiency.compute
        compute_s = tokens * (each / rate)
        memory_s = nbytes / (self.device.memory_bandwidth_bytes_per_s * self.efficiency.memory)
        seconds, flop = compute_s + memory_s, (batch + tokens) * each
        joules = Energy.of(self.device).joules(seconds, compute_s, nbytes)
        return _price(seconds, joules, flop, nbytes, compute_s=compute_s, memory_s=memory_s)

    # ---- collectives -----------------------------------------------------------------------------------------

    def _collective(self, op: Operator) -> Price:
        device, kind = self.device, op.kind.split(".")[1]
        nbytes = op.sizes["bytes"].astype(np.float64)
        ranks = op.attributes.get("ranks", 2)
        link = device.interconnect if ranks <= device.interconnect.domain_devices else device.network
        if kind == "all_reduce":
            if link.algorithm == "switched":
                link = replace(link, latency_s=link.latency_s * self.efficiency.reduce_start)
            seconds, moved = all_reduce_s(nbytes, ranks, link), nbytes * (2.0 * (ranks - 1) / ranks)
        elif kind in {"all_gather", "reduce_scatter"}:
            seconds, moved = all_gather_s(nbytes, ranks, link), nbytes * ((ranks - 1) / ranks)
        elif kind == "all_to_all":
            seconds = all_to_all_s(nbytes, ranks, device.interconnect, device.network)
            moved = nbytes * ((ranks - 1) / ranks)
        elif kind == "p2p":
            far = op.attributes.get("far", 0)
            seconds, moved = p2p_s(nbytes, device.network if far else device.interconnect), nbytes
        else:
            raise UnsupportedError(f"operator {op.name}: no model of the collective {kind!r}")
        fixed_s = _start_s(link, ranks)
        joules = Energy.of(device).network_joules(seconds, moved)
        return _price(seconds, joules, np.zeros_like(nbytes), moved, network_s=seconds - fixed_s, fixed_s=fixed_s)


def _start_s(link: Interconnect, ranks: int) -> float:
    return float(link.latency_s * np.log2(max(ranks, 2)))


def _price(
    seconds: Figures,
    joules: Figures,
    flop: Figures,
    nbytes: Figures,
    *,
    compute_s: Figures | float = 0.0,
    memory_s: Figures | float = 0.0,
    network_s: Figures | float = 0.0,
    fixed_s: Figures | float = 0.0,
) -> Price:
    def column(value: Figures | float) -> Figures:
        return np.broadcast_to(np.asarray(value, dtype=np.float64), seconds.shape)

    source = np.full(seconds.shape, ANALYTICAL, np.int8)
    bounds = (column(compute_s), column(memory_s), column(network_s), column(fixed_s))
    return Price(seconds, joules, column(flop), column(nbytes), *bounds, source)


def stream_bytes(op: Operator) -> Figures:
    """Return the bytes that an element-wise operator reads and writes."""
    a, width = op.attributes, op.activation.bytes
    if op.kind == "sample":
        return np.asarray(op.sizes["sequences"] * (_SAMPLER_PASSES * a["vocab"] * 4.0))
    per_token = {
        "embedding": 2.0 * a.get("hidden", 0),
        "norm": 1.0 * _NORM_PASSES * a.get("hidden", 0),
        "rotary": 1.0 * _ROTARY_PASSES * a.get("hidden", 0),
        "elementwise": (a.get("inputs", 0) + 1.0) * a.get("width", 0),
    }[op.kind]
    return np.asarray(op.sizes["tokens"] * (per_token * width))


def kv_bytes_per_key(op: Operator) -> Any:
    """Return the bytes of KV cache of one key in one layer on one device; `op` is an attention operator."""
    a = op.attributes
    values = a["latent"] + a["rope_dim"] if a["latent"] else a["kv_heads"] * (a["head_dim"] + a["v_head_dim"])
    return values * op.dtype.bytes


def decode_flop_per_key(op: Operator) -> Any:
    """Return the FLOPs of a new token for one key: in MLA on the latent (absorbed form, DeepSeek-V2)."""
    a = op.attributes
    width = 2 * a["latent"] + a["rope_dim"] if a["latent"] else a["head_dim"] + a["v_head_dim"]
    return 2.0 * a["heads"] * width


def prefill_flop_per_pair2(op: Operator) -> Any:
    """Return half the FLOPs of one pair of query and key of a prompt (pairs are counted twice over)."""
    a = op.attributes
    return 1.0 * a["heads"] * (a["head_dim"] + a["rope_dim"] + a["v_head_dim"])
