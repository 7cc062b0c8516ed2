"""Well-known models, shipped as the facts of their published configurations."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

from hermes_core.api.errors import UnsupportedError

from hermes_hw.lookup import find_name, load_json, normalised
from hermes_hw.models.names import parts_of, quantization_section, stems_of, unpriced

_ATTENTION_KEPT: Final = ("minimax_m2",)
"""Types of model whose published NVFP4 conversions leave attention as it is, beside those with latent attention and
with linear-attention layers (`hf_quant_config.json` of nvidia's DeepSeek-R1, -V3.1 and -V3.2, Kimi-K2.5 to -K2.7, GLM-5
to -5.3, MiniMax-M2.5 and -M2.7, Qwen3.5-122B and -397B, 2025 and 2026). Others, Llama and Qwen3, have it converted."""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model of the catalogue."""

    name: str
    """Name on the Hugging Face hub."""
    config: Mapping[str, Any]
    """The fields of its `config.json` that decide its price."""
    parameters_b: float
    """Parameters in billions, as published."""
    source: str
    key: str = ""
    """Name in the catalogue: that of the model whose weights these are in another format."""


def model_names() -> list[str]:
    """Return the names of all models of the catalogue, in alphabetical order."""
    return sorted(load_json("models.json")["models"], key=str.lower)


def find_model(name: str) -> ModelEntry:
    """Return the model called `name`: its hub name or a short one, in any case and with any separators.

    Words that tell how a model was trained on and when ("Instruct", "2507"), and another organisation than the
    publisher, do not matter. Those that tell a format of weights ("FP8", "AWQ", "GPTQ-Int8", "NVFP4") give that format
    to the model. Raises UnsupportedError for one that has what cannot be priced, and InputError with the nearest names
    when there is none.
    """
    models = load_json("models.json")["models"]
    key = _spellings().get(normalised(name)) or _by_stem(name)
    if key is not None:
        return _entry(key, name)
    parts = parts_of(name)
    if parts.number_format is not None:
        key = _spellings().get(normalised(parts.name)) or _by_stem(parts.name)
        if key is not None:
            return _in_format(_entry(key, name), parts.number_format)
    reason = unpriced(name)
    if reason is not None:
        raise UnsupportedError(
            f"model {name!r} cannot be priced yet: it has {reason}", remedy="Describe a like model by a config.json."
        )
    return _entry(find_name(name, _spellings(), "model", models), name)


def _entry(key: str, name: str) -> ModelEntry:
    """Return the entry `key`, with the context and the sampling of the version that is called `name`."""
    entry = load_json("models.json")["models"][key]
    version = normalised(parts_of(name).name)
    contexts = {normalised(other): tokens for other, tokens in entry.get("contexts", {}).items()}
    config = entry["config"]
    if version in contexts:
        config = {**config, "max_position_embeddings": contexts[version]}
    if version in {normalised(other) for other in entry.get("bases", ())}:
        # Published without the sampling that the tuned version has.
        config = {key: value for key, value in config.items() if key != "top_p"}
    return ModelEntry(key, config, entry["parameters_b"], entry["source"], key)


def _in_format(entry: ModelEntry, number_format: str) -> ModelEntry:
    """Return `entry` with its weights in another format; as it is where they are published in that one."""
    config = dict(entry.config)
    own = config.pop("quantization_config", None)
    if own is not None and str(own.get("quant_method", "")).lower() == number_format:
        return entry
    latent = bool(config.get("kv_lora_rank") or config.get("linear_num_value_heads"))
    kept = number_format == "nvfp4" and (latent or config.get("model_type") in _ATTENTION_KEPT)
    section = quantization_section(number_format, attention_kept=kept)
    if section is not None:
        config["quantization_config"] = section
    return replace(
        entry,
        name=f"{entry.name.removesuffix('-BF16')}-{number_format.upper()}",
        config=config,
        source=f"{entry.source}; weights in {number_format}, as the name says",
    )


@cache
def _spellings() -> dict[str, str]:
    spellings: dict[str, str] = {}
    for key, entry in load_json("models.json")["models"].items():
        for name in (key, key.split("/")[-1], *entry.get("aliases", ())):
            spellings[normalised(name)] = key
            spellings.setdefault(normalised(name.split("/")[-1]), key)
    return spellings


def _by_stem(name: str) -> str | None:
    """Return the model that `name` is a version of, None when that is not the only one."""
    stems = _stems()
    return next((stems[stem] for stem in stems_of(name) if stems.get(stem)), None)


@cache
def _stems() -> dict[str, str]:
    """Return the models by what their names have in common with those of their versions; "" where several do."""
    stems: dict[str, str] = {}
    for key, entry in load_json("models.json")["models"].items():
        for name in (key, *entry.get("aliases", ())):
            if parts_of(name).number_format is not None:
                continue
            for stem in stems_of(name):
                stems[stem] = key if stems.get(stem, key) == key else ""
    return stems
