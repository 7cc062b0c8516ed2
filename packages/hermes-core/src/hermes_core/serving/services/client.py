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
    from hermes_core.serving.services.pool import ServiceJob

_inverse_normal: Final = NormalDist().inv_cdf
_MOST_PRICES: Final = 1 << 14
_JITTER: Final = 1 << 34
"""Key of the variation of service times, above all places in a program."""


SERVICE_CLIENTS = "hermes.service_clients"
"""Entry-point group. Each entry is made like `ServiceClient`, by keyword, and has what it has in public."""


class Work:
    """One stage job of one request, at a service client."""

    __slots__ = (
        "after",
        "drawn_ns",
        "enqueue_ns",
        "items",
        "job",
        "number",
        "pairs",
        "request",
        "slot",
        "start_ns",
        "tokens",
    )

    def __init__(
        self,
        job: "ServiceJob",
        request: "Request",
        slot: int,
        items: int,
        tokens: int,
        pairs: int,
        enqueue_ns: Nanos,
        number: int,
        after: int,
    ) -> None:
        self.job = job
        self.request = request
        self.slot = slot
        """Number, within the job's pool, of the client that has it."""
        self.items = items
        self.tokens = tokens
        self.pairs = pairs
        self.enqueue_ns = enqueue_ns
        self.start_ns: Nanos = -1
        self.drawn_ns: Nanos = -1
        """How long it takes by a draw; -1 where the stage model says it."""
        self.number = number
        """Of the job, within its request."""
        self.after = after
        """Number of the job whose end let it begin."""


class MemoryPath(Protocol):
    """Memory that a service client shares with others: moves bytes, and tells when they are moved."""

    def move(self, size_bytes: int, on_end: Callable[[Nanos], None], now: Nanos) -> None:
        """Begin to move bytes."""
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
        "_on_launch",
        "_pack_step",
        "_prices",
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
        "waiting",
        "workers",
    )

    def __init__(
        self,
        *,
        number: int,
        kernel: Kernel,
        recorder: Recorder | None,
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
        self.waiting = 0
        """Works that no worker has taken."""
        self.memory: MemoryPath | None = None
        """Memory that others use too; None for memory of its own."""
        self._kernel = kernel
        self._add_step = recorder.add_step if recorder is not None else None
        self._pack_step = recorder.pack_step if recorder is not None else None
        self._models = models
        self._prices: dict[tuple[int, int, int, int, int], tuple[Nanos, Femtos, int, int]] = {}
        """Of batches that have been met, by stage and size: many workloads repeat them. (Span twice, bytes, energy.)"""
        self._max_batch = max_batch
        self._sigma = sqrt(log1p(variation * variation))
        self._queues: list[deque[Work]] = [deque() for _ in models]
        self._single = len(models) == 1
        self._free = workers
        self._launch_event = False
        self._on_launch = self._launch
        """Bound once: it is scheduled for each batch."""
        # Its batches end before any engine's step does: what they release is seen by the steps of that nanosecond.
        self._end_rank = rank(Phase.ARRIVAL, number + 1)
        self._launch_rank = rank(Phase.STEP, number)

    def submit(self, work: Work, now: Nanos) -> None:
        """Let a work wait for a worker."""
        self._queues[work.job.stage].append(work)
        self.waiting = waiting = self.waiting + 1
        if not self._free:
            if waiting > self.peak_waiting:
                self.peak_waiting = waiting
        elif not self._launch_event:
            self._launch_event = True
            self._kernel.schedule(now, self._launch_rank, self._on_launch)

    def withdraw(self, work: Work) -> bool:
        """Take out a work that waits. False if a worker has it, who goes on in vain."""
        queue = self._queues[work.job.stage]
        if work in queue:
            queue.remove(work)
            self.waiting -= 1
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
        size = len(queue)
        if size == 1:
            # Most batches of a system that is not overloaded.
            work = queue.popleft()
            batch = [work]
            work.start_ns = now
            items, tokens, pairs = work.items, work.tokens, work.pairs
        else:
            if size > self._max_batch[stage]:
                size = self._max_batch[stage]
                batch = [queue.popleft() for _ in range(size)]
            else:
                batch = list(queue)
                queue.clear()
            items = tokens = pairs = 0
            for work in batch:
                work.start_ns = now
                items += work.items
                tokens += work.tokens
                pairs += work.pairs
        price = self._prices.get((stage, size, items, tokens, pairs))
        if price is not None:
            span_ns, span_fs, memory_bytes, energy_nj = price
        elif self._models[stage] is None:
            span_ns, memory_bytes, energy_nj = max(work.drawn_ns for work in batch) or 1, 0, 0
            span_fs = span_ns * FS_PER_NS
        else:
            span_ns, span_fs, memory_bytes, energy_nj = self._price(stage, size, items, tokens, pairs)
        if self._sigma:
            span_ns = round_fs_to_ns(self._varied(span_fs, batch[0])) or 1
        self.waiting -= size
        self._free -= 1
        self.energy_nj += energy_nj
        self.tokens += tokens
        self.running = running = self.running + size
        if running > self.peak_running:
            self.peak_running = running
        end_ns = now + span_ns
        ending = partial(self._end, batch, now, tokens, energy_nj)
        if self.memory is None or not memory_bytes:
            self._kernel.schedule(end_ns, self._end_rank, ending)
        else:
            # Done when both are: what it computes, and what it moves.
            both = _Both(ending)
            self._kernel.schedule(end_ns, self._end_rank, both.one)
            self.memory.move(memory_bytes, both.one, now)

    def _price(self, stage: int, jobs: int, items: int, tokens: int, pairs: int) -> tuple[Nanos, Femtos, int, int]:
        """Ask for the price of a batch that has not been met."""
        model = self._models[stage]
        if model is None:
            raise AssertionError("only stages with a model are priced")
        if len(self._prices) >= _MOST_PRICES:
            self._prices.clear()
        span_fs, memory_bytes, energy_nj = model.price(jobs, items, tokens, pairs)
        price = round_fs_to_ns(span_fs) or 1, span_fs, memory_bytes, energy_nj
        self._prices[stage, jobs, items, tokens, pairs] = price
        return price

    def _varied(self, span_fs: Femtos, first: Work) -> Femtos:
        """Return a span around its price, by the luck of the batch's first request."""
        luck = unit(first.request.luck + first.request.request_id, _JITTER + self.number)
        sigma = self._sigma
        return round(span_fs * exp(sigma * _inverse_normal(luck or 0.5) - sigma * sigma / 2))

    def _end(self, batch: list[Work], begin_ns: Nanos, tokens: int, energy_nj: int, now: Nanos) -> None:
        """A worker has done a batch."""
        span_fs = (now - begin_ns) * FS_PER_NS
        self.busy_fs += span_fs
        add = self._add_step
        if add is not None and self._pack_step is not None:
            add(
                self._pack_step(
                    self.number, self.batches, 1, begin_ns, 0, span_fs, 0, 0, 0, len(batch), tokens, self.waiting, 0,
                    energy_nj,
                )
            )  # fmt: skip
        self.batches += 1
        self.running -= len(batch)
        self._free += 1
        for work in batch:
            work.job.done(work, now)
        if self.waiting and not self._launch_event:
            self._launch_event = True
            self._kernel.schedule(now, self._launch_rank, self._on_launch)


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
