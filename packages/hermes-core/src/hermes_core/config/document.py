"""Reads YAML into plain values and keeps the line and column of every key and value."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.scalarbool import ScalarBoolean

from hermes_core.api.errors import InputError, Place

Route: TypeAlias = tuple[str | int, ...]
"""Keys and list positions from the root of a scenario to one value."""

_MOST_NODES: Final = 200_000
"""A scenario is written by a person; more values than this is an alias bomb or a data file."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a key and its value were written. `source` is a file name, or "--set" and the like without lines."""

    source: str
    key: tuple[int, int] | None = None
    """Line and column from 1."""
    value: tuple[int, int] | None = None
    base: Path = field(default_factory=Path)
    """Folder that relative paths in the value start from."""

    def place(self, route: Route, *, at_key: bool = False) -> Place:
        """Return the place for a message about the value (or the key) at `route`."""
        line, column = (self.key if at_key else self.value) or self.key or self.value or (None, None)
        return Place(file=self.source, line=line, column=column, path=dotted(route) or None)

    def origin(self) -> str:
        """Return "file:line:column", or the name of what it came from."""
        return ":".join([self.source, *(str(part) for part in self.value or self.key or ())])


@dataclass(slots=True)
class Document:
    """Plain values (dict, list, str, int, float, bool, None) and the mark of each."""

    data: dict[str, Any]
    marks: dict[Route, Mark]

    def mark(self, route: Route) -> Mark:
        """Return the mark of `route`, or of the nearest thing around it that was written."""
        for end in range(len(route), -1, -1):
            if (found := self.marks.get(route[:end])) is not None:
                return found
        return Mark("scenario")

    def place(self, route: Route, *, at_key: bool = False) -> Place:
        """Return the place of the value (or the key) at `route` for a message."""
        return self.mark(route).place(route, at_key=at_key)


def dotted(route: Sequence[str | int]) -> str:
    """Write a route the way `--set` takes it: `workload.mix[0].rate`."""
    text = ""
    for part in route:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = f'"{part}"' if "." in part or "[" in part else part
            text += f".{name}" if text else name
    return text


def nearest(name: object, valid: Iterable[str]) -> str | None:
    """Return the valid name closest to `name`, or None when none is near."""
    names = list(valid)
    lower = {candidate.lower(): candidate for candidate in reversed(names)}
    matches = difflib.get_close_matches(str(name).lower(), lower, n=1, cutoff=0.6)
    return lower[matches[0]] if matches else None


def suggest(name: object, valid: Iterable[str], *, what: str = "known") -> str:
    """Return the remedy for an unknown name: the nearest valid one, and the list."""
    names = sorted(valid)
    best = nearest(name, names)
    listed = ", ".join(names[:30]) + (", ..." if len(names) > 30 else "")  # noqa: PLR2004 - what fits a screen
    tail = f"{what}: {listed}" if names else f"{what}: none"
    return f"did you mean {best!r}? {tail}" if best else tail


def read_file(path: Path) -> Document:
    """Read the YAML file at `path`. Raises `InputError` when there is none or it is not a YAML mapping."""
    shown = str(path)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"there is no file {shown}", remedy=_nearby(path)) from None
    except IsADirectoryError:
        raise InputError(f"{shown} is a folder", remedy="name the scenario file in it") from None
    except OSError as error:
        raise InputError(f"{shown} cannot be read: {error.strerror}") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(
            "this is not UTF-8 text", place=Place(file=shown, line=line), remedy="save the scenario as UTF-8"
        ) from None
    return read_text(text, source=shown, base=path.parent)


def read_text(text: str, *, source: str, base: Path) -> Document:
    """Read YAML text; `source` names it in messages, relative paths in it start from `base`."""
    yaml = YAML(typ="rt", pure=True)
    yaml.allow_duplicate_keys = False
    try:
        tree = yaml.load(text)
    except DuplicateKeyError as error:
        raise _duplicate(error, text, source) from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(file=source, line=mark.line + 1, column=mark.column + 1) if mark else Place(file=source)
        problem = " ".join(str(part) for part in (error.context, error.problem) if part)
        raise InputError(f"this is not YAML: {problem}", place=place, remedy=_yaml_remedy(text, mark)) from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise InputError(
            f"a character that YAML does not allow: {error.character!r}", place=Place(file=source, line=line)
        ) from None
    except (YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"this is not YAML: {error}", place=Place(file=source)) from None
    if tree is None:
        raise InputError(
            "the scenario is empty", place=Place(file=source), remedy="it needs at least: model, hardware, workload"
        )
    if not isinstance(tree, CommentedMap):
        raise InputError(
            "the scenario is not a mapping of sections",
            place=Place(file=source, line=1, column=1),
            remedy="begin with lines like `model: meta-llama/Llama-3.1-8B`",
        )
    reader = _Reader(source, base)
    data = reader.mapping(tree, ())
    reader.marks[()] = Mark(source, base=base)
    return Document(data, reader.marks)


def from_mapping(data: Mapping[str, Any], *, source: str, base: Path) -> Document:
    """Take a scenario given as Python values. Raises `InputError` for values that YAML could not hold."""
    mark = Mark(source, base=base)
    marks: dict[Route, Mark] = {(): mark}

    def plain(value: Any, route: Route) -> Any:
        marks[route] = mark
        if isinstance(value, Mapping):
            for key in value:
                if not isinstance(key, str):
                    raise InputError(f"the key {key!r} is not text", place=mark.place(route))
            return {_joined(key, mark.place(route)): plain(item, (*route, key)) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item, (*route, at)) for at, item in enumerate(value)]
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            return _joined(value, mark.place(route))
        if isinstance(value, Path):
            return str(value)
        raise InputError(
            f"{type(value).__name__} cannot stand in a scenario",
            place=mark.place(route),
            remedy="use text, numbers, booleans, lists and mappings",
        )

    return Document(plain(data, ()), marks)


class _Reader:
    """Walks what ruamel read, making plain values and marks."""

    def __init__(self, source: str, base: Path) -> None:
        self._source = source
        self._base = base
        self._open: list[int] = []
        self._nodes = 0
        self.marks: dict[Route, Mark] = {}

    def mapping(self, tree: CommentedMap, route: Route) -> dict[str, Any]:
        self._enter(tree, route)
        result: dict[str, Any] = {}
        for key in tree:
            at = self._position(tree, key)
            if not isinstance(key, str):
                place = Mark(self._source, *at).place(route, at_key=True)
                raise InputError(f"the key {key!r} is not text", place=place, remedy="quote it if it is a name")
            name = _joined(key, Mark(self._source, *at).place(route, at_key=True))
            # Keys that a merge (`<<`) brought have no place of their own here.
            self.marks[*route, name] = Mark(self._source, *at, self._base)
            result[name] = self._value(tree[key], (*route, name))
        self._open.pop()
        return result

    def _value(self, value: Any, route: Route) -> Any:
        self._nodes += 1
        if self._nodes > _MOST_NODES:
            raise InputError(
                f"the scenario holds more than {_MOST_NODES} values",
                place=Place(file=self._source),
                remedy="keep data in files of their own",
            )
        if isinstance(value, CommentedMap):
            return self.mapping(value, route)
        if isinstance(value, CommentedSeq):
            self._enter(value, route)
            result = []
            for at, item in enumerate(value):
                line, column = value.lc.item(at)
                self.marks[*route, at] = Mark(self._source, None, (line + 1, column + 1), self._base)
                result.append(self._value(item, (*route, at)))
            self._open.pop()
            return result
        return self._scalar(value, route)

    def _scalar(self, value: Any, route: Route) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, ScalarBoolean):
            return bool(value)
        # Subclasses of ruamel that remember how they were written become the plain type.
        for plain in (int, float):
            if isinstance(value, plain):
                return plain(value)
        if isinstance(value, str):
            return _joined(value, self.marks[route].place(route))
        if hasattr(value, "isoformat"):
            return str(value.isoformat())
        raise InputError(
            f"a value of type {type(value).__name__} cannot stand in a scenario",
            place=self.marks[route].place(route),
            remedy="remove the YAML tag",
        )

    def _enter(self, tree: CommentedMap | CommentedSeq, route: Route) -> None:
        if id(tree) in self._open:
            raise InputError("an alias refers to what it stands in", place=Place(file=self._source, path=dotted(route)))
        self._open.append(id(tree))

    def _position(self, tree: CommentedMap, key: Any) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
        at = tree.lc.data.get(key) if tree.lc.data else None
        if at is None:
            return (None, None)
        return (at[0] + 1, at[1] + 1), (at[2] + 1, at[3] + 1)


def _joined(text: str, place: Place) -> str:
    """Return plain `text` with whole characters: those beyond 16 bits are two escapes in JSON, which YAML reads apart.

    Raises `InputError` for half of such a pair.
    """
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise InputError(
            f"{text!r} has half of a character", place=place, remedy="write it as UTF-8 instead of with escapes"
        ) from None


def _duplicate(error: DuplicateKeyError, text: str, source: str) -> InputError:
    mark, first = error.problem_mark, error.context_mark
    line = text.splitlines()[mark.line] if mark is not None else ""
    key = line[mark.column :].split(":")[0].strip() if mark is not None else "?"
    place = Place(file=source, line=mark.line + 1, column=mark.column + 1) if mark is not None else Place(file=source)
    section = f" in the section that begins at line {first.line + 1}" if first is not None else ""
    return InputError(f"the key {key!r} stands twice{section}", place=place, remedy="keep one of the two")


def _yaml_remedy(text: str, mark: Any) -> str:
    if mark is not None and mark.line < len(lines := text.splitlines()) and "\t" in lines[mark.line]:
        return "indent with spaces; YAML does not allow tabs"
    if mark is not None and mark.line:
        return "a bracket, a brace or a quote may be open since a line before; or a colon lacks the blank after it"
    return "look for a bracket, a brace or a quote that is not closed, or a colon without a blank after it"


def _nearby(path: Path) -> str | None:
    if not path.parent.is_dir():
        return f"there is no folder {path.parent} either"
    best = nearest(path.name, sorted(entry.name for entry in path.parent.iterdir()))
    return f"did you mean {path.parent / best}?" if best else None
