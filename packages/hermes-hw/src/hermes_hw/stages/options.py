"""Reads the options of a stage: every value checked, every unknown key named."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hermes_core.api.errors import InputError, Place

from hermes_hw.lookup import find_name, normalised


class Options:
    """The options of one stage deployment, read by name; a strange value is an InputError that names it."""

    __slots__ = ("_stage", "_values")

    def __init__(self, stage: str, values: Mapping[str, Any], known: Sequence[str]) -> None:
        self._stage = stage
        self._values = {}
        for written, value in values.items():
            spellings = {normalised(name): name for name in known}
            key = find_name(str(written), spellings, f"option of {stage}:", known, _place(stage, str(written)))
            self._values[key] = value

    def __contains__(self, name: str) -> bool:
        """Tell whether the option `name` was given."""
        return self._values.get(name) is not None

    def problem(self, name: str, wanted: str) -> InputError:
        """Return the error of the option `name`, which should be `wanted`."""
        return InputError(
            f"{self._stage}: option {name} must be {wanted}, found {self._values.get(name)!r}",
            place=_place(self._stage, name),
        )

    def count(self, name: str, default: int | None = None, *, least: int = 1) -> int:
        """Return a whole number of at least `least`. Without a default the option must be given."""
        value = self._values.get(name)
        if value is None:
            if default is None:
                raise InputError(f"{self._stage}: option {name} is needed", remedy=f"Give options: {{{name}: N}}.")
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.problem(name, f"a whole number of at least {least}")
        return value

    def number(self, name: str, default: float, *, least: float = 0.0, most: float = math.inf) -> float:
        """Return a finite number between `least` and `most`."""
        value = self._values.get(name)
        if value is None:
            return default
        numeric = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not numeric or not least <= value <= most:
            bound = f"a number of at least {least:g}" + (f" and at most {most:g}" if most < math.inf else "")
            raise self.problem(name, bound)
        return float(value)

    def choice(self, name: str, known: Sequence[str], default: str | None = None) -> str:
        """Return one of `known`, in any spelling. Without a default the option must be given."""
        value = self._values.get(name)
        if value is None:
            if default is None:
                raise InputError(f"{self._stage}: option {name} is needed", remedy=f"Known: {', '.join(known)}.")
            return default
        if not isinstance(value, str):
            raise self.problem(name, f"one of {', '.join(known)}")
        spellings = {normalised(item): item for item in known}
        return find_name(
            value, spellings, f"value of option {name} of {self._stage}:", known, _place(self._stage, name)
        )

    def mapping(self, name: str) -> Mapping[str, Any]:
        """Return a mapping; an empty one when the option is absent."""
        value = self._values.get(name)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise self.problem(name, "a mapping")
        return value

    def mapping_or_path(self, name: str) -> Mapping[str, Any] | str:
        """Return a mapping or a text; an empty mapping when the option is absent."""
        value = self._values.get(name)
        if isinstance(value, str) and value:
            return value
        if value is not None and not isinstance(value, Mapping):
            raise self.problem(name, "a mapping, or the path of a file")
        return value or {}

    def flag(self, name: str) -> bool | None:
        """Return true or false; None when the option is absent."""
        value = self._values.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.problem(name, "true or false")
        return value


def _place(stage: str, name: str) -> Place:
    """Return where a pool has an option of a stage; its reader knows the line."""
    return Place(path=f"options.{stage}.{name}")
