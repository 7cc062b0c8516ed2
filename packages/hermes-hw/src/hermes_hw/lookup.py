"""Finds entries of a catalogue by the names people use."""

import difflib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final

from hermes_core.api.errors import Place, UnknownNameError

_MOST_NAMED: Final = 60
"""More names than these are no help in a message."""


@cache
def load_json(name: str) -> Any:
    """Return the content of the package's data file `name`. Callers must not change it."""
    return json.loads(files("hermes_hw.data").joinpath(name).read_text(encoding="utf-8"))


def normalised(name: str) -> str:
    """Return `name` in lower case without the separators in which spellings differ."""
    return "".join(char for char in name.lower() if char.isalnum() or char == "/")


def find_name(
    name: str, spellings: Mapping[str, str], kind: str, shown: Iterable[str], place: Place | None = None
) -> str:
    """Return the entry that `name` means; `spellings` maps normalised spellings to entries.

    Raises UnknownNameError with the nearest names when there is none. `kind` is for the message, `shown` are the names
    to suggest, `place` is where the name stands.
    """
    found = spellings.get(normalised(name))
    if found is not None:
        return found
    by_key = {normalised(item): item for item in shown}
    near = difflib.get_close_matches(normalised(name), [*by_key, *spellings], n=8, cutoff=0.4)
    names: list[str] = []
    for key in near:
        item = by_key.get(key) or spellings[key]
        if item not in names:
            names.append(item)
    if names:
        hint = f"Nearest: {', '.join(names[:4])}."
    elif len(by_key) > _MOST_NAMED:
        hint = "`hermes hw list` has all names."
    else:
        hint = f"Known: {', '.join(sorted(by_key.values()))}."
    raise UnknownNameError(f"unknown {kind} {name!r}", kind=kind, name=name, place=place, remedy=hint)
