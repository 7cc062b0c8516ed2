"""Reads `quantization_config` of a Hugging Face configuration: which weights are stored in which format."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from hermes_core.api.errors import InputError, UnsupportedError

from hermes_hw.dtypes import DType, dtype_named
from hermes_hw.models.architecture import Quantization

_METHODS: Final = {
    "fp8": "fp8",
    "fbgemm_fp8": "fp8",
    "mxfp4": "mxfp4",
    "awq": "int4",
    "gptq": "int4",
}

_PROBES: Final = {
    "attention": "model.layers.{layer}.self_attn.o_proj",
    "dense": "model.layers.{layer}.mlp.down_proj",
    "experts": "model.layers.{layer}.mlp.experts.0.down_proj",
    "shared_experts": "model.layers.{layer}.mlp.shared_experts.down_proj",
    "lm_head": "lm_head",
}
"""The name of one weight of each group: a pattern of modules left alone is tried on these."""

_MIXED: Final = "MIXED_PRECISION"
_MIXED_FORMATS: Final = {
    "FP8": "fp8",
    "NVFP4": "nvfp4",
    "W4A16_NVFP4": "nvfp4",
    "MXFP4": "mxfp4",
    "W4A8_NVFP4_FP8": "nvfp4",
}
"""Formats of weights by modelopt's names of algorithms."""
_MIXED_GROUPS: Final = {
    "shared_experts": ("shared_expert",),
    "experts": (".experts",),
    "attention": ("self_attn.", "linear_attn.", ".q_proj", ".o_proj", ".in_proj", ".out_proj"),
    "dense": (".mlp.", ".down_proj", ".up_proj"),
}
"""What the names of a group's modules hold; the first group that fits counts."""
_LEAF_PROBES: Final = {"feed_forward": "mlp", "block_sparse_moe": "mlp", "shared_expert.": "shared_experts."}


def uniform_quantization(weights: DType, activation: DType) -> Quantization:
    """Return the plan that stores all linear layers but the output head as `weights`."""
    return Quantization(attention=weights, dense=weights, experts=weights, lm_head=activation, shared_experts=weights)


def quantization_from_config(config: Mapping[str, Any], activation: DType, layers: int) -> Quantization:
    """Read `quantization_config` (or `compression_config`); without one everything is as wide as `activation`.

    Of the model's `layers` the middle one speaks for all: lists that name modules layer by layer are tried on it.

    Understands the methods fp8, fbgemm_fp8, awq, gptq, mxfp4, compressed-tensors and modelopt with their lists of
    modules left alone. Raises UnsupportedError on another method, InputError when a field has a strange value.
    """
    section = config.get("quantization_config") or config.get("compression_config")
    if not section:
        return uniform_quantization(activation, activation)
    if not isinstance(section, Mapping):
        raise InputError(f"quantization_config: expected a mapping, found {section!r}")
    if str(section.get("quant_algo", "")).upper() == _MIXED:
        return _mixed(section, activation)
    weights = _weight_dtype(section)
    skipped = _skipped_groups(section, layers // 2)
    if weights.name == "mxfp4" and str(section.get("quant_method")) == "mxfp4":
        # gpt-oss (model card, 2025-08): only the experts are stored in MXFP4.
        skipped = skipped | {"attention", "dense", "shared_experts"}
    choose = {group: activation if group in skipped else weights for group in _PROBES if group != "lm_head"}
    return Quantization(lm_head=activation, **choose)


def _mixed(section: Mapping[str, Any], activation: DType) -> Quantization:
    """Read a section of modelopt that names a format for each module: each group has what most of its modules have."""
    named = section.get("quantized_layers")
    if not isinstance(named, Mapping) or not named:
        raise InputError("quantization_config.quantized_layers: expected the formats of modules by name")
    counts: dict[str, dict[str, int]] = {}
    for module, entry in named.items():
        algorithm = str(entry.get("quant_algo", "") if isinstance(entry, Mapping) else entry).upper()
        if algorithm not in _MIXED_FORMATS:
            raise UnsupportedError(
                f"quantization_config.quantized_layers: {algorithm or 'absent'!r} of {module} is not supported",
                remedy=f"Known: {', '.join(_MIXED_FORMATS)}.",
            )
        group = next((one for one, words in _MIXED_GROUPS.items() if any(word in str(module) for word in words)), "")
        found = counts.setdefault(group, {})
        found[algorithm] = found.get(algorithm, 0) + 1
    formats = {
        group: dtype_named(_MIXED_FORMATS[max(counts[group], key=lambda name: counts[group][name])])
        if group in counts
        else activation
        for group in _MIXED_GROUPS
    }
    head = str(named["lm_head"].get("quant_algo", "")).upper() if isinstance(named.get("lm_head"), Mapping) else ""
    return Quantization(lm_head=dtype_named(_MIXED_FORMATS[head]) if head else activation, **formats)


def _weight_dtype(section: Mapping[str, Any]) -> DType:
    method = str(section.get("quant_method", "")).lower().replace("_", "-")
    if not method and section.get("quant_algo"):
        # Earlier exports of modelopt do not name the method.
        method = "modelopt"
    if method == "compressed-tensors":
        return _compressed_tensors_dtype(section)
    if method == "modelopt":
        algorithm = str(section.get("quant_algo") or section.get("quantization", {}).get("quant_algo", "")).lower()
        if algorithm in {"fp8", "nvfp4", "mxfp4"}:
            return dtype_named(algorithm)
        raise UnsupportedError(
            f"quantization_config.quant_algo: {algorithm!r} is not supported", remedy="Known: FP8, NVFP4, MXFP4."
        )
    name = _METHODS.get(method.replace("-", "_"))
    if name is None:
        known = ", ".join([*_METHODS, "compressed-tensors", "modelopt"])
        raise UnsupportedError(
            f"quantization_config.quant_method: {method or 'absent'!r} is not supported", remedy=f"Known: {known}."
        )
    bits = section.get("bits", 4)
    if name == "int4" and bits != 4:  # noqa: PLR2004 - the width in the name
        if bits == 8:  # noqa: PLR2004
            return dtype_named("int8")
        raise UnsupportedError(f"quantization_config.bits: {bits!r} is not supported", remedy="Known: 4 and 8.")
    return dtype_named(name)


def _compressed_tensors_dtype(section: Mapping[str, Any]) -> DType:
    groups = section.get("config_groups") or {}
    group = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    weights = (group or {}).get("weights") or {}
    kind, bits = weights.get("type"), weights.get("num_bits")
    if str((group or {}).get("format") or section.get("format") or "").startswith("mxfp4"):
        return dtype_named("mxfp4")
    known: dict[tuple[Any, Any], str] = {
        ("float", 8): "fp8",
        ("int", 8): "int8",
        ("int", 4): "int4",
        ("float", 4): "nvfp4",
    }
    name = known.get((kind, bits))
    if name is None:
        raise UnsupportedError(
            f"quantization_config.config_groups: weights of type {kind!r} with {bits!r} bits are not supported",
            remedy="Known: float 8, int 8, int 4, float 4.",
        )
    return dtype_named(name)


def _skipped_groups(section: Mapping[str, Any], layer: int) -> set[str]:
    patterns: list[str] = []
    for key in ("ignore", "modules_to_not_convert", "ignored_layers", "exclude_modules"):
        value = section.get(key) or []
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise InputError(f"quantization_config.{key}: expected a list of module names, found {value!r}")
        patterns.extend(str(item) for item in value)
    probes = {group: probe.format(layer=layer) for group, probe in _PROBES.items()}
    return {group for group, probe in probes.items() if any(_matches(pattern, probe) for pattern in patterns)}


def _matches(pattern: str, probe: str) -> bool:
    for written, ours in _LEAF_PROBES.items():
        pattern = pattern.replace(written, ours)
    if pattern.startswith("re:"):
        try:
            return re.match(pattern[3:], probe) is not None
        except re.error as error:
            raise InputError(f"quantization_config: {pattern!r} is not a regular expression: {error}") from None
    # A plain name covers itself and what is below it, whatever wraps the language model.
    tail = pattern.replace("*", "").strip(".").removeprefix("model.").removeprefix("language_model.")
    return bool(tail) and tail.removeprefix("model.") in probe
