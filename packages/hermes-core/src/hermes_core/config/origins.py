"""The canonical form of a scenario as a tree, with the origin of every leaf."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from pydantic import BaseModel

from hermes_core.api.errors import InputError, Place
from hermes_core.config.document import Document, Route, dotted
from hermes_core.config.findings import locate

DEFAULT: Final = "default"


class CanonicalTree:
    """Values in canonical units, each with where it came from, built part by part."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._data: dict[str, Any] = {}
        self._origins: dict[str, str] = {}

    def put(self, at: Route, value: Any, origin: str) -> None:
        """Put a plain value at the route `at`; all leaves of it come from `origin`."""
        self._store(at, value)
        for leaf in _leaves(value, at):
            self._origins[pointer(leaf)] = origin

    def put_section(self, at: Route, section: BaseModel, location: Route) -> None:
        """Put a section that the user wrote at `location`, keys that were not given as defaults."""
        self._put_any(at, section, location, given=True)

    def put_sections(self, at: Route, sections: Sequence[BaseModel], location: Route) -> None:
        """Put a list of sections that the user wrote at `location`."""
        self._put_any(at, sections, location, given=True)

    def origin(self, location: Route) -> str:
        """Return where the user wrote the value at `location`."""
        return self._document.mark(locate(self._document.data, location)).origin()

    def canonical_json(self) -> str:
        """Return the tree as JSON with sorted keys and no blanks. Raises InputError for numbers that JSON has not."""
        try:
            return json.dumps(self._data, sort_keys=True, separators=(",", ":"), allow_nan=False)
        except ValueError:
            # Only parts that are passed on as they are can have one: fields are checked when they are read.
            for at, value in _numbers(self._data):
                if not math.isfinite(value):
                    place = Place(file=self._origins.get(pointer(at)), path=dotted(at))
                    raise InputError(f"{value} is not a finite number", place=place, remedy="Write a number.") from None
            raise

    def origins(self) -> tuple[tuple[str, str], ...]:
        """Return (JSON pointer, origin) of every leaf, in the order of the pointers."""
        return tuple(sorted(self._origins.items()))

    def _put_any(self, at: Route, value: Any, location: Route, *, given: bool) -> None:
        if isinstance(value, BaseModel):
            self._store(at, {})
            kind = getattr(value, "kind", None) if "kind" in type(value).model_fields else None
            # `{gamma: {rate: 2/s, cv: 2}}`: the kind may be a key that the others stand under.
            location = (*location, kind) if isinstance(kind, str) else location
            for name, info in type(value).model_fields.items():
                child_given = given and name in value.model_fields_set
                self._put_any((*at, name), getattr(value, name), (*location, info.alias or name), given=child_given)
        elif isinstance(value, Mapping) and value:
            self._store(at, {})
            for key, item in value.items():
                self._put_any((*at, key), item, (*location, key), given=given)
        elif isinstance(value, list | tuple) and value:
            self._store(at, [])
            for index, item in enumerate(value):
                self._put_any((*at, index), item, (*location, index), given=given)
        elif value is not None or not given:
            self.put(at, value, self.origin(location) if given else DEFAULT)

    def _store(self, at: Route, value: Any) -> None:
        node: Any = self._data
        for part in at[:-1]:
            node = node[part] if isinstance(part, int) else node.setdefault(part, {})
        last = at[-1]
        if isinstance(last, int):
            node.append(value)
        else:
            node[last] = value


@lru_cache(maxsize=1 << 14)  # the same few hundred for every scenario of a sweep
def pointer(route: Route) -> str:
    """Write a route as a JSON pointer (RFC 6901)."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in route)


def _leaves(value: Any, at: Route) -> list[Route]:
    if isinstance(value, Mapping) and value:
        return [leaf for key, item in value.items() for leaf in _leaves(item, (*at, key))]
    if isinstance(value, list | tuple) and value:
        return [leaf for index, item in enumerate(value) for leaf in _leaves(item, (*at, index))]
    return [at]


def _numbers(value: Any, at: Route = ()) -> Iterator[tuple[Route, float]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _numbers(item, (*at, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _numbers(item, (*at, index))
    elif isinstance(value, float):
        yield at, value
