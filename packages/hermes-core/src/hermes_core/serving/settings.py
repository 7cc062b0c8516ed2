"""Settings of an LLM engine: the knobs a serving engineer knows, with the names the engines give them."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class SpeculationSettings:
    """Speculative decoding: `draft_tokens` are proposed each step and verified together."""

    draft_tokens: int
    acceptance: tuple[float, ...]
    """Probability that the draft at position i is accepted, given that all before it were; one for each position."""
    draft_cost_fs: int = 0
    """Time of proposing, each step."""
    draft_cost_per_seq_fs: int = 0


@dataclass(frozen=True, slots=True)
class AdmissionSettings:
    """What the engine's front door does with a request: let it in, or shed it."""

    kind: str = "always"
    """"always", or a name in the entry-point group hermes.admissions: "token_bucket", "queue_cap"."""
    rate_per_s: float = 0.0
    """Token bucket: requests a second, and burst."""
    burst: int = 1
    max_waiting: int = 0
    """Queue cap: requests that may wait; 0 for no cap."""
    shed_classes: tuple[str, ...] = ()
    """Classes that are shed when the bucket is empty or the queue full; empty sheds all alike."""


@dataclass(frozen=True, slots=True)
class FrontEndSettings:
    """Work done outside the engine's steps, in nanoseconds: HTTP, tokenising, streaming."""

    request_ns: int = 0
    """From the arrival of a request to its entry in the engine's queue."""
    per_prompt_token_ns: int = 0
    """On top of `request_ns`, for each prompt token."""
    per_stream_ns: int = 0
    """Delay of every token that leaves, for each sequence that streams at that time."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Everything that decides what an engine does in a step. Prices are the hardware model's."""

    preset: str = "vllm"
    """The preset and version these settings began from, for messages and the record."""
    batching: str = "chunked"
    """Name of a batching policy (entry-point group hermes.batch_policies)."""
    queue: str = "fcfs"
    """Name of a queue order."""
    max_num_seqs: int = 1024
    max_num_batched_tokens: int = 8192
    max_model_len: int | None = None
    """None takes the model's own limit."""
    block_size_tokens: int = 16
    kv_blocks: int | None = None
    """None computes them from memory."""
    gpu_memory_utilization: float = 0.92
    prefix_caching: bool = True
    long_prefill_token_threshold: int = 0
    """A prompt longer than this is cut into chunks of at most this; 0 for no limit."""
    reserve_full_prompt: bool = True
    """A request enters only when its whole prompt fits the free blocks (vLLM 0.33: scheduler_reserve_full_isl)."""
    watermark: float = 0.0
    """Share of blocks that admission leaves free."""
    reservation: Literal["on_demand", "full_output", "new_token_ratio"] = "on_demand"
    """How much memory a request must find at admission: its prompt; its whole output too (TensorRT-LLM's
    guaranteed-no-evict); its output times a ratio that decays (SGLang)."""
    preempt: Literal["auto", "last_admitted", "worst_priority", "fewest_output"] = "auto"
    """Whom to preempt when memory runs out; auto does as vLLM: the worst priority where the queue goes by priority,
    else who was admitted last."""
    asynchronous_scheduling: bool = True
    """Plan step k+2 while step k+1 runs: what arrives, or is freed, during step k serves k+2 (else k+1)."""
    graph_sizes: tuple[int, ...] = ()
    host_base_ns: int = 0
    host_per_seq_ns: int = 0
    first_use_ns: int = 0
    """Once, how much longer a step lasts that is the first of its size: kernels are compiled then. 0 for none."""
    first_use_at_tokens: int = 0
    """The size: prompt tokens and decoding sequences in a step with prompts."""
    front_end: FrontEndSettings = FrontEndSettings()
    speculation: SpeculationSettings | None = None
    admission: AdmissionSettings = AdmissionSettings()
    aging_ns: int = 0
    """Waiting this long is worth one level of priority (order by priority) or one prompt token (shortest prompt); 0 for
    no aging."""
    client_timeout_ns: int = 0
    """A client gives up this long after it has sent a request; 0 for never."""
    client_retries: int = 0
    """How often a client sends a request again that was shed or has timed out."""
    client_backoff_ns: int = 1_000_000_000
    """Time between giving up and trying again."""
    options: dict[str, object] = field(default_factory=dict)
    """Settings of plug-in policies."""
