"""Reads which layers of a configuration attend, which keep a state, and which are feed-forward alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from hermes_core.api.errors import InputError, UnsupportedError

from hermes_hw.models.fields import Fields
from hermes_hw.models.recurrent import (
    NO_RECURRENCE,
    LinearAttention,
    gated_delta,
    kda,
    lightning,
    mamba1,
    mamba2,
    short_convolution,
)

_BYTES: Final = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0}
_NEMOTRON: Final = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
"""Letters of hybrid_override_pattern (nvidia/Nemotron-H-56B-Base-8K, configuration_nemotron_h.py)."""
_ATTENDING: Final = ("attention", "full_attention", "sliding_attention", "chunked_attention", "hybrid")


@dataclass(frozen=True, slots=True)
class Stack:
    """What the layers of a model are made of, as far as it is not the same in all."""

    attention_layers: int
    linear: LinearAttention = NO_RECURRENCE
    dense_layers: int | None = None
    """Layers with a dense feed-forward part; None where the configuration says so in the usual fields."""
    moe_layers: int | None = None
    """The same of experts."""


def read_stack(fields: Fields, model_type: str, layers: int, hidden: int, activation_bytes: float) -> Stack:
    """Return what `layers` of a model with hidden states as wide as `hidden` are made of.

    Raises InputError where the kinds of layers do not add up.
    """
    reader = HYBRID_TYPES.get(model_type)
    if reader is not None:
        return reader(fields, layers, hidden, activation_bytes)
    if fields.count("linear_num_value_heads", default=0, least=0):
        return _delta_nets(fields, layers)
    return Stack(layers)


def _delta_nets(fields: Fields, layers: int) -> Stack:
    kinds = fields.config.get("layer_types")
    if isinstance(kinds, list):
        count = sum(kind == "linear_attention" for kind in kinds)
    else:
        # Qwen3-Next: every full_attention_interval-th layer sees everything.
        count = layers - layers // fields.count("full_attention_interval", default=4)
    heads = (fields.count("linear_num_key_heads"), fields.count("linear_num_value_heads"))
    dims = (fields.count("linear_key_head_dim"), fields.count("linear_value_head_dim"))
    return Stack(layers - count, gated_delta(count, heads, dims, fields.count("linear_conv_kernel_dim", default=4)))


def _state_bytes(fields: Fields, activation_bytes: float) -> float:
    """Return the bytes of a value of the state: what the configuration says, else an activation's.

    vLLM, MambaStateDtypeCalculator: mamba_ssm_cache_dtype, and without it the model's own format.
    """
    return _BYTES.get(fields.text("mamba_ssm_cache_dtype", *_BYTES), activation_bytes)


def _whole_or(fields: Fields, key: str, default: int) -> int:
    """Return the whole number `key`, `default` where it is absent or "auto"."""
    return default if fields.config.get(key) == "auto" else fields.count(key, default=default)


def _mamba2(fields: Fields, layers: int, hidden: int, activation_bytes: float) -> LinearAttention:
    """Read the Mamba-2 layers of Bamba, Granite 4.0 H and Falcon-H1, which name their fields alike."""
    inner = fields.count("mamba_d_ssm", default=fields.count("mamba_expand", default=2) * hidden)
    heads = fields.count("mamba_n_heads")
    return mamba2(
        layers,
        heads,
        _whole_or(fields, "mamba_d_head", inner // heads),
        fields.count("mamba_n_groups", default=1),
        fields.count("mamba_d_state"),
        fields.count("mamba_d_conv", default=4),
        chunk=fields.count("mamba_chunk_size", default=256),
        state_bytes=_state_bytes(fields, activation_bytes),
    )


def _nemotron(fields: Fields, layers: int, hidden: int, activation_bytes: float) -> Stack:
    """Nemotron-H and Nemotron 3: a layer is one of Mamba-2, attention, feed-forward or experts."""
    del hidden
    kinds = fields.config.get("layers_block_type")
    if not isinstance(kinds, list):
        pattern = fields.config.get("hybrid_override_pattern")
        if not isinstance(pattern, str):
            raise InputError(
                f"config.json of {fields.name}: cannot read hybrid_override_pattern or layers_block_type",
                remedy="Give the kind of each layer: M (Mamba-2), * (attention), - (feed-forward), E (experts).",
            )
        kinds = [_NEMOTRON.get(letter, letter) for letter in pattern]
    count = {kind: kinds.count(kind) for kind in _NEMOTRON.values()}
    if sum(count.values()) != len(kinds) or len(kinds) != layers:
        strange = sorted({str(kind) for kind in kinds} - set(count))
        found = f"the kinds {', '.join(strange)}" if strange else f"{len(kinds)} of them"
        raise InputError(f"config.json of {fields.name}: the list of {layers} layers has {found}")
    linear = mamba2(
        count["mamba"],
        fields.count("mamba_num_heads"),
        fields.count("mamba_head_dim"),
        fields.count("n_groups"),
        fields.count("ssm_state_size"),
        fields.count("conv_kernel", default=4),
        chunk=fields.count("chunk_size", default=128),
        state_bytes=_state_bytes(fields, activation_bytes),
    )
    return Stack(count["attention"], linear, count["mlp"], count["moe"])


def _periodic(fields: Fields, name: str, layers: int, period: int, offset: int) -> int:
    period = fields.count(f"{name}_layer_period", default=period)
    offset = fields.count(f"{name}_layer_offset", default=offset, least=0)
    return sum(1 for i in range(layers) if i % period == offset)


def _jamba(fields: Fields, layers: int, hidden: int, activation_bytes: float) -> Stack:
    """Jamba: attention in one of eight layers, experts in every second (transformers, JambaConfig)."""
    attending = _periodic(fields, "attn", layers, 8, 4)
    experts = _periodic(fields, "expert", layers, 2, 1) if fields.count("num_experts", default=16) > 1 else 0
    inner = fields.count("mamba_expand", default=2) * hidden
    linear = mamba1(
        layers - attending,
        inner,
        fields.count("mamba_d_state", default=16),
        fields.count("mamba_d_conv", default=4),
        _whole_or(fields, "mamba_dt_rank", -(-hidden // 16)),
        _state_bytes(fields, activation_bytes),
    )
    return Stack(attending, linear, layers - experts, experts)


def _listed(fields: Fields, layers: int) -> int:
    """Return how many of the listed layers attend. Raises InputError for a list of another length, or none."""
    kinds = fields.config.get("layer_types", fields.config.get("layers_block_type"))
    if not isinstance(kinds, list) or len(kinds) != layers:
        raise InputError(
            f"config.json of {fields.name}: layer_types must name the kinds of {layers} layers, found {kinds!r}"
        )
    return sum(kind in _ATTENDING for kind in kinds)


def _bamba(fields: Fields, layers: int, hidden: int, activation_bytes: float) -> Stack:
    indices = fields.config.get("attn_layer_indices")
    attending = len(indices) if isinstance(indices, list) else _listed(fields, layers)
    return Stack(attending, _mamba2(fields, layers - attending, hidden, activation_bytes))


def _granite(fields: Fields, layers: int, hidden: int, activation_bytes: float) -> Stack:
    """Granite 4.0: every layer has experts and a shared feed-forward part, or that alone (GraniteMoeHybridConfig)."""
    attending = _listed(fields, layers)
    linear = NO_RECURRENCE
    if attending < layers:
        linear = _mamba2(fields, layers - attending, hidden, activation_bytes)
    experts = layers if fields.count("num_local_experts", default=0, least=0) else 0
    return Stack(attending, linear, layers - experts, experts)


def _falcon(fields: Fields, layers: int, hidden: int, activation_bytes: float) -> Stack:
    """Falcon-H1: attention and Mamba-2 side by side in every layer (arXiv:2507.22448)."""
    return Stack(layers, _mamba2(fields, layers, hidden, activation_bytes))


def _pure_mamba2(fields: Fields, layers: int, hidden: int, activation_bytes: float) -> Stack:
    heads = fields.count("num_heads")
    inner = fields.count("expand", default=2) * hidden
    linear = mamba2(
        layers,
        heads,
        fields.count("head_dim", default=inner // heads),
        fields.count("n_groups", default=1),
        fields.count("state_size"),
        fields.count("conv_kernel", default=4),
        chunk=fields.count("chunk_size", default=256),
        state_bytes=_state_bytes(fields, activation_bytes),
    )
    return Stack(0, linear, 0, 0)


def _pure_mamba1(fields: Fields, layers: int, hidden: int, activation_bytes: float) -> Stack:
    inner = fields.count("intermediate_size", default=fields.count("expand", default=2) * hidden)
    linear = mamba1(
        layers,
        inner,
        fields.count("state_size"),
        fields.count("conv_kernel", default=4),
        _whole_or(fields, "time_step_rank", -(-hidden // 16)),
        _state_bytes(fields, activation_bytes),
    )
    return Stack(0, linear, 0, 0)


def _kimi(fields: Fields, layers: int, hidden: int, activation_bytes: float) -> Stack:
    """Kimi-Linear and Kimi-K3: lists of layers, counted from 1, in linear_attn_config; the state is kept in float32."""
    del activation_bytes
    section = fields.config.get("linear_attn_config")
    if not isinstance(section, Mapping):
        raise InputError(f"config.json of {fields.name}: cannot read linear_attn_config")
    inner = Fields(f"{fields.name} (linear_attn_config)", section)
    attending = section.get("full_attn_layers")
    if not isinstance(attending, list) or len(attending) > layers:
        raise InputError(
            f"config.json of {fields.name}: linear_attn_config.full_attn_layers must list layers, found {attending!r}"
        )
    linear = kda(
        layers - len(attending),
        inner.count("num_heads"),
        inner.count("head_dim"),
        inner.count("short_conv_kernel_size", default=4),
        hidden,
        full_gate=bool(section.get("use_full_rank_gate")),
    )
    return Stack(len(attending), linear)


def _minimax(fields: Fields, layers: int, hidden: int, activation_bytes: float) -> Stack:
    """MiniMax-Text-01 and M1: 1 in attn_type_list attends, 0 is lightning attention (published since: layer_types)."""
    kinds = fields.config.get("attn_type_list")
    if isinstance(kinds, list) and len(kinds) == layers:
        attending = sum(kind == 1 for kind in kinds)
    elif fields.config.get("layer_types") is None:
        return Stack(layers)
    else:
        attending = _listed(fields, layers)
    heads = fields.count("num_attention_heads")
    dim = fields.count("head_dim", default=hidden // heads)
    return Stack(attending, lightning(layers - attending, heads, dim, activation_bytes))


def _lfm2(fields: Fields, layers: int, hidden: int, activation_bytes: float) -> Stack:
    """LFM2: short convolutions, attention in the layers listed; experts but in the first layers of the larger ones."""
    del activation_bytes
    indices = fields.config.get("full_attn_idxs")
    attending = len(indices) if isinstance(indices, list) else _listed(fields, layers)
    linear = short_convolution(layers - attending, hidden, fields.count("conv_L_cache", default=3))
    if not fields.count("num_experts", default=0, least=0):
        return Stack(attending, linear)
    dense = fields.count("num_dense_layers", default=0, least=0)
    return Stack(attending, linear, dense, layers - dense)


_Reader = Callable[[Fields, int, int, float], Stack]
HYBRID_TYPES: Final[Mapping[str, _Reader]] = {
    "nemotron_h": _nemotron,
    "jamba": _jamba,
    "bamba": _bamba,
    "granitemoehybrid": _granite,
    "falcon_h1": _falcon,
    "mamba2": _pure_mamba2,
    "mamba": _pure_mamba1,
    "falcon_mamba": _pure_mamba1,
    "kimi_linear": _kimi,
    "minimax": _minimax,
    "minimax_text_01": _minimax,
    "minimax_m1": _minimax,
    "lfm2": _lfm2,
    "lfm2_moe": _lfm2,
}
"""Readers by model_type."""

_REFUSED_FIELDS: Final = {
    "state_size": "state-space layers",
    "ssm_state_size": "state-space layers",
    "mamba_d_state": "state-space layers",
    "num_memory_blocks": "recurrent memory layers",
    "lru_width": "recurrent layers (RG-LRU)",
}


def refuse_unknown_layers(name: str, model_type: str, config: Mapping[str, Any]) -> None:
    """Raise UnsupportedError for a configuration with layers of which it is not known how they are put together."""
    if model_type in HYBRID_TYPES:
        return
    for key, kind in _REFUSED_FIELDS.items():
        if config.get(key):
            raise UnsupportedError(
                f"config.json of {name}: {key} announces {kind}, which are not priced for model_type "
                f"{model_type or 'absent'!r}",
                remedy=f"Known with such layers: {', '.join(sorted(HYBRID_TYPES))}.",
            )


def attention_kinds(fields: Fields, kinds: list[Any], linear: LinearAttention) -> list[Any]:
    """Return the kinds of the layers that attend, of all `kinds`: those with a state left out where there are such."""
    named = ["full_attention" if kind in {"attention", "hybrid"} else kind for kind in kinds]
    if not linear.layers and fields.config.get("model_type") not in HYBRID_TYPES:
        return kinds
    return [kind for kind in named if kind in _ATTENDING]
