"""What is shared and what moves over it: resources, paths and flows, as plain state.

`hermes_core.network.shares` decides how fast each flow goes, `hermes_core.network.network` lets time pass.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from hermes_core.api.time import Nanos

if TYPE_CHECKING:
    from hermes_core.network.history import Trail

OnEnd: TypeAlias = Callable[[Nanos], None]
"""Called with the time at which the last byte of a flow has arrived."""


class Resource:
    """Something with a bandwidth that flows share: one direction of a link, a memory channel, a disk.

    A rate is a fraction of two whole numbers in bytes/s, so a share is exact: it depends on who shares, never on the
    order in which they came.
    """

    __slots__ = (
        "active",
        "bandwidth_bytes_per_s",
        "bound",
        "busy_ns",
        "busy_since_ns",
        "demand",
        "flows",
        "flows_ended",
        "free_d",
        "free_n",
        "held",
        "latency_ns",
        "moved_bytes",
        "name",
        "nominal_bytes_per_s",
        "peak_flows",
        "waiting_ns",
    )

    def __init__(self, name: str, bandwidth_bytes_per_s: int, latency_ns: Nanos = 0) -> None:
        """Raise ValueError unless the bandwidth is positive and the latency not negative."""
        if bandwidth_bytes_per_s <= 0:
            raise ValueError(f"the bandwidth of {name} must be positive, not {bandwidth_bytes_per_s} B/s")
        if latency_ns < 0:
            raise ValueError(f"the latency of {name} must not be negative, but is {latency_ns} ns")
        self.name = name
        self.bandwidth_bytes_per_s = self.nominal_bytes_per_s = int(bandwidth_bytes_per_s)
        """What it has, and what it was made with."""
        self.latency_ns = latency_ns
        self.held: Trail | None = None
        """Where the time is noted that its flows lose to others, if it is."""
        self.flows: dict[Flow, None] = {}
        """Flows that move over it."""
        self.demand = 0
        """Sum of the rates that its flows could have if each were alone, bytes/s."""
        self.active = False
        """Whether that is more than it has: only then can it hold anyone back."""
        self.free_n = 0
        self.free_d = 1
        """What the shares of its flows leave of its bandwidth, as a fraction; kept while it is active."""
        self.bound: dict[Flow, None] = {}
        """Flows that it holds back."""
        self.moved_bytes = 0
        """Bytes of the flows that have left it."""
        self.flows_ended = 0
        self.peak_flows = 0
        self.busy_ns: Nanos = 0
        """Time during which something moved over it, until it was last idle."""
        self.busy_since_ns: Nanos = 0
        self.waiting_ns: Nanos = 0
        """By how much it held flows back: their time beyond what each would have taken alone, summed."""

    def __repr__(self) -> str:
        return f"Resource({self.name!r})"


@dataclass(frozen=True, slots=True)
class Path:
    """Resources that a flow crosses, all at once."""

    resources: tuple[Resource, ...]
    latency_ns: Nanos
    """Until the first byte arrives: that of all hops."""
    bandwidth_bytes_per_s: int
    """Of the narrowest resource: what a flow has that is alone; 0 for a path without resources, which takes no time."""


def path_of(resources: Iterable[Resource], extra_latency_ns: Nanos = 0) -> Path:
    """Make a path. Raises ValueError when it crosses a resource twice."""
    crossed = tuple(resources)
    if len(dict.fromkeys(crossed)) < len(crossed):
        names = " > ".join(resource.name for resource in crossed)
        raise ValueError(f"a path crosses the same resource twice: {names}")
    latency_ns = extra_latency_ns + sum(resource.latency_ns for resource in crossed)
    return Path(crossed, latency_ns, min((resource.bandwidth_bytes_per_s for resource in crossed), default=0))


@dataclass(frozen=True, slots=True)
class Ahead:
    """When use of a flow's bytes may begin before the last has come: layers of KV, of which one is used after another.

    With L equal layers and a use that takes `hidden_ns` in all, nothing is waited for once the first layer is there and
    the others come within (L - 1) / L of that time. Both are judged by the rate that the flow has, anew whenever that
    changes.
    """

    on_ready: OnEnd
    """Called once, at the latest just before the end."""
    hidden_ns: Nanos
    layers: int


class Flow:
    """Bytes on their way over a path."""

    __slots__ = (
        "ahead",
        "bottleneck",
        "ended_ns",
        "level_d",
        "level_n",
        "moving",
        "number",
        "on_end",
        "path",
        "remaining_nb",
        "since_ns",
        "size_bytes",
        "solo",
        "started_ns",
        "trail",
        "version",
        "waited_ns",
        "weight",
    )

    def __init__(
        self,
        number: int,
        path: Path,
        size_bytes: int,
        on_end: OnEnd,
        weight: int,
        solo: int,
        now: Nanos,
        ahead: Ahead | None = None,
    ) -> None:
        self.number = number
        self.path = path
        self.size_bytes = size_bytes
        self.on_end = on_end
        self.weight = weight
        self.solo = solo
        """Rate in bytes/s that it has when nobody holds it back: that of its path, or its cap."""
        self.started_ns = now
        self.ended_ns: Nanos = -1
        self.remaining_nb = size_bytes * 1_000_000_000
        """Bytes to go at `since_ns`, in billionths: at n/d bytes/s, n/d of these go in a nanosecond."""
        self.since_ns: Nanos = now
        self.level_n = 0
        self.level_d = 1
        """Its rate for each unit of its weight, in lowest terms; 0 before it moves."""
        self.bottleneck: Resource | None = None
        """What holds it back; None if nothing does."""
        self.moving = False
        self.version = 0
        """Counts the forecasts of its end; those before the last one are void."""
        self.waited_ns: Nanos = 0
        """Time lost to others until `since_ns`."""
        self.ahead = ahead
        """Whom to tell when use of it may begin; None once told."""
        self.trail: Trail | None = None
        """Where what moves is noted, if it is."""

    def settle(self, now: Nanos) -> None:
        """Account for what has moved since it was last asked."""
        span = now - self.since_ns
        if span:
            moved = self.level_n * self.weight * span // self.level_d
            if self.trail is not None and moved:
                # An end is rounded up to a nanosecond: no more than there was has moved.
                self.trail.add(self.since_ns, now, min(moved, self.remaining_nb))
            self.remaining_nb -= moved
            bottleneck = self.bottleneck
            if bottleneck is not None:
                lost = span - moved // self.solo
                if lost > 0:
                    self.waited_ns += lost
                    bottleneck.waiting_ns += lost
                    if self.trail is not None:
                        if bottleneck.held is None:
                            bottleneck.held = self.trail.history.waiting(bottleneck)
                        bottleneck.held.add(self.since_ns, now, lost)
            self.since_ns = now

    def ready_ns(self, end_ns: Nanos) -> Nanos:
        """Return when use of it may begin, if it goes on as it does and ends at `end_ns`; it has just been settled."""
        ahead = self.ahead
        if ahead is None:
            return end_ns
        others = ahead.layers - 1
        hidden_ns = ahead.hidden_ns * others // ahead.layers
        to_first = self.remaining_nb - self.size_bytes * 1_000_000_000 * others // ahead.layers
        first_ns = self.since_ns + -(-to_first * self.level_d // (self.level_n * self.weight))
        # Not in this nanosecond, which may not be over.
        return max(self.since_ns + 1, first_ns, end_ns - hidden_ns)

    @property
    def rate_bytes_per_s(self) -> float:
        """Its present rate."""
        return self.level_n * self.weight / self.level_d
