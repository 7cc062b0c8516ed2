"""Layers that keep a state of one size for a sequence instead of keys and values of all its tokens.

They differ in the rule by which a token changes the state, and in what is projected from the hidden state:

* ``gated_delta``: gated delta nets (Yang et al., arXiv:2412.06464): Qwen3-Next, Qwen3.5.
* ``kda``: Kimi delta attention, a decay for each channel out of two narrow products (Kimi Linear, arXiv:2510.26692).
* ``mamba2``: state-space duality (Dao and Gu, arXiv:2405.21060): Nemotron-H, Granite 4.0 H, Bamba, Falcon-H1.
* ``mamba1``: selective scans (Gu and Dao, arXiv:2312.00752): Jamba, Falcon-Mamba.
* ``lightning``: lightning attention, a fixed decay for each head (MiniMax-01, arXiv:2501.08313).
* ``short_conv``: a gated convolution over a few tokens and no more state than these (LFM2, arXiv:2511.23404).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hermes_core.api.errors import UnsupportedError


@dataclass(frozen=True, slots=True)
class Rule:
    """How a token changes the state, as far as it decides the price of the recurrence."""

    title: str
    operator: str
    """Name of the recurrence among the operators of a step."""
    table: str = ""
    """Prefix of the kinds of tables that hold it; empty where nothing measured it."""
    chunk_tokens: int = 0
    """Tokens of a prompt that are worked on at once; 0 where they follow one another."""
    serial: bool = False
    """Whether a chunk starts from what the one before it left, within one kernel, rather than all chunks at once."""
    group_shared: bool = False
    """Whether the products of queries and keys are made once for the heads of a group."""
    gating: bool = False
    """Whether decays are made by a kernel of their own, and its inputs copied and the output zeroed by one before it
    (vLLM, models/qwen3_5.py: both halves of the gates made contiguous, `torch.zeros` for the output)."""
    normed: bool = True
    """Whether a norm stands before the output projection."""


_DELTA_CHUNK: Final = 64
"""Tokens of a chunk in the kernels of both delta rules (flash-linear-attention; vLLM, model_executor/layers/fla)."""
_LIGHTNING_CHUNK: Final = 256
"""The same of lightning attention (vLLM, model_executor/layers/lightning_attn.py, BLOCK)."""
_SPACE_CHUNK: Final = 256
"""The same of state-space duality where the configuration does not say (Dao and Gu's reference, chunk_size)."""

RULES: Final[Mapping[str, Rule]] = {
    "gated_delta": Rule(
        "gated delta net", "attention_linear", "attention.linear", _DELTA_CHUNK, serial=True, gating=True
    ),
    "kda": Rule("Kimi delta attention", "attention_kda", "attention.kda", _DELTA_CHUNK, serial=True, gating=True),
    "mamba2": Rule("Mamba-2", "attention_mamba2", chunk_tokens=_SPACE_CHUNK, group_shared=True),
    "mamba1": Rule("Mamba-1", "attention_mamba1", normed=False),
    "lightning": Rule("lightning attention", "attention_lightning", chunk_tokens=_LIGHTNING_CHUNK),
    "short_conv": Rule("short convolution", "attention_short_conv", normed=False),
}
"""The rules that can be priced, by the names of `LinearAttention.rule`."""


@dataclass(frozen=True, slots=True)
class Product:
    """A product beside the wide ones of such a layer. With tensor parallelism one of its sides is divided, or none."""

    name: str
    inputs: int
    outputs: int
    divided: str = ""
    """"inputs" (partial sums are added up), "outputs" or "" (whole on every device)."""

    def on_device(self, tensor_parallel: int) -> tuple[int, int]:
        """Return inputs and outputs on one of `tensor_parallel` devices."""
        inputs = -(-self.inputs // tensor_parallel) if self.divided == "inputs" else self.inputs
        return inputs, -(-self.outputs // tensor_parallel) if self.divided == "outputs" else self.outputs


@dataclass(frozen=True, slots=True)
class LinearAttention:
    """The layers with a state of constant size; all are alike. `key_dim` x `value_dim` values a head are the state."""

    layers: int = 0
    key_heads: int = 0
    """Heads of queries and keys (groups of B and C in state-space terms); 0 where they are no columns of the input."""
    value_heads: int = 0
    key_dim: int = 0
    value_dim: int = 0
    convolution: int = 0
    """Tokens that the causal convolution before it spans; 0 for none."""
    rule: str = "gated_delta"
    """One of `RULES`."""
    gated: bool = True
    """Whether the input projection also makes a gate for the output, as wide as the values."""
    steps: int = 0
    """Further columns of the input projection: a step for each head (Mamba-2), a second gate (short convolutions)."""
    gates: int = 0
    """Columns of a product of its own for decay and step, kept as wide as activations."""
    more: tuple[Product, ...] = ()
    """Further products of a layer, kept as wide as activations."""
    constants: int = 0
    """Weights of a layer that are no matrix of a product: decays, biases of steps, skips."""
    state_value_bytes: float = 4.0
    """Bytes of a value of the state; published configurations keep it in float32 where they say anything."""
    chunk: int = 0
    """Tokens of a prompt that are worked on at once, where the configuration says so; 0 for what the rule has."""

    @property
    def kind(self) -> Rule:
        """What is particular to its rule."""
        rule = RULES.get(self.rule)
        if rule is None:
            raise UnsupportedError(f"recurrent layers of the rule {self.rule!r}", remedy=f"Known: {', '.join(RULES)}.")
        return rule

    @property
    def chunk_tokens(self) -> int:
        """Tokens of a prompt that are worked on at once; 0 where they follow one another."""
        return self.chunk or self.kind.chunk_tokens

    @property
    def calls(self) -> int:
        """Layers that call a recurrence: all, unless the convolution is all there is."""
        return self.layers if self.state_values else 0

    def key_heads_on(self, tensor_parallel: int) -> int:
        """Return the heads of queries and keys on one device; a device that has a share of a group has all of it.

        vLLM, model_executor/layers/mamba/mamba_utils.py, extra_groups_for_head_shards.
        """
        return -(-self.key_heads // tensor_parallel)

    def wide_columns(self, tensor_parallel: int = 1) -> int:
        """Return the columns of the input projection on one device: queries, keys, values, output gate, steps."""
        values = -(-self.value_heads // tensor_parallel) * self.value_dim
        keys = 2 * self.key_heads_on(tensor_parallel) * self.key_dim
        return keys + values * (2 if self.gated else 1) + -(-self.steps // tensor_parallel)

    def channels(self, tensor_parallel: int = 1) -> int:
        """Return what the convolution goes over on one device: queries, keys and values."""
        keys = 2 * self.key_heads_on(tensor_parallel) * self.key_dim
        return keys + -(-self.value_heads // tensor_parallel) * self.value_dim

    @property
    def projected(self) -> int:
        """Columns of the input projections, with those of decay and step."""
        return self.wide_columns() + self.gates

    @property
    def state_values(self) -> int:
        """Values of the recurrent state of a sequence in one layer."""
        return self.value_heads * self.key_dim * self.value_dim

    @property
    def convolution_values(self) -> int:
        """Values that the convolution keeps of a sequence in one layer."""
        return max(self.convolution - 1, 0) * self.channels()

    def small_weights(self) -> int:
        """Return the weights of a layer that stay as wide as activations: gates' products apart, all small ones."""
        products = sum(product.inputs * product.outputs for product in self.more)
        return products + self.convolution * self.channels() + self.constants


NO_RECURRENCE: Final = LinearAttention()
"""Of a model of which all layers attend."""


def gated_delta(layers: int, heads: tuple[int, int], dims: tuple[int, int], convolution: int) -> LinearAttention:
    """Return gated delta nets of (key, value) `heads` and `dims`: Qwen3-Next's layout (transformers, Qwen3NextConfig).

    Decay and step of each value head are a product of their own; a decay and a bias for each are weights.
    """
    return LinearAttention(layers, *heads, *dims, convolution, gates=2 * heads[1], constants=2 * heads[1] + dims[1])


def kda(layers: int, heads: int, dim: int, convolution: int, hidden: int, *, full_gate: bool) -> LinearAttention:
    """Return Kimi delta attention: queries, keys and values of `heads` heads of `dim`, a step for each head.

    Decays of all channels come from a product `hidden` to `dim` and one `dim` to all channels; the output gate as well,
    or with `full_gate` from one wide product (Kimi-K3's use_full_rank_gate). moonshotai/Kimi-Linear-48B-A3B-Instruct,
    modeling_kimi.py, KimiDeltaAttention.
    """
    wide = heads * dim
    narrow = (Product("decay_down", hidden, dim), Product("decay_up", dim, wide, "outputs"))
    gate = () if full_gate else (Product("gate_down", hidden, dim), Product("gate_up", dim, wide, "outputs"))
    return LinearAttention(
        layers,
        heads,
        heads,
        dim,
        dim,
        convolution,
        rule="kda",
        gated=full_gate,
        gates=heads,
        more=(*narrow, *gate),
        constants=heads + wide + dim,
    )


def mamba2(
    layers: int, heads: int, head_dim: int, groups: int, state: int, convolution: int, *, chunk: int, state_bytes: float
) -> LinearAttention:
    """Return Mamba-2: one input projection makes gate, values, B and C of each group, and a step for each head.

    Three constants a head (decay, bias of the step, skip), a norm as wide as the values (transformers, Mamba2Mixer).
    """
    return LinearAttention(
        layers,
        groups,
        heads,
        state,
        head_dim,
        convolution,
        rule="mamba2",
        steps=heads,
        constants=3 * heads + heads * head_dim,
        chunk=chunk,
        state_value_bytes=state_bytes,
    )


def mamba1(layers: int, inner: int, state: int, convolution: int, rank: int, state_bytes: float) -> LinearAttention:
    """Return Mamba-1 of `inner` channels: B, C and a step of rank `rank` come from the values, after the convolution.

    A decay for each channel and value of the state, a bias of the step and a skip for each channel (transformers,
    JambaMambaMixer, MambaMixer).
    """
    products = (Product("scan_inputs", inner, rank + 2 * state, "inputs"), Product("steps", rank, inner, "outputs"))
    return LinearAttention(
        layers,
        0,
        inner,
        state,
        1,
        convolution,
        rule="mamba1",
        more=products,
        constants=inner * state + 2 * inner,
        state_value_bytes=state_bytes,
    )


def lightning(layers: int, heads: int, dim: int, state_bytes: float) -> LinearAttention:
    """Return lightning attention: queries, keys, values and an output gate, a norm.

    MiniMaxAI/MiniMax-Text-01, modeling_minimax_text_01.py, MiniMaxText01LightningAttention; vLLM,
    layers/mamba/linear_attn.py.
    """
    return LinearAttention(
        layers, heads, heads, dim, dim, rule="lightning", constants=heads * dim, state_value_bytes=state_bytes
    )


def short_convolution(layers: int, hidden: int, convolution: int) -> LinearAttention:
    """Return gated short convolutions: one product makes two gates and what the convolution goes over.

    transformers, Lfm2ShortConv.
    """
    return LinearAttention(layers, 0, 1, 0, hidden, convolution, rule="short_conv", steps=hidden)
