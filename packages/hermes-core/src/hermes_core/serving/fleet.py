"""Clients that come and go: pools that grow and shrink with the load, and faults of the simulated infrastructure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Final

from hermes_core.api.errors import InputError, Place
from hermes_core.api.time import Nanos
from hermes_core.engine import Kernel, Phase, rank
from hermes_core.serving.llm.client import LlmClient
from hermes_core.serving.llm.pool import LlmJob, LlmPool
from hermes_core.serving.llm.sequence import Sequence
from hermes_core.serving.pipelines.control import parts_of
from hermes_core.serving.plan import AutoscalePlan, FaultPlan
from hermes_core.serving.request import FAILED, Request
from hermes_core.serving.services.client import Work
from hermes_core.serving.services.pool import ServicePool

if TYPE_CHECKING:
    from hermes_core.serving.coordinator import Coordinator
    from hermes_core.serving.pipelines.control import Op

_CONTROL: Final = rank(Phase.CONTROL)

UP, STARTING, DRAINING, DOWN, DEAD = "up", "starting", "draining", "down", "dead"
"""States of a client: serves; will serve; serves what it has; is switched off; has died."""

Slow = Callable[[str, float], None]
"""Lets a link have a part of its bandwidth."""


@dataclass(slots=True)
class FleetTotals:
    """What became of requests whose client died, and of the fleet."""

    retried: int = 0
    migrated: int = 0
    failed: int = 0
    started: int = 0
    """Clients that an autoscaler has switched on, and off."""
    stopped: int = 0


@dataclass(slots=True)
class Member:
    """One client of a pool."""

    number: int
    """Within the pool."""
    state: str = UP
    off_since_ns: Nanos = -1
    """Since when it costs nothing; -1 while it does."""
    off_ns: Nanos = 0
    """How long it has cost nothing."""

    def off_until(self, end_ns: Nanos) -> Nanos:
        """Return how long it has cost nothing until the end of the run."""
        return self.off_ns + (max(0, end_ns - self.off_since_ns) if self.off_since_ns >= 0 else 0)


@dataclass(slots=True)
class PoolFleet:
    """The clients of one pool, and who may come."""

    pool: LlmPool | ServicePool
    members: list[Member] = field(init=False)
    waiting: list["Parked"] = field(default_factory=list)
    """Requests that came while nobody was open."""
    events: list[tuple[int, Nanos, str]] = field(default_factory=list)
    """(client among all, when, state) of each change."""

    def __post_init__(self) -> None:
        self.members = [Member(number) for number in range(len(self.pool.clients))]
        self.pool.fleet = self

    def park(self, request: Request, op: "Op") -> None:
        """Let a request begin its job when a client is open again."""
        parked = Parked(self, request, op)
        request.task = parked
        self.waiting.append(parked)

    def set(self, member: Member, state: str, now: Nanos) -> None:
        """Let a client change its state."""
        was_open, is_open = member.state == UP, state == UP
        if state == member.state:
            return
        member.state = state
        self.events.append((self.pool.first_client + member.number, now, state))
        if was_open and not is_open:
            self.pool.load.close(member.number)
        elif is_open and not was_open:
            self.pool.load.open(member.number)
        costs = state != DOWN
        if costs and member.off_since_ns >= 0:
            member.off_ns += now - member.off_since_ns
            member.off_since_ns = -1
        elif not costs and member.off_since_ns < 0:
            member.off_since_ns = now
        if is_open and self.waiting:
            parked, self.waiting = self.waiting, []
            for one in parked:
                one.request.task = None
                one.op.begin(one.request, now)

    def count(self, *states: str) -> int:
        """Return how many clients are in any of these states."""
        return sum(member.state in states for member in self.members)


class Parked:
    """A request that waits for a pool to have a client."""

    __slots__ = ("_fleet", "job", "op", "request")

    def __init__(self, fleet: PoolFleet, request: Request, op: "Op") -> None:
        self._fleet = fleet
        self.job = self
        self.request = request
        self.op = op

    def stop(self, task: "Parked", now: Nanos, status: int) -> int:  # noqa: ARG002 - the port's
        """Wait no more."""
        self._fleet.waiting.remove(task)
        self.request.task = None
        return 0

    def leave_unfinished(self, task: "Parked", now: Nanos, status: int) -> int:  # noqa: ARG002 - the port's
        """It never reached a client."""
        return 0


class Autoscaler:
    """Keeps a load signal of a pool near its target, as the Kubernetes horizontal pod autoscaler does.

    Every `interval` it wants ceil(clients * signal / target) clients, within bounds, unless the signal is within a
    tenth of the target (kubernetes.io, Horizontal Pod Autoscaling, "Algorithm details", 2025). More are switched on at
    once and serve after `start_up`; fewer when for `cool_down` no more were wanted: they take no new jobs, and are
    switched off when they have ended theirs.
    """

    _TOLERANCE: Final = 0.1

    def __init__(
        self,
        fleet: PoolFleet,
        plan: AutoscalePlan,
        kernel: Kernel,
        coordinator: "Coordinator",
        totals: FleetTotals,
    ) -> None:
        self._fleet = fleet
        self._plan = plan
        self._kernel = kernel
        self._coordinator = coordinator
        self._totals = totals
        self._wanted_at: list[tuple[Nanos, int]] = []
        """(when, how many were wanted) within the cool-down."""
        for member in fleet.members[max(plan.least, min(plan.first, plan.most)) :]:
            fleet.set(member, DOWN, 0)
        kernel.schedule(plan.interval_ns, _CONTROL, self._look)

    def _signal(self) -> float:
        """Return the load of each client that is open."""
        fleet = self._fleet
        up = [member.number for member in fleet.members if member.state == UP]
        if not up:
            return float("inf") if fleet.waiting else 0.0
        clients, load = fleet.pool.clients, fleet.pool.load
        if self._plan.signal == "queue":
            return sum(clients[number].waiting for number in up) / len(up)
        return sum(load.jobs[number] for number in up) / len(up)

    def _look(self, now: Nanos) -> None:
        if self._coordinator.over:
            return
        plan, fleet = self._plan, self._fleet
        here = fleet.count(UP, STARTING)
        ratio = self._signal() / plan.target
        wanted = here if abs(ratio - 1) <= self._TOLERANCE else ceil(max(1, fleet.count(UP)) * min(ratio, 1e6))
        wanted = max(plan.least, min(plan.most, wanted))
        for member in fleet.members:
            if member.state == DRAINING and not fleet.pool.load.jobs_of(member.number):
                fleet.set(member, DOWN, now)
        self._wanted_at = [(when, many) for when, many in self._wanted_at if when > now - plan.cool_down_ns]
        self._wanted_at.append((now, wanted))
        if wanted > here:
            self._start(wanted - here, now)
        elif wanted < here and now >= plan.cool_down_ns:
            self._stop(here - max(many for _, many in self._wanted_at), now)
        self._kernel.schedule(now + plan.interval_ns, _CONTROL, self._look)

    def _start(self, many: int, now: Nanos) -> None:
        """Switch clients on: those first that have not quite left."""
        fleet = self._fleet
        for state in (DRAINING, DOWN):
            for member in fleet.members:
                if many and member.state == state:
                    many -= 1
                    if state == DRAINING:
                        fleet.set(member, UP, now)
                    else:
                        fleet.set(member, STARTING, now)
                        self._totals.started += 1
                        self._kernel.schedule(now + self._plan.start_up_ns, _CONTROL, partial(self._ready, member))

    def _ready(self, member: Member, now: Nanos) -> None:
        if member.state == STARTING:
            self._fleet.set(member, UP, now)

    def _stop(self, many: int, now: Nanos) -> None:
        """Let the last clients end."""
        for member in reversed(self._fleet.members):
            if many > 0 and member.state == UP and self._fleet.count(UP) > 1:
                many -= 1
                self._totals.stopped += 1
                self._fleet.set(member, DRAINING, now)


class Faults:
    """Lets clients die and return, lose their caches, and links slow down, when the plan says so."""

    def __init__(
        self,
        plans: tuple[FaultPlan, ...],
        fleets: Mapping[str, PoolFleet],
        kernel: Kernel,
        coordinator: "Coordinator",
        totals: FleetTotals,
        slow: Slow | None,
    ) -> None:
        """`slow` is None where there is no network whose links could be slowed."""
        self._coordinator = coordinator
        self._totals = totals
        self._kernel = kernel
        self._slow = slow
        for number, plan in enumerate(plans):
            if plan.kind == "slow":
                if slow is None:
                    raise InputError(
                        f"there is no link {plan.target!r} to slow down: links need a topology",
                        place=Place(path=f"faults[{number}]"),
                        remedy="Add a topology, or another kind of fault.",
                    )
                kernel.schedule(plan.at_ns, _CONTROL, partial(self._slow_down, plan))
                continue
            fleet, member = _named(plan, fleets, number)
            action = self._kill if plan.kind == "kill" else self._lose_cache
            kernel.schedule(plan.at_ns, _CONTROL, partial(action, plan, fleet, member))

    def _slow_down(self, plan: FaultPlan, now: Nanos) -> None:
        slow = self._slow
        if slow is None:
            raise AssertionError("refused before the run")
        slow(plan.target, plan.factor)
        if plan.for_ns:
            self._kernel.schedule(now + plan.for_ns, _CONTROL, lambda then: slow(plan.target, 1.0))  # noqa: ARG005

    def _lose_cache(self, plan: FaultPlan, fleet: PoolFleet, member: Member, now: Nanos) -> None:  # noqa: ARG002
        client = fleet.pool.clients[member.number]
        if isinstance(client, LlmClient):
            client.forget_cache()

    def _kill(self, plan: FaultPlan, fleet: PoolFleet, member: Member, now: Nanos) -> None:
        if member.state in (DEAD, DOWN):
            return
        fleet.set(member, DEAD, now)
        for request in list(self._coordinator.live.values()):
            for part in list(parts_of(request)):
                self._leave(part, plan, fleet, member, now)
        self._lose_cache(plan, fleet, member, now)
        if plan.for_ns:
            self._kernel.schedule(now + plan.for_ns, _CONTROL, partial(self._return, fleet, member))

    @staticmethod
    def _return(fleet: PoolFleet, member: Member, now: Nanos) -> None:
        if member.state == DEAD:
            fleet.set(member, UP, now)

    def _leave(self, request: Request, plan: FaultPlan, fleet: PoolFleet, member: Member, now: Nanos) -> None:
        """Take a request, or one of its paths, from a client that dies."""
        task, handover = request.task, request.handover
        here = False
        if isinstance(task, Sequence):
            here = task.job.pool is fleet.pool and task.client == member.number
        elif isinstance(task, Work):
            here = task.job.pool is fleet.pool and task.slot == member.number
        lost = handover is not None and handover.client is fleet.pool.clients[member.number]
        if not here and not lost:
            return
        given = task.job.stop(task, now, FAILED) if task is not None else 0
        if handover is not None and lost:
            # What was computed for the next stage is gone: that stage's prompt is computed again.
            request.position -= 1
            self._coordinator.forget_kv(request, now)
        if plan.requests == "fail":
            self._totals.failed += 1
            self._coordinator.finish(request, now, FAILED, given)
            return
        if plan.requests == "migrate" and isinstance(task, Sequence) and given and not lost:
            self._totals.migrated += 1
            job: LlmJob = task.job
            job.resume(request, task, given, now)
            return
        self._totals.retried += 1
        if isinstance(task, Sequence) and task.job.answers:
            request.first_token_ns = -1
        self._coordinator.go(request, request.position, now)


def _named(plan: FaultPlan, fleets: Mapping[str, PoolFleet], number: int) -> tuple[PoolFleet, Member]:
    pool, _, index = plan.target.rpartition("/")
    fleet = fleets.get(pool)
    if fleet is None or not index.isdecimal() or int(index) >= len(fleet.members):
        known = ", ".join(f"{name}/0 to {name}/{len(one.members) - 1}" for name, one in fleets.items())
        raise InputError(
            f"there is no client {plan.target!r}", place=Place(path=f"faults[{number}]"), remedy=f"Clients: {known}."
        )
    return fleet, fleet.members[int(index)]
