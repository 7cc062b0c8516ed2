"""Settings of an LLM engine: the knobs a serving engineer knows, with the names the engines give them."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class SpeculationSettings:
    """Speculative decoding: `draft_tokens` are proposed each step and verified together."""

    draft_tokens: int
    acceptance: tuple[float, ...]
    """Probability that the draft at position i is accepted, given that all before it were; the last one holds for all
    positions that follow."""
    method: Literal["draft_model", "eagle", "eagle3", "mtp", "ngram"] = "draft_model"
    """What proposes: a small model, a head over the model's last layer (EAGLE, EAGLE-3), a layer for multi-token
    prediction, or a look-up of what followed the same words before. All but the last take a pass for each draft."""
    draft_cost_fs: int | None = None
    """Time of one pass of what proposes. None: priced as what a head or a draft model is; else nothing."""
    draft_cost_per_seq_fs: int = 0
    """On top, for each sequence."""
    draft_model: str | None = None
    """A model that drafts on the same devices: its passes, weights and KV are priced as any other's, instead of the two
    costs above."""

    @property
    def costs_given(self) -> bool:
        """Whether the time of what proposes is given."""
        return self.draft_cost_fs is not None or self.draft_cost_per_seq_fs > 0


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """LoRA adapters, of one rank."""

    max_loras: int = 1
    """Adapters that can be in one step, which is how many slots the device has."""
    max_cpu_loras: int = 0
    """Adapters kept in host memory; 0 for as many as slots."""
    rank: int = 16
    size_bytes: int | None = None
    """Of one adapter on one device. For this and the times below: None takes what the hardware model says."""
    load_bandwidth_bytes_per_s: float = 25e9
    """From host memory to a slot; the default is what PCIe 4.0 x16 gives."""
    storage_bandwidth_bytes_per_s: float = 2e9
    """From storage to host memory."""
    per_step_ns: int | None = None
    """How much longer a step lasts that has any adapter in it: launches of the kernels."""
    per_adapter_ns: int | None = None
    """On top, for each adapter in it: reading its weights."""
    per_token_and_rank_fs: int | None = None
    """On top, for each token with an adapter and each unit of the rank: the two thin products."""
    on_demand: bool = True
    """Load adapters when requests ask for them; else all of the workload's must have a slot."""


@dataclass(frozen=True, slots=True)
class StructuredOutputSettings:
    """Answers that must follow a grammar, such as a JSON schema."""

    share: float
    """Of the requests that do."""
    grammars: int = 1
    """Different grammars among them, equally frequent."""
    compile_ns: int = 0
    """Of a grammar, when a client is first asked for it; requests with it wait."""
    per_step_ns: int = 0
    """How much longer a step lasts in which such a sequence is given a token."""
    per_seq_ns: int = 0
    """On top, for each of them: filling its mask."""


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
    workers: int = 0
    """Requests that are taken in at a time, first come first served: `request` and `per_prompt_token` are the work of a
    worker then, and requests queue for one; 0 lets any number pass side by side."""


@dataclass(frozen=True, slots=True)
class PromptBalanceSettings:
    """Data-parallel ranks that step together wait for one another's prompts (TensorRT-LLM: attention_dp_config)."""

    timeout_steps: int = 50
    """Prompts that wait while other ranks have none are worked on after so many steps (`timeout_iters`)."""
    batching_wait_steps: int = 10
    """Once all ranks have prompts, they wait so many steps more (`batching_wait_iters`)."""


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
    prompt_balance: PromptBalanceSettings | None = None
    """None lets each rank work on its prompts when it likes. No matter where there is one rank."""
    asynchronous_scheduling: bool = True
    """Plan step k+2 while step k+1 runs: what arrives, or is freed, during step k serves k+2 (else k+1)."""
    graph_sizes: tuple[int, ...] = ()
    host_base_ns: int = 0
    host_per_seq_ns: int = 0
    first_use_ns: int = 0
    """How much longer a step lasts that is the first of its kind: kernels are compiled then. 0 for none."""
    first_use_at_tokens: tuple[int, ...] = ()
    """Where each size begins: prompt tokens and decoding sequences in a step with prompts. Where there are several, the
    kind of a step of the whole budget was tried at start-up. Nothing for one size from 0."""
    first_use_multiples: tuple[int, ...] = ()
    """Steps of one size whose tokens these divide, the first that does, are kinds of their own."""
    front_end: FrontEndSettings = FrontEndSettings()
    speculation: SpeculationSettings | None = None
    lora: LoraSettings | None = None
    structured_output: StructuredOutputSettings | None = None
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

    @property
    def tokens_per_decode(self) -> int:
        """Tokens of a step's budget that a decoding sequence takes: one, and its drafts."""
        return 1 + (self.speculation.draft_tokens if self.speculation is not None else 0)
