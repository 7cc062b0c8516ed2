"""Plug-ins by name: every choice a scenario names is an entry point, the built-in ones too."""

from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from hermes_core.api.errors import HermesError, InputError

_BRINGS: Final = {"hermes.hardware_models": "hermes-hw", "hermes.workload_generators": "hermes-workload"}
"""The distributions to name where a group is empty."""


@cache
def _group(group: str) -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=group):
        other = found.get(entry.name)
        if other is not None and other.value != entry.value:
            raise HermesError(
                f"two plug-ins call themselves {entry.name!r} in {group}: {_owner(other)} and {_owner(entry)}; "
                "uninstall one of them"
            )
        found[entry.name] = entry
    return found


def _owner(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.value


def plugin_names(group: str) -> list[str]:
    """Return the names that are installed in an entry-point group, sorted. Imports nothing."""
    return sorted(_group(group))


def is_built_in(group: str, name: str) -> bool:
    """Return whether a plug-in is one that hermes-core brings itself. Imports nothing."""
    entry = _group(group).get(name)
    return entry is not None and entry.value.startswith("hermes_core.")


def load_plugin(group: str, name: str) -> Any:
    """Import the plug-in `name` of an entry-point group. An unknown name raises InputError with the nearest one."""
    found = _group(group)
    if name not in found:
        near = get_close_matches(name, found, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        known = f"{hint}Known: {', '.join(sorted(found))}." if found else "None is installed."
        brings = _BRINGS.get(group)
        raise InputError(
            f"there is no {group.removeprefix('hermes.')} plug-in {name!r}",
            remedy=known if found or brings is None else f"None is installed: {brings} brings them.",
        )
    return found[name].load()
