"""Prompts in chunks beside decodes, within one token budget: vLLM V1, after Sarathi-Serve (OSDI 2024)."""

from hermes_core.serving.llm.scheduling.batching import Batch
from hermes_core.serving.llm.settings import EngineSettings


class Chunked:
    """Decodes first, then prompts under way, then waiting ones while tokens and slots last.

    vLLM 0.33, v1/core/sched/scheduler.py: the running list in its order, then the waiting queue; nobody is admitted in
    a step that preempted.
    """

    __slots__ = ("_each", "budget", "chunk")
    every_step = False
    prompts_first = False

    def __init__(self, settings: EngineSettings) -> None:
        self.budget = settings.max_num_batched_tokens
        self._each = settings.tokens_per_decode
        self.chunk = settings.long_prefill_token_threshold or settings.max_num_batched_tokens

    def plan(self, batch: Batch) -> None:
        left = self.budget - batch.decode_seqs * self._each
        chunk = self.chunk
        if batch.prefilling:
            for seq in tuple(batch.prefilling):
                if left <= 0:
                    return
                if seq.order >= 0:
                    left -= batch.extend(seq, min(left, chunk))
        if batch.preempted:
            return
        queue, fetched = batch.queue, batch.fetched
        while left > 0 and (queue or fetched):
            taken = batch.admit(left if left < chunk else chunk)
            if not taken:
                return
            left -= taken
