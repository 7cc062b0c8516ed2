"""The port to hardware models: what the engine asks about the price of a step.

A hardware model turns a `Deployment` into a `CompiledDeployment` before the run. From then on the engine
asks its `StepModel`, in integers only, and never through a socket.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from hermes_core.api.time import Femtos

HARDWARE_MODELS = "hermes.hardware_models"
"""Entry-point group. Each entry is a callable without arguments that returns a `HardwareModel`."""


@dataclass(frozen=True, slots=True)
class HostOverhead:
    """Time the host spends on a step: `base_fs + per_seq_fs * sequences`.

    When `asynchronous`, host and device overlap and a step lasts as long as the longer of the two; else they add up.
    """

    base_fs: Femtos = 0
    per_seq_fs: Femtos = 0
    asynchronous: bool = True


@dataclass(frozen=True, slots=True)
class Deployment:
    """One model on one group of devices under one engine: everything that decides the price of a step."""

    model: str
    """Name in the model catalogue, or a name for `model_config`."""
    device: str
    """Name in the device catalogue, or a name for `device_spec`."""
    model_config: Mapping[str, Any] | None = None
    """The content of a Hugging Face `config.json`; None takes the catalogue's."""
    device_spec: Mapping[str, Any] | None = None
    """Overrides of the catalogue entry, or a whole new device (canonical units: bytes, bytes/s, FLOP/s, W, USD/h)."""
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    data_parallel: int = 1
    expert_parallel: int = 1
    weight_dtype: str | None = None
    """None takes what the model's configuration says."""
    kv_dtype: str | None = None
    """None takes the activation type."""
    max_batched_tokens: int = 8192
    max_seqs: int = 1024
    block_size_tokens: int = 16
    memory_utilization: float = 0.92
    graph_sizes: tuple[int, ...] | None = None
    """Batch sizes with a captured graph, ascending; a decode batch pays for the next one up. Empty: none is captured,
    and every step waits for the launches of its kernels. None: nobody said; no padding, and no waiting for launches."""
    host: HostOverhead = HostOverhead()
    options: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the hardware model itself (efficiencies, a calibration file, a table folder). The simulator asks for
    a head that drafts by `part`: "mtp", "eagle" or "eagle3"; what is compiled then has one layer."""
    engine: str = ""
    """Preset of the engine, for hardware models that tell engines apart; empty where nobody said."""
    within_step: bool = False
    """Whether its steps are passes within the steps of another model, as those of a draft model are: what an engine
    does around a step is done once for all of them."""

    @property
    def devices(self) -> int:
        """Devices that one client of this deployment occupies."""
        return self.tensor_parallel * self.pipeline_parallel * self.data_parallel


@dataclass(slots=True)
class StepShape:
    """What one engine step with prompts in it works on, as sums over its sequences.

    Pairs are counted twice over to stay whole: a prompt chunk of `x` new tokens after `c` computed ones attends to
    `x * c + x * (x + 1) / 2` pairs of query and key, so it adds `x * (2 * c + x + 1)` to `prefill_pairs2`.
    """

    decode_seqs: int = 0
    """Sequences that generate one token each."""
    decode_context: int = 0
    """Sum of their contexts before the step, in tokens."""
    decode_windowed: int = 0
    """Sum of min(context, window) over them; equal to `decode_context` for a model without a window."""
    prefill_seqs: int = 0
    prefill_tokens: int = 0
    """New prompt tokens of all chunks."""
    prefill_pairs2: int = 0
    prefill_windowed_pairs2: int = 0
    """The same with each query seeing at most the last `window` keys."""
    prefill_context: int = 0
    """Sum over chunks of computed plus new tokens: the keys that are read."""
    sampled_seqs: int = 0
    """Sequences whose logits are computed: all that decode, and the prompts that end in this step."""
    group_tokens: int = 0
    """Tokens of all data-parallel ranks of a mixture of experts in this step, which is its slowest rank's; 0: every
    rank has as many as this one, as when engines pad them alike."""


@runtime_checkable
class StepModel(Protocol):
    """Prices steps of one compiled deployment. Pure: equal questions get equal answers.

    Cost: a call is on the hot path of the simulator and should take about a microsecond.
    """

    window: int
    """Sliding window in tokens of the layers that have one; 0 for none."""

    def decode_run(self, seqs: int, context: int, windowed: int, growing: int) -> tuple[int, int, int, int, int]:
        """Price the steps of a decoding batch whose membership does not change.

        `seqs` >= 1 sequences have contexts that sum to `context` before the first step; of these `growing` are below
        the window, and `windowed` is the sum of min(context, window) (with no window: `growing == seqs`,
        `windowed == context`).

        Returns `(t0_fs, slope_fs, valid_steps, e0_nj, e_slope_nj)`: step k from 0 lasts `t0_fs + k * slope_fs` and
        takes `e0_nj + k * e_slope_nj` of dynamic energy, for k < `valid_steps` (>= 1). Asking again at step k, with
        `context + k * seqs` and `windowed + k * growing`, gives `t0_fs + k * slope_fs` as its t0, exactly.
        """
        ...

    def step(self, shape: StepShape) -> tuple[int, int]:
        """Price one step of any shape: `(duration_fs, dynamic_energy_nj)`, the duration at least 1,000,000 fs."""
        ...


@dataclass(frozen=True, slots=True)
class KvGroup:
    """Layers whose KV cache keeps the same tokens of a sequence."""

    bytes_per_token: float
    """On one device, over the layers of the group."""
    window: int
    """Newest tokens that are kept; 0 for all."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Where the memory of one device goes, in bytes."""

    device_bytes: int
    weights_bytes: int
    activation_bytes: int
    """Peak working memory of a step, graphs included."""
    kv_bytes_per_token: float
    """KV cache of one token on one device (its share of heads and layers)."""
    state_bytes_per_seq: int = 0
    """Constant state of a sequence (linear attention, state-space layers) on one device."""
    kv_groups: tuple[KvGroup, ...] = ()
    """The parts of `kv_bytes_per_token` by what they keep; empty when all layers keep all tokens."""


@dataclass(frozen=True, slots=True)
class AdapterPrices:
    """What a LoRA adapter of rank 1 over all adapted matrices costs; one of rank r has r times its size and work."""

    size_bytes: int
    """On one device."""
    read_fs: Femtos
    """Of reading its weights once."""
    token_fs: Femtos
    """Of its products for one token."""
    step_fs: Femtos
    """Of launching the kernels in a step that has any adapter, whatever its rank."""


@dataclass(frozen=True, slots=True)
class OperatorPrice:
    """One line of a step's breakdown."""

    operator: str
    kind: str
    duration_s: float
    flop: float
    bytes: float
    bound: str
    """"compute", "memory", "latency" or "network"."""
    source: str
    """"measured", "interpolated", "extrapolated" or "analytical"."""
    count: int = 1
    """How many times it runs in the step; `duration_s` is the total."""


@dataclass(frozen=True, slots=True)
class CompiledDeployment:
    """A deployment ready to be simulated."""

    deployment: Deployment
    steps: StepModel
    memory: MemoryPlan
    kv_transfer_bytes_per_token: int
    """KV of one token over all devices: what moves when a request changes its client."""
    max_model_len: int
    """Longest context in tokens that the model was made for."""
    idle_power_w: float
    """Of all devices of the client."""
    price_usd_per_h: float
    """Of all devices of the client."""
    fingerprint: str
    """Changes whenever a price could change."""
    waiting_power_w: float = 0.0
    """What the devices of one data-parallel rank draw above idle while they wait for others within a step."""
    layers: int = 1
    """Layers of the model, each of which has its own KV."""
    adapter: AdapterPrices | None = None
    """None where the hardware model prices no adapters."""
    draft: StepModel | None = None
    """Steps of what drafts tokens for this model on the same devices: a small model, or a head of its own; the
    simulator fills it in."""
    compile_error: float = 0.0
    """Worst relative error of the compiled prices against direct pricing at random points."""
    source_share: Mapping[str, float] = field(default_factory=dict)
    """Share of each source in the price of a representative step; sums to 1."""
    notes: Sequence[str] = ()
    """Assumptions a user should know of, one sentence each."""
    wall_s: Mapping[str, float] = field(default_factory=dict)
    """Wall-clock seconds that parts of compiling took, such as launching a service. Shown, never recorded."""


class HardwareModel(Protocol):
    """Compiles deployments: a roofline, a table of measurements, a fit, a vendor's service."""

    def compile(self, deployment: Deployment) -> CompiledDeployment:
        """Price `deployment` over all shapes it can meet.

        Raises `InputError` when it cannot, `DoesNotFitError` when the weights leave no room for the KV of one block
        (saying by how much, and which tensor parallel degree fits).
        """
        ...

    def breakdown(self, deployment: Deployment, shape: StepShape) -> Sequence[OperatorPrice]:
        """Price one step operator by operator, directly (not from the compiled form)."""
        ...
