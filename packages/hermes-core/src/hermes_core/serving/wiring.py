"""Joins the clients of a simulation: places them, lets what crosses them share the network, gives them a KV store."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from hermes_proto.core.v1 import run_record_pb2

from hermes_core.api.errors import InputError
from hermes_core.api.hardware import CompiledDeployment
from hermes_core.api.time import Nanos
from hermes_core.api.units import format_bytes
from hermes_core.engine import Kernel
from hermes_core.memory.plan import KvStorePlan
from hermes_core.memory.store import KvStore
from hermes_core.memory.tiers import Tiers
from hermes_core.network import Course, History, Network, Path, Resource
from hermes_core.network.topology import Topology
from hermes_core.record import Recorder
from hermes_core.serving.llm.kv.store import PoolStore
from hermes_core.serving.llm.pool import LlmPool
from hermes_core.serving.plan import AnyPoolPlan, PlacePlan, PoolPlan, SimulationPlan
from hermes_core.serving.routing.prefixes import KnowsPlaces
from hermes_core.serving.services.pool import ServicePool

if TYPE_CHECKING:
    from collections.abc import Mapping

Plugin: TypeAlias = Callable[[str, str], Any]

_OUTSIDE = 65535
"""Instead of the number of a client: a memory."""


class Wiring:
    """The network of one simulation and what hangs on it."""

    __slots__ = ("_add", "_links", "_names", "_pack", "links", "network", "store", "topology")

    def __init__(
        self,
        plan: SimulationPlan,
        kernel: Kernel,
        recorder: Recorder,
        pools: "Mapping[str, LlmPool | ServicePool]",
        compiled: "Mapping[str, Any]",
        plugin: Plugin,
    ) -> None:
        """Raise InputError where clients find no room, or there is no path between two that need one."""
        self._add, self._pack = recorder.add_transfer, recorder.pack_transfer
        contention = (plan.topology is None or plan.topology.contention) and (
            plan.kv_store is None or plan.kv_store.contention
        )
        self.network = Network(kernel, contention=contention, history=History())
        self.topology = placed(plan)
        self._names = [f"{pool.name}/{index}" for pool in plan.pools for index in range(pool.clients)]
        self.store: KvStore | None = None
        if plan.kv_store is not None:
            self.store = self._store(plan, kernel, pools, compiled, plugin)
        if self.topology is not None:
            for pool in pools.values():
                self._share_memory(plan, pool)
        for pool in pools.values():
            if isinstance(pool, LlmPool):
                if self.topology is not None:
                    pool.coordinator.handovers.carrier = self
                if isinstance(pool.router, KnowsPlaces):
                    pool.router.know(pool, kernel)
        self.links: list[Resource] = list(dict.fromkeys(self._resources()))
        """What the record tells of, in the order of its manifest."""
        self._links = {resource: number for number, resource in enumerate(self.links)}

    def _resources(self) -> list[Resource]:
        found = [resource for _, resource in self.topology.graph.resources] if self.topology is not None else []
        if self.store is not None:
            for memories in self.store.tiers.memories:
                for memory in memories:
                    found += memory.resources
        return found

    def _store(
        self,
        plan: SimulationPlan,
        kernel: Kernel,
        pools: "Mapping[str, LlmPool | ServicePool]",
        compiled: "Mapping[str, Any]",
        plugin: Plugin,
    ) -> KvStore:
        kv_plan = plan.kv_store
        if kv_plan is None:
            raise AssertionError("a store has a plan")
        # Clients of the store are the LLM engines, in their order.
        engines = [pool for pool in plan.pools if isinstance(pool, PoolPlan)]
        names = [f"{pool.name}/{index}" for pool in engines for index in range(pool.clients)]
        store = KvStore(
            kv_plan,
            lambda made: Tiers(kv_plan, names, self.topology, plugin, made.evicted),
            self.network,
            kernel,
        )
        numbers = [number for number, name in enumerate(self._names) if name in dict.fromkeys(names)]
        store.record_to(
            lambda request, source, target, path, size, begin, end: self._row(
                request,
                numbers[source] if source >= 0 else _OUTSIDE,
                numbers[target] if target >= 0 else _OUTSIDE,
                path,
                size,
                begin,
                end,
            )
        )
        models: dict[tuple[str, str | None], int] = {}
        first = 0
        for engine in engines:
            pool, priced = pools[engine.name], compiled[engine.name]
            if not isinstance(pool, LlmPool) or not isinstance(priced, CompiledDeployment):
                raise TypeError("a pool of LLM engines has a compiled deployment")
            # KV of another model, or in another type, is of no use.
            key = (engine.deployment.model, engine.deployment.kv_dtype)
            model = models.setdefault(key, len(models))
            block_size = engine.engine.block_size_tokens
            _check_sizes(kv_plan, engine, block_size * priced.kv_transfer_bytes_per_token)
            pool.store = PoolStore(
                store, kernel, priced, block_size=block_size, first=first, model=model, seed=plan.seed
            )
            first += engine.clients
            if kv_plan.write == "on_eviction" and kv_plan.hits == "tracked":
                for index, client in enumerate(pool.clients):
                    pool.store.watch(client, index)
        return store

    def _share_memory(self, plan: SimulationPlan, pool: LlmPool | ServicePool) -> None:
        """Let clients on the processors of a node use its memory with all others there."""
        if self.topology is None or not isinstance(pool, ServicePool):
            return
        if plan.places.get(pool.name, PlacePlan()).host:
            for index, client in enumerate(pool.clients):
                client.memory = _HostMemory(self.network, self.topology.memory(f"{pool.name}/{index}"))

    # --- KV from client to client -------------------------------------------------------------------------------------

    def carry(
        self,
        request_id: int,
        source: int,
        target: int,
        size_bytes: int,
        on_end: Callable[[Nanos], None],
        computed_ns: Nanos,
        layers: int,
    ) -> None:
        """Let KV go from one client to another; see `handover.Carrier`.

        What went layer by layer while the rest was computed has crossed by now, at the share that the path has.
        """
        network = self.network
        if self.topology is None:
            raise AssertionError("only a topology carries")
        path = self.topology.path(self._names[source], self._names[target])
        begun = network.now
        gone = 0
        if computed_ns and layers > 1:
            span_ns = max(1, network.expected_ns(path, size_bytes) - path.latency_ns)
            gone = min(size_bytes * (layers - 1) // layers, size_bytes * computed_ns // span_ns)
            network.passed(path, gone, begun - computed_ns)

        def ended(now: Nanos) -> None:
            self._row(request_id, source, target, path, size_bytes, begun, now)
            on_end(now)

        network.start(path, size_bytes - gone, ended)

    def _row(
        self, request_id: int, source: int, target: int, path: Path, size_bytes: int, begin_ns: Nanos, end_ns: Nanos
    ) -> None:
        narrow = min(path.resources, key=lambda resource: resource.bandwidth_bytes_per_s, default=None)
        link = self._links[narrow] if narrow is not None else 0
        self._add(self._pack(request_id, source, target, link, size_bytes, begin_ns, end_ns))

    @property
    def slow_link(self) -> Callable[[str, float], None] | None:
        """Lets a link have a part of its bandwidth; None without a topology."""
        return self._slow if self.topology is not None else None

    def _slow(self, name: str, factor: float) -> None:
        found = [resource for resource in self.links if resource.name == name]
        if not found:
            raise InputError(
                f"there is no link {name!r}",
                remedy=f"Links: {', '.join(resource.name for resource in self.links[:20])}.",
            )
        for resource in found:
            self.network.scale(resource, factor)

    # --- totals -------------------------------------------------------------------------------------------------------

    def close(self, now: Nanos) -> None:
        """Count until the end of the run."""
        self.network.close(now)

    def link_totals(self) -> list[run_record_pb2.LinkTotals]:
        """Return what crossed each link, in all and over time."""
        history = self.network.history
        courses = history.courses(self.links) if history is not None else [Course([], [])] * len(self.links)
        return [
            run_record_pb2.LinkTotals(
                bandwidth_bytes_per_s=link.nominal_bytes_per_s,
                bytes=link.moved_bytes,
                busy_ns=link.busy_ns,
                waiting_ns=link.waiting_ns,
                transfers=link.flows_ended,
                peak_transfers=link.peak_flows,
                step_ns=history.step_ns if history is not None else 0,
                step_bytes=course.moved_bytes,
                step_waiting_ns=course.waiting_ns,
            )
            for link, course in zip(self.links, courses, strict=True)
        ]

    def memory_totals(self) -> list[run_record_pb2.MemoryTotals]:
        """Return what each memory of the store came to."""
        if self.store is None:
            return []
        return [
            run_record_pb2.MemoryTotals(
                name=memory.name,
                tier=memory.plan.name,
                capacity_bytes=memory.plan.capacity_bytes,
                peak_bytes=memory.cache.peak_bytes,
                asked_tokens=memory.asked_tokens,
                hit_tokens=memory.hit_tokens,
                read_bytes=memory.read_bytes,
                written_bytes=memory.written_bytes,
                evictions=memory.cache.evictions,
            )
            for memories in self.store.tiers.memories
            for memory in memories
        ]


class _HostMemory:
    """The memory channels of a host. Implements `service_client.MemoryPath`."""

    __slots__ = ("_network", "_path")

    def __init__(self, network: Network, channels: Resource) -> None:
        self._network = network
        # What one processor asks of its own memory is not delayed by the latency once a batch.
        self._path = Path((channels,), 0, channels.bandwidth_bytes_per_s)

    def move(self, size_bytes: int, on_end: Callable[[Nanos], None], now: Nanos) -> None:  # noqa: ARG002
        """Begin to move bytes."""
        self._network.start(self._path, size_bytes, on_end)


def _check_sizes(plan: KvStorePlan, pool: PoolPlan, block_bytes: int) -> None:
    for tier in plan.tiers:
        if tier.capacity_bytes < block_bytes:
            raise InputError(
                f"the tier {tier.name!r} has {format_bytes(tier.capacity_bytes)}: less than one KV block of the pool "
                f"{pool.name!r}, {format_bytes(block_bytes)}",
                remedy="Give it more capacity.",
            )


def placed(plan: SimulationPlan) -> Topology | None:
    """Return the topology of a plan with its clients in place; None without one.

    Raises InputError where there is no room, or no path between two clients that exchange KV.
    """
    if plan.topology is None:
        return None
    topology = Topology(plan.topology)
    for pool in plan.pools:
        place = plan.places.get(pool.name, PlacePlan())
        for index in range(pool.clients):
            topology.place(f"{pool.name}/{index}", 0 if place.host else devices_of(pool), place.nodes)
    _check_paths(plan, topology)
    return topology


def devices_of(pool: AnyPoolPlan) -> int:
    """Return the accelerators of one client of a pool."""
    if isinstance(pool, PoolPlan):
        return pool.deployment.devices
    return max((deployment.devices for deployment in pool.deployments.values()), default=0)


def _check_paths(plan: SimulationPlan, topology: Topology) -> None:
    first: dict[str, str] = {}
    for pool in plan.pools:
        for index in range(pool.clients if isinstance(pool, PoolPlan) else 0):
            client = f"{pool.name}/{index}"
            first.setdefault(topology.node_of(client).name, client)
    one = next(iter(first.values()), None)
    for other in first.values():
        if one is not None and not topology.graph.reaches(one, other):
            raise InputError(
                f"the topology has no path between the clients {one} and {other}",
                remedy="Add the link that is missing.",
            )
