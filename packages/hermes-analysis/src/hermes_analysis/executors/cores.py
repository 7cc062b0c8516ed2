"""The cores of this machine, by joblib."""

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

from hermes_analysis.executors.bounded import Numbered, UnderWay
from hermes_analysis.executors.port import AHEAD, MOST_LOSSES, WorkerLost
from hermes_analysis.optional import optional

T = TypeVar("T")
R = TypeVar("R")


class JoblibExecutor:
    """Does the work in processes of this machine, kept by joblib's loky. Needs joblib (extra "sweep")."""

    def __init__(self, workers: int, address: str | None = None) -> None:  # noqa: ARG002 - the port's
        self._joblib = optional("joblib", "Work on several cores", "sweep")
        self._died = optional(
            "joblib.externals.loky.process_executor", "Work on several cores", "sweep"
        ).BrokenProcessPool
        self.workers = workers

    def run(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[int, R | WorkerLost]]:
        """Yield results as they come.

        When a worker dies, the items that were under way are done again one at a time, each alone, so that only the one
        that kills its worker is blamed; then the rest goes on.
        """
        under_way = UnderWay(items)
        numbered = Numbered(work)
        while True:
            try:
                for position, result in self._parallel(numbered, under_way.take()):
                    under_way.done(position)
                    yield position, result
            except self._died:
                for position, item in under_way.again():
                    outcome = self._alone(work, item)
                    under_way.done(position)
                    yield position, outcome
            else:
                return

    def _parallel(self, numbered: Numbered[T, R], items: Iterator[tuple[int, T]]) -> Iterator[tuple[int, R]]:
        """Yield results in any order."""
        delayed = self._joblib.delayed(numbered)
        parallel = self._joblib.Parallel(
            n_jobs=self.workers, return_as="generator_unordered", batch_size=1, pre_dispatch=AHEAD * self.workers
        )
        yield from parallel(delayed(item) for item in items)

    def _alone(self, work: Callable[[T], R], item: T) -> R | WorkerLost:
        """Do one item in a process where nothing else runs."""
        reason = ""
        for _ in range(MOST_LOSSES - 1):  # it was there at one death already
            try:
                # One job would be done in this process, which must survive.
                result: R = self._joblib.Parallel(n_jobs=2)([self._joblib.delayed(work)(item)])[0]
            except self._died as error:
                reason = " ".join(str(error).split())[:200]
            else:
                return result
        return WorkerLost(f"its worker process died {MOST_LOSSES} times, mostly for lack of memory: {reason}")

    def close(self) -> None:
        """End the processes."""
        optional("joblib.externals.loky", "Work on several cores", "sweep").get_reusable_executor().shutdown(
            wait=False, kill_workers=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
