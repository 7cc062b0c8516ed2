"""Lays scenario files over one another (`extends`) and single values over those (`--set`).

Mappings are merged key by key, everything else is replaced. Where a section is a choice among kinds (arrivals,
sizes, the workload itself), choosing another kind replaces the whole section. `null` takes an inherited value away.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hermes_core.api.errors import InputError, Place
from hermes_core.config.document import Document, Mark, Route, dotted, read_file, read_text

_CHOICES: Final = frozenset({"arrivals", "prompt", "output", "turns", "reasoning", "admission"})
_FILES: Final = ("trace", "file", "servegen", "experiment", "inference_perf")
_WORKLOAD_KINDS: Final = (*_FILES, "name", "mix", "arrivals", "rate")
_SHORT_FORMS: Final[Mapping[str, str]] = {"hardware": "device", "engine": "preset", "model": "ref", "routing": "kind"}
_OTHER_WORD: Final[Mapping[str, str]] = {"rate": "arrivals", "arrivals": "rate"}
"""Two ways to say one thing: who says it one way takes back the other."""

_SIZES: Final = frozenset({"prompt", "output", "turns", "reasoning"})
_PART = re.compile(r'"([^"]+)"|\[(\d+)\]|([^.\[\]"]+)')


def load_layers(path: Path) -> Document:
    """Read the file at `path` and all that it extends, base first. Raises `InputError` for cycles and missing files."""
    return with_bases(read_file(path), chain=(path.resolve(),))


def with_bases(top: Document, *, chain: tuple[Path, ...] = ()) -> Document:
    """Lay `top` over the files that its `extends` names (one, or a list of which the later win)."""
    asked = top.data.get("extends")
    if asked is None:
        return _without_extends(top)
    names = asked if isinstance(asked, list) else [asked]
    merged: Document | None = None
    for at, name in enumerate(names):
        route: Route = ("extends", at) if isinstance(asked, list) else ("extends",)
        place = top.place(route)
        if not isinstance(name, str) or not name:
            raise InputError(f"{name!r} is not a file name", place=place, remedy="write it like `extends: base.yaml`")
        path = top.mark(route).base / name
        if path.resolve() in chain:
            loop = " -> ".join(step.name for step in (*chain[chain.index(path.resolve()) :], path.resolve()))
            raise InputError(f"scenarios extend one another in a circle: {loop}", place=place, remedy="cut the circle")
        if not path.is_file():
            try:
                read_file(path)
            except InputError as error:
                raise InputError(error.problem, place=place, remedy=error.remedy) from None
        base = with_bases(read_file(path), chain=(*chain, path.resolve()))
        merged = base if merged is None else _merge(merged, base)
    return _without_extends(top) if merged is None else _merge(merged, _without_extends(top))


@dataclass(frozen=True, slots=True)
class Assignment:
    """One `path=value` as read. It may lie over any number of documents, which share the value: nobody changes it."""

    source: str
    route: Route
    value: Any


def read_set(assignment: str) -> Assignment:
    """Read one `path=value`; the value is YAML. Raises `InputError` for what is none."""
    source = f"--set {assignment}"
    name, equals, text = assignment.partition("=")
    route = _parse_path(name.strip(), source) if equals else ()
    if not route:
        raise InputError(
            "this is not an assignment", place=Place(file=source), remedy="write it like --set workload.rate=9/s"
        )
    return Assignment(source, route, read_text(f"value: {text}\n", source=source, base=Path()).data["value"])


def apply_set(document: Document, assignment: str | Assignment) -> Document:
    """Return `document` with one `path=value` over it; the value is read as YAML.

    Raises `InputError` for an assignment that cannot be read or a path that leads nowhere.
    """
    read = assignment if isinstance(assignment, Assignment) else read_set(assignment)
    source, route, value = read.source, read.route, read.value
    data = dict(document.data)
    marks = dict(document.marks)
    node: Any = data
    for depth, part in enumerate(route):
        if isinstance(part, str) and isinstance(node, dict) and part not in node:
            _take_back(_OTHER_WORD.get(part), node, route[:depth], marks)
        here = route[:depth]
        last = depth == len(route) - 1
        if isinstance(node, list):
            index = _index(part, node, source, route[: depth + 1])
            at: str | int = index
            child = node[index]
        else:
            at = part if isinstance(part, str) else str(part)
            child = node.get(at)
        spot = (*here, at)
        if last:
            _forget(spot, marks)
            child = value
        else:
            child = _opened(child, spot, source)
        node[at] = child
        if last or spot not in marks:
            marks[spot] = Mark(source)
        node = child
    return Document(data, marks)


def _without_extends(document: Document) -> Document:
    data = {key: value for key, value in document.data.items() if key != "extends"}
    return Document(data, {route: mark for route, mark in document.marks.items() if route[:1] != ("extends",)})


def _parse_path(text: str, source: str) -> Route:
    parts: list[str | int] = []
    at = 0
    while at < len(text):
        match = _PART.match(text, at)
        if match is None:
            raise InputError(
                f"the path {text!r} cannot be read at character {at + 1}",
                place=Place(file=source),
                remedy="write it like workload.mix[0].rate; quote a name with dots in it",
            )
        quoted, index, plain = match.groups()
        parts.append(int(index) if index is not None else quoted or plain)
        at = match.end()
        if text[at : at + 1] == ".":
            at += 1
    return tuple(parts)


def _index(part: str | int, node: list[Any], source: str, route: Route) -> int:
    if isinstance(part, str) and part.isdecimal():
        part = int(part)
    if isinstance(part, str) or part >= len(node):
        raise InputError(
            f"{dotted(route[:-1])} is a list of {len(node)}, and {part!r} is not a position in it",
            place=Place(file=source, path=dotted(route)),
            remedy=f"write {dotted(route[:-1])}[0]" + (f" to [{len(node) - 1}]" if len(node) > 1 else ""),
        )
    return part


def _opened(child: Any, route: Route, source: str) -> Any:
    """Return a copy of `child` that the next part of the path can go into."""
    if child is None:
        return {}
    if isinstance(child, dict):
        return dict(child)
    if isinstance(child, list):
        return list(child)
    key = route[-1]
    if isinstance(key, str):
        if isinstance(child, str) and key in _SHORT_FORMS:
            return {_SHORT_FORMS[key]: child}
        if key in _SIZES and not isinstance(child, bool):
            return {"fixed": child}
    raise InputError(
        f"{dotted(route)} holds the value {child!r}, so nothing can be set inside it",
        place=Place(file=source, path=dotted(route)),
        remedy=f"set the whole: --set '{dotted(route)}={{...}}'",
    )


def _merge(base: Document, over: Document) -> Document:
    marks = dict(base.marks)
    data = _merge_mappings(base.data, over.data, (), marks, over.marks)
    marks[()] = over.marks.get((), Mark("scenario"))
    return Document(data, marks)


def _merge_mappings(
    base: Mapping[str, Any],
    over: Mapping[str, Any],
    route: Route,
    marks: dict[Route, Mark],
    over_marks: dict[Route, Mark],
) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        spot = (*route, key)
        if _OTHER_WORD.get(key) not in over:
            _take_back(_OTHER_WORD.get(key), result, route, marks)
        old = result.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and not _replaces(key, old, value):
            marks[spot] = over_marks[spot]
            result[key] = _merge_mappings(old, value, spot, marks, over_marks)
            continue
        _forget(spot, marks)
        marks.update({known: mark for known, mark in over_marks.items() if known[: len(spot)] == spot})
        result[key] = value
    return result


def _take_back(key: str | None, section: dict[str, Any], route: Route, marks: dict[Route, Mark]) -> None:
    """Remove `key` from a section of the workload, if it is there."""
    if key is not None and route[:1] == ("workload",) and section.pop(key, None) is not None:
        _forget((*route, key), marks)


def _forget(route: Route, marks: dict[Route, Mark]) -> None:
    """Drop the marks of `route` and of all below it."""
    for known in [known for known in marks if known[: len(route)] == route]:
        del marks[known]


def _replaces(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    if key in _CHOICES:
        return _kind(old) != _kind(new)
    if key == "workload":
        kinds = [_workload_kind(section) for section in (old, new)]
        return None not in kinds and kinds[0] != kinds[1]
    return False


def _kind(section: Mapping[str, Any]) -> object:
    return section.get("kind") or (next(iter(section)) if len(section) == 1 else None)


def _workload_kind(section: Mapping[str, Any]) -> str | None:
    if isinstance(kind := section.get("kind"), str):
        return "named" if kind == "name" else kind
    found: Sequence[str] = [key for key in _WORKLOAD_KINDS if key in section]
    for key, kind in (
        ("mix", "mix"),
        *zip(_FILES, _FILES, strict=True),
        ("name", "named"),
        ("arrivals", "synthetic"),
        ("rate", "synthetic"),
    ):
        if key in found:
            return kind
    return None


def overlay_seed(document: Document, seed: int, source: str) -> Document:
    """Return `document` with its seed replaced."""
    return Document({**document.data, "seed": seed}, {**document.marks, ("seed",): Mark(source)})


__all__ = ["Assignment", "apply_set", "load_layers", "overlay_seed", "read_set", "with_bases"]
