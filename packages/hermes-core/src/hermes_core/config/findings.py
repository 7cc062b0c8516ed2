"""Collects everything wrong with a scenario, with its place, and raises it as one message."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from hermes_core.api.errors import InputError, UnknownNameError, UnsupportedError
from hermes_core.config.document import Document, Route
from hermes_core.config.fields import UNSUPPORTED, UNSUPPORTED_KEY


class SeveralInputsError(InputError):
    """More than one thing is wrong with an input; `errors` has them one by one."""

    def __init__(self, errors: Sequence[InputError]) -> None:
        self.errors = tuple(errors)
        lines = [f"{len(errors)} mistakes in the scenario:"]
        for error in errors:
            lines += [f"  {line}" for line in str(error).splitlines()]
        super().__init__("\n".join(lines))
        self.place = errors[0].place


class Findings:
    """What is wrong with one document, in the order found."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._errors: list[InputError] = []

    def add(self, route: Route, problem: str, remedy: str | None = None, *, at_key: bool = False) -> None:
        """Note that the value (or the key) at `route` is wrong. Parts that the user did not write may be in it."""
        place = self._document.place(locate(self._document.data, route), at_key=at_key)
        self._errors.append(InputError(problem, place=place, remedy=remedy))

    def add_unknown(self, route: Route, error: UnknownNameError) -> None:
        """Note a name at `route` that nobody knows."""
        place = self._document.place(locate(self._document.data, route))
        found = UnknownNameError(error.problem, kind=error.kind, name=error.name, place=place, remedy=error.remedy)
        self._errors.append(found)

    @property
    def errors(self) -> tuple[InputError, ...]:
        """What was found so far."""
        return tuple(self._errors)

    def add_unsupported(self, route: Route, problem: str, remedy: str | None = None) -> None:
        """Note that `route` asks for something of a later version."""
        place = self._document.place(locate(self._document.data, route))
        self._errors.append(UnsupportedError(problem, place=place, remedy=remedy))

    def add_validation(self, error: ValidationError) -> None:
        """Note all that pydantic found."""
        for item in error.errors(include_url=False):
            self._errors.append(self._from_pydantic(item))

    def _from_pydantic(self, item: Any) -> InputError:
        context = item.get("ctx", {})
        kind = item["type"]
        location = item["loc"]
        if kind == "missing":
            *around, key = location
            route = locate(self._document.data, around)
            return InputError(
                f"the key {key!r} is missing",
                place=self._document.place(route, at_key=True),
                remedy=f"add `{key}: ...`" + (" here" if route else " at the top of the scenario"),
            )
        route = locate(self._document.data, location)
        problem = context.get("problem") or f"{item['input']!r}: {item['msg']}"
        remedy = context.get("remedy") or None
        place = self._document.place(route, at_key=kind in {"unknown_key", UNSUPPORTED_KEY})
        return (UnsupportedError if kind in {UNSUPPORTED, UNSUPPORTED_KEY} else InputError)(
            problem, place=place, remedy=remedy
        )

    def raise_any(self) -> None:
        """Raise what was found, sorted by place; nothing where nothing is wrong."""
        if not self._errors:
            return
        raise joined(self._errors)


def joined(errors: Sequence[InputError]) -> InputError:
    """Return mistakes as one error, in the order of their places."""
    # One mistake may be met twice, where a section is used in two places.
    unique = list({str(error): error for error in errors}.values())
    return unique[0] if len(unique) == 1 else SeveralInputsError(sorted(unique, key=_by_place))


def _by_place(error: InputError) -> tuple[str, int, int]:
    place = error.place
    return (place.file or "", place.line or 0, place.column or 0) if place else ("", 0, 0)


def locate(data: Any, location: Sequence[str | int]) -> Route:
    """Return the route in what the user wrote for a location in the rewritten form.

    Parts that the user did not write (the kind that a short form stands for, a section that `rate` opens) are skipped,
    and what stands beside a kind instead of in it (`{lognormal: {...}, max: 4k}`) is found there.
    """
    route: list[str | int] = []
    nodes: list[Any] = [data]
    for part in location:
        if _holds(nodes[-1], part):
            pass
        elif route and isinstance(part, str) and _holds(nodes[-2], part):
            nodes.pop()
            route.pop()
        else:
            continue
        nodes.append(nodes[-1][part])
        route.append(part)
    return tuple(route)


def _holds(node: Any, part: str | int) -> bool:
    if isinstance(part, int):
        return isinstance(node, list) and part < len(node)
    return isinstance(node, Mapping) and part in node


__all__ = ["Findings", "SeveralInputsError", "joined", "locate"]
