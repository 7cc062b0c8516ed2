"""Plain values as YAML, in blocks; every text that could be read as something else stands in quotes."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

_PLAIN: Final = re.compile(r"[A-Za-z/][\w./-]*")
_WORDS: Final = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})


def yaml_text(value: Any) -> str:
    """Return a mapping or a list as YAML text."""
    return "\n".join(_lines(value, "")) + "\n"


def yaml_documents(values: Sequence[Any]) -> str:
    """Return several documents, one after the other."""
    return "---\n".join(yaml_text(value) for value in values)


def _lines(value: Any, indent: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _entry(f"{indent}{_scalar(key)}:", item, f"{indent}  ")
    else:
        for item in value:
            inner = list(_lines(item, f"{indent}  ")) if _nested(item) else [f"{indent}  {_scalar(item)}"]
            yield f"{indent}- {inner[0].lstrip()}"
            yield from inner[1:]


def _entry(head: str, item: Any, indent: str) -> Iterator[str]:
    if _nested(item):
        yield head
        yield from _lines(item, indent)
    else:
        yield f"{head} {_scalar(item)}"


def _nested(value: Any) -> bool:
    return isinstance(value, Mapping | list | tuple) and bool(value)


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return json.dumps(value, ensure_ascii=False)
