"""A pool of service clients, and the jobs that it does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from hermes_core.api.time import Nanos
from hermes_core.engine import Phase, rank
from hermes_core.serving.pipelines.control import Growth
from hermes_core.serving.pipelines.flow import Flow
from hermes_core.serving.pipelines.luck import Draw, mix, unit
from hermes_core.serving.request import FINISHED, Request
from hermes_core.serving.routing.routers import PoolLoad, Router
from hermes_core.serving.services.client import ServiceClient, Work

if TYPE_CHECKING:
    from hermes_core.serving.coordinator import Coordinator
    from hermes_core.serving.fleet import PoolFleet

Counts: TypeAlias = Callable[[Request, Flow, int], tuple[int, int, int]]
"""Says (items, tokens, pairs) of a job; see `hermes_core.api.stages.StageModel`. The number is its place."""

_ARRIVAL = rank(Phase.ARRIVAL)
_OUTSIDE = 65535
"""Instead of the number of a client: none."""
_GROWTH = 1 << 35
"""Key of the draws of what a job adds, above all places in a program."""


@dataclass(slots=True)
class ServicePool:
    """Service clients that can replace one another, and their router."""

    name: str
    coordinator: "Coordinator"
    stages: tuple[str, ...]
    """Stage kinds, by the number that jobs carry."""
    scatter: bool = False
    """Whether each client has a part of the data, so that every job goes to all."""
    clients: Sequence[ServiceClient] = ()
    router: Router = field(init=False)
    fleet: "PoolFleet | None" = None
    """Its clients, where they come and go."""
    load: PoolLoad = field(init=False)
    first_client: int = 0
    alone: bool = True

    def open(self, clients: Sequence[ServiceClient], router: Router) -> None:
        """Give the pool its clients, which were made knowing it as their owner."""
        self.clients = clients
        self.router = router
        self.load = PoolLoad(len(clients))
        self.first_client = clients[0].number
        self.alone = len(clients) == 1

    def number_of(self, kind: str) -> int:
        """Return the number of a stage kind."""
        return self.stages.index(kind)

    def outstanding(self) -> float:
        """Return the outstanding jobs for each client."""
        return self.load.mean_jobs()


class ServiceJob:
    """One stage that a service client does for a request."""

    __slots__ = ("_counts", "_grow", "_key", "_place", "_time", "pool", "stage", "stage_set")

    def __init__(
        self,
        pool: ServicePool,
        stage: int,
        stage_set: int,
        place: int,
        counts: Counts,
        *,
        grow: Growth | None = None,
        time: Draw | None = None,
        same_luck: bool = False,
    ) -> None:
        """`same_luck` lets what is added be drawn as what was worked on."""
        self._key = 0 if same_luck else _GROWTH
        self.pool = pool
        self.stage = stage
        """Number of the stage among those of the client."""
        self.stage_set = stage_set
        self._place = place
        self._counts = counts
        self._grow = grow
        self._time = time
        """How long it takes, in ns, by a draw; None where a stage model says it."""

    def begin(self, request: Request, now: Nanos) -> None:
        pool = self.pool
        flow = request.flow
        if flow is None:
            raise AssertionError("a pipeline with service stages is a graph")
        load = pool.load
        if load.closed and load.closed == len(pool.clients) and pool.fleet is not None:
            pool.fleet.park(request, self)
            return
        counts = self._counts
        items, tokens, pairs = counts(request, flow, self._place)
        number = flow.pinned
        if number < 0:
            number = 0 if pool.alone else pool.router.pick(request, load)
        elif load.closed:
            number = load.next_open(number)
        load.jobs[number] += 1
        load.tokens[number] += tokens
        work = Work(self, request, number, items, tokens, pairs, now, flow.begin_job(), flow.after)
        if self._time is not None:
            work.drawn_ns = self._time(unit(flow.luck, self._place))
        request.task = work
        pool.clients[number].submit(work, now)

    def done(self, work: Work, now: Nanos) -> None:
        """A client has done it."""
        pool = self.pool
        number = work.slot
        load = pool.load
        load.jobs[number] -= 1
        load.tokens[number] -= work.tokens
        request = work.request
        coordinator = pool.coordinator
        add, pack = coordinator.add_stage_job, coordinator.pack_stage_job
        add(
            pack(
                request.request_id, work.number, self.stage_set, pool.first_client + number, work.enqueue_ns,
                work.start_ns, -1, now, work.tokens, 0, 0, -1, -1, 0, FINISHED, work.after,
            )
        )  # fmt: skip
        if request.task is work:
            request.task = None
            grow = self._grow
            if grow is not None:
                flow = request.flow
                if flow is None:
                    raise AssertionError("a pipeline with service stages is a graph")
                luck = mix(flow.luck, self._key) if self._key else flow.luck
                grow(request, flow, unit(luck, self._place))
            coordinator.proceed(request, now)

    def _write(self, work: Work, end_ns: Nanos, status: int) -> None:
        coordinator = self.pool.coordinator
        coordinator.add_stage_job(
            coordinator.pack_stage_job(
                work.request.request_id, work.number, self.stage_set, self.pool.first_client + work.slot,
                work.enqueue_ns, work.start_ns, -1, end_ns, work.tokens, 0, 0, -1, -1, 0, status, work.after,
            )
        )  # fmt: skip

    def stop(self, work: Work, now: Nanos, status: int) -> int:
        """Stop a work that waits; one that a worker has ends in vain."""
        work.request.task = None
        pool = self.pool
        if pool.clients[work.slot].withdraw(work):
            pool.load.jobs[work.slot] -= 1
            pool.load.tokens[work.slot] -= work.tokens
            self._write(work, now, status)
        return 0

    def leave_unfinished(self, work: Work, now: Nanos, status: int) -> int:  # noqa: ARG002 - the port's
        self._write(work, -1, status)
        return 0


class Wait:
    """A stage outside the simulated hardware that takes a drawn time: a tool without a pool of its own."""

    __slots__ = ("_coordinator", "_grow", "_place", "_time", "stage_set")

    def __init__(
        self, coordinator: "Coordinator", stage_set: int, place: int, time: Draw, grow: Growth | None = None
    ) -> None:
        self._coordinator = coordinator
        self.stage_set = stage_set
        self._place = place
        self._time = time
        self._grow = grow

    def begin(self, request: Request, now: Nanos) -> None:
        flow = request.flow
        if flow is None:
            raise AssertionError("a pipeline with a tool is a graph")
        delay = Delay(self, request, flow.begin_job(), flow.after, now)
        request.task = delay
        time_ns = now + max(1, self._time(unit(flow.luck, self._place)))
        delay.event = self._coordinator.kernel.schedule(time_ns, _ARRIVAL, delay.over)

    def done(self, delay: "Delay", now: Nanos) -> None:
        """The time is over."""
        request = delay.request
        flow = request.flow
        if flow is None:
            raise AssertionError("a pipeline with a tool is a graph")
        self._write(delay, now, FINISHED)
        request.task = None
        if self._grow is not None:
            self._grow(request, flow, unit(mix(flow.luck, _GROWTH), self._place))
        self._coordinator.proceed(request, now)

    def _write(self, delay: "Delay", end_ns: Nanos, status: int) -> None:
        self._coordinator.add_stage_job(
            self._coordinator.pack_stage_job(
                delay.request.request_id, delay.number, self.stage_set, _OUTSIDE, delay.begin_ns, delay.begin_ns, -1,
                end_ns, 0, 0, 0, -1, -1, 0, status, delay.after,
            )
        )  # fmt: skip

    def stop(self, delay: "Delay", now: Nanos, status: int) -> int:
        """Stop waiting."""
        delay.request.task = None
        self._coordinator.kernel.cancel(delay.event)
        self._write(delay, now, status)
        return 0

    def leave_unfinished(self, delay: "Delay", now: Nanos, status: int) -> int:  # noqa: ARG002 - the port's
        self._write(delay, -1, status)
        return 0


class Delay:
    """A request that waits for something outside."""

    __slots__ = ("after", "begin_ns", "event", "job", "number", "request")

    def __init__(self, job: Wait, request: Request, number: int, after: int, now: Nanos) -> None:
        self.job = job
        self.request = request
        self.number = number
        self.after = after
        self.begin_ns = now
        self.event = -1

    def over(self, now: Nanos) -> None:
        """The time is over."""
        self.job.done(self, now)
