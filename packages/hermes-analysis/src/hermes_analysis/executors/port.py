"""The port to whatever does the work of a sweep or a search."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar

from hermes_analysis.errors import AnalysisError

T = TypeVar("T")
R = TypeVar("R")

MOST_LOSSES: Final = 3
"""Workers that an item may cost before it is given up as `WorkerLost`."""
AHEAD: Final = 4
"""Items under way for each worker: enough to keep it busy, few enough that memory stays flat."""


class ExecutorError(AnalysisError):
    """An executor cannot be had or reached. The message says what to do."""


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """Stands in the place of a result: the worker died each time it was given this item."""

    reason: str


class Executor(Protocol):
    """Does pieces of work, several at a time.

    `run` yields `(position, result)` as results come, in any order and each position once, and takes from `items` only
    a few more than it has workers, so that a long list costs no memory. `work` and what it is given must be picklable;
    an exception of `work` ends the run and is raised here. A worker that dies (killed, or out of memory) costs nothing
    but time: what it had is done again by another, and only an item that kills three comes back as `WorkerLost`.
    Results do not depend on the executor or on the number of workers.
    """

    workers: int
    """Items done at a time."""

    def run(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[int, R | WorkerLost]]:
        """Yield the result of `work(item)` for each item, with its position among the items."""
        ...

    def close(self) -> None:
        """Give back what the executor holds. It is not used afterwards."""
        ...

    def __enter__(self) -> Self:
        """Return the executor; leaving the block closes it."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


ExecutorFactory = Callable[[int, str | None], Any]
"""An entry of the group: called with the number of workers and the address of a cluster (or None)."""
