"""The cores of this machine, by joblib."""

import signal
import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self, TypeVar

from hermes_analysis.executors.bounded import Numbered, UnderWay
from hermes_analysis.executors.port import AHEAD, MOST_LOSSES, WorkerLost
from hermes_analysis.optional import optional

T = TypeVar("T")
R = TypeVar("R")

_WHAT = "Work on several cores"
_LEFT_BEHIND = "[0-9]+ tasks (which were still being processed|have been successfully executed)"
"""How joblib begins to say that work was left behind, done or not."""


class JoblibExecutor:
    """Does the work in processes of this machine, kept by joblib's loky. Needs joblib (extra "sweep").

    The processes begin to start at once, and import the simulator while the caller still reads its scenario.
    """

    def __init__(self, workers: int, address: str | None = None) -> None:  # noqa: ARG002 - the port's
        self._joblib = optional("joblib", _WHAT, "sweep")
        self._loky = optional("joblib.externals.loky", _WHAT, "sweep")
        self._reduction = optional("joblib.externals.loky.backend.reduction", _WHAT, "sweep")
        self._died = optional("joblib.externals.loky.process_executor", _WHAT, "sweep").BrokenProcessPool
        self.workers = workers
        # A run that ends early leaves work behind, now or when a generator is collected: who stopped it knows.
        warnings.filterwarnings("ignore", _LEFT_BEHIND, UserWarning)
        self._hook, threading.excepthook = threading.excepthook, self._thread_failed
        self._mine = threading.excepthook
        with _deaf_children():
            self._starting: Generator[None, None, None] = self._parallel(_start, range(workers))

    def run(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[int, R | WorkerLost]]:
        """Yield results as they come.

        When a worker dies, the items that were under way are done again one at a time, each alone, so that only the one
        that kills its worker is blamed; then the rest goes on.
        """
        under_way = UnderWay(items)
        # Made once, not for each item; by loky's own pickler, which takes functions of a script too.
        numbered: Numbered[T, R] = Numbered(bytes(self._reduction.dumps(work)))
        while True:
            try:
                for _ in self._starting:
                    pass
                for position, result in self._parallel(numbered, under_way.take()):
                    under_way.done(position)
                    yield position, result
            except self._died:
                for position, item in under_way.again():
                    outcome = self._alone(numbered, position, item)
                    under_way.done(position)
                    yield position, outcome
            else:
                return

    def _parallel(self, work: Callable[[T], R], items: Iterable[T]) -> Generator[R, None, None]:
        """Begin with the work and return its results, in any order.

        Of short items joblib takes several to a worker in one go, as many as it does in a fifth of a second.
        """
        delayed = self._joblib.delayed(work)
        parallel = self._joblib.Parallel(
            n_jobs=self.workers, return_as="generator_unordered", batch_size="auto", pre_dispatch=AHEAD * self.workers
        )
        results: Generator[R, None, None] = parallel(delayed(item) for item in items)
        return results

    def _alone(self, numbered: Numbered[T, R], position: int, item: T) -> R | WorkerLost:
        """Do one item in a process where nothing else runs."""
        reason = ""
        for _ in range(MOST_LOSSES - 1):  # it was there at one death already
            try:
                # One job would be done in this process, which must survive.
                result: R = self._joblib.Parallel(n_jobs=2)([self._joblib.delayed(numbered)((position, item))])[0][1]
            except self._died as error:
                reason = " ".join(str(error).split())[:200]
            else:
                return result
        return WorkerLost(f"its worker process died {MOST_LOSSES} times, mostly for lack of memory: {reason}")

    def close(self) -> None:
        """End the processes."""
        self._starting.close()
        self._loky.get_reusable_executor(reuse=True).shutdown(wait=True, kill_workers=True)
        if threading.excepthook is self._mine:
            threading.excepthook = self._hook

    def _thread_failed(self, args: threading.ExceptHookArgs) -> None:
        """Leave out what loky's thread trips over when a run is stopped: it looks for items that were taken back."""
        if not (args.exc_type is KeyError and type(args.thread).__name__ == "_ExecutorManagerThread"):
            self._hook(args)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Let processes that are started meanwhile ignore Ctrl-C, which a terminal sends to all: their parent answers it.

    A process inherits what is ignored, so it holds from its first instruction on; a blocked signal loky would unblock.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may change it
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)


def _start(_number: int) -> None:
    """Import what most work needs."""
    from hermes_analysis import points, simulator  # noqa: F401, PLC0415 - here, in the worker

    simulator.session()
