"""Whom to preempt when memory runs out: by name in `EngineSettings.preempt`."""

from collections.abc import Callable
from typing import TypeAlias

from hermes_core.serving.llm.batches.decode import DecodeBatch
from hermes_core.serving.llm.sequence import Sequence
from hermes_core.serving.llm.settings import EngineSettings

Victim: TypeAlias = Callable[[dict[int, Sequence], DecodeBatch], Sequence]
"""Picks from the running list, which is not empty and in the order of admission."""


def last_admitted(running: dict[int, Sequence], batch: DecodeBatch) -> Sequence:  # noqa: ARG001 - the port's
    """Return the tail of the running list: vLLM under FCFS."""
    return running[next(reversed(running))]


def worst_priority(running: dict[int, Sequence], batch: DecodeBatch) -> Sequence:  # noqa: ARG001 - the port's
    """Return the largest (priority, arrival): vLLM under its priority policy."""
    return max(running.values(), key=lambda seq: (seq.request.priority, seq.enqueue_ns, seq.order))


def fewest_output(running: dict[int, Sequence], batch: DecodeBatch) -> Sequence:
    """Return who has generated least, of these the longest prompt: SGLang's retraction."""

    def key(seq: Sequence) -> tuple[int, int, int]:
        done = seq.output_tokens - batch.tokens_left(seq) if seq.leave_step >= 0 else seq.generated
        return done, -seq.prompt_tokens, -seq.order

    return min(running.values(), key=key)


def victim_of(settings: EngineSettings) -> Victim:
    """Return the rule a client's settings ask for."""
    if settings.preempt == "fewest_output":
        return fewest_output
    if settings.preempt == "worst_priority" or (settings.preempt == "auto" and settings.queue == "priority"):
        return worst_priority
    return last_admitted
