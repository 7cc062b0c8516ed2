"""The scenario of a chosen deployment, as a file that lies over the one it was searched for."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from hermes_analysis.emit.yaml_text import yaml_text
from hermes_analysis.simulator import session

_LONGEST_NAME: Final = 1024


def chosen_scenario(scenario: Path, sets: tuple[str, ...], folder: Path, runner: str = "default") -> str:
    """Return YAML text of the scenario with `sets` over it, for a file in `folder`: `hermes run` takes it as it is.

    It names files from there, so that both can be moved together.
    """
    simulator = session(runner)
    before = simulator.values(simulator.read(scenario))
    after = simulator.values(simulator.read(scenario, sets))

    def laid_over(key: str, form: Any) -> Any:
        text = yaml_text({"extends": str(scenario.absolute()), key: form})
        return simulator.values(simulator.read(text)).get(key)

    changed = _over(before, after)
    for key, form in changed.items():
        # Laid over, a section of another kind takes the place of the old one: there is nothing to take away then.
        if isinstance(form, Mapping) and laid_over(key, form) != after[key] == laid_over(key, after[key]):
            changed[key] = after[key]
    return yaml_text({"extends": _from(folder, scenario), **_moved(changed, folder)})


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


def _moved(value: Any, folder: Path) -> Any:
    """Return what was set with the files it names, which start here, as they are found from `folder`."""
    if isinstance(value, Mapping):
        return {key: _moved(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_moved(item, folder) for item in value]
    if (
        isinstance(value, str)
        and len(value) < _LONGEST_NAME
        and not Path(value).is_absolute()
        and Path(value).is_file()
    ):
        return _from(folder, Path(value))
    return value


def _from(folder: Path, path: Path) -> str:
    try:
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:  # on another drive
        return str(path.resolve())
