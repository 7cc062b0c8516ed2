"""Libraries that only some uses need: imported when used, with a message that names the remedy."""

from importlib import import_module
from typing import Any

from hermes_analysis.errors import MissingExtraError


def optional(module: str, what: str, extra: str) -> Any:
    """Import and return `module`. Raises MissingExtraError, saying that `what` needs `extra`, when it is absent."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] != module.partition(".")[0]:
            raise
        raise MissingExtraError(what, extra) from error
