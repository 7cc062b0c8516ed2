"""The JSON Schema of scenario files, for editors: what a user may write, short forms included."""

import json
from typing import Any, Final

from hermes_core.config.sections import Scenario

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def scenario_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a scenario file."""
    schema = Scenario.model_json_schema(by_alias=True, mode="validation")
    definitions = schema["$defs"]
    rate = definitions["Poisson"]["properties"]["rate"]
    for name in ("Synthetic", "SyntheticEntry", "Mix"):
        definitions[name]["properties"]["rate"] = rate
    on_files = {"Trace": "trace", "File": "file", "ServeGen": "servegen"}
    on_files |= {"Experiment": "experiment", "InferencePerf": "inference_perf"}
    for name, short in on_files.items():
        _rename_too(definitions[name], "path", short)
        _rename_too(definitions[f"{name}Entry"], "path", short)
    _rename_too(definitions["Mix"], "entries", "mix")
    schema["properties"]["extends"] = {
        "description": "Scenario file, or files, that this one is laid over.",
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    }
    for definition in definitions.values():
        _drop_discriminators(definition)
    _drop_discriminators(schema)
    return {"$schema": _DIALECT, "title": "HERMES scenario", **{k: v for k, v in schema.items() if k != "title"}}


def schema_text() -> str:
    """Return the schema as the text of a file."""
    return json.dumps(scenario_schema(), indent=2, ensure_ascii=False) + "\n"


def _rename_too(definition: dict[str, Any], key: str, short: str) -> None:
    """Allow `short` in place of the required `key`."""
    definition["properties"][short] = definition["properties"][key]
    definition["required"] = [name for name in definition["required"] if name != key]
    definition["anyOf"] = [{"required": [key]}, {"required": [short]}]


def _drop_discriminators(node: Any) -> None:
    """Turn tagged unions into plain ones: `kind` may be left to a short form."""
    if isinstance(node, dict):
        if "discriminator" in node:
            del node["discriminator"]
            node["anyOf"] = node.pop("oneOf")
        for value in node.values():
            _drop_discriminators(value)
    elif isinstance(node, list):
        for value in node:
            _drop_discriminators(value)
