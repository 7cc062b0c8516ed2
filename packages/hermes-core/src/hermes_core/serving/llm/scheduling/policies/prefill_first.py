"""Prompts go before decodes, cut into chunks: SGLang's default loop without mixed chunks."""

from hermes_core.serving.llm.scheduling.batching import Batch
from hermes_core.serving.llm.settings import EngineSettings


class PrefillFirst:
    """A step works on prompts, up to the chunk size, whenever there are some to work on; else it decodes.

    SGLang 0.5, managers/scheduler.py: get_next_batch_to_run takes a new prefill batch before the running batch; a
    prompt that is longer than chunked_prefill_size goes on in the next prefill batch before any other.
    """

    __slots__ = ("_budget",)
    every_step = False
    prompts_first = True

    def __init__(self, settings: EngineSettings) -> None:
        self._budget = settings.max_num_batched_tokens

    def plan(self, batch: Batch) -> None:
        left = self._budget
        for seq in tuple(batch.prefilling):
            if left > 0 and seq.order >= 0:
                left -= batch.extend(seq, left)
        while left > 0 and not batch.preempted:
            taken = batch.admit(left)
            if not taken:
                break
            left -= taken
        if left < self._budget:
            batch.decode = False
