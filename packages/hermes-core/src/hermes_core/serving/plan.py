"""What a simulation is made from: the scenario with everything resolved, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from hermes_core.api.hardware import Deployment
from hermes_core.api.stages import StageDeployment
from hermes_core.api.time import Nanos
from hermes_core.memory.plan import KvStorePlan
from hermes_core.network.presets import TopologyPlan
from hermes_core.serving.llm.settings import EngineSettings
from hermes_core.serving.pipelines.nodes import Node


@dataclass(frozen=True, slots=True)
class KvTransferPlan:
    """How a decode pool gets the KV that another pool has computed."""

    bandwidth_bytes_per_s: float = 50e9
    """Of the path between two clients; the default is one 400 Gbit/s adapter."""
    latency_ns: Nanos = 20_000
    layer_wise: bool = False
    """Send each layer as soon as it is computed, so that only what the prefill could not hide is waited for."""
    convert_bytes_per_s: float = 0.0
    """Rate at which KV of another make is brought into one's own layout and type; 0 where nothing is converted."""
    pairing: Literal["global", "local"] = "global"
    """"global": the router picks any client of the pool; "local": prefill client i always feeds decode client i."""


@dataclass(frozen=True, slots=True)
class AutoscalePlan:
    """How many clients of a pool serve, as the load goes; the pool has as many clients as there may be at most."""

    least: int
    most: int
    signal: Literal["queue", "jobs"] = "queue"
    """Load of each client: requests that wait there, or all that it has been sent and not ended."""
    target: float = 4.0
    start_up_ns: Nanos = 90_000_000_000
    """From switching a client on until it serves: a machine, weights, graphs."""
    cool_down_ns: Nanos = 300_000_000_000
    """For so long no more clients may have been wanted before one is switched off."""
    interval_ns: Nanos = 15_000_000_000
    """Between two looks at the load; 15 s as the Kubernetes autoscaler has it."""
    first: int = 1
    """Clients that serve from the start."""


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """Something that goes wrong."""

    at_ns: Nanos
    kind: Literal["kill", "lose_cache", "slow"]
    target: str
    """A client, "pool/index"; for `slow` a link."""
    for_ns: Nanos = 0
    """0 for ever."""
    requests: Literal["retry", "migrate", "fail"] = "retry"
    """What becomes of those that a killed client serves: begin their stage anew elsewhere; go on elsewhere with the
    tokens they have; end."""
    factor: float = 1.0
    """Part of its bandwidth that a slow link has."""


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """LLM engines that can replace one another, and the router that picks one."""

    name: str
    stages: tuple[str, ...]
    """Stage kinds its clients accept."""
    clients: int
    deployment: Deployment
    hardware_model: str
    """Name in the entry-point group hermes.hardware_models."""
    engine: EngineSettings
    router: str = "least_tokens"
    """Name in the entry-point group hermes.routers."""
    router_options: Mapping[str, Any] = field(default_factory=dict)
    autoscale: AutoscalePlan | None = None
    kv_transfer: KvTransferPlan = KvTransferPlan()
    """Only of use to a pool that decodes what another one has prefilled."""


@dataclass(frozen=True, slots=True)
class ServicePoolPlan:
    """Clients for stages that no LLM engine serves, and the router that picks one."""

    name: str
    stages: tuple[str, ...]
    """Stage kinds its clients accept."""
    clients: int
    deployments: Mapping[str, StageDeployment]
    """By stage kind; a kind that is missing takes the times that its jobs draw (`tool`)."""
    client: str = "batching"
    """Name in the entry-point group hermes.service_clients."""
    workers: int = 1
    """Batches that one client serves at once."""
    variation: float = 0.0
    """Coefficient of variation of service times around their price."""
    scatter: bool = False
    """Whether each client has a part of the data, so that every job goes to all of them."""
    autoscale: AutoscalePlan | None = None
    router: str = "least_outstanding"
    """Name in the entry-point group hermes.routers."""
    router_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PlacePlan:
    """Where the clients of a pool are."""

    nodes: tuple[int, ...] = ()
    """Numbers of the nodes that they fill in order; empty for all."""
    host: bool = False
    """Whether they run on the processors of the nodes, and so use the memory of these hosts."""


AnyPoolPlan: TypeAlias = PoolPlan | ServicePoolPlan


@dataclass(frozen=True, slots=True)
class ServiceLevel:
    """Bounds that a request of the class or pipeline `name` ("*" for all) should meet; 0 for no bound."""

    name: str
    ttft_ns: Nanos = 0
    tpot_ns: Nanos = 0
    e2e_ns: Nanos = 0
    attainment: float = 0.99


@dataclass(frozen=True, slots=True)
class CostPlan:
    """What energy costs, in money and carbon."""

    electricity_usd_per_kwh: float = 0.0
    pue: float = 1.0
    carbon_g_per_kwh: float = 0.0


@dataclass(frozen=True, slots=True)
class RecordPlan:
    """What the record keeps."""

    steps: bool = True
    stage_jobs: bool = True
    transfers: bool = True


@dataclass(frozen=True, slots=True)
class SimulationPlan:
    """A scenario, resolved: a run is a function of this."""

    name: str
    seed: int
    pools: tuple[AnyPoolPlan, ...]
    workload: Mapping[str, Any]
    """Canonical workload section: "kind" names the entry of hermes.workload_generators."""
    pipelines: Mapping[str, tuple[Node, ...]] = field(default_factory=lambda: {"default": ("prefill", "decode")})
    """The graph of each pipeline."""
    duration_ns: Nanos | None = None
    """End of the simulation; None runs until every request has ended."""
    warm_up_ns: Nanos = 0
    service_levels: tuple[ServiceLevel, ...] = ()
    cost: CostPlan = CostPlan()
    record: RecordPlan = RecordPlan()
    topology: TopologyPlan | None = None
    """What joins clients; None lets each transfer go at the pace that its pool says, whatever else is under way."""
    kv_store: KvStorePlan | None = None
    """KV memory beyond that of the engines."""
    places: Mapping[str, PlacePlan] = field(default_factory=dict)
    """By pool; pools that are missing fill nodes in order."""
    faults: tuple[FaultPlan, ...] = ()
    exact: bool = False
    """Walk step by step: the slow twin, for tests."""
    canonical_json: str = "{}"
    origins: tuple[tuple[str, str], ...] = ()
    """(JSON pointer, origin) of each value."""
    schema_version: str = "1.0"
