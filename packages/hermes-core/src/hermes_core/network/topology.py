"""Where clients and memories are, and the way from one to the other."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from hermes_core.api.errors import InputError
from hermes_core.network.flows import Path, Resource
from hermes_core.network.graph import Graph, Link
from hermes_core.network.presets import LinkPlan, TopologyPlan

SCOPES = ("client", "node", "rack", "cluster", "all")
"""What a memory can be one of for each; from the narrowest on."""


@dataclass(slots=True)
class Node:
    """A machine and what stands on it."""

    number: int
    name: str
    rack: str
    cluster: str
    free_devices: int
    clients: list[str] = field(default_factory=list)


class Topology:
    """Nodes in racks in clusters, or in a graph, and the clients that are placed on them.

    A client is joined to its node by the links of all its devices together: a tensor-parallel group sends and takes
    KV on all of them at once.
    """

    __slots__ = ("_node_of", "graph", "nodes", "plan")

    def __init__(self, plan: TopologyPlan) -> None:
        self.plan = plan
        self.graph = Graph()
        self._node_of: dict[str, Node] = {}
        names = plan.node_names or tuple(f"node{number}" for number in range(plan.nodes))
        self.nodes: list[Node] = []
        for number, name in enumerate(names):
            rack = number // plan.nodes_per_rack
            cluster = rack // plan.racks_per_cluster
            where = ("graph", "graph") if plan.graph else (f"rack{rack}", f"cluster{cluster}")
            self.nodes.append(Node(number, name, *where, plan.devices))
        if plan.graph:
            for link in plan.graph:
                self._join(link.one, link.other, link.plan, 1, "link")
        else:
            self._racks()
        for node in self.nodes:
            self._join(node.name, f"{node.name}/dram", plan.links["dram"], 1, "dram")
            self.graph.end(f"{node.name}/dram")

    def _racks(self) -> None:
        plan = self.plan
        clusters: dict[str, None] = {}
        racks: dict[str, str] = {}
        for node in self.nodes:
            # A host has one adapter beside those of its devices.
            self._join(node.name, node.rack, plan.links["nic"], 1, "nic")
            racks[node.rack] = node.cluster
        for rack, cluster in racks.items():
            self._join(rack, cluster, plan.links["rack"], 1, "rack")
            clusters[cluster] = None
        for cluster in clusters:
            if len(clusters) > 1:
                self._join(cluster, "wan", plan.links["wan"], 1, "wan")

    def _join(self, one: str, other: str, plan: LinkPlan, times: int, kind: str) -> None:
        self.graph.add(Link(one, other, plan.bandwidth_bytes_per_s * times, plan.latency_ns, plan.duplex, kind))

    # --- placing ----------------------------------------------------------------------------------------------------

    def place(self, client: str, devices: int, nodes: Sequence[int] = ()) -> Node:
        """Put a client with so many devices on the first node that has them free, of `nodes` if given.

        A client without accelerators (`devices` 0) goes to the node with the fewest clients. One that is larger than
        a node takes whole nodes, and is joined to the network at the first of them. Raises InputError when there is
        no room.
        """
        allowed = [self.nodes[number] for number in nodes] or self.nodes
        if not devices:
            node = min(allowed, key=lambda node: len(node.clients))
            taken = [node]
        else:
            taken = self._room(devices, allowed)
            if not taken:
                where = "on " + ", ".join(node.name for node in allowed) if nodes else "in the topology"
                raise InputError(
                    f"no room for {client} with {devices} devices {where}",
                    remedy="Give it more nodes, or nodes with more devices.",
                )
            left = devices
            for node in taken:
                used = min(left, node.free_devices)
                node.free_devices -= used
                left -= used
            node = taken[0]
        node.clients.append(client)
        self._node_of[client] = node
        self._attach(client, node, devices)
        return node

    def _room(self, devices: int, allowed: Sequence[Node]) -> list[Node]:
        if devices <= self.plan.devices:
            return next(([node] for node in allowed if node.free_devices >= devices), [])
        whole = -(-devices // self.plan.devices)
        empty = [node for node in allowed if node.free_devices == self.plan.devices]
        return empty[:whole] if len(empty) >= whole else []

    def _attach(self, client: str, node: Node, devices: int) -> None:
        links = self.plan.links
        if not devices:
            # What it sends comes from the host's memory.
            self._join(client, node.name, LinkPlan(links["dram"].bandwidth_bytes_per_s, 0), 1, "cpu")
        else:
            self._join(client, f"{node.name}/fabric", links["fabric"], devices, "fabric")
            self._join(client, node.name, links["pcie"], devices, "pcie")
            if self.plan.device_nics and not self.plan.graph:
                self._join(client, node.rack, links["nic"], devices, "nic")
        self.graph.end(client)

    # --- ways -------------------------------------------------------------------------------------------------------

    def node_of(self, client: str) -> Node:
        """Return the node of a client."""
        return self._node_of[client]

    def path(self, source: str, target: str) -> Path:
        """Return the way between two places. Raises InputError when there is none."""
        return self.graph.path(source, target)

    def memory(self, client: str) -> Resource:
        """Return the memory channels of the host that a client is on."""
        name = self._node_of[client].name
        return self.graph.route(name, f"{name}/dram")[0]

    def place_of(self, client: str, scope: str) -> str:
        """Return the place that stands for the `scope` of a client: its node, its rack, its cluster, or all."""
        node = self._node_of[client]
        if scope == "client":
            return client
        if scope == "node":
            return node.name
        if scope == "rack":
            return node.rack
        if scope == "cluster":
            return node.cluster
        return "wan" if "wan" in self.graph else node.cluster
