"""A sequence: one prompt and its answer, as an LLM engine sees it."""

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from hermes_core.serving.llm.kv.blocks import Path
    from hermes_core.serving.llm.pool import LlmJob
    from hermes_core.serving.request import Request

Segments: TypeAlias = tuple[tuple[int, int], ...]
"""(segment id, tokens) from the start of the prompt."""


LOCAL, REMOTE, FETCHED, HANDED_ON = range(4)
"""States of a sequence's KV: computed here; computed elsewhere and to be fetched; fetched, with blocks held; computed
here for another client, which has to take it before the blocks are free."""

UNSTORED, MAY_BE_STORED, STORED = range(3)
"""What is known of a sequence and the KV store: not to be asked, to be asked, to be loaded from."""


class Sequence:
    """A prompt of `prompt_tokens` of which `output_tokens` are to be generated.

    Tokens are counted as the engine counts them: the step that ends the prompt gives the first token, each further
    token takes one decoding step, and the KV of the last token is never computed. So a sequence that has given g
    tokens holds the KV of prompt_tokens + g - 1 tokens.
    """

    __slots__ = (
        "cached_tokens",
        "chunk_start",
        "client",
        "computed",
        "decode_base",
        "enqueue_ns",
        "fetched_tokens",
        "first_step",
        "first_token_ns",
        "generated",
        "job",
        "kv",
        "leave_step",
        "order",
        "output_segment",
        "output_tokens",
        "path",
        "position",
        "preemptions",
        "prompt_tokens",
        "rank",
        "request",
        "segments",
        "shared",
        "spare_blocks",
        "start_ns",
        "stored",
        "target",
        "ticket",
        "visible_step",
    )

    def __init__(
        self,
        request: "Request",
        job: "LlmJob",
        client: int,
        prompt_tokens: int,
        output_tokens: int,
        enqueue_ns: int,
    ) -> None:
        self.request = request
        self.job = job
        self.position = request.position
        """Number of its job within the request."""
        self.client = client
        """Number, within the job's pool, of the client that has it."""
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.enqueue_ns = enqueue_ns
        self.start_ns = -1
        """First scheduled."""
        self.first_token_ns = -1
        self.first_step = -1
        self.target = prompt_tokens
        """Tokens whose KV must be computed before it decodes: the prompt, after a preemption what it had given too."""
        self.computed = 0
        """Tokens of these that are computed, or found in the prefix cache."""
        self.generated = 0
        """Tokens given until it was last preempted, or joined the decoding batch."""
        self.rank = 0
        """Number of the data-parallel rank that has it."""
        self.kv = LOCAL
        """Where the KV of its prompt is: to be computed here, at another client, or fetched from there."""
        self.stored = UNSTORED
        """Whether a KV store is asked for what the engine has not got."""
        self.fetched_tokens = -1
        """First tokens that it has once its KV has come from a store; -1 for all, from another client."""
        self.chunk_start: int
        """Tokens that were computed before the chunk it has in the step under way."""
        self.cached_tokens = 0
        """Found in the prefix cache at first admission."""
        self.preemptions = 0
        self.order = -1
        """Number of its admission: the place in the running list."""
        self.visible_step: int
        """First step it can be part of; set when it arrives."""
        self.shared = 0
        """Of the blocks it holds, those that belong to nodes of its path."""
        self.spare_blocks = 0
        """Of the blocks it holds, those for drafts beyond its context, once it has left the decoding batch."""
        self.ticket: tuple[int, int, int]
        """Its place in a sorted queue, once it has been popped."""
        self.leave_step = -1
        """Decoding step that gives its last token; -1 while it does not decode."""
        self.decode_base: int
        """While it decodes, its context is decode_base + the number of the decoding step."""
        self.segments: Segments | None = request.segments
        self.output_segment = request.output_segment
        self.path: Path | None = None
        """Its nodes in the prefix cache, while it holds them."""
