"""Finds commands and plug-ins by their entry points, without importing what provides them."""

import ast
import importlib.util
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Final

COMMANDS: Final = "hermes.commands"
"""Entry-point group. An entry is a `typer.Typer` (a group of commands) or a plain function (one command)."""

_FIRST: Final = ("run", "explain")


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """One entry point of HERMES: what it is called, and who brought it."""

    group: str
    name: str
    target: str
    distribution: str
    version: str


def command_entries() -> dict[str, EntryPoint]:
    """Return the installed commands, the two main ones first. Raises `HermesError` when two share a name."""
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=COMMANDS):
        other = found.get(entry.name)
        if other is not None and _key(other) != _key(entry):
            from hermes_core.api.errors import HermesError  # noqa: PLC0415 - brings NumPy, rarely needed

            raise HermesError(
                f"two commands call themselves {entry.name!r}: {_owner(other)} and {_owner(entry)} both have one\n"
                f"  uninstall one of the two"
            )
        found[entry.name] = entry
    order = {name: at for at, name in enumerate(_FIRST)}
    return dict(sorted(found.items(), key=lambda item: (order.get(item[0], len(order)), item[0])))


def all_plugins() -> list[PluginInfo]:
    """Return every entry point in a group that begins with `hermes.`, in order of group and name."""
    found: dict[tuple[str, str, str, str], PluginInfo] = {}
    groups = entry_points()
    for group in sorted(name for name in groups.groups if name.startswith("hermes.")):
        for entry in groups.select(group=group):
            name, version = (entry.dist.name, entry.dist.version) if entry.dist is not None else ("?", "?")
            info = PluginInfo(group, entry.name, entry.value, name, version)
            found[group, entry.name, entry.value, name] = info
    return [found[key] for key in sorted(found)]


def one_line_help(entry: EntryPoint) -> str:
    """Return the first line of the docstring of what `entry` names, read from the source, not by importing it.

    For a function its own docstring, for anything else the module's. Empty when the source cannot be found.
    """
    path = _source(entry.module)
    if path is None:
        return ""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError):
        return ""
    text = None
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == entry.attr:
            text = ast.get_docstring(node)
    text = text or ast.get_docstring(tree) or ""
    return text.strip().split("\n")[0]


def _source(module: str) -> Path | None:
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        return None
    here = Path(spec.origin)
    if not rest:
        return here
    place = here.parent.joinpath(*rest)
    for candidate in (place.with_suffix(".py"), place / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _key(entry: EntryPoint) -> tuple[str, str]:
    return entry.value, _owner(entry)


def _owner(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.value
