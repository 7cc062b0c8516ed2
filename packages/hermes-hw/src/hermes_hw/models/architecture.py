"""What a decoder-only transformer is made of, as far as it decides the price of a step."""

from dataclasses import dataclass

from hermes_hw.dtypes import DType
from hermes_hw.models.recurrent import NO_RECURRENCE, LinearAttention


@dataclass(frozen=True, slots=True)
class Attention:
    """The attention of every layer (all layers share their projections' shapes).

    `kv_lora_rank` > 0 means multi-head latent attention (DeepSeek-V2, arXiv:2405.04434): the cache holds one latent
    of `kv_lora_rank + rope_dim` values for each token and layer, whatever the number of heads.
    """

    heads: int
    kv_heads: int
    head_dim: int
    v_head_dim: int
    q_lora_rank: int = 0
    kv_lora_rank: int = 0
    rope_dim: int = 0
    """Rotary part of a head, MLA only; `head_dim` is then the part without rotation."""
    window: int = 0
    """Tokens that a windowed layer sees (sliding window, or the chunk of chunked attention); 0 for none."""
    full_layers: int = 0
    windowed_layers: int = 0
    keeps_all: bool = False
    """Whether windowed layers keep all tokens: those of sparse attention choose which to see (DeepSeek-V3.2, GLM-5),
    and of chunked attention (Llama 4) vLLM manages the cache as that of the other layers."""
    qk_norm: bool = False
    """Whether queries and keys are normed."""
    wide_norm: bool = False
    """Whether that norm spans all heads, so that tensor-parallel devices must add up what it needs."""
    output_gate: bool = False
    """Whether a gate for the output is projected too: as wide as the queries, beside them, or with latents as wide as
    the values, by a product of its own."""
    causal: bool = True
    """Whether a token sees only those before it; encoders see all."""
    index_heads: int = 0
    """Heads of the indexer that picks what a token of sparse attention sees, `window` tokens of all before it
    (DeepSeek-V3.2-Exp, "lightning indexer", 2025); 0 for none."""
    index_dim: int = 0
    """Width of its heads, and of the one key that it keeps for each token."""

    @property
    def latent(self) -> bool:
        """Whether this is multi-head latent attention."""
        return self.kv_lora_rank > 0


@dataclass(frozen=True, slots=True)
class FeedForward:
    """The dense feed-forward layers. `gated` ones have a gate beside the up projection (SwiGLU, GeGLU)."""

    layers: int
    intermediate: int
    gated: bool = True

    @property
    def matrices_in(self) -> int:
        """Input projections: 2 when gated, else 1."""
        return 2 if self.gated else 1


@dataclass(frozen=True, slots=True)
class MixtureOfExperts:
    """The mixture-of-experts layers: `top_k` of `experts` for each token, beside shared ones that all tokens take."""

    layers: int
    experts: int
    top_k: int
    intermediate: int
    shared_intermediate: int = 0
    gated: bool = True
    latent: int = 0
    """Width of what routed experts read and write, where products before and after them narrow the hidden state
    (Nemotron 3's moe_latent_size, Kimi-K3's routed_expert_hidden_size); 0 for the hidden state itself."""

    @property
    def matrices_in(self) -> int:
        """Input projections of an expert: 2 when gated, else 1."""
        return 2 if self.gated else 1


@dataclass(frozen=True, slots=True)
class Quantization:
    """Storage format of each group of weights. Embeddings and the router keep the activation format."""

    attention: DType
    dense: DType
    experts: DType
    lm_head: DType
    shared_experts: DType


@dataclass(frozen=True, slots=True)
class DraftHead:
    """What makes a layer a head that drafts for another model, whose token embedding it shares."""

    fused: int
    """Hidden states side by side, embedding included, that a product makes one of before the layer."""
    attention_inputs: int = 1
    """Hidden states side by side that the input projections of attention read."""
    own_output: bool = False
    """Whether it has an output head of its own, over `Architecture.vocab`; else the model's."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """A decoder-only transformer. Counts are of the whole model, before any parallel split."""

    name: str
    model_type: str
    layers: int
    hidden: int
    vocab: int
    attention: Attention
    dense: FeedForward
    moe: MixtureOfExperts
    tied_embeddings: bool
    max_model_len: int
    activation: DType
    quantization: Quantization
    vocab_head: bool = True
    """Whether logits over the vocabulary are computed; encoders do not."""
    top_p: bool = False
    """Whether a request that says nothing is answered from the likeliest tokens alone: its publisher's
    `generation_config.json` has a `top_p` below 1."""
    linear: LinearAttention = NO_RECURRENCE
    head: DraftHead | None = None
    """What this is beside a layer, where it is a head that drafts for another model."""
    assumptions: tuple[str, ...] = ()
    """What the configuration did not say and was assumed, one sentence each."""

    @property
    def attention_parameters(self) -> int:
        """Weights of one layer's attention projections."""
        a = self.attention
        if a.latent:
            query_dim = a.heads * (a.head_dim + a.rope_dim)
            query = (
                self.hidden * a.q_lora_rank + a.q_lora_rank * query_dim if a.q_lora_rank else self.hidden * query_dim
            )
            key_value = self.hidden * (a.kv_lora_rank + a.rope_dim)
            key_value += a.kv_lora_rank * a.heads * (a.head_dim + a.v_head_dim)
            output = a.heads * a.v_head_dim * self.hidden * (2 if a.output_gate else 1)
            return query + key_value + output + self.index_parameters
        qkv = a.heads * a.head_dim * (2 if a.output_gate else 1) + a.kv_heads * (a.head_dim + a.v_head_dim)
        return self.hidden * qkv + a.heads * a.v_head_dim * self.hidden

    @property
    def index_parameters(self) -> int:
        """Weights of one layer's indexer: queries from their latent, one key, and a weight for each head."""
        a = self.attention
        source = a.q_lora_rank or self.hidden
        return source * a.index_heads * a.index_dim + self.hidden * (a.index_dim + a.index_heads)

    @property
    def linear_parameters(self) -> int:
        """Weights of one layer with a state of constant size."""
        linear = self.linear
        return self.hidden * (linear.projected + linear.value_heads * linear.value_dim) + linear.small_weights()

    @property
    def attention_layers(self) -> int:
        """Layers that attend to keys of other tokens."""
        return self.attention.full_layers + self.attention.windowed_layers

    @property
    def mixers(self) -> int:
        """Parts that add to the hidden state: attention, recurrences and feed-forward parts, two in most layers."""
        return self.attention_layers + self.linear.layers + self.dense.layers + self.moe.layers

    @property
    def norms(self) -> int:
        """Norms before these; attention and a recurrence side by side in a layer share one (Falcon-H1)."""
        return min(self.mixers, 2 * self.layers)

    @property
    def dense_parameters(self) -> int:
        """Weights of one dense feed-forward layer."""
        return self.hidden * self.dense.intermediate * (self.dense.matrices_in + 1)

    @property
    def expert_parameters(self) -> int:
        """Weights of one routed expert."""
        return (self.moe.latent or self.hidden) * self.moe.intermediate * (self.moe.matrices_in + 1)

    @property
    def latent_expert_parameters(self) -> int:
        """Weights of the products that narrow the hidden state for the routed experts of a layer, and widen it."""
        return 2 * self.hidden * self.moe.latent

    @property
    def shared_expert_parameters(self) -> int:
        """Weights of the shared experts of one layer."""
        return self.hidden * self.moe.shared_intermediate * (self.moe.matrices_in + 1)

    @property
    def embedding_parameters(self) -> int:
        """Weights of the token embedding (and of the output head, when not tied)."""
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """Weights in all (matrices only: norms and biases are below 0.1%)."""
        return self._parameters(self.moe.experts)

    @property
    def active_parameters(self) -> int:
        """Weights that one token meets."""
        return self._parameters(self.moe.top_k)

    @property
    def fusing_parameters(self) -> int:
        """Weights that a draft head has beside those of its layer and its output head; 0 for a whole model."""
        if self.head is None:
            return 0
        a = self.attention
        into = self.hidden * (a.q_lora_rank + a.kv_lora_rank + a.rope_dim)
        if not a.latent:
            into = self.hidden * (a.heads * a.head_dim + a.kv_heads * (a.head_dim + a.v_head_dim))
        return self.head.fused * self.hidden * self.hidden + (self.head.attention_inputs - 1) * into

    def _parameters(self, experts: int) -> int:
        moe = experts * self.expert_parameters + self.shared_expert_parameters + self.hidden * self.moe.experts
        moe += self.latent_expert_parameters
        body = self.attention_layers * self.attention_parameters
        body += self.linear.layers * self.linear_parameters + self.dense.layers * self.dense_parameters
        heads = self.embedding_parameters * (1 if self.tied_embeddings or not self.vocab_head else 2)
        if self.head is not None:
            heads = self.fusing_parameters + (self.embedding_parameters if self.head.own_output else 0)
        return body + self.moe.layers * moe + heads
