"""The memories of a KV store: one instance of a tier for each client, node, rack or cluster."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from hermes_core.api.errors import InputError
from hermes_core.api.time import Nanos
from hermes_core.memory.cache import Cache, Entry
from hermes_core.memory.evictions import KV_EVICTIONS
from hermes_core.memory.plan import KvStorePlan, TierPlan
from hermes_core.network.flows import Path, Resource, path_of

if TYPE_CHECKING:
    from hermes_core.network.topology import Topology

Plugin: TypeAlias = Callable[[str, str], Any]
"""Finds a plug-in by group and name."""


@dataclass(slots=True, eq=False)
class Memory:
    """One instance of a tier."""

    plan: TierPlan
    level: int
    """Number of its tier, from the nearest."""
    name: str
    place: str | None
    """Where it is in the topology; None without one."""
    channel: Resource
    """Its own bandwidth, for reading and writing together."""
    link: tuple[Resource, Resource] | None
    """Its own link, to it and from it."""
    cache: Cache
    pending: dict[int, None] = field(default_factory=dict)
    """Entries that are on their way to it."""
    asked_tokens: int = 0
    """Tokens that were looked for here, since nothing above had them."""
    hit_tokens: int = 0
    read_bytes: int = 0
    written_bytes: int = 0

    @property
    def resources(self) -> list[Resource]:
        """What its readers and writers share."""
        return [self.channel, *(self.link or ())]


class Tiers:
    """The memories that each client reaches, and the ways between them and it."""

    __slots__ = ("_topology", "clients", "levels", "memories")

    def __init__(
        self,
        plan: KvStorePlan,
        clients: Sequence[str],
        topology: "Topology | None",
        plugin: Plugin,
        on_evict: Callable[["Memory", int, Entry, Nanos], None],
    ) -> None:
        """Make the memories that `clients`, named in their order, reach."""
        self.clients = list(clients)
        self._topology = topology
        self.memories: list[list[Memory]] = []
        """By tier."""
        self.levels: list[list[Memory]] = [[] for _ in clients]
        """By client, from the nearest."""
        for level, tier in enumerate(plan.tiers):
            found: dict[str, Memory] = {}
            for number, client in enumerate(clients):
                key, place = self._home(tier, number, client)
                if key not in found:
                    found[key] = _memory(tier, level, key, place, plugin, on_evict)
                self.levels[number].append(found[key])
            self.memories.append(list(found.values()))
        self.check()

    def _home(self, tier: TierPlan, number: int, client: str) -> tuple[str, str | None]:
        """Return the name and the place of the memory of a tier that a client reaches."""
        topology = self._topology
        if tier.per_clients:
            group = number // tier.per_clients
            name = f"{tier.name}/{group}"
            first = self.clients[group * tier.per_clients]
            return name, tier.at or (topology.node_of(first).rack if topology is not None else None)
        if topology is None:
            return (tier.name, None) if tier.per == "all" else (f"{tier.name}/{client}", None)
        if tier.at is not None:
            return tier.name if tier.per == "all" else f"{tier.name}/{topology.place_of(client, tier.per)}", tier.at
        place = topology.place_of(client, tier.per)
        name = tier.name if tier.per == "all" else f"{tier.name}/{place}"
        # What a node has is in its host's memory, and shares its channels.
        return name, f"{place}/dram" if tier.per == "node" and tier.name in _HOST_MEMORY else place

    def read_path(self, memory: Memory, client: int) -> Path:
        """Return the way from a memory to a client."""
        own = [memory.channel] + ([memory.link[1]] if memory.link else [])
        if self._topology is None or memory.place is None:
            return path_of(own)
        return path_of([*own, *self._topology.graph.route(memory.place, self.clients[client])])

    def write_path(self, client: int, memory: Memory) -> Path:
        """Return the way from a client to a memory."""
        own = ([memory.link[0]] if memory.link else []) + [memory.channel]
        if self._topology is None or memory.place is None:
            return path_of(own)
        return path_of([*self._topology.graph.route(self.clients[client], memory.place), *own])

    def own_path(self, memory: Memory) -> Path:
        """Return the way into a memory for what is at its door."""
        return path_of(([memory.link[0]] if memory.link else []) + [memory.channel])

    def move_path(self, source: Memory, target: Memory) -> Path:
        """Return the way from one memory to another."""
        first = [source.channel] + ([source.link[1]] if source.link else [])
        last = ([target.link[0]] if target.link else []) + [target.channel]
        between: list[Resource] = []
        if self._topology is not None and source.place is not None and target.place is not None:
            between = self._topology.graph.route(source.place, target.place)
        return path_of([*first, *between, *last])

    def check(self) -> None:
        """Raise InputError where a client has no way to a memory that it is to reach."""
        if self._topology is None:
            return
        graph = self._topology.graph
        for client, levels in zip(self.clients, self.levels, strict=True):
            for memory in levels:
                if memory.place is not None and memory.place not in graph:
                    raise InputError(
                        f"the topology has no place {memory.place!r} for the tier {memory.plan.name!r}",
                        remedy=f"Its places: {', '.join(graph.vertices[:8])}.",
                    )
                if memory.place is not None and not graph.reaches(client, memory.place):
                    raise InputError(
                        f"the topology has no path from {client} to the tier {memory.plan.name!r} at {memory.place}",
                        remedy="Add the link that is missing.",
                    )

    def below(self, memory: Memory, client: int) -> Memory | None:
        """Return the memory of the next tier that a client reaches."""
        levels = self.levels[client]
        return levels[memory.level + 1] if memory.level + 1 < len(levels) else None


_HOST_MEMORY = ("dram", "host", "host_dram", "cpu")


def _memory(
    tier: TierPlan,
    level: int,
    name: str,
    place: str | None,
    plugin: Plugin,
    on_evict: Callable[[Memory, int, Entry, Nanos], None],
) -> Memory:
    link = None
    if tier.link is not None:
        up = Resource(f"{name}<link", tier.link.bandwidth_bytes_per_s, tier.link.latency_ns)
        down = Resource(f"{name}>link", tier.link.bandwidth_bytes_per_s, tier.link.latency_ns)
        link = (up, down) if tier.link.duplex else (down, down)
    cache = Cache(tier.capacity_bytes, plugin(KV_EVICTIONS, tier.eviction)(), tier.ttl_ns)
    channel = Resource(name, tier.bandwidth_bytes_per_s, tier.latency_ns)
    memory = Memory(tier, level, name, place, channel, link, cache)
    cache.on_evict = lambda key, entry, now: on_evict(memory, key, entry, now)
    return memory
