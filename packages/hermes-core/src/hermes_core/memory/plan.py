"""A KV store with everything resolved."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from hermes_core.api.time import Nanos
from hermes_core.network.presets import LinkPlan

Scope: TypeAlias = Literal["client", "node", "rack", "cluster", "all"]


@dataclass(frozen=True, slots=True)
class TierPlan:
    """One level of the hierarchy: a memory, or one for each client, node, rack or cluster."""

    name: str
    per: Scope
    """What there is one of it for."""
    capacity_bytes: int
    bandwidth_bytes_per_s: int
    latency_ns: Nanos = 0
    per_clients: int = 0
    """With more than 0: one for so many clients in a row, wherever they are, instead of `per`."""
    link: LinkPlan | None = None
    """A link of its own between the memory and everyone else, which its readers and writers share."""
    at: str | None = None
    """Place in the topology; None takes that of the scope."""
    eviction: str = "lru"
    """Name in the entry-point group hermes.kv_evictions."""
    ttl_ns: Nanos = 0
    """Span after its last use at which an entry is forgotten; 0 for never."""
    hit_rate: float | None = None
    """Probability that it has what the levels above have not; None where contents are tracked."""


@dataclass(frozen=True, slots=True)
class KvStorePlan:
    """The levels below the HBM of the engines, and what is done with them."""

    tiers: tuple[TierPlan, ...]
    """From the nearest to the furthest."""
    hits: Literal["tracked", "drawn", "expected"] = "tracked"
    """"tracked": a level has what was written to it and not evicted since. "drawn": each request draws the level that
    has its context from the given hit rates. "expected": each request takes from each level its expected part, as the
    published formula has it."""
    write: Literal["through", "back", "on_eviction"] = "through"
    """"through": what was computed goes to all levels; "back": to the first, and further down when it is evicted;
    "on_eviction": to the first level when an engine evicts it, and further down when that does."""
    promote: bool = True
    """Whether what was found further down is written to the first level too."""
    on_hit: Literal["load", "recompute", "cheaper"] = "load"
    """What is done with a hit: "cheaper" takes what is sooner done under the present load."""
    layer_wise: bool = False
    """Whether an engine begins to compute when the first layer has come, and waits only for what that cannot hide."""
    prefetch: bool = False
    """Whether a request that enters a queue lets its prefix come to the first level already."""
    context_tokens: int = 0
    """With given hit rates: first tokens of each prompt that the store may have."""
    hot_spots: int = 0
    """With given hit rates: how many of the instances of a level hold all contexts; 0 for all of them."""
    contention: bool = True
    """Off lets each load and write go as if it were alone."""
    chunk_tokens: int = 256
    """Text is written and evicted in whole chunks of so many tokens within a segment (LMCache's default chunk)."""
