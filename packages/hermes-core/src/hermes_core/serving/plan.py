"""What a simulation is made from: the scenario with everything resolved, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hermes_core.api.hardware import Deployment
from hermes_core.api.time import Nanos
from hermes_core.serving.settings import EngineSettings


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """Clients that can replace one another, and the router that picks one."""

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
    pools: tuple[PoolPlan, ...]
    workload: Mapping[str, Any]
    """Canonical workload section: "kind" names the entry of hermes.workload_generators."""
    pipelines: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"default": ("prefill", "decode")})
    """Stage kinds of each pipeline, in order."""
    duration_ns: Nanos | None = None
    """End of the simulation; None runs until every request has ended."""
    warm_up_ns: Nanos = 0
    service_levels: tuple[ServiceLevel, ...] = ()
    cost: CostPlan = CostPlan()
    record: RecordPlan = RecordPlan()
    exact: bool = False
    """Walk step by step: the slow twin, for tests."""
    canonical_json: str = "{}"
    origins: tuple[tuple[str, str], ...] = ()
    """(JSON pointer, origin) of each value."""
    schema_version: str = "1.0"
