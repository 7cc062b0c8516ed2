"""Policies that never cut a prompt: static, continuous and mixed batching."""

from hermes_core.serving.llm.scheduling.batching import Batch
from hermes_core.serving.llm.settings import EngineSettings

WHOLE = 1 << 62


def admit_whole(batch: Batch, budget: int) -> int:
    """Admit waiting prompts whole while the budget lasts; one that exceeds it goes alone. Returns their tokens."""
    used = 0
    while (seq := batch.waiting()) is not None:
        tokens = batch.uncached(seq)
        if used + tokens > budget and used:
            break
        taken = batch.admit(WHOLE)
        if not taken:
            break
        used += taken
    return used


class Static:
    """One batch at a time: nobody joins until everyone has left. No token budget, as in engines before Orca."""

    __slots__ = ()
    every_step = False
    prompts_first = False

    def __init__(self, settings: EngineSettings) -> None:
        """Static batching has no settings of its own."""

    def plan(self, batch: Batch) -> None:
        if not batch.decode_seqs:
            admit_whole(batch, WHOLE)


class Continuous:
    """Prompts first: a step works on whole prompts or on decodes, never both (Orca's iteration level, vLLM V0)."""

    __slots__ = ("_budget",)
    every_step = False
    prompts_first = True

    def __init__(self, settings: EngineSettings) -> None:
        self._budget = settings.max_num_batched_tokens

    def plan(self, batch: Batch) -> None:
        if not batch.preempted and admit_whole(batch, self._budget):
            batch.decode = False


class Mixed:
    """Whole prompts and decodes share a step, within the token budget."""

    __slots__ = ("_budget", "_each")
    every_step = False
    prompts_first = False

    def __init__(self, settings: EngineSettings) -> None:
        self._budget = settings.max_num_batched_tokens
        self._each = settings.tokens_per_decode

    def plan(self, batch: Batch) -> None:
        if not batch.preempted:
            admit_whole(batch, max(1, self._budget - batch.decode_seqs * self._each))
