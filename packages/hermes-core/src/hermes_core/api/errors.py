"""The exceptions of HERMES. Everything a user can cause is a HermesError with a clear message."""

import copy
from dataclasses import dataclass
from typing import Self


class HermesError(Exception):
    """Root of all errors that HERMES raises on purpose."""

    exit_code: int = 1
    """What the command line exits with."""


@dataclass(slots=True)
class Place:
    """Where in a user's input something stands. Unknown parts are None."""

    file: str | None = None
    line: int | None = None
    column: int | None = None
    path: str | None = None

    def __str__(self) -> str:
        """Return "file:line:column (path)" with the parts that are known."""
        head = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        if self.path:
            return f"{head} ({self.path})" if head else self.path
        return head


def _told(problem: str, place: Place | None, remedy: str | None) -> str:
    text = f"{place}: {problem}" if place and str(place) else problem
    return f"{text}\n  {remedy}" if remedy else text


class InputError(HermesError):
    """Something a user wrote cannot be used as it is.

    `problem` says what is wrong with the value, `remedy` what to write instead, `place` where it stands.
    """

    exit_code = 2

    def __init__(self, problem: str, *, place: Place | None = None, remedy: str | None = None) -> None:
        self.problem = problem
        self.place = place
        self.remedy = remedy
        self.pool: str | None = None
        """The pool of the scenario that was looked at, where there is one."""
        super().__init__(_told(problem, place, remedy))

    def at(self, place: Place) -> Self:
        """Return the same error with another place."""
        found = copy.copy(self)
        found.place = place
        found.args = (_told(self.problem, place, self.remedy),)
        return found


class UnknownNameError(InputError):
    """A name that no catalogue and no plug-in has. `kind` says of what ("model", "device"), `name` is the name."""

    def __init__(
        self, problem: str, *, kind: str = "", name: str = "", place: Place | None = None, remedy: str | None = None
    ) -> None:
        self.kind = kind
        self.name = name
        super().__init__(problem, place=place, remedy=remedy)


class UnsupportedError(InputError):
    """Asked for something that this version does not do. Never ignored in silence."""


class DoesNotFitError(InputError):
    """The model, or a request, needs more memory than the device has."""


class MissingExtraError(HermesError):
    """An optional dependency is needed; the message names the `pip install`."""


class OutputError(HermesError):
    """A result could not be written, or would have overwritten one."""


class Interrupted(HermesError):  # noqa: N818 - not a fault: the user pressed Ctrl-C
    """The run was stopped; what was simulated so far has been kept. `outcome` is what the run came to."""

    exit_code = 130

    def __init__(self, message: str, outcome: object = None) -> None:
        super().__init__(message)
        self.outcome = outcome
