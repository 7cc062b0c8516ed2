"""Plug-ins by name: every choice a scenario names is an entry point, the built-in ones too.

A script that tries out a plug-in of its own need not package it: `plugged_in` gives it a name for a while.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any, Final

from hermes_core.api.errors import HermesError, InputError

_HERE: Final[ContextVar[Mapping[tuple[str, str], Any]]] = ContextVar("_HERE", default=MappingProxyType({}))
"""What `plugged_in` has put beside the installed plug-ins, by (group, name)."""


@contextmanager
def plugged_in(group: str, name: str, target: Any) -> Iterator[None]:
    """Let scenarios name `target` as `name`, as if a package with that entry point were installed.

    It holds for this thread (or task) and within the `with` block: simulations are made there. Raises `HermesError` for
    a name that is taken.
    """
    if name in plugin_names(group):
        raise HermesError(f"there is a {group.removeprefix('hermes.')} plug-in {name!r} already; choose another name")
    token = _HERE.set({**_HERE.get(), (group, name): target})
    try:
        yield
    finally:
        _HERE.reset(token)


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
    """Return the names that are installed (or plugged in) in an entry-point group, sorted. Imports nothing."""
    return sorted([*_group(group), *(name for other, name in _HERE.get() if other == group)])


def load_plugin(group: str, name: str) -> Any:
    """Import the plug-in `name` of an entry-point group. An unknown name raises InputError with the nearest one."""
    if (group, name) in (here := _HERE.get()):
        return here[group, name]
    found = _group(group)
    if name not in found:
        names = plugin_names(group)
        near = get_close_matches(name, names, n=1)
        known = ", ".join(names) or "none is installed"
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise InputError(
            f"there is no {group.removeprefix('hermes.')} plug-in {name!r}", remedy=f"{hint}Known: {known}."
        )
    return found[name].load()
