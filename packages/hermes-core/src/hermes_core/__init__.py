"""Simulates how large language models are served.

    import hermes_core as hermes
    result = hermes.run("scenario.yaml")

Names are imported when they are first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hermes_core.config import load_scenario
    from hermes_core.runs import RunResult, run

__all__ = ["RunResult", "load_scenario", "run"]

_HOME = {"RunResult": "hermes_core.runs", "load_scenario": "hermes_core.config", "run": "hermes_core.runs"}


def __getattr__(name: str) -> Any:
    """Import a public name from where it lives (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted([*globals(), *__all__])
