"""Model architectures: read from a Hugging Face `config.json`, or from the catalogue."""

from hermes_hw.models.architecture import Architecture, Attention, FeedForward, MixtureOfExperts, Quantization
from hermes_hw.models.catalogue import ModelEntry, find_model, model_names
from hermes_hw.models.hf_config import architecture_from_config

__all__ = [
    "Architecture",
    "Attention",
    "FeedForward",
    "MixtureOfExperts",
    "ModelEntry",
    "Quantization",
    "architecture_from_config",
    "find_model",
    "model_names",
]
