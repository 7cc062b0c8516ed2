"""The operators of one step of a decoder on one device of a tensor-parallel group, and their direct prices."""

from dataclasses import dataclass

from hermes_core.api.hardware import StepShape

from hermes_hw.devices import Device
from hermes_hw.dtypes import DType
from hermes_hw.memory import kv_heads_per_device
from hermes_hw.models.architecture import Architecture
from hermes_hw.roofline.cost import Energy, OperatorCost, all_reduce_cost, gemm_compute_s
from hermes_hw.roofline.efficiency import Efficiency

_ELEMENTWISE_PASSES = 10
"""Reads and writes of the hidden state that the norms, residuals, rotary embedding and cache write of a layer make."""
_SAMPLER_PASSES = 4
"""Reads and writes of the float32 logits: temperature, softmax, draw."""


def expected_distinct_experts(experts: int, top_k: int, tokens: int) -> float:
    """Return how many of `experts` at least one of `tokens` picks, each token picking `top_k` evenly.

    An expert is left out by one token with probability 1 - k/E, hence E (1 - (1 - k/E)^m).
    """
    return experts * (1.0 - (1.0 - top_k / experts) ** tokens)


@dataclass(frozen=True, slots=True)
class StepGraph:
    """A model on a group of `tensor_parallel` devices: prices the parts of a step directly, in seconds."""

    model: Architecture
    device: Device
    efficiency: Efficiency
    tensor_parallel: int
    kv: DType

    def token_operators(self, tokens: int) -> list[OperatorCost]:
        """Return the operators whose work is set by the number of tokens in the step (padding included)."""
        if tokens == 0:
            return []
        operators = [self._embedding(tokens), *self._attention_projections(tokens)]
        operators.append(self._elementwise(tokens))
        if self.model.dense.layers:
            operators.extend(self._dense_feed_forward(tokens))
        if self.model.moe.layers:
            operators.extend(self._experts(tokens))
        if self.tensor_parallel > 1:
            nbytes = tokens * self.model.hidden * self.model.activation.bytes
            count = 2 * self.model.layers + 1
            operators.append(all_reduce_cost("all_reduce", nbytes, self.tensor_parallel, count, self.device))
        return operators

    def sampled_operators(self, sampled: int) -> list[OperatorCost]:
        """Return the operators of the output head and the sampler, for `sampled` sequences."""
        if sampled == 0:
            return []
        vocab = -(-self.model.vocab // self.tensor_parallel)
        head = self._gemm("lm_head", sampled, vocab, self.model.hidden, 1, self.model.quantization.lm_head)
        logits = _SAMPLER_PASSES * sampled * self.model.vocab * 4.0
        operators = [head, self._stream("sampler", "sample", logits, self.efficiency.elementwise_s, 1)]
        if self.tensor_parallel > 1:
            gathered = sampled * self.model.vocab * 2.0 / 2.0  # a gather moves half of what an all-reduce does
            operators.append(all_reduce_cost("logits_gather", gathered, self.tensor_parallel, 1, self.device))
        return operators

    @property
    def decode_seconds_per_key(self) -> float:
        """Time that one layer's decode attention spends on one key of one sequence."""
        flops = self._decode_flop_per_key / self._attention_flops
        return max(self._kv_bytes_per_key / self._kv_bytes_per_s, flops)

    @property
    def decode_joules_per_key(self) -> float:
        """Dynamic energy of the same, on one device."""
        return Energy.of(self.device).joules(
            self.decode_seconds_per_key, self._decode_flop_per_key, self._kv_bytes_per_key, self._attention_flops
        )

    def decode_attention(self, keys: int, layers: int, name: str) -> OperatorCost:
        """Return decode attention over `keys` keys (the sum over sequences) in each of `layers` layers.

        Its fixed time is in `attention_launch`.
        """
        keys_in_all = float(keys) * layers
        compute = self._decode_flop_per_key / self._attention_flops
        memory = self._kv_bytes_per_key / self._kv_bytes_per_s
        return OperatorCost(
            name,
            "attention.decode",
            layers,
            keys_in_all * self.decode_seconds_per_key,
            keys_in_all * self._decode_flop_per_key,
            keys_in_all * self._kv_bytes_per_key,
            "compute" if compute > memory else "memory",
            keys_in_all * self.decode_joules_per_key,
        )

    def attention_launch(self) -> OperatorCost:
        """Return the fixed time of the attention calls of a step."""
        return self._waiting("attention_launch", "attention.decode", self.model.layers, self.efficiency.attention_s)

    def prefill_attention(self, shape: StepShape) -> list[OperatorCost]:
        """Return attention of the prompt chunks in `shape`: full and windowed layers."""
        a = self.model.attention
        operators = []
        if a.full_layers:
            keys = shape.prefill_context
            operators.append(self._prefill("attention_prefill", shape.prefill_pairs2, keys, a.full_layers))
        if a.windowed_layers:
            keys = min(shape.prefill_context, shape.prefill_tokens + shape.prefill_seqs * a.window)
            pairs2 = shape.prefill_windowed_pairs2
            operators.append(self._prefill("attention_prefill_window", pairs2, keys, a.windowed_layers))
        return operators

    def step_inputs(self, seqs: int) -> OperatorCost:
        """Return the time that a step of `seqs` sequences needs around its operators."""
        seconds = self.efficiency.step_s + self.efficiency.seq_s * seqs
        return self._waiting("step_inputs", "elementwise", 1, seconds)

    @property
    def kernels(self) -> int:
        """Kernels that a step launches when no graph is replayed."""
        collectives = 2 * self.model.layers if self.tensor_parallel > 1 else 0
        return 9 * self.model.layers + 6 * self.model.moe.layers + collectives

    # ---- attention -------------------------------------------------------------------------------------------

    @property
    def _heads(self) -> int:
        return self.model.attention.heads // self.tensor_parallel

    @property
    def _kv_bytes_per_key(self) -> float:
        a = self.model.attention
        if a.latent:
            return (a.kv_lora_rank + a.rope_dim) * self.kv.bytes
        return kv_heads_per_device(a, self.tensor_parallel) * (a.head_dim + a.v_head_dim) * self.kv.bytes

    @property
    def _decode_flop_per_key(self) -> float:
        """Scores and weighted values of every query head; in MLA on the latent (absorbed form, DeepSeek-V2)."""
        a = self.model.attention
        width = 2 * a.kv_lora_rank + a.rope_dim if a.latent else a.head_dim + a.v_head_dim
        return 2.0 * self._heads * width

    @property
    def _kv_bytes_per_s(self) -> float:
        return self.device.memory_bandwidth_bytes_per_s * self.efficiency.decode_attention

    @property
    def _attention_flops(self) -> float:
        peak = self.device.flops[self.device.compute_dtype(self.model.activation)]
        return peak * self.efficiency.prefill_attention

    def _prefill(self, name: str, pairs2: int, keys: int, layers: int) -> OperatorCost:
        a = self.model.attention
        width = a.head_dim + a.rope_dim + a.v_head_dim
        flop = 2.0 * self._heads * width * (pairs2 / 2.0) * layers
        nbytes = float(keys) * self._kv_bytes_per_key * layers
        compute = flop / self._attention_flops
        memory = nbytes / self._kv_bytes_per_s
        seconds = max(compute, memory)
        energy = Energy.of(self.device).joules(seconds, flop, nbytes, self._attention_flops)
        bound = "compute" if compute >= memory else "memory"
        return OperatorCost(name, "attention.prefill", layers, seconds, flop, nbytes, bound, energy)

    # ---- products and streams --------------------------------------------------------------------------------

    def _gemm(self, name: str, m: int, n: int, k: int, count: int, weights: DType) -> OperatorCost:
        """Return `count` products of (m x k) activations with (k x n) weights: fixed time + max(compute, memory)."""
        peak = self.device.flops[self.device.compute_dtype(weights)] * self.efficiency.compute
        compute = gemm_compute_s(m, n, k, peak, self.device.compute_units)
        nbytes = n * k * weights.bytes + m * (n + k) * self.model.activation.bytes
        memory = nbytes / (self.device.memory_bandwidth_bytes_per_s * self.efficiency.memory)
        fixed = self.efficiency.gemm_s
        if self._quantizes(weights):
            fixed += self.efficiency.elementwise_s
        flop = 2.0 * m * n * k
        seconds = fixed + max(compute, memory)
        energy = Energy.of(self.device).joules(seconds, flop, nbytes, peak)
        bound = "latency" if fixed > max(compute, memory) else "compute" if compute > memory else "memory"
        return OperatorCost(name, "gemm", count, seconds * count, flop * count, nbytes * count, bound, energy * count)

    def _quantizes(self, weights: DType) -> bool:
        """Whether activations are narrowed by a kernel of their own before the product."""
        return weights.compute in {"fp8", "int8", "fp4"} and self.device.compute_dtype(weights) == weights.compute

    def _stream(self, name: str, kind: str, nbytes: float, fixed_s: float, count: int) -> OperatorCost:
        """Return `count` element-wise kernels that move `nbytes` each."""
        memory = nbytes / (self.device.memory_bandwidth_bytes_per_s * self.efficiency.memory)
        seconds = fixed_s + memory
        energy = Energy.of(self.device).joules(seconds, 0.0, nbytes, 1.0)
        bound = "latency" if fixed_s > memory else "memory"
        return OperatorCost(name, kind, count, seconds * count, 0.0, nbytes * count, bound, energy * count)

    def _waiting(self, name: str, kind: str, count: int, seconds: float) -> OperatorCost:
        """Return `count` stretches of `seconds` in which nothing is moved or multiplied."""
        energy = Energy.of(self.device).idle_joules(seconds * count)
        return OperatorCost(name, kind, count, seconds * count, 0.0, 0.0, "latency", energy)

    def _embedding(self, tokens: int) -> OperatorCost:
        nbytes = 2.0 * tokens * self.model.hidden * self.model.activation.bytes
        return self._stream("embedding", "embedding", nbytes, self.efficiency.elementwise_s, 1)

    def _elementwise(self, tokens: int) -> OperatorCost:
        """Two norms with residuals, the rotary embedding with the cache write: three kernels a layer."""
        nbytes = _ELEMENTWISE_PASSES * tokens * self.model.hidden * self.model.activation.bytes
        fixed = 3 * self.efficiency.elementwise_s
        return self._stream("norms_rotary", "norm", nbytes, fixed, self.model.layers)

    def _attention_projections(self, tokens: int) -> list[OperatorCost]:
        model, a, layers = self.model, self.model.attention, self.model.layers
        weights = model.quantization.attention
        out = self._gemm("o_proj", tokens, model.hidden, self._heads * a.v_head_dim, layers, weights)
        if not a.latent:
            kv_width = kv_heads_per_device(a, self.tensor_parallel) * (a.head_dim + a.v_head_dim)
            width = self._heads * a.head_dim + kv_width
            return [self._gemm("qkv_proj", tokens, width, model.hidden, layers, weights), out]
        query_width = self._heads * (a.head_dim + a.rope_dim)
        latent_width = a.kv_lora_rank + a.rope_dim
        if a.q_lora_rank:
            down = self._gemm("qkv_down", tokens, a.q_lora_rank + latent_width, model.hidden, layers, weights)
            up = self._gemm("q_up", tokens, query_width, a.q_lora_rank, layers, weights)
            products = [down, up]
        else:
            products = [self._gemm("qkv_proj", tokens, query_width + latent_width, model.hidden, layers, weights)]
        # Absorbed up-projections run head by head on latents: one batched product each way, weights kept wide.
        key_up = self._gemm("k_up", tokens, a.kv_lora_rank, self._heads * a.head_dim, layers, model.activation)
        value_up = self._gemm("v_up", tokens, self._heads * a.v_head_dim, a.kv_lora_rank, layers, model.activation)
        return [*products, key_up, value_up, out]

    def _dense_feed_forward(self, tokens: int) -> list[OperatorCost]:
        ff = self.model.dense
        width = -(-ff.intermediate // self.tensor_parallel)
        weights = self.model.quantization.dense
        return self._feed_forward("", tokens, width, ff.matrices_in, ff.layers, weights)

    def _feed_forward(
        self, prefix: str, tokens: int, width: int, matrices_in: int, layers: int, weights: DType
    ) -> list[OperatorCost]:
        hidden = self.model.hidden
        up = "gate_up_proj" if matrices_in > 1 else "up_proj"
        activated = (matrices_in + 1.0) * tokens * width * self.model.activation.bytes
        return [
            self._gemm(f"{prefix}{up}", tokens, matrices_in * width, hidden, layers, weights),
            self._stream(f"{prefix}activation", "elementwise", activated, self.efficiency.elementwise_s, layers),
            self._gemm(f"{prefix}down_proj", tokens, hidden, width, layers, weights),
        ]

    def _experts(self, tokens: int) -> list[OperatorCost]:
        moe, model = self.model.moe, self.model
        router = self._gemm("router", tokens, moe.experts, model.hidden, moe.layers, model.activation)
        operators = [router, self._grouped(tokens)]
        if moe.shared_intermediate:
            width = -(-moe.shared_intermediate // self.tensor_parallel)
            weights = model.quantization.shared_experts
            operators.extend(self._feed_forward("shared_", tokens, width, moe.matrices_in, moe.layers, weights))
        return operators

    def _grouped(self, tokens: int) -> OperatorCost:
        """The grouped products of the routed experts: each picked expert is read once and fills whole tiles."""
        moe, model, eff = self.model.moe, self.model, self.efficiency
        weights = model.quantization.experts
        distinct = expected_distinct_experts(moe.experts, moe.top_k, tokens)
        width = -(-moe.intermediate // self.tensor_parallel)
        parameters = model.hidden * width * (moe.matrices_in + 1)
        picks = tokens * moe.top_k
        activations = picks * (2.0 * model.hidden + (moe.matrices_in + 1.0) * width) * model.activation.bytes
        nbytes = distinct * parameters * weights.bytes + activations
        wide = weights.bits >= model.activation.bits
        share = eff.experts_memory if wide else eff.quantized_experts_memory
        memory = nbytes / (self.device.memory_bandwidth_bytes_per_s * share)
        peak = self.device.flops[self.device.compute_dtype(weights)] * eff.compute
        rows = picks / distinct
        tile = next((size for size in (16, 32, 64) if rows <= size), 128)
        # On average the last tile of an expert is half empty.
        padded = max(rows + tile / 2.0, float(tile)) * distinct
        compute = 2.0 * padded * parameters / peak
        fixed = eff.experts_s + (2 * eff.elementwise_s if self._quantizes(weights) else 0.0)
        seconds = fixed + max(compute, memory)
        flop = 2.0 * picks * parameters
        energy = Energy.of(self.device).joules(seconds, flop, nbytes, peak)
        bound = "latency" if fixed > max(compute, memory) else "compute" if compute > memory else "memory"
        n = moe.layers
        return OperatorCost("experts", "moe.experts", n, seconds * n, flop * n, nbytes * n, bound, energy * n)
