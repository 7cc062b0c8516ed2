"""Everything here, one after the other: for tests, for debugging, and for one core."""

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

from hermes_analysis.executors.port import WorkerLost

T = TypeVar("T")
R = TypeVar("R")


class SerialExecutor:
    """Does the work in this process, in order."""

    def __init__(self, workers: int = 1, address: str | None = None) -> None:  # noqa: ARG002 - the port's
        self.workers = 1

    def run(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[int, R | WorkerLost]]:
        """Yield the results in order."""
        for position, item in enumerate(items):
            yield position, work(item)

    def close(self) -> None:
        """Hold nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
