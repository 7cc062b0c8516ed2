"""The network as time passes: flows begin, share what they cross, and end."""

from heapq import heapify, heappop, heappush
from math import gcd
from typing import Final

from hermes_core.api.time import Nanos
from hermes_core.engine import Kernel, Phase, rank
from hermes_core.network.flows import Ahead, Flow, OnEnd, Path, Resource
from hermes_core.network.history import History
from hermes_core.network.shares import Level, repaired

_TRANSFER: Final = rank(Phase.TRANSFER)
_SHARE: Final = rank(Phase.SHARE)
_COMPACT_ABOVE: Final = 4096


class Network:
    """Lets flows share resources, weighted and max-min fair, at every moment.

    What changes within one nanosecond is put into effect at its end, in one go. So rates between two moments follow
    from the set of flows alone, and the time at which a flow ends does not depend on the order of equal events. Rates
    are exact fractions; what has moved is rounded down to a billionth of a byte when a rate changes, an end up to the
    next nanosecond.

    The cost of a change is that of the flows whose share changes, and of the resources that these cross.
    """

    __slots__ = (
        "_event",
        "_event_ns",
        "_forecasts",
        "_joined",
        "_kernel",
        "_left",
        "_numbers",
        "_reseeded",
        "_scaled",
        "_sharing",
        "contention",
        "ended",
        "history",
        "moving",
    )

    def __init__(self, kernel: Kernel, *, contention: bool = True, history: History | None = None) -> None:
        """With `contention` off each flow goes as if it were alone: what there would be without sharing.

        A `history` is told what moves, and waits, when and where.
        """
        self.history = history
        self.contention = contention
        self.moving: dict[Flow, None] = {}
        """Flows under way, from the moment they were started."""
        self.ended = 0
        """Flows that have come to their end."""
        self._kernel = kernel
        self._numbers = 0
        self._joined: list[Flow] = []
        """Flows that move from this nanosecond on."""
        self._left: list[Flow] = []
        """Flows that have ended or were cancelled in it."""
        self._scaled: dict[Resource, None] = {}
        """Resources that have another bandwidth from this nanosecond on."""
        self._sharing = False
        """Whether the end of this nanosecond is awaited."""
        self._forecasts: list[tuple[Nanos, int, int, Flow]] = []
        """(when, number, version, flow): when its latency is over or it ends, if nothing changes."""
        self._event = -1
        self._event_ns: Nanos = 0

    # --- what others ask --------------------------------------------------------------------------------------------

    @property
    def now(self) -> Nanos:
        """The time."""
        return self._kernel.now

    def start(
        self,
        path: Path,
        size_bytes: int,
        on_end: OnEnd,
        weight: int = 1,
        cap_bytes_per_s: int | None = None,
        ahead: Ahead | None = None,
    ) -> Flow:
        """Let `size_bytes` go over `path`, from now on.

        The bytes begin to move, and to share, when the latency of the path is over; `on_end` is called when the last
        one has arrived, `ahead.on_ready` when use of them may begin. A flow of twice the weight gets twice the share;
        `cap_bytes_per_s` is the most it takes. Raises ValueError for a size, weight or cap that no flow can have.
        """
        if size_bytes < 0:
            raise ValueError(f"a flow cannot have {size_bytes} bytes")
        if weight < 1:
            raise ValueError(f"the weight of a flow is a whole number from 1, not {weight}")
        if cap_bytes_per_s is not None and cap_bytes_per_s <= 0:
            raise ValueError(f"the cap of a flow must be positive, not {cap_bytes_per_s} B/s")
        solo = path.bandwidth_bytes_per_s
        if cap_bytes_per_s is not None and (not solo or cap_bytes_per_s < solo):
            solo = int(cap_bytes_per_s)
        now = self._kernel.now
        self._numbers = number = self._numbers + 1
        flow = Flow(number, path, size_bytes, on_end, weight, solo, now, ahead)
        self.moving[flow] = None
        if self.history is not None:
            flow.trail = self.history.moved(path.resources)
        if not size_bytes or not solo:
            flow.remaining_nb = 0
        if path.latency_ns or not flow.remaining_nb:
            self._forecast(flow, now + path.latency_ns)
        else:
            self._join(flow)
        return flow

    def cancel(self, flow: Flow) -> int:
        """Stop a flow; it is never said to end. Returns the bytes that had arrived. One that has ended stays so."""
        if flow.ended_ns >= 0:
            return flow.size_bytes
        now = self._kernel.now
        flow.settle(now)
        moved = flow.size_bytes - -(-flow.remaining_nb // 1_000_000_000)
        self._leave(flow, now)
        for resource in flow.path.resources:
            resource.moved_bytes += moved
        self._await_next()
        return moved

    def scale(self, resource: Resource, factor: float) -> None:
        """Let a resource have `factor` of the bandwidth it was made with, from now on: one that fails, or recovers.

        Not more than all of it, nor less than one byte a second. Raises ValueError for another factor.
        """
        if not 0.0 <= factor <= 1.0:
            raise ValueError(f"a resource has between 0 and 1 of its bandwidth, not {factor}")
        resource.bandwidth_bytes_per_s = max(1, round(resource.nominal_bytes_per_s * factor))
        self._scaled[resource] = None
        self._share_soon()

    def passed(self, path: Path, size_bytes: int, since_ns: Nanos) -> None:
        """Count bytes that have gone over a path from `since_ns` until now, unseen."""
        for resource in path.resources:
            resource.moved_bytes += size_bytes
        if self.history is not None and size_bytes and self.now > since_ns:
            self.history.moved(path.resources).add(since_ns, self.now, size_bytes * 1_000_000_000)

    def alone_ns(self, path: Path, size_bytes: int) -> Nanos:
        """Return for how long a flow would be under way that shares with nobody."""
        if not path.bandwidth_bytes_per_s:
            return path.latency_ns
        return path.latency_ns + -(-size_bytes * 1_000_000_000 // path.bandwidth_bytes_per_s)

    def expected_ns(self, path: Path, size_bytes: int) -> Nanos:
        """Return for how long a flow would be under way that begins now, if all that move go on for as long.

        What it would get is taken as an equal part of each resource, or what is left of it where that is more. This
        is a bound from below on its fair share, since others may take less than their part.
        """
        if not path.bandwidth_bytes_per_s:
            return path.latency_ns
        rate = path.bandwidth_bytes_per_s
        if self.contention:
            for resource in path.resources:
                part = resource.bandwidth_bytes_per_s // (len(resource.flows) + 1)
                if not resource.active:
                    part = max(part, resource.bandwidth_bytes_per_s - resource.demand)
                else:
                    part = max(part, resource.free_n // resource.free_d)
                rate = min(rate, part)
        return path.latency_ns + -(-size_bytes * 1_000_000_000 // max(1, rate))

    def close(self, now: Nanos) -> None:
        """Count what has moved and how long resources were busy until `now`. Nothing may happen afterwards."""
        crossed: dict[Resource, None] = {}
        for flow in self.moving:
            flow.settle(now)
            moved = flow.size_bytes - -(-flow.remaining_nb // 1_000_000_000)
            if flow.moving:
                for resource in flow.path.resources:
                    resource.moved_bytes += moved
                    crossed[resource] = None
        for resource in crossed:
            resource.busy_ns += now - resource.busy_since_ns
            resource.busy_since_ns = now

    # --- as time passes ---------------------------------------------------------------------------------------------

    def _join(self, flow: Flow) -> None:
        flow.moving = True
        flow.since_ns = self._kernel.now
        self._joined.append(flow)
        self._share_soon()

    def _leave(self, flow: Flow, now: Nanos) -> None:
        del self.moving[flow]
        flow.ended_ns = now
        flow.version += 1
        if flow.moving:
            self._left.append(flow)
            self._share_soon()

    def _share_soon(self) -> None:
        if not self._sharing:
            self._sharing = True
            self._kernel.schedule(self._kernel.now, _SHARE, self._share)

    def _forecast(self, flow: Flow, time_ns: Nanos) -> None:
        flow.version += 1
        heappush(self._forecasts, (time_ns, flow.number, flow.version, flow))
        if self._event < 0 or time_ns < self._event_ns:
            self._await(time_ns)

    def _await(self, time_ns: Nanos) -> None:
        if self._event >= 0:
            self._kernel.cancel(self._event)
        self._event_ns = time_ns
        self._event = self._kernel.schedule(time_ns, _TRANSFER, self._arrive)

    def _await_next(self) -> None:
        """See to it that an event comes for the first forecast that holds, and none if there is none."""
        forecasts = self._forecasts
        if len(forecasts) > _COMPACT_ABOVE and len(forecasts) > 4 * len(self.moving):
            # Most are void: flows got another share.
            forecasts[:] = [entry for entry in forecasts if entry[2] == entry[3].version]
            heapify(forecasts)
        while forecasts and forecasts[0][2] != forecasts[0][3].version:
            heappop(forecasts)
        if not forecasts:
            if self._event >= 0:
                self._kernel.cancel(self._event)
                self._event = -1
        elif self._event < 0 or forecasts[0][0] != self._event_ns:
            self._await(forecasts[0][0])

    def _arrive(self, now: Nanos) -> None:
        """Let those begin to move whose latency is over, and those end that have arrived, in the order they began."""
        self._event = -1
        forecasts = self._forecasts
        ending: list[Flow] = []
        ready: list[Ahead] = []
        while forecasts and forecasts[0][0] <= now:
            _, _, version, flow = heappop(forecasts)
            if flow.version != version:
                continue
            if flow.ahead is not None and (flow.moving or not flow.remaining_nb):
                ready.append(flow.ahead)
                flow.ahead = None
                if (end_ns := self._end_of(flow, now)) > now:
                    flow.version += 1
                    heappush(forecasts, (end_ns, flow.number, flow.version, flow))
                    continue
            if flow.moving or not flow.remaining_nb:
                ending.append(flow)
            else:
                self._join(flow)
        for flow in ending:
            flow.settle(now)
            flow.remaining_nb = 0
            self._leave(flow, now)
            self.ended += 1
            for resource in flow.path.resources:
                resource.moved_bytes += flow.size_bytes
                resource.flows_ended += 1
        for ahead in ready:
            ahead.on_ready(now)
        for flow in ending:
            flow.on_end(now)
        self._await_next()

    def _end_of(self, flow: Flow, now: Nanos) -> Nanos:
        """Return when a flow ends if it goes on as it does; what has moved is settled."""
        flow.settle(now)
        if flow.remaining_nb <= 0:
            return now
        return now + -(-flow.remaining_nb * flow.level_d // (flow.level_n * flow.weight))

    def _share(self, now: Nanos) -> None:
        """Find the shares of all whose share changes with what came and went in this nanosecond."""
        self._sharing = False
        seeds: dict[Flow, None] = {}
        for flow in self._left:
            if flow.level_n:
                _detach(flow, now, seeds)
        for flow in self._left:
            seeds.pop(flow, None)
        self._left.clear()
        self._let_in(now, seeds)
        for resource in self._scaled:
            resource.active = self.contention and resource.demand > resource.bandwidth_bytes_per_s
            seeds.update(resource.flows)
        self._scaled.clear()
        if seeds:
            for flow, level in repaired(seeds).items():
                self._set(flow, level, now)
        self._await_next()

    def _let_in(self, now: Nanos, seeds: dict[Flow, None]) -> None:
        joined = [flow for flow in self._joined if flow.ended_ns < 0]
        self._joined.clear()
        for flow in joined:
            _attach(flow, now, contention=self.contention)
        for flow in joined:
            shares = False
            for resource in flow.path.resources:
                if resource.active:
                    shares = True
                    if resource.bound:
                        seeds.update(resource.bound)
            if shares:
                seeds[flow] = None
            elif flow not in seeds:
                # Nobody can hold it back, nor does it anyone.
                self._set(flow, Level(flow.solo, flow.weight, None), now)

    def _set(self, flow: Flow, level: Level, now: Nanos) -> None:
        bottleneck = level.bottleneck
        if level.n != flow.level_n or level.d != flow.level_d:
            flow.settle(now)
            flow.level_n, flow.level_d = level.n, level.d
            # n/d bytes/s are n/d billionths of a byte in a nanosecond.
            end_ns = now + -(-flow.remaining_nb * level.d // (level.n * flow.weight))
            if flow.ahead is not None:
                end_ns = min(end_ns, flow.ready_ns(end_ns))
            flow.version += 1
            heappush(self._forecasts, (end_ns, flow.number, flow.version, flow))
        elif bottleneck is not flow.bottleneck:
            # Time lost until now is another's.
            flow.settle(now)
        if bottleneck is not flow.bottleneck:
            if flow.bottleneck is not None:
                del flow.bottleneck.bound[flow]
            if bottleneck is not None:
                bottleneck.bound[flow] = None
            flow.bottleneck = bottleneck


def _attach(flow: Flow, now: Nanos, *, contention: bool) -> None:
    for resource in flow.path.resources:
        flows = resource.flows
        if not flows:
            resource.busy_since_ns = now
        flows[flow] = None
        resource.peak_flows = max(resource.peak_flows, len(flows))
        resource.demand += flow.solo
        if contention and not resource.active and resource.demand > resource.bandwidth_bytes_per_s:
            resource.active = True
            resource.free_n, resource.free_d = _free(resource)


def _detach(flow: Flow, now: Nanos, seeds: dict[Flow, None]) -> None:
    if flow.bottleneck is not None:
        del flow.bottleneck.bound[flow]
        flow.bottleneck = None
    for resource in flow.path.resources:
        del resource.flows[flow]
        resource.demand -= flow.solo
        if not resource.flows:
            resource.busy_ns += now - resource.busy_since_ns
        if resource.active:
            seeds.update(resource.bound)
            if resource.demand <= resource.bandwidth_bytes_per_s:
                resource.active = False
            else:
                resource.free_n, resource.free_d = _plus(
                    resource.free_n, resource.free_d, flow.level_n * flow.weight, flow.level_d
                )


def _free(resource: Resource) -> tuple[int, int]:
    n, d = resource.bandwidth_bytes_per_s, 1
    for flow in resource.flows:
        n, d = _plus(n, d, -flow.level_n * flow.weight, flow.level_d)
    return n, d


def _plus(n: int, d: int, n2: int, d2: int) -> tuple[int, int]:
    n, d = n * d2 + n2 * d, d * d2
    common = gcd(n, d)
    return n // common, d // common
