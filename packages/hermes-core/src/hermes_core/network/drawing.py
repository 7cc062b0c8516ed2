"""A topology as text, for `hermes explain --topology`."""

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from hermes_core.api.units import format_bytes, format_duration
from hermes_core.network.presets import LinkPlan, TopologyPlan
from hermes_core.network.topology import Node, Topology

if TYPE_CHECKING:
    from hermes_core.memory.plan import KvStorePlan

_CLASSES = {
    "fabric": "a device to its neighbours",
    "pcie": "a device to its host",
    "dram": "memory of a host",
    "nic": "a device to the rack",
    "rack": "a rack to its cluster",
    "wan": "a cluster to the others",
}


def drawing(topology: Topology, tiers: Sequence[str] = ()) -> list[str]:
    """Return lines that show links, racks, nodes and clients; `tiers` are lines on the memories beside them.

    Nodes that carry alike are drawn once.
    """
    plan = topology.plan
    lines = [f"{plan.machine}: {len(topology.nodes)} node{'s' * (len(topology.nodes) > 1)} of {plan.devices} devices"]
    if not plan.contention:
        lines.append("  without contention: each transfer goes as if it were alone")
    lines += _links(plan, topology)
    if tiers:
        lines += ["", *tiers]
    lines.append("")
    if plan.graph:
        lines += [f"{link.one} {_arrow(link.plan)} {link.other}" for link in plan.graph]
        return lines + _branches([_node([node]) for node in topology.nodes])
    for cluster, members in groupby(topology.nodes, key=lambda node: node.cluster):
        racks = []
        for rack, inside in groupby(members, key=lambda node: node.rack):
            groups = [_node(list(alike)) for _, alike in groupby(inside, key=_contents)]
            racks.append([f"{rack}  {_arrow(plan.links['rack'])}", *_branches(groups)])
        lines += [cluster, *_branches(racks)]
    return lines


def store_lines(plan: "KvStorePlan") -> list[str]:
    """Return a line for each tier of a KV store."""
    lines = []
    for tier in plan.tiers:
        scope = f"{tier.per_clients} clients" if tier.per_clients else tier.per
        one = "one for all" if scope == "all" else f"one per {scope}"
        what = f"{tier.bandwidth_bytes_per_s / 1e9:,g} GB/s, {format_duration(tier.latency_ns)}"
        link = f", behind {_arrow(tier.link)}" if tier.link is not None else ""
        rate = f", hit rate {tier.hit_rate:g}" if tier.hit_rate is not None else ""
        lines.append(f"  tier {tier.name}: {one}, {format_bytes(tier.capacity_bytes)}, {what}{link}{rate}")
    return lines


def _links(plan: TopologyPlan, topology: Topology) -> list[str]:
    known = dict.fromkeys(link.kind for link in topology.graph.links)
    rows = []
    for name, link in plan.links.items():
        if name not in known:
            continue
        what = "a host to the rack" if name == "nic" and not plan.device_nics else _CLASSES[name]
        rows.append((name, what, link))
    return [f"  {name:<7}{what:<28}{_arrow(link)}" for name, what, link in rows]


def _arrow(link: LinkPlan) -> str:
    ways = "each way" if link.duplex else "both ways together"
    return f"── {link.bandwidth_bytes_per_s / 1e9:,g} GB/s {ways}, {format_duration(link.latency_ns)} ──"


def _contents(node: Node) -> tuple[tuple[str, int], ...]:
    pools = [name.rpartition("/")[0] for name in node.clients]
    return tuple((pool, pools.count(pool)) for pool in dict.fromkeys(pools))


def _node(alike: Sequence[Node]) -> list[str]:
    first = alike[0]
    name = first.name if len(alike) == 1 else f"{first.name} to {alike[-1].name} ({len(alike)} alike)"
    free = f"{first.free_devices} devices free" if first.free_devices else "full"
    shown = first.clients if len(alike) == 1 else [f"{count} of pool {pool}" for pool, count in _contents(first)]
    return [f"{name}  {free}", *_branches([[client] for client in shown])]


def _branches(blocks: Sequence[list[str]]) -> list[str]:
    """Hang blocks of lines below the line before them, one branch each."""
    lines = []
    for number, (first, *below) in enumerate(blocks, 1):
        turn, down = ("└─", " ") if number == len(blocks) else ("├─", "│")
        lines += [f"{turn} {first}", *(f"{down}  {line}" for line in below)]
    return lines
