"""The operators of one step of a transformer on one device of a parallel plan."""

from dataclasses import dataclass, replace

import numpy as np

from hermes_hw.dtypes import DTYPES, DType
from hermes_hw.gating import activated_experts
from hermes_hw.memory import kv_heads_per_device
from hermes_hw.models.architecture import Architecture, DraftHead
from hermes_hw.operators import Figures, Operator, Sizes
from hermes_hw.parallel import ParallelPlan

_DELTA = 4
"""Kernels of a layer with a state beside those of attention: a product, the convolution, the gating, a norm; those of
Mamba-2's recurrence of prompts are five (vLLM, layers/mamba/ops/ssd_combined.py)."""
_INDEXING = 8
"""Kernels of an indexer: three products, norm, rotary embedding, narrowing with the cache write, scores, choice."""
_NARROWING = 2
"""Kernels that narrow the activations of a product: one finds their scales, one casts."""


def expected_distinct_experts(experts: int, top_k: int, tokens: float | Figures | Sizes) -> Figures:
    """Return how many of `experts` at least one of `tokens` picks, each token picking `top_k` evenly.

    An expert is left out by one token with probability 1 - k/E, hence E (1 - (1 - k/E)^m).
    """
    return np.asarray(experts * (1.0 - np.power(1.0 - top_k / experts, tokens)))


@dataclass(frozen=True, slots=True)
class StepGraph:
    """A model under a parallel plan: says which operators a step of any size is made of, over all its layers."""

    model: Architecture
    plan: ParallelPlan
    kv: DType
    narrowed: tuple[str, ...] = ()
    """Formats of weights whose products narrow their activations first, by kernels of their own."""
    top_p: bool = False
    """Whether the sampler sorts all logits to find the likeliest tokens."""

    def layer_operators(self, tokens: Sizes) -> list[Operator]:
        """Return the operators of all layers whose work is set by the tokens of the step (padding included)."""
        operators = [*self._attention_projections(tokens), *self._elementwise(tokens)]
        if self.model.linear.layers:
            operators.extend(self._linear_projections(tokens))
        if self.model.dense.layers:
            operators.extend(self._dense_feed_forward(tokens))
        if self.model.moe.layers:
            operators.extend(self._experts(tokens))
        operators.extend(self._reductions(tokens))
        if self.model.head is not None:
            operators.extend(self._fusing(self.model.head, tokens))
        return operators

    def embedding_operators(self, tokens: Sizes) -> list[Operator]:
        """Return the operators before the first layer."""
        sizes, attributes = {"tokens": tokens}, {"hidden": self.model.hidden}
        operators = [self._operator("embedding", "embedding", sizes, attributes)]
        if self.plan.tensor > 1:
            operators.append(self._collective("all_reduce_embedding", "all_reduce", self._hidden_bytes(tokens), 1))
        return operators

    def stage_transfer(self, tokens: Sizes) -> Operator:
        """Return the hand-over of hidden states from one pipeline stage to the next."""
        return self._operator("stage_transfer", "transfer.p2p", {"bytes": self._hidden_bytes(tokens)})

    def sampled_operators(self, sampled: Sizes) -> list[Operator]:
        """Return the operators of the output head and the sampler; none for a model without one."""
        model = self.model
        if not model.vocab_head:
            return []
        vocab = -(-model.vocab // self.plan.tensor)
        head = self._gemm("lm_head", sampled, vocab, model.hidden, 1, model.quantization.lm_head)
        attributes = {"vocab": model.vocab} | ({"top_p": 1} if self.top_p else {})
        operators = [head, self._operator("sampler", "sample", {"sequences": sampled}, attributes)]
        if self.plan.tensor > 1:
            operators.append(self._collective("logits_gather", "all_gather", sampled * model.vocab * 2, 1))
        return operators

    def attention_launch(self) -> Operator:
        """Return the fixed part of the attention calls of a step."""
        indexed = self._layers if self.model.attention.index_heads else 0
        calls = self._layers + indexed + self.model.linear.calls
        return self._operator("attention_launch", "attention.launch", {"calls": np.ones(1, np.int64)}, {}, calls)

    def linear_attention(self, batch: Sizes, tokens: Sizes) -> Operator:
        """Return the recurrence of the layers with a state: `batch` decoding sequences, `tokens` prompt tokens."""
        linear, tp = self.model.linear, self.plan.tensor
        attributes = {
            "value_heads": -(-linear.value_heads // tp),
            "key_dim": linear.key_dim,
            "value_dim": linear.value_dim,
        }
        if not linear.kind.serial:
            attributes |= {
                "chunk": linear.chunk_tokens,
                "groups": linear.key_heads_on(tp) if linear.kind.group_shared else attributes["value_heads"],
                "state_bytes": int(linear.state_value_bytes),
            }
        sizes = {"batch": batch, "tokens": tokens}
        return self._operator(linear.kind.operator, "attention.linear", sizes, attributes, linear.calls)

    def decode_attention(self, batch: Sizes, context: Sizes, *, windowed: bool, rows: int = 1) -> Operator:
        """Return decode attention of `batch` sequences over `context` keys in all, in the full or windowed layers.

        Where an indexer picks what the windowed layers see, it is what goes over all keys. `rows` are the queries that
        fill a tile, where each head of each sequence has a tile to itself; attention over latents has kernels without.
        """
        a = self.model.attention
        if a.index_heads and not windowed:
            return self._index("index_decode", "attention.decode", {"batch": batch, "context": context})
        name, count = (
            ("attention_decode_window", a.windowed_layers) if windowed else ("attention_decode", a.full_layers)
        )
        # With context parallelism a device attends with the heads of its group to its share of the tokens.
        sizes = {"batch": batch, "context": -(-context // self.plan.context)}
        heads = self._heads * self.plan.context
        operator = self._attention(name, "attention.decode", sizes, count, a.window if windowed else 0, heads)
        if rows == 1 or a.latent:
            return operator
        return replace(operator, attributes={**operator.attributes, "rows": rows})

    def prefill_attention(self, sizes: dict[str, Sizes], *, windowed: bool) -> Operator:
        """Return attention of prompt chunks: `sizes` has batch, tokens, pairs2 and keys (sums over chunks)."""
        a = self.model.attention
        if a.index_heads and not windowed:
            return self._index("index_prefill", "attention.prefill", sizes)
        name = "attention_prefill_window" if windowed else "attention_prefill"
        count = a.windowed_layers if windowed else a.full_layers
        return self._attention(name, "attention.prefill", sizes, count, a.window if windowed else 0)

    def mixed_attention(self, sizes: dict[str, Sizes]) -> Operator:
        """Return attention of a prompt chunk (tokens, pairs2, keys) beside decoding sequences (batch, context)."""
        return self._attention("attention_mixed", "attention.mixed", sizes, self.model.attention.full_layers, 0)

    @property
    def kernels(self) -> int:
        """Kernels that a step launches when no graph is replayed.

        Attention over latents (MLA) adds five a layer: two norms, the second product of queries, and those that absorb
        keys and values (DeepSeek-V2, arXiv:2405.04434, section 2.1).
        """
        model = self.model
        collectives = model.mixers if self.plan.tensor > 1 else 0
        latent = 5 * self._layers if model.attention.kv_lora_rank else 0
        narrowing = _NARROWING * self._narrowed_products
        indexing = _INDEXING * self._layers if model.attention.index_heads else 0
        kinds = latent + indexing + _DELTA * model.linear.layers + 6 * model.moe.layers
        # Nine kernels to a layer of attention and feed-forward part: four or five to each.
        return -(-9 * model.mixers // 2) + kinds + collectives + narrowing

    @property
    def _narrowed_products(self) -> int:
        model, formats = self.model, self.model.quantization
        latent = 1 if model.attention.kv_lora_rank and model.attention.q_lora_rank else 0
        shared = model.moe.layers if model.moe.shared_intermediate else 0
        products = (
            (formats.attention, (2 + latent) * self._layers + 2 * model.linear.layers),
            (formats.dense, 2 * model.dense.layers),
            # What lies between an expert's two products is narrowed within the kernel.
            (formats.experts, model.moe.layers),
            (formats.shared_experts, 2 * shared),
        )
        return sum(count for weights, count in products if weights.name in self.narrowed)

    # ---- attention -------------------------------------------------------------------------------------------

    @property
    def _heads(self) -> int:
        return self.model.attention.heads // self.plan.tensor

    @property
    def _layers(self) -> int:
        return self.model.attention.full_layers + self.model.attention.windowed_layers

    def _attention(
        self, name: str, kind: str, sizes: dict[str, Sizes], count: int, window: int, heads: int = 0
    ) -> Operator:
        a = self.model.attention
        attributes = {
            "heads": heads or self._heads,
            "kv_heads": 1 if a.latent else kv_heads_per_device(a, self.plan.tensor),
            "head_dim": a.head_dim,
            "v_head_dim": a.v_head_dim,
            "rope_dim": a.rope_dim,
            "latent": a.kv_lora_rank,
            "window": window,
        }
        return Operator(name, kind, self.kv, self.model.activation, sizes, attributes, count)

    def _index(self, name: str, kind: str, sizes: dict[str, Sizes]) -> Operator:
        """Return the scores of an indexer: as attention in fp8 of all its heads to one key, on every device alike.

        Multi-query without values: `2 heads dim` FLOPs for a pair of query and key, `dim` bytes for a key
        (DeepSeek-V3.2-Exp, 2025, equation 1; vLLM and SGLang keep the indexer whole on each tensor-parallel device).
        """
        a, fp8 = self.model.attention, DTYPES["fp8"]
        attributes = {
            "heads": a.index_heads,
            "kv_heads": 1,
            "head_dim": a.index_dim,
            "v_head_dim": 0,
            "rope_dim": 0,
            "latent": 0,
            "window": 0,
        }
        return Operator(name, kind, fp8, fp8, sizes, attributes, self._layers)

    # ---- products and streams --------------------------------------------------------------------------------

    def _operator(
        self, name: str, kind: str, sizes: dict[str, Sizes], attributes: dict[str, int] | None = None, count: int = 1
    ) -> Operator:
        activation = self.model.activation
        return Operator(name, kind, activation, activation, sizes, attributes or {}, count)

    def _gemm(self, name: str, m: Sizes, n: int, k: int, count: int, weights: DType) -> Operator:
        """Return `count` products of (m x k) activations with (k x n) weights."""
        return Operator(name, "gemm", weights, self.model.activation, {"m": m}, {"n": n, "k": k}, count)

    def _elementwise(self, tokens: Sizes) -> list[Operator]:
        """Two norms with residuals, the rotary embedding with the cache write: three kernels a layer.

        Attention over latents norms these too, those of queries where there are such.
        """
        model, a = self.model, self.model.attention
        sizes = {"tokens": tokens}
        rotary = {"heads": self._heads, "kv_heads": kv_heads_per_device(a, self.plan.tensor), "head_dim": a.head_dim}
        rotary |= {"hidden": model.hidden, "qk_norm": int(a.qk_norm)}
        operators = [
            self._operator("norm", "norm", sizes, {"hidden": model.hidden}, model.norms),
        ]
        if self._layers:
            operators.append(self._operator("rotary", "rotary", sizes, rotary, self._layers))
        if a.wide_norm:
            operators.extend(self._wide_norms(tokens))
        if a.latent:
            count = (2 if a.q_lora_rank else 1) * self._layers
            operators.append(self._operator("latent_norm", "norm", sizes, {"hidden": a.kv_lora_rank}, count))
        return operators

    def _wide_norms(self, tokens: Sizes) -> list[Operator]:
        """Return the norms of queries and keys over all heads: with devices that add up between, two kernels for each.

        One sums squares, one applies what they come to (vLLM, minimax_m2.py and linear_attn.py, forward_qk).
        """
        a, passes = self.model.attention, 2 if self.plan.tensor > 1 else 1
        widths = (self._heads * a.head_dim, kv_heads_per_device(a, self.plan.tensor) * a.head_dim)
        names = ("query_norm", "key_norm")
        return [
            self._operator(
                name, "elementwise", {"tokens": tokens}, {"width": width, "inputs": 1}, passes * self._layers
            )
            for name, width in zip(names, widths, strict=True)
        ]

    def _attention_projections(self, tokens: Sizes) -> list[Operator]:
        model, a, layers = self.model, self.model.attention, self._layers
        weights = model.quantization.attention
        out = self._gemm("o_proj", tokens, model.hidden, self._heads * a.v_head_dim, layers, weights)
        if not a.latent:
            kv_width = kv_heads_per_device(a, self.plan.tensor) * (a.head_dim + a.v_head_dim)
            width = self._heads * a.head_dim * (2 if a.output_gate else 1) + kv_width
            return [self._gemm("qkv_proj", tokens, width, model.hidden, layers, weights), out]
        query_width = self._heads * (a.head_dim + a.rope_dim)
        latent_width = a.kv_lora_rank + a.rope_dim
        if a.q_lora_rank:
            down = self._gemm("qkv_down", tokens, a.q_lora_rank + latent_width, model.hidden, layers, weights)
            products = [down, self._gemm("q_up", tokens, query_width, a.q_lora_rank, layers, weights)]
        else:
            products = [self._gemm("qkv_proj", tokens, query_width + latent_width, model.hidden, layers, weights)]
        # Absorbed up-projections run head by head on latents: one batched product each way, weights kept wide.
        key_up = self._gemm("k_up", tokens, self._heads * a.kv_lora_rank, a.head_dim, layers, model.activation)
        value_up = self._gemm("v_up", tokens, self._heads * a.v_head_dim, a.kv_lora_rank, layers, model.activation)
        if a.output_gate:
            width = self._heads * a.v_head_dim
            products.append(self._gemm("output_gate", tokens, width, model.hidden, layers, weights))
        return [*products, key_up, value_up, out, *self._indexer(tokens)]

    def _indexer(self, tokens: Sizes) -> list[Operator]:
        """Return what an indexer does with new tokens: queries from their latent, a key with its norm, head weights."""
        model, a, layers = self.model, self.model.attention, self._layers
        if not a.index_heads:
            return []
        weights, source = model.quantization.attention, a.q_lora_rank or model.hidden
        rotary = {"heads": a.index_heads, "kv_heads": 1, "head_dim": a.index_dim, "qk_norm": 0}
        rotary |= {"hidden": a.index_heads * a.index_dim}
        return [
            self._gemm("index_query", tokens, a.index_heads * a.index_dim, source, layers, weights),
            self._gemm("index_key", tokens, a.index_dim, model.hidden, layers, weights),
            self._gemm("index_weights", tokens, a.index_heads, model.hidden, layers, model.activation),
            self._operator("index_norm", "norm", {"tokens": tokens}, {"hidden": a.index_dim}, layers),
            self._operator("index_rotary", "rotary", {"tokens": tokens}, rotary, layers),
        ]

    def _fusing(self, head: DraftHead, tokens: Sizes) -> list[Operator]:
        """Return what a draft head does beside its layer: it makes one hidden state of several."""
        model, a = self.model, self.model.attention
        products = [self._gemm("fuse_proj", tokens, model.hidden, head.fused * model.hidden, 1, model.activation)]
        if head.attention_inputs > 1:
            kv_width = kv_heads_per_device(a, self.plan.tensor) * (a.head_dim + a.v_head_dim)
            width = self._heads * a.head_dim + kv_width
            if a.latent:
                width = a.q_lora_rank + a.kv_lora_rank + a.rope_dim
            more = (head.attention_inputs - 1) * model.hidden
            products.append(self._gemm("qkv_proj_more", tokens, width, more, 1, model.quantization.attention))
        return products

    def _linear_projections(self, tokens: Sizes) -> list[Operator]:
        """Return what stands around a recurrence: products, the convolution or activation, gating, a norm."""
        model, linear, tp = self.model, self.model.linear, self.plan.tensor
        weights, kind, layers = model.quantization.attention, linear.kind, linear.layers
        heads = -(-linear.value_heads // tp)
        values, sizes = heads * linear.value_dim, {"tokens": tokens}
        convolved = {"width": linear.channels(tp), "inputs": 1}
        operators = [
            self._gemm("linear_in_proj", tokens, linear.wide_columns(tp), model.hidden, layers, weights),
            self._operator("linear_convolution", "elementwise", sizes, convolved, layers),
        ]
        if linear.gates:
            # What sets decay and step is a product of its own (vLLM, models/qwen3_next.py).
            columns = -(-linear.gates // tp)
            operators.append(self._gemm("linear_gates", tokens, columns, model.hidden, layers, model.activation))
        for product in linear.more:
            inputs, outputs = product.on_device(tp)
            operators.append(self._gemm(f"linear_{product.name}", tokens, outputs, inputs, layers, model.activation))
        if kind.gating:
            width = heads if linear.rule == "gated_delta" else values
            buffers = {"width": values, "inputs": 0}
            operators.append(self._operator("linear_buffers", "elementwise", sizes, buffers, layers))
            operators.append(
                self._operator("linear_gating", "elementwise", sizes, {"width": width, "inputs": 2}, layers)
            )
        if kind.normed:
            operators.append(self._operator("linear_norm", "norm", sizes, {"hidden": values}, layers))
        return [*operators, self._gemm("linear_out_proj", tokens, model.hidden, values, layers, weights)]

    def _dense_feed_forward(self, tokens: Sizes) -> list[Operator]:
        ff = self.model.dense
        width = -(-ff.intermediate // self.plan.tensor)
        return self._feed_forward("", tokens, width, ff.matrices_in, ff.layers, self.model.quantization.dense)

    def _shared_experts(self, tokens: Sizes) -> list[Operator]:
        """Return the shared experts, marked as running beside the routed ones on a stream of their own.

        vLLM (shared_experts_stream), SGLang (alt_stream) and TensorRT-LLM (maybe_execute_in_parallel) do so.
        """
        moe, plan = self.model.moe, self.plan
        width, weights = -(-moe.shared_intermediate // plan.tensor), self.model.quantization.shared_experts
        operators = self._feed_forward("shared_", tokens, width, moe.matrices_in, moe.layers, weights)
        return [replace(one, attributes={**one.attributes, "beside": 1}) for one in operators]

    def _feed_forward(
        self, prefix: str, tokens: Sizes, width: int, matrices_in: int, layers: int, weights: DType
    ) -> list[Operator]:
        hidden = self.model.hidden
        up = "gate_up_proj" if matrices_in > 1 else "up_proj"
        attributes = {"width": width, "inputs": matrices_in}
        return [
            self._gemm(f"{prefix}{up}", tokens, matrices_in * width, hidden, layers, weights),
            self._operator(f"{prefix}activation", "elementwise", {"tokens": tokens}, attributes, layers),
            self._gemm(f"{prefix}down_proj", tokens, hidden, width, layers, weights),
        ]

    # ---- experts and collectives -----------------------------------------------------------------------------

    def _experts(self, tokens: Sizes) -> list[Operator]:
        moe, model, plan = self.model.moe, self.model, self.plan
        gathered = tokens * plan.data  # every rank brings as many
        mean = gathered * float(moe.top_k) / plan.expert
        held = (moe.experts + plan.redundant) // plan.expert
        sizes = {
            "tokens": tokens,
            "picks": np.minimum(plan.busiest_picks(mean), gathered * float(min(moe.top_k, held))),
            "distinct": activated_experts(moe.experts, moe.top_k, gathered, plan.redundant) / plan.expert,
        }
        attributes = {
            "hidden": moe.latent or model.hidden,
            "intermediate": -(-moe.intermediate // plan.experts_tensor),
            "inputs": moe.matrices_in,
            "experts": moe.experts,
            "top_k": moe.top_k,
            "expert_parallel": plan.expert,
            "data_parallel": plan.data,
            "experts_tensor": plan.experts_tensor,
        }
        weights = model.quantization.experts
        operators = [
            self._gemm("router", tokens, moe.experts, model.hidden, moe.layers, model.activation),
            Operator("experts", "moe.experts", weights, model.activation, sizes, attributes, moe.layers),
        ]
        if moe.latent:
            narrow = model.quantization.shared_experts
            operators.append(self._gemm("latent_down", tokens, moe.latent, model.hidden, moe.layers, narrow))
            operators.append(self._gemm("latent_up", tokens, model.hidden, moe.latent, moe.layers, narrow))
        if moe.shared_intermediate:
            operators.extend(self._shared_experts(tokens))
        return operators

    def _hidden_bytes(self, tokens: Sizes) -> Sizes:
        return np.asarray(tokens * int(self.model.hidden * self.model.activation.bytes))

    def _context_exchange(self, tokens: Sizes) -> list[Operator]:
        """Queries to all devices that share a sequence's tokens, and partial outputs back to where their heads are."""
        a, ranks = self.model.attention, self.plan.context
        latent = a.kv_lora_rank + a.rope_dim if a.latent else a.head_dim
        width = self._heads * ranks * self.model.activation.bytes
        queries = np.asarray(tokens * int(width * latent))
        outputs = np.asarray(tokens * int(width * (a.kv_lora_rank if a.latent else a.v_head_dim)))
        return [
            self._collective("queries_gather", "all_gather", queries, self._layers, ranks),
            self._collective("outputs_scatter", "reduce_scatter", outputs, self._layers, ranks),
        ]

    def _collective(self, name: str, kind: str, nbytes: Sizes, count: int, ranks: int = 0) -> Operator:
        attributes = {"ranks": ranks or self.plan.tensor}
        return self._operator(name, f"collective.{kind}", {"bytes": nbytes}, attributes, count)

    def _reductions(self, tokens: Sizes) -> list[Operator]:
        """All-reduces of tensor parallelism; with data parallelism the experts' tokens travel out and back instead."""
        model, plan = self.model, self.plan
        operators = []
        nbytes = self._hidden_bytes(tokens)
        spread = model.moe.layers if plan.data > 1 else 0
        if plan.tensor > 1:
            operators.append(self._collective("all_reduce", "all_reduce", nbytes, model.mixers - spread))
            for product in model.linear.more:
                if product.divided == "inputs":
                    partial = np.asarray(tokens * int(product.outputs * model.activation.bytes))
                    name = f"linear_{product.name}_all_reduce"
                    operators.append(self._collective(name, "all_reduce", partial, model.linear.layers))
        if plan.context > 1:
            operators.extend(self._context_exchange(tokens))
        if plan.tensor > 1 and model.attention.wide_norm:
            # The sums of squares of queries and of keys, a token's in float32, travel together.
            operators.append(self._collective("norm_all_reduce", "all_reduce", tokens * 8, self._layers))
        if spread and plan.expert > 1:
            # A token goes once to each group that holds one of its experts, from one device of its own group.
            reached = float(expected_distinct_experts(plan.expert, 1, float(model.moe.top_k)))
            reached *= (model.moe.latent or model.hidden) / model.hidden
            sent = np.asarray(nbytes * (reached / plan.tensor), np.int64)
            ranks = plan.tensor * plan.data
            operators.append(self._collective("experts_dispatch", "all_to_all", sent, spread, ranks))
            operators.append(self._collective("experts_combine", "all_to_all", sent, spread, ranks))
        elif spread:
            ranks = plan.tensor * plan.data
            operators.append(self._collective("tokens_gather", "all_gather", nbytes * plan.data, spread, ranks))
            operators.append(self._collective("tokens_scatter", "reduce_scatter", nbytes * plan.data, spread, ranks))
        return operators
