"""The sections of a scenario beside its workload, and the scenario itself."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from hermes_core.api.time import NS_PER_S
from hermes_core.config import foreign
from hermes_core.config.document import suggest
from hermes_core.config.engine_section import Engine
from hermes_core.config.fields import (
    UNSUPPORTED,
    BytesPerS,
    Count,
    DurationNs,
    Flag,
    FlopPerS,
    GramsPerKwh,
    Name,
    NonNegative,
    Number,
    Section,
    Seed,
    Share,
    SizeBytes,
    SpanNs,
    UsdPerH,
    UsdPerKwh,
    Watts,
    mistake,
    shown,
    single_entry,
)
from hermes_core.config.fleet_section import AutoscaleSection, Faults
from hermes_core.config.network_section import KvStoreSection, Place, Topology
from hermes_core.config.pipelines import Entries, stage_kinds
from hermes_core.config.traffic import Workload

STAGES: Final = ("prefill", "decode")
"""Stage kinds of a pool, and of a pipeline, that says nothing about them."""


class ModelSection(Section):
    """A model by its name in the catalogue, or with its own `config.json`."""

    ref: Name
    config: Name | None = None
    quantization: Name | None = None
    kv_dtype: Name | None = None


class HardwareSection(Section):
    """The devices of one client, and how the model is spread over them."""

    foreign_keys = foreign.HARDWARE

    device: Name
    tensor_parallel: Count = Field(1, alias="tp")
    pipeline_parallel: Count = Field(1, alias="pp")
    data_parallel: Count = Field(1, alias="dp")
    expert_parallel: Count = Field(1, alias="ep")
    kind: Name = "auto"
    """Name of the hardware model that prices it; `auto` takes the best that covers it."""
    share: Annotated[float, Number(0.0, 1.0, open_low=True, what="share")] = 1.0
    """A static part of each device, as MPS or MIG give; scales compute, memory, bandwidth, power and price."""
    options: dict[str, Any] = Field(default_factory=dict)


def _one_rate(value: Any) -> Any:
    return value if isinstance(value, dict) else {"bf16": value}


class InterconnectSection(Section):
    """What joins the devices of one tensor-parallel group."""

    kind: Name | None = None
    bandwidth_bytes_per_s: BytesPerS | None = Field(None, alias="bandwidth")
    latency_ns: SpanNs | None = Field(None, alias="latency")
    domain_devices: Count | None = None


class TlsSection(Section):
    """PEM files of the client's side; `server_name` is the name in the service's certificate."""

    ca: Name | None = None
    certificate: Name | None = None
    key: Name | None = None
    server_name: Name | None = None


class RemoteSection(Section):
    """A hardware service that prices a device: launched by `command`, reached at `address`, or a class `python`."""

    command: Annotated[list[Name], Field(min_length=1)] | None = None
    address: Name | None = None
    python: Name | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    seed: Seed = 0
    ask: Literal["auto", "operators", "steps"] = "auto"
    outside: Literal["label", "refuse"] = "label"
    fallback: Literal["refuse", "roofline"] = "refuse"
    cache: Name | None = None
    timeout_ns: DurationNs | None = Field(None, alias="timeout")
    tls: TlsSection | None = None
    token_file: Name | None = None
    token_env: Name | None = None
    insecure: Flag = False


class DeviceSection(Section):
    """A device beside the catalogue, or figures that replace those of the catalogue's device of that name."""

    remote: RemoteSection | None = None
    """Who prices it, as a process of its own; hardware of this device then has `kind: remote`."""
    memory_bytes: SizeBytes | None = Field(None, alias="memory")
    memory_bandwidth_bytes_per_s: BytesPerS | None = Field(None, alias="bandwidth")
    flops: (
        Annotated[
            dict[str, FlopPerS], BeforeValidator(_one_rate, json_schema_input_type=FlopPerS | dict[str, FlopPerS])
        ]
        | None
    ) = None
    compute_units: Count | None = None
    interconnect: InterconnectSection | None = None
    tdp_w: Watts | None = Field(None, alias="tdp")
    idle_w: Watts | None = Field(None, alias="idle_power")
    price_usd_per_h: UsdPerH | None = Field(None, alias="price")
    vendor: Name | None = None
    family: Name | None = None

    def spec(self) -> dict[str, Any]:
        """Return what was given, as hardware models take it (`Deployment.device_spec`)."""
        given = self.model_dump(exclude_none=True)
        link = given.get("interconnect", {})
        if "latency_ns" in link:
            link["latency_s"] = link.pop("latency_ns") / NS_PER_S
        return given


def _named(key: str, what: str) -> Any:
    def rewrite(value: Any) -> Any:
        if isinstance(value, str):
            return {key: value}
        if isinstance(value, dict | Section):
            return value
        raise mistake(f"{shown(value)} is not a {what}", f"write its name, or {{{key}: name, ...}}")

    return rewrite


Model: TypeAlias = Annotated[
    ModelSection, BeforeValidator(_named("ref", "model"), json_schema_input_type=ModelSection | str)
]
Hardware: TypeAlias = Annotated[
    HardwareSection, BeforeValidator(_named("device", "device"), json_schema_input_type=HardwareSection | str)
]


def _stage(value: Any) -> str:
    if isinstance(value, str) and value in stage_kinds():
        return value
    raise mistake(f"{shown(value)} is not a stage", suggest(value, stage_kinds(), what="stages"))


Stage: TypeAlias = Annotated[str, BeforeValidator(_stage, json_schema_input_type=Any)]


class KvTransferSection(Section):
    """How a decode pool gets the KV that another pool has computed."""

    bandwidth_bytes_per_s: BytesPerS | None = Field(None, alias="bandwidth")
    latency_ns: SpanNs | None = Field(None, alias="latency")
    layer_wise: Flag | None = None
    convert_bytes_per_s: BytesPerS | None = Field(None, alias="convert")
    pairing: Literal["global", "local"] | None = None


class PoolSection(Section):
    """Clients that can replace one another. What it leaves out is taken from the top of the scenario."""

    stages: Annotated[list[Stage], Field(min_length=1)] | None = None
    model: Model | None = None
    hardware: Hardware | None = None
    clients: Count = 1
    engine: Engine | None = None
    kv_transfer: KvTransferSection | None = None
    place: Place | None = None
    autoscale: AutoscaleSection | None = None
    models: dict[str, Model] = Field(default_factory=dict)
    """Models of single stages, where a client of several stages runs several."""
    client: Name | None = None
    """Of a pool for service stages: the kind of client (`batching`), a plug-in's perhaps."""
    workers: Count | None = None
    """Of a pool for service stages: batches that one client serves at once."""
    max_batch: Count | None = None
    """Of the same: most jobs of a batch."""
    variation: NonNegative | None = None
    """Of the same: coefficient of variation of service times."""
    scatter: Flag | None = None
    """Of the same: each client has a part of the data, and every job goes to all of them."""
    index: dict[str, Any] | None = None
    """What `retrieve` searches: {kind: ivf_pq, vectors: 100M, dim: 768, ...}."""
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Settings of how stages are priced, by stage."""


class RouterSection(Section):
    """How a pool picks a client: a router's name and its options."""

    kind: Name
    options: dict[str, Any] = Field(default_factory=dict)


def _router(value: Any) -> Any:
    if isinstance(value, str):
        return {"kind": value}
    if isinstance(value, dict):
        if "kind" not in value and (entry := single_entry(value)) is not None:
            name, options = entry
            value = {"kind": name, **(options if isinstance(options, dict) else {})}
        return {"kind": value.get("kind"), "options": {key: item for key, item in value.items() if key != "kind"}}
    raise mistake(f"{shown(value)} is not a router", "write its name, or {kind: name, ...}")


Router: TypeAlias = Annotated[RouterSection, BeforeValidator(_router, json_schema_input_type=str | dict[str, Any])]


def _routing(value: Any) -> Any:
    # One router for every pool, or one by the name of each pool.
    if isinstance(value, dict) and "kind" not in value:
        return value
    return {"*": value}


class LevelSection(Section):
    """Bounds that requests should meet."""

    ttft_ns: DurationNs | None = Field(None, alias="ttft")
    tpot_ns: DurationNs | None = Field(None, alias="tpot")
    e2e_ns: DurationNs | None = Field(None, alias="e2e")
    attainment: Share = 0.99


def _levels(value: Any) -> Any:
    if not isinstance(value, dict):
        raise mistake(f"{shown(value)} is not a service level", "write it like {ttft: 500 ms, tpot: 50 ms}")
    if any(not isinstance(item, dict) for item in value.values()) or not value:
        return {"*": value}
    return value


def _currency(value: Any) -> str:
    if value != "USD":
        raise mistake(f"the currency {shown(value)} is not supported yet", "write USD", kind=UNSUPPORTED)
    return "USD"


class CostSection(Section):
    """What energy costs."""

    currency: Annotated[str, BeforeValidator(_currency)] = "USD"
    electricity_usd_per_kwh: UsdPerKwh = Field(0.0, alias="electricity")
    pue: Annotated[float, Number(1.0, what="PUE")] = 1.0
    carbon_g_per_kwh: GramsPerKwh = Field(0.0, alias="carbon")


def _steps(value: Any) -> bool:
    if value == "summary" or value is True:
        return True
    if value == "none" or value is False:
        return False
    raise mistake(
        f"{shown(value)} is not a way to record steps", "write summary (a row per stretch of like steps) or none"
    )


class RecordSection(Section):
    """What the record keeps."""

    steps: Annotated[bool, BeforeValidator(_steps, json_schema_input_type=bool | str)] = True
    stage_jobs: Flag = True
    transfers: Flag = True


def _warm_up(value: Any) -> Any:
    if value == "auto":
        raise mistake("warm_up: auto is not supported yet", "write a duration, as in `warm_up: 30 s`", kind=UNSUPPORTED)
    return value


class Scenario(Section):
    """A simulation of LLM serving: what is asked, of what, on what."""

    unsupported_keys: ClassVar[Mapping[str, str]] = {
        "search": "search",
        "autoscale": "autoscaling",
    }

    name: Name = "scenario"
    seed: Seed = 0
    duration_ns: DurationNs | None = Field(None, alias="duration")
    warm_up_ns: Annotated[SpanNs, BeforeValidator(_warm_up)] = Field(0, alias="warm_up")
    model: Model | None = None
    models: dict[str, Model] = Field(default_factory=dict)
    hardware: Hardware | None = None
    devices: dict[str, DeviceSection] = Field(default_factory=dict)
    replicas: Count | None = None
    pools: dict[str, PoolSection] = Field(default_factory=dict)
    engine: Engine | None = None
    topology: Topology | None = None
    kv_store: KvStoreSection | None = None
    routing: Annotated[dict[str, Router], BeforeValidator(_routing, json_schema_input_type=str | dict[str, Any])] = (
        Field(default_factory=dict)
    )
    pipelines: dict[str, Entries] = Field(default_factory=dict)
    workload: Workload
    slo: Annotated[
        dict[str, LevelSection],
        BeforeValidator(_levels, json_schema_input_type=LevelSection | dict[str, LevelSection]),
    ] = Field(default_factory=dict)
    faults: Faults = Field(default_factory=list)
    cost: CostSection = Field(default_factory=lambda: CostSection.model_validate({}))
    record: RecordSection = Field(default_factory=lambda: RecordSection.model_validate({}))
