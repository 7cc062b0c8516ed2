"""The sections `topology`, `kv_store` and `place`: what joins clients, and what remembers for them."""

from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from hermes_core.api import units
from hermes_core.config.fields import (
    BytesPerS,
    Count,
    CountOrZero,
    DurationNs,
    Flag,
    Name,
    Number,
    Section,
    Share,
    SizeBytes,
    SpanNs,
    Tokens,
    Unit,
    mistake,
    shown,
)


class LinkSection(Section):
    """A link, or what is different about a class of links."""

    bandwidth_bytes_per_s: BytesPerS | None = Field(None, alias="bandwidth")
    """In each direction."""
    latency_ns: SpanNs | None = Field(None, alias="latency")
    duplex: Literal["full", "half"] | None = None
    """`half` lets both directions share the bandwidth."""


class GraphLinkSection(Section):
    """A link between two places."""

    between: Annotated[list[Name], Field(min_length=2, max_length=2)]
    bandwidth_bytes_per_s: BytesPerS = Field(alias="bandwidth")
    latency_ns: SpanNs = Field(0, alias="latency")
    duplex: Literal["full", "half"] = "full"


_COUNT: Final = Unit(units.COUNT)


def _nodes(value: Any) -> Any:
    if isinstance(value, list) or value is None:
        return value
    return _COUNT.check(value)


class TopologySection(Section):
    """Machines and how they are joined."""

    preset: Name = "plain"
    nodes: Annotated[int | list[Name], BeforeValidator(_nodes, json_schema_input_type=int | str | list[str])] | None = (
        None
    )
    """How many, or the names of those in `graph`; as many as the clients need if left out."""
    devices_per_node: Count | None = None
    nodes_per_rack: Count | None = None
    racks_per_cluster: Count | None = None
    fabric: Name | None = None
    oversubscription: Annotated[float, Number(0.0, open_low=True, what="oversubscription")] = 1.0
    """Bandwidth of the adapters of a rack over that of its uplink."""
    links: dict[str, LinkSection] = Field(default_factory=dict)
    """Changes to classes of links: fabric, pcie, nic, dram, rack, wan."""
    graph: list[GraphLinkSection] = Field(default_factory=list)
    """Links between places of your own, instead of racks and clusters."""
    contention: Flag = True
    """Off lets each transfer go as if it were alone."""


def _topology(value: Any) -> Any:
    return {"preset": value} if isinstance(value, str) else value


Topology: TypeAlias = Annotated[
    TopologySection, BeforeValidator(_topology, json_schema_input_type=TopologySection | str)
]


class TierSection(Section):
    """One level of memory for KV."""

    name: Name
    per: Literal["client", "node", "rack", "cluster", "all"] | None = None
    """What there is one of it for."""
    clients: Count | None = None
    """Instead of `per`: how many clients in a row share one."""
    capacity_bytes: SizeBytes = Field(alias="capacity")
    bandwidth_bytes_per_s: BytesPerS = Field(alias="bandwidth")
    latency_ns: SpanNs = Field(0, alias="latency")
    link: LinkSection | Name | None = None
    """A link of its own: {bandwidth, latency, duplex}, or like those of a class of the topology."""
    at: Name | None = None
    """Place in the topology where it is."""
    eviction: Name | None = None
    ttl_ns: DurationNs | None = Field(None, alias="ttl")
    hit_rate: Share | None = None


class KvStoreSection(Section):
    """Memory for KV beyond that of the engines."""

    tiers: Annotated[list[TierSection], Field(min_length=1)]
    hits: Literal["tracked", "drawn", "expected"] | None = None
    """`tracked` contents, or given hit rates: each request draws its level, or takes its expected part of each."""
    eviction: Name = "lru"
    write: Literal["through", "back", "on_eviction"] = "through"
    promote: Flag = True
    on_miss: Literal["recompute"] = "recompute"
    load_or_recompute: Literal["load", "recompute", "cheaper"] = "load"
    layer_wise: Flag = False
    prefetch: Flag = False
    context_tokens: Tokens | None = Field(None, alias="context")
    """With given hit rates: first tokens of each prompt that may be stored."""
    contention: Flag = True
    """Off lets each load and write go as if it were alone."""
    hot_spots: CountOrZero = 0
    """With given hit rates: how many memories of a tier have all contexts; 0 for all of them."""
    chunk_tokens: Tokens = Field(256, alias="chunk")


class PlaceSection(Section):
    """Where the clients of a pool are."""

    nodes: list[int | str] = Field(default_factory=list)
    host: Flag | None = None
    """Whether they run on the processors of the nodes; by default where the device is a `cpu-...`."""


def _place(value: Any) -> Any:
    if isinstance(value, list):
        return {"nodes": value}
    if isinstance(value, dict | Section):
        return value
    raise mistake(f"{shown(value)} is not a place", "write it like {nodes: [0, 1]}")


Place: TypeAlias = Annotated[
    PlaceSection, BeforeValidator(_place, json_schema_input_type=PlaceSection | list[int | str])
]
