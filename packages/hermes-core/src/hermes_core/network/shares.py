"""Weighted max-min fair shares, found again for those whose share changes.

An allocation is max-min fair exactly when each flow has a bottleneck: a resource on its path that is used up and on
which no flow has more for each unit of its weight; or its own limit (Bertsekas and Gallager, Data Networks, 2nd
edition 1992, section 6.5.2). That holds or fails at each flow apart, so a change is repaired where it is felt: the
flows around it are filled anew, the others stay as they are, and whoever loses its bottleneck by this joins in, until
nobody does. The result is that of filling everything anew; there is only one.

A resource whose flows, each alone, would not use it up can hold nobody back, and is not looked at.
"""

from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from math import gcd
from typing import Final, TypeAlias

from hermes_core.network.flows import Flow, Resource

_KEY_BITS: Final = 32
"""Levels are sorted by their whole multiples of 2**-32 bytes/s, and compared exactly where these are equal."""


class _Filling:
    """A resource while the flows of a repair are filled."""

    __slots__ = ("d", "level_d", "level_n", "members", "n", "resource", "top_d", "top_n", "weight")

    def __init__(self, resource: Resource) -> None:
        self.resource = resource
        self.members: list[Flow] = []
        """Flows of the repair that cross it."""
        self.n = 0
        self.d = 1
        """What is left for those that have no level yet."""
        self.weight = 0
        """Their weight."""
        self.level_n = -1
        self.level_d = 1
        """Level at which it held members back; -1 while it holds none."""
        self.top_n = 0
        self.top_d = 1
        """Highest level that a member was given, which is the latest."""

    def key(self) -> int:
        """Return the level at which it will be used up, rounded down to a sort key."""
        return (self.n << _KEY_BITS) // (self.d * self.weight)

    def take(self, n: int, d: int, weight: int) -> None:
        """Give n/d for each unit of `weight`."""
        if d == self.d:
            self.n -= n * weight
        else:
            self.n = self.n * d - n * weight * self.d
            self.d *= d
            common = gcd(self.n, self.d)
            if common > 1:
                self.n //= common
                self.d //= common
        self.weight -= weight
        self.top_n, self.top_d = n, d


class Level:
    """What a repair gives a flow."""

    __slots__ = ("bottleneck", "d", "n")

    def __init__(self, n: int, d: int, bottleneck: Resource | None) -> None:
        common = gcd(n, d)
        self.n = n // common
        self.d = d // common
        self.bottleneck = bottleneck


def repaired(seeds: Iterable[Flow]) -> dict[Flow, Level]:
    """Return new levels for `seeds` and for all others that change with them, and note what resources have left.

    `seeds` are flows that are new, and those that a resource held back of which something was freed. All other flows
    have a bottleneck, but for what `seeds` will take.
    """
    among = dict.fromkeys(seeds)
    while True:
        fillings = _fillings(among)
        levels = _fill(among, fillings)
        more = [flow for filling in fillings.values() for flow in _unsettled(filling, among)]
        if not more:
            break
        among.update(dict.fromkeys(more))
    for resource, filling in fillings.items():
        resource.free_n, resource.free_d = filling.n, filling.d
    return levels


def _fillings(among: dict[Flow, None]) -> dict[Resource, _Filling]:
    """Return the resources that could hold back any of these flows, with what the other flows leave."""
    fillings: dict[Resource, _Filling] = {}
    for flow in among:
        for resource in flow.path.resources:
            if resource.active:
                filling = fillings.get(resource)
                if filling is None:
                    filling = fillings[resource] = _Filling(resource)
                filling.members.append(flow)
                filling.weight += flow.weight
    for filling in fillings.values():
        filling.n, filling.d = _left_by_others(filling)
    return fillings


def _left_by_others(filling: _Filling) -> tuple[int, int]:
    """Return what the flows outside the repair leave of a resource, as a fraction."""
    resource = filling.resource
    if len(filling.members) == len(resource.flows):
        return resource.bandwidth_bytes_per_s, 1
    n, d = resource.free_n, resource.free_d
    for flow in filling.members:
        level_d = flow.level_d
        if level_d == d:
            n += flow.level_n * flow.weight
        elif flow.level_n:
            n, d = n * level_d + flow.level_n * flow.weight * d, d * level_d
            common = gcd(n, d)
            if common > 1:
                n //= common
                d //= common
    return n, d


class _Limit:
    """Flows that have the same limit of their own."""

    __slots__ = ("d", "members", "n")

    def __init__(self, n: int, d: int) -> None:
        self.n = n
        self.d = d
        self.members: list[Flow] = []


_Entry: TypeAlias = tuple[int, int, _Filling | _Limit]
"""Sort key of a level, a number that makes it unique, and who is met there: a resource, or a limit of flows."""


def _one_for_all(among: dict[Flow, None], filling: _Filling) -> dict[Flow, Level] | None:
    """Return the levels where the only resource in question holds all back, as most often; else None."""
    level = Level(filling.n, filling.d * filling.weight, filling.resource)
    n, d = level.n, level.d
    if len(filling.members) < len(among):
        return None
    for flow in among:
        if flow.solo * d <= n * flow.weight:
            return None
    filling.level_n, filling.level_d = n, d
    filling.take(n, d, filling.weight)
    return dict.fromkeys(among, level)


def _fill(among: dict[Flow, None], fillings: dict[Resource, _Filling]) -> dict[Flow, Level]:
    """Raise the level of all flows alike; each stops where a resource on its path is used up, or at its own limit."""
    if len(fillings) == 1 and (one := _one_for_all(among, *fillings.values())) is not None:
        return one
    levels: dict[Flow, Level] = {}
    limits: dict[tuple[int, int], _Limit] = {}
    for flow in among:
        key = (flow.solo, flow.weight)
        limit = limits.get(key)
        if limit is None:
            limit = limits[key] = _Limit(*key)
        limit.members.append(flow)
    heap: list[_Entry] = [((n << _KEY_BITS) // d, order, limit) for order, ((n, d), limit) in enumerate(limits.items())]
    heap += [(filling.key(), len(limits) + order, filling) for order, filling in enumerate(fillings.values())]
    heapify(heap)
    left = len(among)
    while left:
        met = _lowest(heap)
        stopping = [flow for flow in met.members if flow not in levels]
        if isinstance(met, _Limit):
            level = Level(met.n, met.d, None)
        else:
            level = Level(met.n, met.d * met.weight, met.resource)
            met.level_n, met.level_d = level.n, level.d
        taken: dict[Resource, int] = {}
        for flow in stopping:
            levels[flow] = level
            weight = flow.weight
            for resource in flow.path.resources:
                if resource.active:
                    taken[resource] = taken.get(resource, 0) + weight
        for resource, weight in taken.items():
            fillings[resource].take(level.n, level.d, weight)
        left -= len(stopping)
    return levels


def _lowest(heap: list[_Entry]) -> _Filling | _Limit:
    """Take whoever is met first as levels rise. A limit may be met again by flows that have stopped below it."""
    best: _Entry | None = None
    again: list[_Entry] = []
    while heap and (best is None or heap[0][0] == best[0]):
        entry = heappop(heap)
        key, order, met = entry
        if isinstance(met, _Filling):
            if not met.weight:
                continue
            if (present := met.key()) > key:
                # It is used up later by now, since others have stopped below: levels only rise.
                heappush(heap, (present, order, met))
                continue
        if best is None:
            best = entry
        elif _below(met, best[2]):
            again.append(best)
            best = entry
        else:
            again.append(entry)
    for entry in again:
        heappush(heap, entry)
    if best is None:
        raise AssertionError("a flow has neither a limit nor a resource to stop it")
    return best[2]


def _below(one: _Filling | _Limit, other: _Filling | _Limit) -> bool:
    d1 = one.d if isinstance(one, _Limit) else one.d * one.weight
    d2 = other.d if isinstance(other, _Limit) else other.d * other.weight
    return one.n * d2 < other.n * d1


def _unsettled(filling: _Filling, among: dict[Flow, None]) -> list[Flow]:
    """Return the flows on a resource that have to join the repair, since it changes what held them back."""
    resource = filling.resource
    if len(filling.members) == len(resource.flows):
        return []
    n, d = filling.level_n, filling.level_d
    more: list[Flow] = []
    if n >= 0:
        # It holds someone back at this level: whoever has more has to give.
        more = [flow for flow in resource.flows if flow not in among and flow.level_n * d > n * flow.level_d]
    held = [flow for flow in resource.bound if flow not in among]
    # Those it held are held still if it is used up and nobody on it has more than they.
    if held and (filling.n or filling.top_n * held[0].level_d > held[0].level_n * filling.top_d):
        more += held
    return more
