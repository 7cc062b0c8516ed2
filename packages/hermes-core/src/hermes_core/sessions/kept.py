"""What a session keeps between runs: compiled deployments and drawn workloads, the least recently used given up."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Generic, TypeVar

from hermes_core.api.errors import HermesError, InputError
from hermes_core.api.workload import RequestBatch, RequestSource
from hermes_core.serving.plan import PoolPlan

T = TypeVar("T")

MOST_DRAWN: Final = 100_000
"""Requests of a workload that are kept once drawn; a longer one is drawn anew by each run."""
MOST_HELD: Final = 4 * MOST_DRAWN
"""Requests of all workloads that are kept together: some 40 MB."""


class Kept(Generic[T]):
    """Values by key, at most `size` of them. A value that could not be made is remembered as the error it raised.

    With `weight`, values are given up too while all together weigh more than `most`.
    """

    def __init__(self, size: int, weight: Callable[[T], int] | None = None, most: int = 0) -> None:
        self._size = size
        self._weight = weight
        self._most = most
        self._values: OrderedDict[str, T | InputError] = OrderedDict()
        self.made = 0
        """How many values have been made."""

    def get(self, key: str, make: Callable[[], T]) -> T:
        """Return the value of `key`, making it when it is not there. Raises the InputError that making it raised."""
        found = self._values.get(key)
        if found is None:
            self.made += 1
            try:
                found = make()
            except InputError as error:
                found = error
            self._shrink()
            self._values[key] = found
        else:
            self._values.move_to_end(key)
        if isinstance(found, InputError):
            raise found.with_traceback(None)
        return found

    def _shrink(self) -> None:
        """Make room for one more."""
        left = self._weight
        total = 0 if left is None else sum(left(v) for v in self._values.values() if not isinstance(v, InputError))
        while self._values and (len(self._values) >= self._size or total > self._most):
            _, gone = self._values.popitem(last=False)
            if left is not None and not isinstance(gone, InputError):
                total -= left(gone)


def deployment_key(pool: PoolPlan) -> str:
    """Return what decides the prices of a pool, as text: pools of one key share one compiled deployment."""
    speculation = pool.engine.speculation
    drafts = (speculation.method, speculation.draft_model, speculation.costs_given) if speculation is not None else None
    # How many batches a step has depends on the policy, where there are stages.
    batching = pool.engine.batching if pool.deployment.pipeline_parallel > 1 else None
    return repr((pool.hardware_model, pool.deployment, drafts, batching))


class DrawnSource:
    """A workload that keeps its requests once they were drawn, unless there are too many; `view` it for each run."""

    def __init__(self, source: RequestSource) -> None:
        self.source = source
        self.early_notes = self.late_notes = tuple(source.notes)
        self._drawn: list[tuple[RequestBatch, tuple[str, ...]]] | None = None
        self.held = 0
        """Requests that are kept."""

    def view(self) -> "SourceView":
        """Return the workload as a run expects it: as if it had not been drawn before."""
        return SourceView(self)

    def drawn(self) -> Iterator[tuple[RequestBatch, tuple[str, ...]]]:
        """Draw from the start: each batch with the notes that there are by then."""
        if self._drawn is not None:
            yield from self._drawn
            return
        kept: list[tuple[RequestBatch, tuple[str, ...]]] | None = []
        number = 0
        for batch in told_errors(self.source):
            number += len(batch.arrival_ns)
            if number > MOST_DRAWN:
                kept = None
            told = tuple(self.source.notes)
            if kept is not None:
                kept.append((batch, told))
            yield batch, told
        self.late_notes = tuple(self.source.notes)
        self._drawn = kept
        self.held = number if kept is not None else 0


def told_errors(source: RequestSource) -> Iterator[RequestBatch]:
    """Yield what a workload draws. Raises `InputError` for what it finds wrong only then, such as a row of a trace."""
    try:
        yield from source.batches()
    except HermesError:
        raise
    except ValueError as error:  # like a workload that cannot be opened
        raise InputError(str(error)) from error


class SourceView:
    """One reading of a drawn workload. Its notes grow as it is read, like those of the workload itself."""

    def __init__(self, drawn: DrawnSource) -> None:
        self._source = drawn
        self.pipelines: Sequence[str] = drawn.source.pipelines
        self.tenants: Sequence[str] = drawn.source.tenants
        self.classes: Sequence[str] = drawn.source.classes
        self.adapters: Sequence[str] = drawn.source.adapters
        self.notes: Sequence[str] = drawn.early_notes

    @property
    def requests(self) -> int | None:
        """Requests in all, where known."""
        return self._source.source.requests

    def batches(self) -> Iterator[RequestBatch]:
        """Draw from the start; equal results each time."""
        for batch, notes in self._source.drawn():
            self.notes = notes
            yield batch
        self.notes = self._source.late_notes
