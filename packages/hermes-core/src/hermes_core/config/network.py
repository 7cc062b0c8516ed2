"""From the sections `topology`, `kv_store` and `place` to plans."""

import dataclasses
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Final

from hermes_core.api.plugins import plugin_names
from hermes_core.config.document import Route, suggest
from hermes_core.config.findings import Findings
from hermes_core.config.network_section import KvStoreSection, LinkSection, TierSection, TopologySection
from hermes_core.config.origins import DEFAULT, CanonicalTree
from hermes_core.config.sections import Scenario
from hermes_core.memory.plan import KvStorePlan, TierPlan
from hermes_core.network.presets import FABRICS, MACHINES, WAN, GraphLink, LinkPlan, MachinePlan, TopologyPlan
from hermes_core.serving.plan import AnyPoolPlan, PlacePlan, PoolPlan

_EVICTIONS = "hermes.kv_evictions"
_RACKS = 8
"""Racks that one spine joins, unless told."""

_GIVEN: Final = ("write", "promote", "prefetch", "chunk_tokens", "eviction")
_WITHOUT_EFFECT: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "tracked": ("context_tokens", "hot_spots"),
        "drawn": _GIVEN,
        "expected": (*_GIVEN, "hot_spots", "layer_wise"),
    }
)
"""Keys of a KV store that do nothing, by what its hits are: with given ones nothing is kept, written or evicted."""
_TIER_KEYS: Final = {"eviction": "eviction", "ttl": "ttl_ns"}
"""The same of a tier, with given hits."""


class NetworkPlans:
    """Resolves what joins the clients of one scenario."""

    def __init__(self, scenario: Scenario, findings: Findings, tree: CanonicalTree) -> None:
        self._scenario = scenario
        self._findings = findings
        self._tree = tree

    # --- topology -----------------------------------------------------------------------------------------------------

    def topology(self, pools: Sequence[AnyPoolPlan], places: Mapping[str, PlacePlan]) -> TopologyPlan | None:
        """Return the topology; None without one, or where it has mistakes in it (they are noted)."""
        section = self._scenario.topology
        if section is None:
            return None
        if section.preset not in MACHINES:
            remedy = suggest(section.preset, MACHINES, what="presets")
            self._findings.add(("topology", "preset"), f"there is no topology {section.preset!r}", remedy)
            return None
        machine = MACHINES[section.preset]
        fabric = section.fabric or machine.fabric
        if fabric not in FABRICS:
            remedy = suggest(fabric, FABRICS, what="fabrics")
            self._findings.add(("topology", "fabric"), f"there is no fabric {fabric!r}", remedy)
            return None
        devices = section.devices_per_node or machine.devices
        per_rack = section.nodes_per_rack or machine.nodes_per_rack
        links = self._links(section, machine, per_rack * devices if machine.device_nics else per_rack, fabric)
        graph = tuple(
            GraphLink(
                link.between[0],
                link.between[1],
                LinkPlan(link.bandwidth_bytes_per_s, link.latency_ns, duplex=link.duplex == "full"),
            )
            for link in section.graph
        )
        names = self._node_names(section)
        count = section.nodes if isinstance(section.nodes, int) else len(names)
        plan = TopologyPlan(
            machine=section.preset,
            nodes=count or _nodes_needed(pools, places, devices),
            devices=devices,
            nodes_per_rack=per_rack,
            racks_per_cluster=section.racks_per_cluster or _RACKS,
            links=links,
            device_nics=machine.device_nics,
            contention=section.contention,
            graph=graph,
            node_names=names,
        )
        self._write_topology(section, plan)
        return plan

    def _node_names(self, section: TopologySection) -> tuple[str, ...]:
        if not section.graph:
            if isinstance(section.nodes, list):
                self._findings.add(
                    ("topology", "nodes"), "nodes are named, and there is no graph", "write how many, or add a `graph`"
                )
            return ()
        places = list(dict.fromkeys(end for link in section.graph for end in link.between))
        if not isinstance(section.nodes, list):
            self._findings.add(
                ("topology", "graph"),
                "the graph does not say which of its places are nodes",
                f"add `nodes: [{', '.join(places[:3])}]` with those that have devices",
                at_key=True,
            )
            return ()
        for index, name in enumerate(section.nodes):
            if name not in places:
                remedy = suggest(name, places, what="places of the graph")
                self._findings.add(("topology", "nodes", index), f"the graph has no place {name!r}", remedy)
        return tuple(section.nodes)

    def _links(self, section: TopologySection, machine: MachinePlan, adapters: int, fabric: str) -> dict[str, LinkPlan]:
        links = dict(machine.links)
        classes = [*links, "rack", "wan"]
        for name in section.links:
            if name not in classes:
                remedy = suggest(name, classes, what="links")
                self._findings.add(("topology", "links", name), f"there is no link {name!r}", remedy, at_key=True)
        for name in machine.links:
            links[name] = _changed(links[name], section.links.get(name))
        uplink = round(links["nic"].bandwidth_bytes_per_s * adapters / section.oversubscription)
        base = LinkPlan(max(1, uplink), FABRICS[fabric].switch_latency_ns)
        links["rack"] = _changed(base, section.links.get("rack"))
        links["wan"] = _changed(WAN, section.links.get("wan"))
        return links

    def _write_topology(self, section: TopologySection, plan: TopologyPlan) -> None:
        given = {
            "machine": "preset",
            "nodes": "nodes",
            "devices": "devices_per_node",
            "nodes_per_rack": "nodes_per_rack",
            "racks_per_cluster": "racks_per_cluster",
            "contention": "contention",
        }
        for name, key in given.items():
            written = key in section.model_fields_set
            origin = self._tree.origin(("topology", key)) if written else f"preset {plan.machine}"
            self._tree.put(("topology", name), getattr(plan, name), origin)
        for name, link in plan.links.items():
            for leaf, value in dataclasses.asdict(link).items():
                own = section.links.get(name)
                alias = {"bandwidth_bytes_per_s": "bandwidth", "latency_ns": "latency"}.get(leaf, leaf)
                written = own is not None and leaf in own.model_fields_set
                origin = f"preset {plan.machine}"
                if written:
                    origin = self._tree.origin(("topology", "links", name, alias))
                self._tree.put(("topology", "links", name, leaf), value, origin)
        if plan.graph:
            origin = self._tree.origin(("topology", "graph"))
            self._tree.put(("topology", "graph"), [dataclasses.asdict(link) for link in plan.graph], origin)
            self._tree.put(("topology", "node_names"), list(plan.node_names), self._tree.origin(("topology", "nodes")))

    # --- places -------------------------------------------------------------------------------------------------------

    def places(self, pools: Sequence[AnyPoolPlan]) -> dict[str, PlacePlan]:
        """Return where the clients of each pool are."""
        found: dict[str, PlacePlan] = {}
        topology = self._scenario.topology
        for pool in pools:
            section = self._scenario.pools[pool.name].place if self._scenario.pools else None
            host = _on_host(pool)
            at: Route = ("pools", pool.name, "place")
            nodes: list[int] = []
            if section is not None:
                if topology is None:
                    self._findings.add(at, "a place needs a topology", "add `topology: dgx-h100`, or remove it")
                    continue
                nodes = self._numbers(section.nodes, topology, at)
                if section.host is not None:
                    host = section.host
                if host and isinstance(pool, PoolPlan):
                    self._findings.add((*at, "host"), "LLM engines do not run on the host", "remove `host`")
                self._tree.put(at, {"nodes": nodes, "host": host}, self._tree.origin(at))
            if topology is not None:
                found[pool.name] = PlacePlan(tuple(nodes), host)
        return found

    def _numbers(self, nodes: Sequence[int | str], topology: TopologySection, at: Route) -> list[int]:
        names = topology.nodes if isinstance(topology.nodes, list) else []
        count = len(names) if names else topology.nodes
        found = []
        for index, node in enumerate(nodes):
            number = names.index(node) if node in names else node
            if isinstance(number, bool) or not isinstance(number, int) or number < 0:
                known = names or ["0", "1", "..."]
                self._findings.add(
                    (*at, "nodes", index), f"there is no node {node!r}", suggest(str(node), known, what="nodes")
                )
            elif isinstance(count, int) and number >= count:
                self._findings.add(
                    (*at, "nodes", index), f"there is no node {number}", f"the topology has {count}, from 0"
                )
            else:
                found.append(number)
        return found

    # --- KV store -----------------------------------------------------------------------------------------------------

    def kv_store(self, topology: TopologyPlan | None) -> KvStorePlan | None:
        """Return the KV store; None without one."""
        section = self._scenario.kv_store
        if section is None:
            return None
        rated = [index for index, tier in enumerate(section.tiers) if tier.hit_rate is not None]
        hits = section.hits or ("drawn" if rated else "tracked")
        at: Route = ("kv_store",)
        if hits == "tracked" and rated:
            self._findings.add(
                (*at, "tiers", rated[0], "hit_rate"), "contents are tracked, so hit rates follow", "remove `hit_rate`"
            )
        if hits != "tracked" and len(rated) < len(section.tiers):
            lacking = next(index for index in range(len(section.tiers)) if index not in rated)
            self._findings.add(
                (*at, "tiers", lacking), f"hits are {hits}, and this tier has no hit rate", "add `hit_rate: 0.5`"
            )
        if hits != "tracked" and section.context_tokens is None:
            self._findings.add(
                at,
                f"hits are {hits}, and nothing says how much of a prompt is stored",
                "add `context: 4096`",
                at_key=True,
            )
        self._without_effect(section, hits, at)
        names = [tier.name for tier in section.tiers]
        for index, name in enumerate(names):
            if name in names[:index]:
                self._findings.add((*at, "tiers", index, "name"), f"two tiers are called {name!r}", "rename one")
        tiers = [
            self._tier(tier, section.eviction, topology, (*at, "tiers", index))
            for index, tier in enumerate(section.tiers)
        ]
        plan = KvStorePlan(
            tiers=tuple(tiers),
            hits=hits,
            write=section.write,
            promote=section.promote,
            on_hit=section.load_or_recompute,
            layer_wise=section.layer_wise,
            prefetch=section.prefetch,
            context_tokens=section.context_tokens or 0,
            hot_spots=section.hot_spots,
            contention=section.contention,
            chunk_tokens=section.chunk_tokens,
        )
        for name, value in dataclasses.asdict(plan).items():
            key = {"on_hit": "load_or_recompute", "context_tokens": "context", "chunk_tokens": "chunk"}.get(name, name)
            field = "load_or_recompute" if name == "on_hit" else name
            written = field in section.model_fields_set
            self._tree.put((*at, name), _plain(value), self._tree.origin((*at, key)) if written else DEFAULT)
        return plan

    def _without_effect(self, section: KvStoreSection, hits: str, at: Route) -> None:
        """Refuse what was written and would change nothing, as hits are."""
        idle: list[tuple[Route, str]] = []
        for key in _WITHOUT_EFFECT[hits]:
            field = KvStoreSection.model_fields[key]
            if getattr(section, key) != field.default:
                idle.append((at, field.alias or key))
        for index, tier in enumerate(section.tiers if hits != "tracked" else ()):
            idle += [((*at, "tiers", index), key) for key, field in _TIER_KEYS.items() if getattr(tier, field)]
        for where, name in idle:
            self._findings.add((*where, name), f"hits are {hits}, so `{name}` would change nothing", "leave it out")

    def _tier(self, tier: TierSection, eviction: str, topology: TopologyPlan | None, at: Route) -> TierPlan:
        kind = tier.eviction or eviction
        known = plugin_names(_EVICTIONS)
        if known and kind not in known:
            where = (*at, "eviction") if tier.eviction else ("kv_store", "eviction")
            self._findings.add(where, f"there is no eviction {kind!r}", suggest(kind, known, what="installed"))
        scope = tier.per or "client"
        if tier.per is not None and tier.clients is not None:
            self._findings.add((*at, "clients"), "`per` and `clients` both say who shares it", "keep one of them")
        elif tier.clients is None and tier.per in ("node", "rack", "cluster"):
            if topology is None:
                self._findings.add(
                    (*at, "per"),
                    f"the tier {tier.name!r} is per {tier.per}, and there is no topology",
                    "add `topology: dgx-h100`, or write `clients: 8` for how many share one, or `per: client` or `all`",
                )
            elif topology.graph and tier.per != "node":
                self._findings.add(
                    (*at, "per"),
                    f"a graph has no {tier.per}",
                    "write `per: client`, `node` or `all`, and `at:` the place where it is",
                )
        if scope == "all" and topology is not None and topology.graph and tier.at is None:
            self._findings.add(at, f"nothing says where in the graph the tier {tier.name!r} is", "add `at: place`")
        if tier.at is not None and topology is None:
            self._findings.add((*at, "at"), "a place needs a topology", "add `topology: dgx-h100`, or remove it")
        return TierPlan(
            name=tier.name,
            per=scope,
            capacity_bytes=tier.capacity_bytes,
            bandwidth_bytes_per_s=tier.bandwidth_bytes_per_s,
            latency_ns=tier.latency_ns,
            per_clients=tier.clients or 0,
            link=self._tier_link(tier, topology, (*at, "link")),
            at=tier.at,
            eviction=kind,
            ttl_ns=tier.ttl_ns or 0,
            hit_rate=tier.hit_rate,
        )

    def _tier_link(self, tier: TierSection, topology: TopologyPlan | None, at: Route) -> LinkPlan | None:
        link = tier.link
        if link is None:
            return None
        if isinstance(link, str):
            links: Mapping[str, LinkPlan] = topology.links if topology is not None else {}
            if link in links:
                return links[link]
            near = get_close_matches(link, links, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            known = f"links: {', '.join(links)}" if links else "there is no topology: write {bandwidth: 16 GB/s}"
            self._findings.add(at, f"there is no link {link!r}", hint + known)
            return None
        if link.bandwidth_bytes_per_s is None:
            self._findings.add(at, "the link has no bandwidth", "add `bandwidth: 16 GB/s`")
            return None
        return LinkPlan(link.bandwidth_bytes_per_s, link.latency_ns or 0, duplex=link.duplex != "half")


def _changed(base: LinkPlan, own: LinkSection | None) -> LinkPlan:
    if own is None:
        return base
    return LinkPlan(
        own.bandwidth_bytes_per_s or base.bandwidth_bytes_per_s,
        own.latency_ns if own.latency_ns is not None else base.latency_ns,
        duplex=base.duplex if own.duplex is None else own.duplex == "full",
    )


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: tiers without what they do not have."""
    if isinstance(value, tuple):
        return [{name: item for name, item in tier.items() if item is not None} for tier in value]
    return value


def _on_host(pool: AnyPoolPlan) -> bool:
    if isinstance(pool, PoolPlan):
        return False
    return all(deployment.device.startswith("cpu-") for deployment in pool.deployments.values())


def _nodes_needed(pools: Sequence[AnyPoolPlan], places: Mapping[str, PlacePlan], width: int) -> int:
    """Return how many nodes the clients fill, each taking the first with room."""
    free: list[int] = []
    named = max((node + 1 for place in places.values() for node in place.nodes), default=0)
    for pool in pools:
        place = places.get(pool.name, PlacePlan())
        if place.host or place.nodes:
            continue
        if isinstance(pool, PoolPlan):
            devices = pool.deployment.devices
        else:
            devices = max((deployment.devices for deployment in pool.deployments.values()), default=0)
        for _ in range(pool.clients if devices else 0):
            if devices > width:
                free += [0] * -(-devices // width)
                continue
            at = next((number for number, left in enumerate(free) if left >= devices), -1)
            if at < 0:
                free.append(width)
                at = len(free) - 1
            free[at] -= devices
    return max(1, named, len(free))
