"""A graph of links, and the ways through it."""

from collections.abc import Iterable
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Final

from hermes_core.api.errors import InputError
from hermes_core.api.time import NS_PER_S, Nanos
from hermes_core.network.flows import Path, Resource, path_of

_PROBE_BYTES: Final = 1 << 20
"""A way is as long as its latency and the time that so many bytes take on each of its links."""


@dataclass(frozen=True, slots=True)
class Link:
    """What joins two vertices."""

    one: str
    other: str
    bandwidth_bytes_per_s: int
    """In each direction; of both together where they share (`duplex` false)."""
    latency_ns: Nanos = 0
    duplex: bool = True
    """Whether each direction has the bandwidth for itself."""
    kind: str = "link"
    """Class of links it belongs to: nvlink, pcie, nic, rack, wan; or a name of its own."""

    @property
    def name(self) -> str:
        """What reports call it."""
        return f"{self.one} {'<->' if self.duplex else '--'} {self.other}"


class Graph:
    """Vertices and links. Vertices named as ends are where ways begin and end, never led through."""

    __slots__ = ("_adjacent", "_cost", "_ends", "_paths", "_resources", "_trees", "links")

    def __init__(self, links: Iterable[Link] = ()) -> None:
        self.links: list[Link] = []
        self._adjacent: dict[str, list[tuple[str, Resource, Nanos]]] = {}
        self._ends: dict[str, None] = {}
        self._resources: list[tuple[Link, Resource]] = []
        self._trees: dict[str, dict[str, tuple[str, Resource]]] = {}
        self._paths: dict[tuple[str, str], Path] = {}
        for link in links:
            self.add(link)

    def add(self, link: Link) -> None:
        """Join two vertices; either may be new."""
        if link.one == link.other:
            raise InputError(f"a link joins {link.one!r} to itself", remedy="Give it two ends.")
        self.links.append(link)
        directions = ((link.one, link.other), (link.other, link.one))
        shared = None
        for source, target in directions:
            if shared is None or link.duplex:
                name = f"{source}>{target}" if link.duplex else link.name
                shared = Resource(name, link.bandwidth_bytes_per_s, link.latency_ns)
                self._resources.append((link, shared))
            cost = link.latency_ns + _PROBE_BYTES * NS_PER_S // link.bandwidth_bytes_per_s
            self._adjacent.setdefault(source, []).append((target, shared, cost))
        self._trees.clear()
        self._paths.clear()

    def end(self, vertex: str) -> None:
        """Let ways begin and end at a vertex, but not lead through it."""
        self._ends[vertex] = None
        self._adjacent.setdefault(vertex, [])

    def __contains__(self, vertex: object) -> bool:
        return vertex in self._adjacent

    @property
    def vertices(self) -> list[str]:
        """All vertices, in the order in which they came."""
        return list(self._adjacent)

    @property
    def resources(self) -> list[tuple[Link, Resource]]:
        """What flows share: one resource for each direction of a link, or one for both."""
        return self._resources

    def path(self, source: str, target: str) -> Path:
        """Return the shortest way: that with the least latency and time for a mebibyte, summed over its links.

        Raises InputError when there is none.
        """
        found = self._paths.get((source, target))
        if found is None:
            found = self._paths[source, target] = path_of(self.route(source, target))
        return found

    def route(self, source: str, target: str) -> list[Resource]:
        """Return the resources of that way, from `source` on."""
        for vertex in (source, target):
            if vertex not in self._adjacent:
                raise InputError(f"the topology has no place {vertex!r}", remedy=f"It has {_some(self._adjacent)}.")
        tree = self._trees.get(source)
        if tree is None:
            tree = self._trees[source] = self._tree(source)
        crossed: list[Resource] = []
        at = target
        while at != source:
            if at not in tree:
                raise InputError(
                    f"the topology has no path from {source} to {target}", remedy="Add the link that is missing."
                )
            at, resource = tree[at]
            crossed.append(resource)
        return crossed[::-1]

    def reaches(self, source: str, target: str) -> bool:
        """Return whether there is a way."""
        if source not in self._trees:
            self._trees[source] = self._tree(source)
        return source == target or target in self._trees[source]

    def _tree(self, source: str) -> dict[str, tuple[str, Resource]]:
        """Return, for each vertex that can be reached, the last step of the shortest way there (Dijkstra)."""
        steps: dict[str, tuple[str, Resource]] = {}
        done: dict[str, None] = {}
        best = {source: 0}
        heap = [(0, 0, source)]
        count = 0
        while heap:
            cost, _, vertex = heappop(heap)
            if vertex in done:
                continue
            done[vertex] = None
            if vertex in self._ends and vertex != source:
                continue
            for target, resource, step in self._adjacent[vertex]:
                there = cost + step
                if target not in best or there < best[target]:
                    best[target] = there
                    steps[target] = (vertex, resource)
                    # Of equal ways the first found is kept, in the order of the links.
                    count += 1
                    heappush(heap, (there, count, target))
        return steps


def _some(names: Iterable[str], most: int = 8) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
