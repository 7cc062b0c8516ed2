"""Reads single fields of a configuration."""

from collections.abc import Mapping
from typing import Any

from hermes_core.api.errors import InputError


class Fields:
    """Reads fields of a configuration, remembering what was assumed."""

    def __init__(self, name: str, config: Mapping[str, Any]) -> None:
        self.name = name
        self.config = config
        self.assumptions: list[str] = []

    def count(self, *keys: str, default: int | None = None, least: int = 1) -> int:
        """Return the first present of `keys` as a whole number; `default` when all are absent or null."""
        for key in keys:
            value = self.config.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(
                    f"config.json of {self.name}: {key} must be a whole number of at least {least}, found {value!r}"
                )
            return value
        if default is None:
            raise InputError(
                f"config.json of {self.name}: cannot read {' or '.join(keys)}",
                remedy="Give the field; without it the architecture is unknown.",
            )
        return default

    def assume(self, sentence: str) -> None:
        """Remember an assumption for the user."""
        self.assumptions.append(sentence)

    def text(self, key: str, *choices: str) -> str:
        """Return the text of `key`, lower case; "" when it is absent. Raises InputError for one beside `choices`."""
        value = self.config.get(key)
        if value is None:
            return ""
        if not isinstance(value, str) or (choices and value.lower() not in choices):
            known = f"one of {', '.join(choices)}" if choices else "a text"
            raise InputError(f"config.json of {self.name}: {key} must be {known}, found {value!r}")
        return value.lower()
