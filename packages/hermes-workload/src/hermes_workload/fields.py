"""Reading a workload section: typed look-ups whose errors name path, value and the nearest valid key."""

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from hermes_workload.errors import WorkloadError


class Section:
    """One mapping of a workload section, with the path to it.

    Every look-up marks its key; `finish` refuses keys that nobody looked up.
    """

    __slots__ = ("_seen", "content", "path")

    def __init__(self, content: Any, path: str = "workload") -> None:
        if not isinstance(content, Mapping):
            raise WorkloadError(f"is {content!r}, which is no mapping", path=path, remedy="write keys and values here")
        self.content: Mapping[str, Any] = content
        self.path = path
        self._seen: list[str] = []

    def has(self, key: str) -> bool:
        """Whether `key` is there and not null."""
        self._seen.append(key)
        return self.content.get(key) is not None

    def value(self, key: str) -> Any:
        """Return what stands at `key`; refuse its absence."""
        if not self.has(key):
            raise WorkloadError(f"lacks the key {key!r}", path=self.path, remedy=f"add {key}: ...")
        return self.content[key]

    def number(self, key: str, *, above: float | None = None, least: float | None = None) -> float:
        """Return a finite number, greater than `above` and at least `least`."""
        value = self.value(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(key, "a number")
        if not math.isfinite(value):
            raise self.wrong(key, "a finite number")
        if above is not None and not value > above:
            raise self.wrong(key, f"a number greater than {above:g}")
        if least is not None and value < least:
            raise self.wrong(key, f"a number of at least {least:g}")
        return float(value)

    def integer(self, key: str, *, least: int = 0) -> int:
        """Return a whole number of at least `least`."""
        value = self.value(key)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.wrong(key, f"a whole number of at least {least}")
        return value

    def optional_integer(self, key: str, *, least: int = 0) -> int | None:
        """Return a whole number, or None where it is absent."""
        return self.integer(key, least=least) if self.has(key) else None

    def text(self, key: str, default: str | None = None) -> str:
        """Return a text, or `default` where it is absent."""
        if default is not None and not self.has(key):
            return default
        value = self.value(key)
        if not isinstance(value, str) or not value:
            raise self.wrong(key, "a text")
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        """Return true or false."""
        if not self.has(key):
            return default
        value = self.value(key)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def numbers(self, key: str, *, least: float = 0.0) -> list[float]:
        """Return a list of at least one finite number, each at least `least`."""
        value = self.value(key)
        if isinstance(value, str) or not isinstance(value, Sequence) or not value:
            raise self.wrong(key, "a list of numbers")
        for at, item in enumerate(value):
            bad = isinstance(item, bool) or not isinstance(item, int | float) or not math.isfinite(item)
            if bad or item < least:
                raise WorkloadError(
                    f"is {item!r}", path=f"{self.path}.{key}[{at}]", remedy=f"write a number of at least {least:g}"
                )
        return [float(item) for item in value]

    def section(self, key: str) -> "Section":
        """Return the mapping at `key`."""
        return Section(self.value(key), f"{self.path}.{key}")

    def sections(self, key: str) -> list["Section"]:
        """Return the mappings of the list at `key`; at least one."""
        value = self.value(key)
        if isinstance(value, str) or not isinstance(value, Sequence) or not value:
            raise self.wrong(key, "a list with at least one entry")
        return [Section(item, f"{self.path}.{key}[{at}]") for at, item in enumerate(value)]

    def wrong(self, key: str, wanted: str) -> WorkloadError:
        """Return the error for a value at `key` that is not what is wanted."""
        return WorkloadError(f"is {self.content.get(key)!r}", path=f"{self.path}.{key}", remedy=f"write {wanted}")

    def finish(self) -> None:
        """Refuse keys that were never looked up."""
        for key in self.content:
            if key not in self._seen:
                valid = sorted(dict.fromkeys(self._seen))
                near = difflib.get_close_matches(str(key), valid, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(valid)}"
                raise WorkloadError(f"unknown key {key!r}", path=self.path, remedy=hint)


def choose(section: Section, kinds: Mapping[str, Any], what: str) -> Any:
    """Return the entry of `kinds` that the section's `kind` names."""
    kind = section.text("kind")
    if kind not in kinds:
        near = difflib.get_close_matches(kind, kinds, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        known = ", ".join(sorted(kinds))
        raise WorkloadError(f"{kind!r} is no {what}", path=f"{section.path}.kind", remedy=f"{hint}known: {known}")
    return kinds[kind]
