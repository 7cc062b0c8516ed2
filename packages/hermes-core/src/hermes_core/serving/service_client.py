"""A client that serves batches of stage jobs: an encoder, a vector index, a CPU worker, a tool host."""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from math import exp, log1p, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, Final, Protocol

from hermes_core.api.stages import StageModel
from hermes_core.api.time import FS_PER_NS, Femtos, Nanos, round_fs_to_ns
from hermes_core.engine import Kernel, Phase, rank
from hermes_core.record import Recorder
from hermes_core.serving.pipelines.luck import unit

if TYPE_CHECKING:
    from hermes_core.serving.request import Request
    from hermes_core.serving.service_pool import ServiceJob

_inverse_normal: Final = NormalDist().inv_cdf
_JITTER: Final = 1 << 34
"""Key of the variation of service times, above all places in a program."""


class Work:
    """One stage job of one request, at a service client."""

    __slots__ = (
        "after",
        "client",
        "drawn_ns",
        "enqueue_ns",
        "items",
        "job",
        "number",
        "pairs",
        "request",
        "start_ns",
        "tokens",
    )

    def __init__(self, job: "ServiceJob", request: "Request", items: int, tokens: int, pairs: int, now: Nanos) -> None:
        self.job = job
        self.request = request
        self.items = items
        self.tokens = tokens
        self.pairs = pairs
        self.enqueue_ns = now
        self.start_ns: Nanos = -1
        self.drawn_ns: Nanos = -1
        """How long it takes by a draw; -1 where the stage model says it."""
        self.client: ServiceClient
        self.number: int
        self.after: int


class MemoryPath(Protocol):
    """Memory that a service client shares with others: moves bytes, and tells when they are moved."""

    def move(self, size_bytes: int, on_end: Callable[[Nanos], None], now: Nanos) -> None:
        """Begin to move bytes."""
        ...


class ServiceOwner(Protocol):
    """Whom a service client tells what became of its works."""

    def served(self, work: Work, now: Nanos) -> None:
        """A work is done."""
        ...


class ServiceClient:
    """Workers that take batches from one queue, the oldest job first.

    A free worker takes all waiting jobs of the kind that waits longest, up to the size of a batch; nobody waits for a
    batch to fill. So a lone job is served alone and at once, and batches grow with the load.
    """

    __slots__ = (
        "_add_step",
        "_begun",
        "_end_rank",
        "_free",
        "_kernel",
        "_launch_event",
        "_launch_rank",
        "_max_batch",
        "_models",
        "_owner",
        "_pack_step",
        "_queues",
        "_sigma",
        "_single",
        "batches",
        "busy_fs",
        "energy_nj",
        "memory",
        "number",
        "peak_running",
        "peak_waiting",
        "running",
        "tokens",
        "workers",
    )

    def __init__(
        self,
        *,
        number: int,
        kernel: Kernel,
        recorder: Recorder | None,
        owner: ServiceOwner,
        models: Sequence[StageModel | None],
        max_batch: Sequence[int],
        workers: int,
        variation: float = 0.0,
    ) -> None:
        """Make a client for the stages of `models`, in that order; None prices by what each job has drawn.

        `variation` is the coefficient of variation of service times around their price (lognormal).
        """
        self.number = number
        self.workers = workers
        self.batches = 0
        self.busy_fs: Femtos = 0
        """Time in batches, summed over workers."""
        self.energy_nj = 0
        self.tokens = 0
        self.running = 0
        """Works in batches under way."""
        self.peak_running = 0
        self.peak_waiting = 0
        self.memory: MemoryPath | None = None
        """Memory that others use too; None for memory of its own."""
        self._kernel = kernel
        self._owner = owner
        self._add_step = recorder.add_step if recorder is not None else None
        self._pack_step = recorder.pack_step if recorder is not None else None
        self._models = models
        self._max_batch = max_batch
        self._sigma = sqrt(log1p(variation * variation))
        self._queues: list[deque[Work]] = [deque() for _ in models]
        self._single = len(models) == 1
        self._free = workers
        self._launch_event = False
        # Its batches end before any engine's step does: what they release is seen by the steps of that nanosecond.
        self._end_rank = rank(Phase.ARRIVAL, number + 1)
        self._launch_rank = rank(Phase.STEP, number)

    @property
    def waiting(self) -> int:
        """Works that no worker has taken."""
        return sum(len(queue) for queue in self._queues)

    def submit(self, work: Work, now: Nanos) -> None:
        """Let a work wait for a worker."""
        work.client = self
        self._queues[work.job.stage].append(work)
        if self._free:
            if not self._launch_event:
                self._launch_event = True
                self._kernel.schedule(now, self._launch_rank, self._launch)
        else:
            waiting = self.waiting
            if waiting > self.peak_waiting:
                self.peak_waiting = waiting

    def withdraw(self, work: Work) -> bool:
        """Take out a work that waits. False if a worker has it, who goes on in vain."""
        queue = self._queues[work.job.stage]
        if work in queue:
            queue.remove(work)
            return True
        return False

    def _launch(self, now: Nanos) -> None:
        """Let free workers take batches."""
        self._launch_event = False
        while self._free:
            queue = self._queues[0] if self._single else self._oldest()
            if not queue:
                return
            self._begin(queue, now)

    def _oldest(self) -> deque[Work]:
        """Return the queue whose head has waited longest."""
        best = self._queues[0]
        for queue in self._queues:
            if queue and (not best or queue[0].enqueue_ns < best[0].enqueue_ns):
                best = queue
        return best

    def _begin(self, queue: deque[Work], now: Nanos) -> None:
        """Let a worker begin a batch."""
        stage = queue[0].job.stage
        most = self._max_batch[stage]
        batch = [queue.popleft() for _ in range(min(most, len(queue)))]
        model = self._models[stage]
        items = tokens = pairs = 0
        for work in batch:
            work.start_ns = now
            items += work.items
            tokens += work.tokens
            pairs += work.pairs
        if model is None:
            compute_fs, memory_bytes, energy_nj = max(work.drawn_ns for work in batch) * FS_PER_NS, 0, 0
        else:
            compute_fs, memory_bytes, energy_nj = model.price(len(batch), items, tokens, pairs)
        if self._sigma:
            first = batch[0]
            luck = unit(first.request.luck + first.request.request_id, _JITTER + self.number)
            sigma = self._sigma
            compute_fs = round(compute_fs * exp(sigma * _inverse_normal(luck or 0.5) - sigma * sigma / 2))
        self._free -= 1
        self.energy_nj += energy_nj
        self.tokens += tokens
        self.running += len(batch)
        if self.running > self.peak_running:
            self.peak_running = self.running
        end_ns = now + (round_fs_to_ns(compute_fs) or 1)
        ending = partial(self._end, _Batch(batch, now, items, tokens, energy_nj))
        if self.memory is None or not memory_bytes:
            self._kernel.schedule(end_ns, self._end_rank, ending)
        else:
            # Done when both are: what it computes, and what it moves.
            both = _Both(ending)
            self._kernel.schedule(end_ns, self._end_rank, both.one)
            self.memory.move(memory_bytes, both.one, now)

    def _end(self, batch: "_Batch", now: Nanos) -> None:
        """A worker has done a batch."""
        span_fs = (now - batch.begin_ns) * FS_PER_NS
        self.busy_fs += span_fs
        works = batch.works
        if self._add_step is not None and self._pack_step is not None:
            self._add_step(
                self._pack_step(
                    self.number, self.batches, 1, batch.begin_ns, 0, span_fs, 0, 0, 0, len(works), batch.tokens,
                    self.waiting, 0, batch.energy_nj,
                )
            )  # fmt: skip
        self.batches += 1
        self.running -= len(works)
        self._free += 1
        served = self._owner.served
        for work in works:
            served(work, now)
        if not self._launch_event:
            for queue in self._queues:
                if queue:
                    self._launch_event = True
                    self._kernel.schedule(now, self._launch_rank, self._launch)
                    break


class _Batch:
    """Works that a worker does together."""

    __slots__ = ("begin_ns", "energy_nj", "items", "tokens", "works")

    def __init__(self, works: list[Work], begin_ns: Nanos, items: int, tokens: int, energy_nj: int) -> None:
        self.works = works
        self.begin_ns = begin_ns
        self.items = items
        self.tokens = tokens
        self.energy_nj = energy_nj


class _Both:
    """Calls when it has been called twice."""

    __slots__ = ("_action", "_half")

    def __init__(self, action: Callable[[Nanos], None]) -> None:
        self._action = action
        self._half = False

    def one(self, now: Nanos) -> None:
        if self._half:
            self._action(now)
        self._half = True
