"""A JSON value that fits a JSON Schema, as a model that keeps to its tools' schemas would write one."""

from typing import Any, Final

_DEEPEST: Final = 8
_MOST_ITEMS: Final = 16


def instance_of(schema: Any, *, word: str = "text", depth: int = 0) -> Any:
    """Return a value that fits the common keywords: type, properties, items, enum, const, anyOf, bounds.

    What cannot be told from the schema becomes a word.
    """
    if not isinstance(schema, dict) or depth > _DEEPEST:
        return word
    if "const" in schema:
        return schema["const"]
    for key in ("enum", "examples", "anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(key), list) and schema[key]:
            first = schema[key][0]
            return instance_of(first, word=word, depth=depth + 1) if key.endswith("Of") else first
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = next((item for item in kind if item != "null"), "null")
    return _typed(kind, schema, word, depth)


def _typed(kind: Any, schema: dict[str, Any], word: str, depth: int) -> Any:
    if kind == "object":
        properties = schema.get("properties")
        if not isinstance(properties, dict):
            return {}
        return {name: instance_of(inner, word=word, depth=depth + 1) for name, inner in properties.items()}
    if kind == "array":
        items = max(1, min(_whole(schema.get("minItems"), 1), _MOST_ITEMS))
        return [instance_of(schema.get("items"), word=word, depth=depth + 1) for _ in range(items)]
    return _plain(kind, schema, word)


def _plain(kind: Any, schema: dict[str, Any], word: str) -> Any:
    if kind == "integer":
        return _whole(schema.get("minimum"), 1)
    if kind == "number":
        low = schema.get("minimum", 1.0)
        return low if isinstance(low, int | float) else 1.0
    if kind == "boolean":
        return True
    if kind == "null":
        return None
    shortest = _whole(schema.get("minLength"), 0)
    return word if len(word) >= shortest else (word * (min(shortest, 4096) // len(word) + 1))[:shortest]


def _whole(value: Any, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else default
