"""Well-known models, shipped as the facts of their published configurations."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from hermes_hw.lookup import find_name, load_json, normalised


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


def model_names() -> list[str]:
    """Return the names of all models of the catalogue, in alphabetical order."""
    return sorted(load_json("models.json")["models"], key=str.lower)


def find_model(name: str) -> ModelEntry:
    """Return the model called `name`: its hub name or a short one, in any case and with any separators.

    Raises InputError with the nearest names when there is none.
    """
    models = load_json("models.json")["models"]
    key = find_name(name, _spellings(), "model", models)
    entry = models[key]
    return ModelEntry(key, entry["config"], entry["parameters_b"], entry["source"])


@cache
def _spellings() -> dict[str, str]:
    spellings: dict[str, str] = {}
    for key, entry in load_json("models.json")["models"].items():
        for name in (key, key.split("/")[-1], *entry.get("aliases", ())):
            spellings[normalised(name)] = key
    return spellings
