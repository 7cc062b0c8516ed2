"""The part of JSON Schema that configurations need: types, properties, bounds, choices."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}


def problems(schema: Mapping[str, Any], value: Any, at: str = "") -> Iterator[tuple[str, str]]:
    """Yield (JSON pointer, what is wrong) for everything in `value` that `schema` does not allow.

    Knows type, enum, minimum, maximum, properties, required, additionalProperties and items; other words are for the
    vendor's own check.
    """
    if "enum" in schema and value not in schema["enum"]:
        yield at, f"{value!r} is none of {', '.join(map(repr, schema['enum']))}"
        return
    wanted = schema.get("type")
    kinds = [wanted] if isinstance(wanted, str) else list(wanted or ())
    if kinds and not any(_is(value, kind) for kind in kinds):
        yield at, f"{value!r} is no {' or '.join(kinds)}"
        return
    if isinstance(value, dict):
        yield from _object(schema, value, at)
    elif isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        for place, item in enumerate(value):
            yield from problems(schema["items"], item, f"{at}/{place}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if "minimum" in schema and value < schema["minimum"]:
            yield at, f"{value!r} is below {schema['minimum']!r}"
        if "maximum" in schema and value > schema["maximum"]:
            yield at, f"{value!r} is above {schema['maximum']!r}"


def _object(schema: Mapping[str, Any], value: dict[str, Any], at: str) -> Iterator[tuple[str, str]]:
    known = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            yield at, f"{name!r} is missing"
    for name, item in value.items():
        inner = f"{at}/{str(name).replace('~', '~0').replace('/', '~1')}"
        if name in known:
            yield from problems(known[name], item, inner)
        elif schema.get("additionalProperties", True) is False:
            yield inner, f"there is no {name!r} to set" + (f"; known: {', '.join(known)}" if known else "")
        elif isinstance(schema.get("additionalProperties"), Mapping):
            yield from problems(schema["additionalProperties"], item, inner)


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES.get(kind, (object,)))
