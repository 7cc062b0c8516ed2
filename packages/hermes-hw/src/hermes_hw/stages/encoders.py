"""Encoders by name: the catalogue of published ones, vision towers and audio encoders."""

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from hermes_core.api.errors import InputError

from hermes_hw.dtypes import dtype_named
from hermes_hw.lookup import find_name, load_json, normalised
from hermes_hw.models.architecture import Architecture, Attention, FeedForward, MixtureOfExperts
from hermes_hw.models.catalogue import ModelEntry, find_model, model_names
from hermes_hw.models.hf_config import architecture_from_config
from hermes_hw.models.quantization import uniform_quantization

PARTS: Final = ("language", "vision", "audio")
_TOWERS: Final = ("siglip_vision_model", "clip_vision_model")
_AUDIO_FIELDS: Final = ("encoder_layers", "d_model", "encoder_attention_heads", "encoder_ffn_dim")
_AUDIO_NOTE: Final = (
    "Audio encoder: tokens are positions after its convolutions (1,500 for a clip of 30 s, however much of it is "
    "speech); the convolutions are not priced."
)


def encoder_names() -> list[str]:
    """Return the names of all encoders of the catalogue, in alphabetical order."""
    return sorted(load_json("encoders.json")["models"], key=str.lower)


def is_encoder(name: str) -> bool:
    """Return whether an encoder of the catalogue is called `name`."""
    return normalised(name) in _spellings()


def find_encoder(name: str) -> ModelEntry:
    """Return the encoder called `name`, or any other model of the catalogue.

    Raises InputError with the nearest names of both when there is none.
    """
    models = load_json("encoders.json")["models"]
    key = _spellings().get(normalised(name))
    if key is not None:
        entry = models[key]
        return ModelEntry(key, entry["config"], entry["parameters_b"], entry["source"])
    try:
        return find_model(name)
    except InputError:
        shown = [*models, *model_names()]
        find_name(name, {**_spellings(), **{normalised(item): item for item in shown}}, "model", shown)
        raise


@cache
def _spellings() -> dict[str, str]:
    spellings: dict[str, str] = {}
    for key, entry in load_json("encoders.json")["models"].items():
        for name in (key, key.split("/")[-1], *entry["aliases"]):
            spellings[normalised(name)] = key
    return spellings


def encoder_architecture(name: str, config: Mapping[str, Any], part: str | None = None) -> Architecture:
    """Read what runs forward from a `config.json` mapping: a text model, a vision tower or an audio encoder.

    `part` is one of `PARTS`; None takes the tower of a configuration that is one, else the language model. Raises
    InputError when a needed field is absent or strange.
    """
    model_type = str(config.get("model_type", ""))
    if part is None:
        part = "audio" if model_type == "whisper" else "vision" if model_type in _TOWERS else "language"
    if part == "audio":
        return _audio_encoder(name, config)
    if part == "vision" and model_type in _TOWERS:
        config = {"vision_config": config, "torch_dtype": "fp16"}
    return architecture_from_config(name, config, part=part)


def _audio_encoder(name: str, config: Mapping[str, Any]) -> Architecture:
    """Read the encoder of a Whisper-like model: 1,500 positions for a clip of 30 s (Radford et al., 2212.04356)."""
    tower = config.get("audio_config", config)
    values: dict[str, int] = {}
    for field in _AUDIO_FIELDS:
        value = tower.get(field) if isinstance(tower, Mapping) else None
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(
                f"config.json of {name}: {field} of the audio encoder must be a whole number of at least 1, "
                f"found {value!r}"
            )
        values[field] = value
    layers, hidden, heads, width = (values[field] for field in _AUDIO_FIELDS)
    activation = dtype_named(str(tower.get("torch_dtype") or "fp16"))
    if activation.name == "fp32":
        activation = dtype_named("fp16")
    return Architecture(
        name=f"{name} audio encoder",
        model_type=str(config.get("model_type", "")),
        layers=layers,
        hidden=hidden,
        vocab=0,
        attention=Attention(heads, heads, hidden // heads, hidden // heads, full_layers=layers, causal=False),
        dense=FeedForward(layers, width, gated=False),
        moe=MixtureOfExperts(0, 0, 0, 0),
        tied_embeddings=True,
        max_model_len=int(tower.get("max_source_positions") or 1500),
        activation=activation,
        quantization=uniform_quantization(activation, activation),
        vocab_head=False,
        assumptions=(_AUDIO_NOTE,),
    )
