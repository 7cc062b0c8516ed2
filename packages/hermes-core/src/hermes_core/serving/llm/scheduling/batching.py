"""The port between an LLM client and its batching policy.

Before each step that may differ from the last one, the client asks its policy to plan. The policy looks at the batch
and says which prompts to work on, whom to admit, and whether the decoding sequences take part. It is not asked while
all that can happen is decoding, unless `every_step` is set.
"""

from collections.abc import Sequence as SequenceOf
from collections.abc import Sized
from typing import Protocol

from hermes_core.serving.llm.sequence import Sequence
from hermes_core.serving.llm.settings import EngineSettings

BATCH_POLICIES = "hermes.batch_policies"
"""Entry-point group. Each entry is called with the engine settings and returns a `BatchPolicy`."""


class Batch(Protocol):
    """What a policy sees, and does, while it plans one step."""

    settings: EngineSettings
    decode: bool
    """Whether the decoding sequences take part; True unless the policy says otherwise."""
    preempted: bool
    """Whether a sequence was preempted while this step was planned."""

    @property
    def queue(self) -> Sized:
        """Sequences that wait to be admitted."""
        ...

    @property
    def fetched(self) -> Sized:
        """Sequences that wait with the KV that another client has computed for them."""
        ...

    @property
    def prefilling(self) -> SequenceOf[Sequence]:
        """Admitted sequences whose prompt is not fully scheduled, in the order of admission."""
        ...

    @property
    def decode_seqs(self) -> int:
        """Sequences that decode."""
        ...

    @property
    def step(self) -> int:
        """Number of the step that is planned."""
        ...

    def waiting(self) -> Sequence | None:
        """Return who is next in the queue and may enter this step, or None: nobody waits, or no slot is free."""
        ...

    def admit(self, max_tokens: int) -> int:
        """Admit the head of the queue with up to `max_tokens` of its prompt. Returns how many tokens that makes.

        0 if nobody may enter: the queue is empty, no slot is free, or the KV of the head does not fit.
        """
        ...

    def extend(self, seq: Sequence, max_tokens: int) -> int:
        """Work on up to `max_tokens` more of an admitted prompt; preempts others if memory is short.

        Returns how many tokens of the step's budget that takes: none if the sequence itself was preempted, fewer than
        it works on (or less than none) if others gave back theirs.
        """
        ...

    def uncached(self, seq: Sequence) -> int:
        """Return how many tokens of a waiting sequence's prompt the prefix cache does not hold."""
        ...


class BatchPolicy(Protocol):
    """Decides what the next step works on."""

    every_step: bool
    """Ask before each single step, even when all that can happen is decoding."""
    prompts_first: bool
    """Ask before the decoding members have been given their blocks; they get them if the policy lets them decode."""

    def plan(self, batch: Batch) -> None:
        """Plan the next step by calling `batch`. Cost: should not grow with the decoding sequences."""
        ...
