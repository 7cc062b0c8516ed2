"""The scenario of a chosen deployment, as a file that lies over the one it was searched for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hermes_analysis.emit.yaml_text import yaml_text
from hermes_analysis.simulator import session


def chosen_scenario(scenario: Path, sets: tuple[str, ...], runner: str = "default") -> str:
    """Return YAML text of the scenario with `sets` over it: `hermes run` takes it as it is."""
    simulator = session(runner)
    before = simulator.values(simulator.read(scenario))
    after = simulator.values(simulator.read(scenario, sets))
    return yaml_text({"extends": str(scenario.absolute()), **_over(before, after)})


def _over(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return what makes `after` of `before` when it is laid over it: null takes away what is not there any more."""
    changed: dict[str, Any] = {}
    for key, value in after.items():
        old = before.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            changed |= {key: _over(old, value)} if old != value else {}
        elif key not in before or old != value:
            changed[key] = value
    return changed | {key: None for key in before if key not in after}
