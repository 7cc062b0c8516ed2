"""The port to what serves every stage but prefill and decode: what a batch of stage jobs costs.

An encoder that embeds or reranks, a vector index that is searched, a CPU that tokenises: each is compiled before the
run into a `StageModel`, which the engine asks in integers only, and never through a socket.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from hermes_core.api.time import Femtos

STAGE_MODELS = "hermes.stage_models"
"""Entry-point group. Each entry has the name of a stage kind (`embed`, `rerank`, `encode`, `retrieve`, `guard`,
`route`, `preprocess`, `postprocess`) and is a `StageCompiler`."""


@dataclass(frozen=True, slots=True)
class StageDeployment:
    """One kind of stage on one client: everything that decides the price of a batch of its jobs."""

    stage: str
    """The stage kind."""
    device: str
    """Name in the device catalogue, or a name for `device_spec`."""
    device_spec: Mapping[str, Any] | None = None
    """Overrides of the catalogue entry, or a whole new device (canonical units, as in `Deployment`)."""
    devices: int = 1
    """Devices of one client, over which a model is spread."""
    model: str | None = None
    """For stages that run a model; None where the stage needs none."""
    model_config: Mapping[str, Any] | None = None
    weight_dtype: str | None = None
    max_batch: int = 32
    """Most jobs of one batch."""
    workers: int = 1
    """Batches that one client serves at once; they share its compute and memory bandwidth."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the stage itself: of the index for `retrieve`, nanoseconds a token for `preprocess`."""


@runtime_checkable
class StageModel(Protocol):
    """Prices batches of one kind of stage. Pure: equal questions get equal answers.

    What is counted, summed over the jobs of a batch:

    ======================== ============================ ============================== =========================
    stage                    items                        tokens                         pairs
    ======================== ============================ ============================== =========================
    embed, guard, route      texts                        their tokens                   sum of tokens squared
    rerank                   documents                    query and document tokens      sum of the same squared
    encode                   images or audio clips        their tokens                   sum of tokens squared
    retrieve                 queries                      results asked for              0
    preprocess, postprocess  requests                     their tokens                   0
    ======================== ============================ ============================== =========================
    """

    def price(self, jobs: int, items: int, tokens: int, pairs: int) -> tuple[Femtos, int, int]:
        """Price one batch: `(compute_fs, memory_bytes, energy_nj)`.

        `compute_fs`, at least 1,000,000, is how long it takes one worker of the client when memory is not shared with
        anyone; `memory_bytes` is what it moves through the client's memory in that time, so that others who use the
        same memory can slow it down; `energy_nj` is its dynamic energy.
        """
        ...


@dataclass(frozen=True, slots=True)
class CompiledStage:
    """A stage deployment ready to be simulated."""

    deployment: StageDeployment
    model: StageModel
    memory_bandwidth_bytes_per_s: float
    """Of the client, shared by its workers; 0 where `memory_bytes` means nothing."""
    idle_power_w: float
    """Of all devices of the client."""
    price_usd_per_h: float
    """Of all devices of the client."""
    fingerprint: str
    """Changes whenever a price could change."""
    memory_bytes: int = 0
    """What it keeps in the memory of each device: weights, an index."""
    source_share: Mapping[str, float] = field(default_factory=dict)
    """Share of each price source in a representative batch; sums to 1."""
    notes: Sequence[str] = ()
    """Assumptions a user should know of, one sentence each."""


class StageCompiler(Protocol):
    """Compiles stage deployments."""

    def __call__(self, deployment: StageDeployment) -> CompiledStage:
        """Price `deployment` over all batches it can meet.

        Raises `InputError` when it cannot, `DoesNotFitError` when the weights or the index do not fit the memory.
        """
        ...
