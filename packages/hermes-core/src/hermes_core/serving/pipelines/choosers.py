"""Which way a request goes at a branch (entry-point group hermes.choosers)."""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Protocol

from hermes_core.serving.pipelines.luck import unit
from hermes_core.serving.pipelines.nodes import Choice
from hermes_core.serving.request import Request

CHOOSERS = "hermes.choosers"
"""Entry-point group. Each entry is called with (choices, options, load of each choice, class names) and returns a
`Chooser`; the load of a choice is a function that gives the outstanding jobs for each client of the first pool on that
way."""

Loads = Sequence[Callable[[], float]]


class Chooser(Protocol):
    """Picks a way."""

    def choose(self, request: Request, u: float) -> int:
        """Return the number of the way; `u` from [0, 1) is the request's luck at this branch."""
        ...


class Chance:
    """Each way with its share."""

    __slots__ = ("_bounds",)

    def __init__(
        self,
        choices: Sequence[Choice],
        options: Mapping[str, Any],  # noqa: ARG002 - the port's
        loads: Loads,  # noqa: ARG002
        classes: Sequence[str],  # noqa: ARG002
    ) -> None:
        total = sum(choice.share for choice in choices)
        self._bounds = [part / total for part in accumulate(choice.share for choice in choices)][:-1]

    def choose(self, request: Request, u: float) -> int:  # noqa: ARG002
        way = 0
        for bound in self._bounds:
            if u < bound:
                break
            way += 1
        return way


class BySession(Chance):
    """Each way with its share of sessions: all requests of one session go the same way."""

    __slots__ = ()

    def choose(self, request: Request, u: float) -> int:
        session = request.session_id
        return super().choose(request, unit(session, 0) if session >= 0 else u)


class ByClass:
    """By the service class; others go the last way."""

    __slots__ = ("_last", "_ways")

    def __init__(
        self,
        choices: Sequence[Choice],
        options: Mapping[str, Any],  # noqa: ARG002
        loads: Loads,  # noqa: ARG002
        classes: Sequence[str],
    ) -> None:
        ways = {choice.service_class: way for way, choice in enumerate(choices)}
        self._ways = {number: ways[name] for number, name in enumerate(classes) if name in ways}
        self._last = len(choices) - 1

    def choose(self, request: Request, u: float) -> int:  # noqa: ARG002
        return self._ways.get(request.service_class, self._last)


class ByPrompt:
    """By the length of the context: the highest bound that it exceeds."""

    __slots__ = ("_bounds",)

    def __init__(
        self,
        choices: Sequence[Choice],
        options: Mapping[str, Any],  # noqa: ARG002
        loads: Loads,  # noqa: ARG002
        classes: Sequence[str],  # noqa: ARG002
    ) -> None:
        self._bounds = sorted(((choice.above, way) for way, choice in enumerate(choices)), reverse=True)

    def choose(self, request: Request, u: float) -> int:  # noqa: ARG002
        for bound, way in self._bounds:
            if request.prompt_tokens > bound:
                return way
        return self._bounds[-1][1]


class ByQuality:
    """The first way whose answer will do, as far as a classifier can tell; the last one if none will.

    A request of difficulty d (its luck) is answered well by a way of quality q when d < q. The classifier knows d with
    the probability `accuracy`, and guesses it else. Name the cheapest way first.
    """

    __slots__ = ("_accuracy", "_qualities")

    def __init__(
        self,
        choices: Sequence[Choice],
        options: Mapping[str, Any],
        loads: Loads,  # noqa: ARG002
        classes: Sequence[str],  # noqa: ARG002
    ) -> None:
        self._accuracy = float(options.get("accuracy", 1.0))
        self._qualities = [choice.quality for choice in choices[:-1]]

    def choose(self, request: Request, u: float) -> int:
        difficulty = unit(request.luck, 1)
        if u >= self._accuracy:
            difficulty = (u - self._accuracy) / (1 - self._accuracy)
        for way, quality in enumerate(self._qualities):
            if difficulty < quality:
                return way
        return len(self._qualities)


class ByLoad:
    """The way whose first pool has the fewest outstanding jobs for each client; the first of equals."""

    __slots__ = ("_loads",)

    def __init__(
        self,
        choices: Sequence[Choice],  # noqa: ARG002
        options: Mapping[str, Any],  # noqa: ARG002
        loads: Loads,
        classes: Sequence[str],  # noqa: ARG002
    ) -> None:
        self._loads = loads

    def choose(self, request: Request, u: float) -> int:  # noqa: ARG002
        loads = [load() for load in self._loads]
        return loads.index(min(loads))
