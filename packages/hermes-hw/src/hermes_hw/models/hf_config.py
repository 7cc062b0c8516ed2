"""Reads the architecture of a model from the content of its Hugging Face `config.json`."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from hermes_core.api.errors import InputError, UnsupportedError

from hermes_hw.dtypes import DType, dtype_named
from hermes_hw.models.architecture import Architecture, Attention, FeedForward, MixtureOfExperts
from hermes_hw.models.fields import Fields
from hermes_hw.models.heads import HEADS, head_of
from hermes_hw.models.hybrid import HYBRID_TYPES, Stack, attention_kinds, read_stack, refuse_unknown_layers
from hermes_hw.models.quantization import quantization_from_config, uniform_quantization
from hermes_hw.options import option_error

_KNOWN_TYPES: Final = frozenset(
    """llama llama4 llama4_text mistral mistral3 mixtral qwen2 qwen2_moe qwen3 qwen3_moe gemma gemma2 gemma3 gemma3_text
    deepseek_v2 deepseek_v3 kimi_k2 gpt_oss phi phi3 phimoe gpt_neox falcon stablelm olmo olmo2 granite granitemoe
    cohere cohere2 glm4 glm4_moe starcoder2 internlm2 internlm3 yi baichuan ernie4_5 ernie4_5_moe exaone seed_oss
    smollm3 qwen3_next qwen3_5 qwen3_5_text qwen3_5_moe qwen3_5_moe_text nemotron minimax gpt_bigcode opt bloom
    gpt2 minimax_m2 glm_moe_dsa deepseek_v32 kimi_k25 glm olmo3 dbrx mimo qwen3_vl_text qwen3_vl_moe_text""".split()  # noqa: SIM905 - a list of fifty words
)
"""Model types whose fields mean what this module takes them to mean."""

_ENCODER_TYPES: Final = frozenset("bert roberta xlm-roberta camembert electra modernbert nomic_bert new".split())  # noqa: SIM905
"""Model types whose tokens see all others, and that make no tokens: embedding and rerank models."""
_ENCODER_ARCHITECTURES: Final = ("ForMaskedLM", "ForSequenceClassification")
_GATED_ENCODERS: Final = frozenset(("modernbert", "nomic_bert", "new"))
_GATED_TOWERS: Final = frozenset(("qwen2_5_vl", "pixtral"))
"""Vision towers whose feed-forward layers have a gate."""

_UNGATED_TYPES: Final = frozenset(
    ("phi", "gpt_neox", "falcon", "starcoder2", "nemotron", "nemotron_h", "gpt_bigcode", "opt", "bloom", "gpt2")
)
_TIED_TYPES: Final = frozenset(
    ("gemma", "gemma2", "gemma3", "gemma3_text", "cohere", "cohere2", "gpt2", "bloom", "falcon", "opt")
)


def architecture_from_config(name: str, config: Mapping[str, Any], part: str = "language") -> Architecture:
    """Read an architecture from a `config.json` mapping; `name` is for messages.

    A multimodal configuration is read by its `text_config`, or with `part` "vision" by its `vision_config`; a head
    that drafts for the model is the `part` with its name (`hermes_hw.models.heads`). Encoders
    (embedding and rerank models, vision towers) have no head and tokens that see all others. Raises InputError when a
    needed field is absent or strange and UnsupportedError for layers that are neither attention nor feed-forward; what
    is merely unusual is assumed, and said in `assumptions`.
    """
    if not isinstance(config, Mapping):
        raise InputError(f"config.json of {name}: expected a JSON object, found {type(config).__name__}")
    if part == "vision":
        return _vision_tower(name, config)
    if part in HEADS:
        return head_of(architecture_from_config(name, config), part)
    if part != "language":
        known = ", ".join(("language", "vision", *HEADS))
        raise option_error("part", f"part {part!r} of {name} is unknown", f"Known: {known}.")
    text = _text_part(name, config)
    fields = Fields(name, text)
    if text is not config:
        fields.assume("Only the language model is priced, not its vision or audio tower.")
    model_type = str(text.get("model_type") or config.get("model_type") or "")
    refuse_unknown_layers(name, model_type, text)
    encoder = _is_encoder(model_type, text)
    if model_type not in _KNOWN_TYPES and model_type not in HYBRID_TYPES and not encoder:
        fields.assume(
            f"model_type {model_type or 'absent'!r} is unknown: read as a decoder of the Llama kind "
            "(attention with key-value heads, gated feed-forward)."
        )
    listed = text.get("layers_block_type")
    layers = fields.count(
        "num_hidden_layers", "n_layer", "num_layers", default=len(listed) if isinstance(listed, list) else None
    )
    hidden = fields.count("hidden_size", "n_embd", "d_model")
    activation = _activation(fields, config)
    stack = read_stack(fields, model_type, layers, hidden, activation.bytes)
    attention = _attention(fields, model_type, stack, hidden)
    attention = dataclasses.replace(attention, causal=not encoder)
    dense, moe = _feed_forward(fields, model_type, stack, (layers, hidden))
    tied = text.get("tie_word_embeddings", config.get("tie_word_embeddings"))
    return Architecture(
        name=name,
        model_type=model_type,
        layers=layers,
        hidden=hidden,
        vocab=fields.count("vocab_size"),
        attention=attention,
        dense=dense,
        moe=moe,
        tied_embeddings=bool(model_type in _TIED_TYPES if tied is None else tied),
        max_model_len=_max_model_len(fields),
        activation=activation,
        quantization=quantization_from_config({**text, **_quantization_part(config)}, activation, layers),
        vocab_head=not encoder,
        linear=stack.linear,
        top_p=_top_p(name, {**config, **text}),
        assumptions=tuple(fields.assumptions),
    )


def _activation(fields: Fields, config: Mapping[str, Any]) -> DType:
    """Return the format of activations: what the text part says, or the whole `config`."""
    text = fields.config
    stated = text.get("torch_dtype") or text.get("dtype") or config.get("torch_dtype") or config.get("dtype")
    if stated is None:
        fields.assume("No torch_dtype: activations taken as bf16.")
    activation = dtype_named(str(stated or "bf16"), f"config.json of {fields.name}: torch_dtype")
    if activation.name == "fp32":
        fields.assume("torch_dtype is float32: served as fp16, as engines do.")
        activation = dtype_named("fp16")
    return activation


def _top_p(name: str, config: Mapping[str, Any]) -> bool:
    """Return whether `top_p` keeps only some tokens, as `generation_config.json` says."""
    value = config.get("top_p")
    if value is None:
        return False
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise InputError(f"config.json of {name}: top_p must be above 0 and at most 1, found {value!r}")
    return value < 1


def _is_encoder(model_type: str, config: Mapping[str, Any]) -> bool:
    if model_type in _ENCODER_TYPES:
        return True
    # A decoder with a classification head still masks the future.
    return model_type not in _KNOWN_TYPES and any(
        str(item).endswith(_ENCODER_ARCHITECTURES) for item in config.get("architectures") or []
    )


def _vision_tower(name: str, config: Mapping[str, Any]) -> Architecture:
    """Read the vision tower of a multimodal model: an encoder over image patches."""
    tower = config.get("vision_config")
    if not isinstance(tower, Mapping):
        raise InputError(
            f"config.json of {name}: no vision_config", remedy="Only multimodal models have a vision part."
        )
    fields = Fields(f"{name} (vision_config)", tower)
    model_type = str(tower.get("model_type", ""))
    layers = fields.count("num_hidden_layers", "depth", "n_layers")
    hidden = fields.count("hidden_size", "embed_dim", "d_model")
    heads = fields.count("num_attention_heads", "num_heads", "attention_heads")
    width = fields.count("intermediate_size", "mlp_dim", default=0, least=0)
    if not width:
        width = round(hidden * float(tower.get("mlp_ratio") or 4))
        fields.assume(f"No intermediate_size in vision_config: taken as {width}.")
    fields.assume("Vision tower: a step's tokens are image patches; projection to the language model is not priced.")
    activation = dtype_named(str(config.get("torch_dtype") or config.get("dtype") or "bf16"))
    head_dim = fields.count("head_dim", default=hidden // heads)
    return Architecture(
        name=f"{name} vision tower",
        model_type=model_type,
        layers=layers,
        hidden=hidden,
        vocab=0,
        attention=Attention(heads, heads, head_dim, head_dim, full_layers=layers, causal=False),
        dense=FeedForward(layers, width, gated=model_type in _GATED_TOWERS),
        moe=MixtureOfExperts(0, 0, 0, 0),
        tied_embeddings=True,
        max_model_len=fields.count("num_positions", "max_position_embeddings", default=16_384),
        activation=activation,
        quantization=uniform_quantization(activation, activation),
        vocab_head=False,
        assumptions=tuple(fields.assumptions),
    )


def _quantization_part(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: config[key] for key in ("quantization_config", "compression_config") if config.get(key)}


def _text_part(name: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
    if config.get("is_encoder_decoder"):
        raise UnsupportedError(f"config.json of {name}: is_encoder_decoder models are not supported yet")
    for key in ("text_config", "language_config", "llm_config"):
        part = config.get(key)
        if isinstance(part, Mapping):
            return part
    return config


def _max_model_len(fields: Fields) -> int:
    length = fields.count("max_position_embeddings", "n_positions", "max_seq_len", default=0, least=0)
    scaling = fields.config.get("rope_scaling")
    # YaRN extends by a factor what the configuration states as the original length (arXiv:2309.00071).
    if isinstance(scaling, Mapping) and (scaling.get("rope_type") or scaling.get("type")) == "yarn":
        original = scaling.get("original_max_position_embeddings")
        factor = scaling.get("factor")
        if isinstance(original, int) and isinstance(factor, int | float):
            length = max(length, int(original * factor))
    if length == 0:
        fields.assume("No max_position_embeddings: longest context taken as 4,096 tokens.")
        return 4096
    return length


def _attention(fields: Fields, model_type: str, stack: Stack, hidden: int) -> Attention:
    layers = stack.attention_layers
    if not layers:
        # No layer attends: what tensor-parallel devices share are the heads of the recurrence.
        return Attention(stack.linear.value_heads, stack.linear.value_heads, 1, 1)
    heads = fields.count("num_attention_heads", "n_head")
    latent = fields.count("kv_lora_rank", default=0, least=0)
    if latent:
        chosen = fields.count("index_topk", default=0, least=0)
        if chosen:
            fields.assume(f"Sparse attention: a token sees the {chosen} earlier ones that an indexer picks.")
        return Attention(
            heads=heads,
            kv_heads=1,
            head_dim=fields.count("qk_nope_head_dim"),
            v_head_dim=fields.count("v_head_dim"),
            q_lora_rank=fields.count("q_lora_rank", default=0, least=0),
            kv_lora_rank=latent,
            rope_dim=fields.count("qk_rope_head_dim"),
            window=chosen,
            full_layers=0 if chosen else layers,
            windowed_layers=layers if chosen else 0,
            keeps_all=bool(chosen),
            index_heads=fields.count("index_n_heads") if chosen else 0,
            index_dim=fields.count("index_head_dim") if chosen else 0,
            output_gate=bool(fields.config.get("mla_use_output_gate")),
        )
    multi_query = 1 if fields.config.get("multi_query") else heads
    kv_heads = fields.count("num_key_value_heads", "num_kv_heads", default=multi_query)
    if heads % kv_heads:
        raise InputError(
            f"config.json of {fields.name}: num_key_value_heads {kv_heads} does not divide num_attention_heads {heads}"
        )
    head_dim = fields.count("head_dim", "attention_head_dim", default=0, least=0)
    if not head_dim and hidden % heads:
        raise InputError(
            f"config.json of {fields.name}: no head_dim, and num_attention_heads {heads} does not divide hidden_size "
            f"{hidden}",
            remedy="Give head_dim.",
        )
    head_dim = head_dim or hidden // heads
    windowed, window = _windowed_layers(fields, model_type, stack)
    return Attention(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        v_head_dim=head_dim,
        window=window if windowed else 0,
        full_layers=layers - windowed,
        windowed_layers=windowed,
        keeps_all=bool(fields.config.get("attention_chunk_size")) and not fields.config.get("sliding_window"),
        output_gate=bool(fields.config.get("attn_output_gate", model_type == "qwen3_next")),
        wide_norm=fields.config.get("qk_norm_type") == "per_layer" or model_type in {"olmo2", "olmo3"},
        qk_norm=bool(
            fields.config.get("use_qk_norm", model_type.startswith(("qwen3", "gemma3", "olmo2", "olmo3", "glm4_moe")))
        ),
    )


def _windowed_layers(fields: Fields, model_type: str, stack: Stack) -> tuple[int, int]:
    """Return how many layers see a window only, and the window in tokens."""
    config, layers = fields.config, stack.attention_layers
    window = fields.count("sliding_window", "attention_chunk_size", default=0, least=0)
    kinds = config.get("layer_types")
    if isinstance(kinds, list):
        kinds = attention_kinds(fields, kinds, stack.linear)
        known = {"full_attention", "sliding_attention", "chunked_attention"}
        for kind in kinds:
            if kind not in known:
                raise UnsupportedError(
                    f"config.json of {fields.name}: layer_types names {kind!r}, which is not priced yet"
                )
        return sum(kind != "full_attention" for kind in kinds), window
    if not window or config.get("use_sliding_window") is False:
        return 0, 0
    return _windowed_by_rule(fields, model_type, layers), window


def _windowed_by_rule(fields: Fields, model_type: str, layers: int) -> int:
    """Count the windowed layers of a model that does not list the kinds of its layers."""
    config = fields.config
    if model_type.startswith("llama4"):
        # Every fourth layer has no positions and sees everything (Llama 4 model card and code, 2025-04).
        no_rope = config.get("no_rope_layers") or []
        return sum(bool(item) for item in no_rope) if no_rope else layers - layers // 4
    if model_type == "gemma2":
        return layers // 2 + layers % 2
    pattern = fields.count("sliding_window_pattern", default=6 if model_type.startswith("gemma3") else 0, least=0)
    if pattern:
        return layers - layers // pattern
    if config.get("max_window_layers") is not None:
        # Qwen2: the first max_window_layers layers see everything.
        return max(0, layers - fields.count("max_window_layers", least=0))
    return layers


def _feed_forward(
    fields: Fields, model_type: str, stack: Stack, size: tuple[int, int]
) -> tuple[FeedForward, MixtureOfExperts]:
    """Read the feed-forward parts of a model of `size` (layers, hidden)."""
    config, (layers, hidden) = fields.config, size
    if stack.dense_layers == 0 and not stack.moe_layers:
        return FeedForward(0, 0), MixtureOfExperts(0, 0, 0, 0)
    gated = model_type not in _UNGATED_TYPES and (model_type not in _ENCODER_TYPES or model_type in _GATED_ENCODERS)
    experts = fields.count(
        "num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts", default=0, least=0
    )
    width = _dense_width(fields, model_type)
    if experts <= 1:
        if width == 0:
            width = 4 * hidden
            fields.assume(f"No intermediate_size: taken as 4 x hidden_size = {width}.")
        dense_layers = layers if stack.dense_layers is None else stack.dense_layers
        return FeedForward(dense_layers, width, gated=gated), MixtureOfExperts(0, 0, 0, 0)
    expert_width = fields.count("moe_intermediate_size", "intermediate_size")
    moe_layers = _moe_layers(fields, layers) if stack.moe_layers is None else stack.moe_layers
    dense_layers = layers - moe_layers if stack.dense_layers is None else stack.dense_layers
    moe = MixtureOfExperts(
        layers=moe_layers,
        experts=experts,
        top_k=fields.count("num_experts_per_tok", "num_experts_per_token", "moe_k", "experts_per_token"),
        intermediate=expert_width,
        shared_intermediate=_shared_width(fields, model_type, expert_width),
        gated=gated,
        latent=fields.count("moe_latent_size", "routed_expert_hidden_size", default=0, least=0),
    )
    if moe.top_k > experts:
        raise InputError(f"config.json of {fields.name}: {moe.top_k} experts for each token, but only {experts} exist")
    if width == 0 and dense_layers:
        raise InputError(f"config.json of {fields.name}: cannot read intermediate_size of the dense layers")
    if config.get("n_group") and fields.count("n_group") > 1:
        fields.assume("Expert groups are ignored: experts taken as chosen evenly.")
    return FeedForward(dense_layers, width, gated=gated), moe


def _dense_width(fields: Fields, model_type: str) -> int:
    """Return the width of dense feed-forward layers, 0 where the configuration has none."""
    if model_type.startswith("llama4"):
        return fields.count("intermediate_size_mlp", default=fields.count("intermediate_size"))
    if model_type == "granitemoehybrid":
        return fields.count("shared_intermediate_size", default=0, least=0)
    width = fields.count("intermediate_size", "block_ff_dim", "ffn_dim", "n_inner", default=0, least=0)
    if not fields.config.get("block_auto_adjust_ff_dim", False):
        return width
    # LFM2 takes two thirds, times a factor, up to a whole multiple (transformers, Lfm2MLP).
    factor = fields.config.get("block_ffn_dim_multiplier") or 1.0
    multiple = fields.count("block_multiple_of", default=256)
    return multiple * -(-int(factor * (2 * width // 3)) // multiple)


def _moe_layers(fields: Fields, layers: int) -> int:
    """Count the layers with experts: all but the leading dense ones and those between the interleave steps."""
    config = fields.config
    listed, flags = config.get("moe_layers"), config.get("moe_layer_freq")
    if isinstance(listed, list):
        return len(listed)
    if isinstance(flags, list):
        return sum(bool(flag) for flag in flags)
    first = fields.count("first_k_dense_replace", default=0, least=0)
    step = fields.count("moe_layer_freq", "interleave_moe_layer_step", "decoder_sparse_step", default=1)
    dense_only = {int(item) for item in config.get("mlp_only_layers") or []}
    # Llama 4 and Qwen put the experts at the end of each group of `step`, DeepSeek counts from layer 0.
    offset = 0 if "moe_layer_freq" in config else step - 1
    return sum(1 for i in range(layers) if i >= first and i % step == offset % step and i not in dense_only)


def _shared_width(fields: Fields, model_type: str, expert_width: int) -> int:
    stated = fields.count("shared_expert_intermediate_size", "shared_intermediate_size", default=0, least=0)
    if stated:
        return stated
    expert_width = fields.count("moe_shared_expert_intermediate_size", default=expert_width)
    if model_type.startswith("llama4"):
        return expert_width
    return expert_width * fields.count("n_shared_experts", "num_shared_experts", default=0, least=0)
